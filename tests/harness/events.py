"""A strict parser of the event stream, which asserts what CONTRACT says about its bytes.

Stricter than the standard: one `id` line, one `data` line, LF only, comments in blocks of their own. A stream
that a browser would still understand fails here. `client` reads the bytes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `at`: monotonic seconds when its last byte arrived."""

    id: str
    data: dict[str, Any]
    raw: bytes
    at: float

    @property
    def is_done(self) -> bool:
        """Whether this is the done event, which ends a stream."""
        return bool((self.data.get("metadata") or {}).get("done") is True)

    @property
    def error(self) -> dict[str, Any] | None:
        """The error in this event; None if there is none."""
        return self.data.get("error")

    @property
    def text(self) -> str:
        """The text of the message."""
        return text_of(self.data)


@dataclass(frozen=True, slots=True)
class Comment:
    """One comment line. `at`: monotonic seconds when it arrived."""

    text: str
    at: float


def text_of(message: dict[str, Any]) -> str:
    """Return the text of a Msg as JSON: content is a string or, always in 2.x, a list of blocks."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(block["text"] for block in content if block["type"] == "text")


@dataclass(slots=True)
class Parser:
    """Parses bytes into events and comments. Raises AssertionError for every unexpected byte."""

    events: list[Event] = field(default_factory=list)
    comments: list[Comment] = field(default_factory=list)
    _rest: bytes = b""

    def feed(self, data: bytes, at: float) -> None:
        """Parse bytes that arrived at `at`."""
        assert b"\r" not in data, "lines of a stream end with LF only"
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        for block in blocks:
            self._take(block, at)

    def finish(self) -> None:
        """Check that the stream ends after a complete block."""
        assert self._rest == b"", f"the stream ends within a block: {self._rest[:200]!r}"

    def _take(self, block: bytes, at: float) -> None:
        lines = block.decode("utf-8").split("\n")
        if lines[0].startswith(":"):
            assert len(lines) == 1, f"a comment is a block of its own: {block!r}"
            self.comments.append(Comment(lines[0].removeprefix(":").strip(), at))
            return
        assert len(lines) == 2, f"an event is one id line and one data line: {block[:200]!r}"
        assert lines[0].startswith("id: "), lines[0][:200]
        assert lines[1].startswith("data: "), lines[1][:200]
        data = json.loads(lines[1].removeprefix("data: "))
        self.events.append(Event(lines[0].removeprefix("id: "), data, block, at))


def assert_whole_stream(events: Sequence[Event], run_id: str, error: str | None = None) -> None:
    """Check the rules for every stream that has ended, whatever happened to it.

    `error`: the code that its error event must have; None: it must have no error event.
    """
    assert [event.id for event in events] == [f"{run_id}-{n}" for n in range(len(events))]
    assert [event.is_done for event in events].count(True) == 1, "the done event comes exactly once"
    done = events[-1]
    assert done.is_done, "the done event comes last"
    assert (done.data["role"], text_of(done.data)) == ("assistant", "")
    codes = [event.error["code"] for event in events if event.error]
    assert codes == ([] if error is None else [error])
    if error is not None:
        failure = events[-2].error
        assert failure is not None, "the error event comes right before the done event"
        assert set(failure) == {"code", "message", "retryable"}
        assert isinstance(failure["retryable"], bool)
        assert isinstance(failure["message"], str)
        assert "Traceback" not in failure["message"]
