"""Identifiers in the beginning of a response, by which later requests may ask for the same object. Pure.

A task or a conversation that an app keeps in memory exists in one worker only. The supervisor sends requests
that name one of these identifiers to the worker that has sent it.
"""

import re
from collections.abc import Iterable
from typing import Final

SEARCHED: Final = 2000  # bytes of the body; the identifiers of a response are at its beginning
MAX_IDS: Final = 4  # of one response

_TYPES: Final = (b"application/json", b"text/event-stream")
_ID: Final = re.compile(
    rb'"(?:id|(?:task|context|session|thread|conversation|response)(?:_id|Id))"\s*:\s*"([\w.:-]{8,128})"',
    re.ASCII,
)


def may_have_ids(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the body after these headers is searched: JSON, or events."""
    return any(name == b"content-type" and value.startswith(_TYPES) for name, value in headers)


def ids_in(body: bytes) -> tuple[str, ...]:
    """The identifiers in the first bytes of a body, each once."""
    found = [each.decode("ascii") for each in _ID.findall(body[:SEARCHED])]
    return tuple(dict.fromkeys(found))[:MAX_IDS]
