"""The head of a usual turn, recognised in its bytes, so that it costs little. Pure.

What is recognised is a narrow part of what HTTP allows: a turn as nearly every client sends it. It needs no
leniency and no error, since everything else goes to aiohttp's parser as the same bytes. So the one rule here
is that whatever is recognised means to aiohttp just what it means here (tests/supervisor/test_turn_head.py
asks both).
"""

import re
from dataclasses import dataclass
from typing import Final

from agentscope_supervisor.http1.strictness import PLAIN_TYPES

MAX_HEAD: Final = 8 * 1024  # bytes; what is longer is not usual

_REQUEST_LINE: Final = b"POST /invoke HTTP/1.1\r\n"
_HEAD: Final = re.compile(
    re.escape(_REQUEST_LINE) + rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\t\x20-\x7e]*+\r\n){1,100}+\r\n"
)
_FIELDS_AT: Final = len(_REQUEST_LINE)

_UNUSUAL: Final = frozenset(
    {
        *("content-encoding", "expect", "idempotency-key", "trailer", "transfer-encoding", "upgrade"),
        # To aiohttp's parser the first is Connection, and the second an error.
        *("proxy-connection", "sec-websocket-key1"),
    }
)
"""Fields of which any value makes a request other than usual."""


@dataclass(init=False, slots=True, eq=False)
class FastHead:
    """`fields`: their names in small letters, each of which came once. `start`: of the body in the bytes that
    were read, `end`: just after its last byte."""

    fields: Final[dict[str, str]]
    start: Final[int]
    end: Final[int]

    def __init__(self, fields: dict[str, str], start: int, end: int) -> None:
        self.fields, self.start, self.end = fields, start, end


def read(data: bytes, max_body: int) -> FastHead | None:
    """The head that `data` begins with; None: it is not there as a whole, not that of a usual turn, or
    announces a body of more than `max_body` bytes."""
    found = _HEAD.match(data, 0, MAX_HEAD)
    if found is None:
        return None
    start = found.end()
    fields: dict[str, str] = {}
    lines = data[_FIELDS_AT : start - 4].decode("ascii").split("\r\n")
    for line in lines:
        name, _, value = line.partition(":")
        fields[name.lower()] = value.strip(" \t")
    length = fields.get("content-length", "")
    if (
        len(fields) != len(lines)
        or "host" not in fields
        or not _UNUSUAL.isdisjoint(fields)
        or fields.get("connection", "keep-alive").lower() != "keep-alive"
        or fields.get("content-type") not in PLAIN_TYPES
        or not (length.isdigit() and len(length) <= 8 and int(length) <= max_body)
    ):
        return None
    return FastHead(fields, start, start + int(length))
