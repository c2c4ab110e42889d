"""Parses the notices that a worker sends on its link. Pure.

A notice is a word with a detail, normally a JSON object. A worker may be of another version or broken, so any
detail is accepted: what cannot be parsed is ignored or used as text. `pool` handles the notices.
"""

import json
from typing import Any

from agentscope_protocol.wire.frames import StreamKind


def stream_kinds(detail: str) -> frozenset[int]:
    """Return the kinds of streams that a worker accepts, from the detail of its `ready` notice."""
    try:
        more = [int(kind) for kind in json.loads(detail or "{}").get("forms", ())]
    except (ValueError, TypeError, AttributeError, RecursionError):
        more = []
    return frozenset({StreamKind.EVENTS, StreamKind.WHOLE, *more})


def message(detail: str) -> str:
    """Return the message of a `failed` or `worn` notice.

    The message is always valid UTF-8. It may quote a file name that is not, as a lone surrogate; the
    surrogate is escaped.
    """
    try:
        fields: dict[str, Any] = json.loads(detail)
        return str(fields["message"]).encode("utf-8", "backslashreplace").decode()
    except (ValueError, KeyError, TypeError, RecursionError):
        return detail
