"""The stored form of a session's state: JSON behind a header, and the stamp of the save that wrote it. Pure.

Owns the format: how a state is encoded and decoded, and where its stamp is.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

FORMAT: Final = "agentscope-supervisor session"
VERSION: Final = 1  # of the format; increased when an older reader would misinterpret it

MAX_BYTES = 64 * 2**20  # of one state: a conversation of that size exceeds every model's context
HEAD: Final = 64  # leading bytes of a stored form that contain its stamp

_STAMP: Final = re.compile(rb'\{"save":(\d{1,18}),(?:"by":"([0-9a-f]{16})",)?')


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which save wrote a stored form. `number`: larger than that of each save before it, 0 if there is none.
    `by`: the process, 16 hexadecimal digits; empty for older releases."""

    number: int
    by: str = ""

    def next(self, by: str, clock: int) -> Stamp:
        """The stamp of the save that replaces this one. `clock`: microseconds since 1970.

        A store that loses its data starts again at 0. Because the clock is ahead of every number, saves after
        that still have larger numbers than the ones before it.
        """
        return Stamp(max(self.number + 1, clock), by)


NOTHING: Final = Stamp(0)
"""The stamp of a session without a stored state."""


def stamp_of(stored: bytes) -> Stamp:
    """The stamp of a stored form. The first HEAD bytes suffice."""
    found = _STAMP.match(stored)
    return Stamp(int(found[1]), (found[2] or b"").decode()) if found is not None else NOTHING


def stamped(data: bytes, stamp: Stamp) -> bytes:
    """The stored form of `data`, a result of `encode`, with its stamp inserted."""
    return b'{"save":%d,"by":"%b",%b' % (stamp.number, stamp.by.encode(), data[1:])


def encode(session_id: str, user_id: str, major: int, states: dict[str, Any]) -> bytes:
    """The stored form without its stamp.

    Raises: ValueError for a state that is not JSON, or too large.
    """
    document = {
        "format": FORMAT,
        "version": VERSION,
        "agentscope": major,
        "session_id": session_id,
        "user_id": user_id,
        "state": states,
    }
    try:
        data = orjson.dumps(document)
    except TypeError:  # lone surrogates and large integers, which json can encode as ASCII
        try:
            data = json.dumps(document).encode("ascii")
        except (TypeError, ValueError) as error:
            raise ValueError(f"the state of the session is not JSON: {error}") from error
    if len(data) > MAX_BYTES:
        raise ValueError(f"the state of the session has {len(data)} bytes; the limit is {MAX_BYTES}")
    return data


def decode(data: bytes) -> dict[str, Any]:
    """The document of a stored form. Raises: ValueError if it is not in our format."""
    try:
        document = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError("not a session")
    if not isinstance(document.get("version"), int) or "agentscope" not in document:
        raise ValueError("a session without version")
    if not isinstance(document.get("state"), dict):
        raise ValueError("a session without state")
    return document
