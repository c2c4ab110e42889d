"""A fast parser for the head of a usual `POST /invoke`. Pure.

It recognizes a narrow part of HTTP: the request as nearly every client sends it. It needs no leniency and no
errors, because all other bytes are passed unchanged to aiohttp's parser. The one rule for this module:
aiohttp parses every head that is recognized here to the same result. tests/supervisor/http1/test_fast_head.py
compares both parsers.

Where to read next: `fast_connection` uses it.
"""

import re
from dataclasses import dataclass
from typing import Final

from agentscope_supervisor.http1.strictness import PLAIN_TYPES

MAX_HEAD: Final = 8 * 1024  # bytes; a longer head is not usual

_REQUEST_LINE: Final = b"POST /invoke HTTP/1.1\r\n"
_HEAD: Final = re.compile(
    re.escape(_REQUEST_LINE) + rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\t\x20-\x7e]*+\r\n){1,100}+\r\n"
)
_FIELDS_AT: Final = len(_REQUEST_LINE)

_UNUSUAL: Final = frozenset(
    {
        *("content-encoding", "expect", "idempotency-key", "last-event-id", "trailer", "transfer-encoding"),
        "upgrade",
        # aiohttp's parser treats the first as Connection, and the second as an error.
        *("proxy-connection", "sec-websocket-key1"),
    }
)
"""A request with one of these fields, whatever its value, is not usual."""


@dataclass(init=False, slots=True, eq=False)
class FastHead:
    """A parsed head. `fields`: by name in lower case; each name occurred once. `start` and `end`: the
    positions of the body's first byte, and after its last byte, in the data that was read."""

    fields: Final[dict[str, str]]
    start: Final[int]
    end: Final[int]

    def __init__(self, fields: dict[str, str], start: int, end: int) -> None:
        self.fields, self.start, self.end = fields, start, end


def read(data: bytes, max_body: int) -> FastHead | None:
    """The head at the beginning of `data`; None: it is incomplete, not usual, or announces a body of more
    than `max_body` bytes."""
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
        or fields.get("content-type", "") not in PLAIN_TYPES
        or not (length.isdigit() and len(length) <= 8 and int(length) <= max_body)
    ):
        return None
    return FastHead(fields, start, start + int(length))
