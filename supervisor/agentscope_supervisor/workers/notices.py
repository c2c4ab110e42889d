"""Parses the notices that a worker sends on its link. Pure.

A notice is a word with a detail, normally a JSON object. A worker may be of another version or broken. Text
that cannot be parsed is used as it is; a number that the supervisor acts on must be valid. `pool` handles the
notices.
"""

import json
from typing import Any

from agentscope_protocol.wire.errors import RemoteProtocolError
from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain.printable import printable

MAX_HOSTED = 64  # characters; it is shown in `status`
MAX_KIND = 255  # the kind of a stream is one byte of its Open frame


def stream_kinds(detail: str) -> frozenset[int]:
    """Return the kinds of streams that a worker accepts, from the detail of its `ready` notice.

    Kinds that this version does not know are included. Raises: RemoteProtocolError.
    """
    try:
        more = json.loads(detail or "{}").get("forms", [])
    except (ValueError, AttributeError, RecursionError):
        more = None
    if type(more) is not list or not all(type(kind) is int and 0 <= kind <= MAX_KIND for kind in more):
        raise RemoteProtocolError("the notice `ready` has no valid list of stream kinds")
    return frozenset({StreamKind.EVENTS, StreamKind.WHOLE, *more})


def hosted(detail: str) -> str:
    """Return what a worker hosts in place of an App, from the detail of its `ready` notice; "" for an App.

    Call `stream_kinds` first. Raises: RemoteProtocolError.
    """
    name = json.loads(detail or "{}").get("hosted", "")
    if type(name) is not str or len(name) > MAX_HOSTED:
        raise RemoteProtocolError("the notice `ready` does not name what the worker hosts")
    return printable(name)


def message(detail: str) -> str:
    """Return the message of a `failed` or `worn` notice.

    The message is always valid UTF-8. It may quote a file name that is not, as a lone surrogate; the
    surrogate is escaped. So are control characters: the message is logged and shown in terminals.
    """
    try:
        fields: dict[str, Any] = json.loads(detail)
        text = str(fields["message"]).encode("utf-8", "backslashreplace").decode()
    except (ValueError, KeyError, TypeError, RecursionError):
        text = detail
    return printable(text)
