"""Which slot an exchange goes to: its session, an identifier that a worker has sent before, or any. Pure.

An exchange with a session goes to the slot of that session, as a turn does. An app that keeps tasks or
conversations in memory sends their identifiers in its responses; workers report those (`frames.Head`), and
later requests that name one go to the same slot.

Where to read next: `service` uses it.
"""

import contextlib
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final
from urllib.parse import parse_qsl

from agentscope_supervisor.domain.errors import Refused
from agentscope_supervisor.domain.json_outline import Outline
from agentscope_supervisor.domain.request import session_id

MAX_LEARNED: Final = 100_000
"""Maximum number of remembered identifiers; about 20 MB. The ones that were used least recently go first."""

MAX_LEARNED_ID: Final = 128  # characters; longer ones are not remembered
MAX_SCANNED: Final = 64 * 1024  # bytes at the beginning of a JSON body that are searched
MAX_NAMED: Final = 200  # strings of one request that are compared with the remembered identifiers

_SESSION: Final = ("session_id",)
_STRING: Final = re.compile(rb'"([!#-\[\]-~]{1,128})"')


@dataclass(frozen=True, slots=True)
class SessionSources:
    """Where a session id may be, beside the header X-Session-Id and a JSON body. None: nowhere else."""

    cookie: str | None = None
    query: str | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """The parts of a request that decide its place. `session`: empty, none. `named`: strings in it that may
    be identifiers."""

    session: str
    named: tuple[str, ...] = ()


class Learned:
    """The identifiers that workers have sent, and the slots of those workers."""

    def __init__(self, maximum: int = MAX_LEARNED) -> None:
        self._maximum: Final = maximum
        self._slots: Final[OrderedDict[str, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._slots)

    def learn(self, ids: Iterable[str], slot: int) -> None:
        """A worker in this slot has sent these identifiers."""
        for name in ids:
            if 0 < len(name) <= MAX_LEARNED_ID:
                self._slots[name] = slot
                self._slots.move_to_end(name)
        while len(self._slots) > self._maximum:
            self._slots.popitem(last=False)

    def slot(self, names: Iterable[str]) -> int | None:
        """The slot of the first of these strings that a worker has sent; None: no worker has."""
        for name in names:
            slot = self._slots.get(name)
            if slot is not None:
                self._slots.move_to_end(name)
                return slot
        return None


def slot_for(key: Key, learned: Learned, slots: int, slot_of: Callable[[str, int], int]) -> int | None:
    """The slot of an exchange; None: any. `slot_of`: see `turns.routing`."""
    # First, so that a session whose id a worker has made up stays with that worker.
    slot = learned.slot((key.session, *key.named) if key.session else key.named)
    if slot is not None and slot < slots:
        return slot
    return slot_of(key.session, slots) if key.session else None


def key_of(
    sources: SessionSources,
    headers: Mapping[str, str],
    path: str,
    query: str,
    body: bytes | None,
    *,
    names: bool = True,
) -> Key:
    """The key of a request. Names of `headers` are in lower case, or the mapping ignores case. `path` and
    `query`: as they were sent. `body`: the beginning of a JSON body; None: there is none. `names`: whether
    `Key.named` is needed.

    A session id that is not valid is ignored: the hosted app decides what to do with it.
    """
    session = _valid(headers.get("x-session-id"))
    if not session and body is not None:
        session = _valid(_session_in(body))
    if not session and sources.cookie is not None:
        session = _valid(_cookie(headers.get("cookie", ""), sources.cookie))
    if not session and sources.query is not None:
        session = _valid(dict(_pairs(query)).get(sources.query))
    if not names:
        return Key(session)
    named = (*path.split("/")[:MAX_NAMED], *(text for _, text in _pairs(query)), *_strings(body or b""))
    return Key(session, tuple(text for text in named if text))


def _pairs(query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query, max_num_fields=MAX_NAMED, errors="replace")
    except ValueError:  # too many
        return []


def needs_body(headers: Mapping[str, str]) -> bool:
    """Whether the beginning of the body decides the place of a request."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = media_type == "application/json" or media_type.endswith("+json")
    return is_json and not _valid(headers.get("x-session-id"))


def _valid(text: object) -> str:
    try:
        return session_id(text)
    except Refused:
        return ""


def _session_in(body: bytes) -> object:
    """The member `session_id` of an object of which `body` is the beginning."""
    if not body.isascii():  # it may end within a character
        body = body.decode("utf-8", "ignore").encode()
    outline = Outline(body, frozenset({_SESSION}))
    with contextlib.suppress(Refused):  # the body is longer than its beginning, or is not JSON
        while not outline.step():
            pass
    return outline.fields.get("session_id")


def _strings(body: bytes) -> Iterator[str]:
    for found in islice(_STRING.finditer(body), MAX_NAMED):
        yield found[1].decode("ascii")


def _cookie(header: str, name: str) -> str | None:
    for part in header.split(";"):
        key, _, value = part.strip().partition("=")
        if key == name:
            return value.strip('"')
    return None
