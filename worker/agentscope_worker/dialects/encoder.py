"""The parts of one answer to the events of a dialect: what all dialects but the native one share.

An encoder is made for each turn. One of its events is one event of the run, so that the number of an event is
its place in the run. It keeps as much of what it has written as the result of the run needs.

Where to read next: `chat`, the shortest encoder; `translator` drives it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Final

import orjson

from agentscope_protocol.wire.frames import Place
from agentscope_protocol.wire.random_ids import new_id
from agentscope_protocol.wire.values import value
from agentscope_worker.dialects import parts
from agentscope_worker.dialects.parts import Part
from agentscope_worker.runtime import lossy_json

if TYPE_CHECKING:
    from agentscope.message import Msg

_MARK: Final = new_id()  # no client can guess it, so that no text of a client becomes a place


def _mark(name: str) -> str:
    return f"{_MARK}{name}"


CODE: Final = _mark("code")
MESSAGE: Final = _mark("message")
NUMBER: Final = _mark("number")
STATUS: Final = _mark("status")
ERROR: Final = _mark("error")
"""Values that stand for a place in the JSON of a will."""

_PLACES: Final = {
    f'"{mark}"'.encode(): place
    for mark, place in (
        (CODE, Place.CODE),
        (MESSAGE, Place.MESSAGE),
        (NUMBER, Place.NUMBER),
        (STATUS, Place.STATUS),
        (ERROR, Place.ERROR),
    )
}


@value
class Request:
    """A request, as the worker read it. `fields`: of its body. `now`: seconds since 1970."""

    run_id: str
    session_id: str
    fields: dict[str, Any]
    now: int


@value
class Written:
    """The will of an answer: see `agentscope_protocol.wire.frames.Will`."""

    end: bytes
    result: bytes = b"null"
    request: bytes = b""


class Encoder:
    """One answer. Dialects override what they write: each method returns the events of one part."""

    begins_at_once: ClassVar[bool] = True
    """Whether the first events leave before the App yields anything. If not, an App that fails before that
    gets an error status."""

    def __init__(self, request: Request) -> None:
        self.request: Final = request
        self.number = 0  # of the next event
        self.input_tokens = self.output_tokens = 0
        self.error: str | None = None  # that the agent has reported
        self.texts: Final[list[str]] = []  # complete ones
        self.tools: Final[dict[str, str]] = {}  # the names of called tools, by the id of the call
        self._open: Final[dict[str, tuple[bool, list[str]]]] = {}  # is thinking, and pieces, by key
        self._run_id: Final = request.run_id.encode()

    # -- what the translator calls -----------------------------------------------------------------

    def begin(self) -> list[bytes]:
        """The first events."""
        return []

    def part(self, part: Part) -> list[bytes]:
        """The events of one part."""
        match part:
            case parts.Text(key, text):
                return self._grow(key, text, thinking=False)
            case parts.Thinking(key, text):
                return self._grow(key, text, thinking=True)
            case parts.Ended(key):
                return self._stop(key)
            case parts.Call(call, name):
                self.tools[call] = name
                return self.call(part)
            case parts.Arguments():
                return self.arguments(part)
            case parts.Called():
                return self.called(part)
            case parts.Result():
                return self.returned(part)
            case parts.Media():
                return self.media(part)
            case parts.Usage(input_tokens, output_tokens):
                self.input_tokens += input_tokens
                self.output_tokens += output_tokens
            case parts.Error(message):
                self.error = message
        return []

    def close(self) -> list[bytes]:
        """The events that end the texts which no part has ended. Called before `end`."""
        return [event for key in list(self._open) for event in self._stop(key)]

    def end(self, finish_reason: str | None) -> list[bytes]:
        """The last events of a complete answer. `finish_reason`: of a truncated one."""
        return []

    def result(self) -> bytes:
        """The JSON of the whole answer, after `end`."""
        return b"null"

    def will(self) -> Written:
        """How the answer ends if it is not completed; asked for after `begin`."""
        raise NotImplementedError

    # -- what a dialect overrides --------------------------------------------------------------------

    def text_begins(self, key: str, *, thinking: bool) -> list[bytes]:
        return []

    def text_grows(self, key: str, text: str, *, thinking: bool) -> list[bytes]:
        return []

    def text_ends(self, key: str, whole: str, *, thinking: bool) -> list[bytes]:
        return []

    def call(self, part: parts.Call) -> list[bytes]:
        return []

    def arguments(self, part: parts.Arguments) -> list[bytes]:
        return []

    def called(self, part: parts.Called) -> list[bytes]:
        return []

    def returned(self, part: parts.Result) -> list[bytes]:
        return []

    def media(self, part: parts.Media) -> list[bytes]:
        return []

    # -- what a dialect uses ---------------------------------------------------------------------------

    def event(self, data: object, name: str = "") -> bytes:
        """The next event. `data`: becomes JSON. `name`: of the event."""
        return self.raw_event(dumps(data), name)

    def raw_event(self, data: bytes, name: str = "") -> bytes:
        """The next event. `data`: without line breaks."""
        number = self.number
        self.number += 1
        return self._framed(b"%d" % number, data, name)

    def last_events(self, *events: object, names: Iterable[str] = ()) -> bytes:
        """The events of a will: JSON values with marks, or bytes as they are."""
        written = [
            self._framed(Place.NUMBER, each if isinstance(each, bytes) else template(each), name)
            for each, name in zip(events, [*names, *[""] * len(events)], strict=False)
        ]
        return b"".join(written)

    def _framed(self, number: bytes, data: bytes, name: str) -> bytes:
        line = b"event: %b\n" % name.encode() if name else b""
        return b"id: %b-%b\n%bdata: %b\n\n" % (self._run_id, number, line, data)

    def _grow(self, key: str, text: str, *, thinking: bool) -> list[bytes]:
        known = self._open.get(key)
        if known is not None:
            known[1].append(text)
            return self.text_grows(key, text, thinking=thinking)
        self._open[key] = (thinking, [text])
        return self.text_begins(key, thinking=thinking) + self.text_grows(key, text, thinking=thinking)

    def _stop(self, key: str) -> list[bytes]:
        known = self._open.pop(key, None)
        if known is None:  # it was empty
            return []
        thinking, pieces = known
        whole = "".join(pieces)
        if not thinking:
            self.texts.append(whole)
        return self.text_ends(key, whole, thinking=thinking)


class Translated:
    """A dialect that is not native. `number`: in the Open frame. `read`: the fields of a body to its Msg and
    its metadata; raises BadMessage. `encoder`: for each turn."""

    __slots__ = ("encoder", "number", "read")

    def __init__(
        self,
        number: int,
        read: Callable[[dict[str, Any]], tuple[Msg, dict[str, Any]]],
        encoder: Callable[[Request], Encoder],
    ) -> None:
        self.number: Final = number
        self.read: Final = read
        self.encoder: Final = encoder


def dumps(value: object) -> bytes:
    """One line of JSON."""
    try:
        return orjson.dumps(value)
    except TypeError:  # lone surrogates, huge numbers, or objects in what a client or an App sent
        return lossy_json.dumps(value)


def template(value: object) -> bytes:
    """JSON in which marks have become places."""
    data = dumps(value)
    for mark, place in _PLACES.items():
        data = data.replace(mark, place)
    return data
