"""The stored form of a session's state: JSON behind a header, and the stamp of the save that wrote it. Pure.

Owns the format: what a state may contain, how it is encoded and decoded, and where its stamp is. A state is
accepted only if a load returns a value that is equal to it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson

FORMAT: Final = "agentscope-supervisor session"
VERSION: Final = 1  # of the format; increased when an older reader would misinterpret it

MAX_BYTES = 64 * 2**20  # of one state: a conversation of that size exceeds every model's context
HEAD: Final = 64  # leading bytes of a stored form that contain its stamp

_TOO_DEEP: Final = "the state of the session is nested too deeply for JSON"
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

    Raises: ValueError for a state that is too large, or that is not equal to what `decode` returns; the
    message names the place.
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
        try:
            data = orjson.dumps(document)
            restored = orjson.loads(data)
        except TypeError:  # lone surrogates and large integers, which json can encode as ASCII
            data = json.dumps(document, allow_nan=False).encode("ascii")
            restored = json.loads(data)
        exact = restored == document
        if not exact:
            raise ValueError
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except (TypeError, ValueError):
        raise ValueError(_reason(states)) from None
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


def _reason(states: dict[str, Any]) -> str:
    """Why the states cannot be stored, and where."""
    try:
        return next(_not_json(states, "state"), "the state of the session is not equal to its JSON")
    except RecursionError:
        return _TOO_DEEP


def difference(value: Any, restored: Any, place: str) -> str:
    """Why `value` is not JSON, and where: the first place at which it is not equal to `restored`."""
    match value, restored:
        case dict(), dict():
            for key, each in value.items():
                if key not in restored:
                    return f"{place}: {_bad_key(key)}"
                if each != restored[key]:
                    return difference(each, restored[key], place + step(key))
        case list(), list():
            for number, (each, other) in enumerate(zip(value, restored, strict=False)):
                if each != other:
                    return difference(each, other, place + step(number))
    return f"{place}: {_bad_value(value)}"


def _not_json(value: Any, place: str, around: tuple[int, ...] = ()) -> Iterator[str]:
    """The places inside `value`, and what is wrong there. `around`: ids of the objects that contain it."""
    match value:
        case dict() | list() if id(value) in around:
            yield f"{place}: an object that contains itself is not JSON"
        case dict():
            for key, each in value.items():
                if isinstance(key, str):
                    yield from _not_json(each, place + step(key), (*around, id(value)))
                else:
                    yield f"{place}: {_bad_key(key)}"
        case list():
            for number, each in enumerate(value):
                yield from _not_json(each, place + step(number), (*around, id(value)))
        case None | bool() | int() | str():
            pass
        case float() if math.isfinite(value):
            pass
        case _:
            yield f"{place}: {_bad_value(value)}"


def step(key: object) -> str:
    """One step of a place: of a name, another key, or an index."""
    return f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{key!a}]"


def _bad_key(key: object) -> str:
    return f"a key of type {type(key).__name__} is not JSON; keys must be strings"


def _bad_value(value: object) -> str:
    return f"{value if isinstance(value, float) else f'a value of type {type(value).__name__}'} is not JSON"
