"""The form in which a client reads a turn's events: one value for each dialect. Pure.

A worker writes the events of an App. The supervisor only copies them, but it must be able to write what a
worker cannot: comments while a turn waits, and the end of a stream whose worker was lost. `web.dialects` has
the values. Nothing outside that package and the worker's `dialects` may know the bytes of a format.
"""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain.errors import Failure


class Tail(Protocol):
    """The events that end a stream: see `WireFormat`."""

    def __call__(
        self, run_id: str, number: int, failure: Failure | None, metadata: bytes = b""
    ) -> tuple[bytes, int]: ...


class WireFormat:
    """A wire format, as the supervisor uses it.

    `number`: of the dialect in the Open frame. `headers`: of a response that is a stream of events.
    `comment`: text to bytes that a client ignores. `tail`: run id, number of the next event, the failure
    (None: success) and what the worker sent with the end, to the events that end the stream and how many they
    are. `end_of`: a piece of whole events and a count to the position after so many events. `messages`: a
    piece of whole events and a count to the JSON array of what the first `count` events hold. `json_body`:
    session id, run id and a JSON array of messages to the body of a response that is not streamed.
    """

    __slots__ = ("comment", "end_of", "headers", "json_body", "messages", "number", "tail")

    def __init__(
        self,
        number: int,
        headers: Mapping[str, str],
        comment: Callable[[str], bytes],
        tail: Tail,
        end_of: Callable[[bytes, int], int],
        messages: Callable[[bytes, int], bytes],
        json_body: Callable[[str, str, bytes], bytes],
    ) -> None:
        self.number: Final = number
        self.headers: Final = headers
        self.comment: Final = comment
        self.tail: Final = tail
        self.end_of: Final = end_of
        self.messages: Final = messages
        self.json_body: Final = json_body


def form_of(kind: StreamKind, wire: WireFormat) -> int:
    """The kind and the wire format of a run in one number, as in the Open frame."""
    return kind | wire.number << 8


NO_EVENTS: Final = WireFormat(
    number=0,
    headers={},
    comment=lambda _: b"",
    tail=lambda *_: (b"", 0),
    end_of=lambda *_: 0,
    messages=lambda *_: b"[]",
    json_body=lambda *_: b"{}",
)
"""Of turns that no client reads: deletions, and notifications of a process."""
