"""The form in which a client reads a turn's events: one value for each dialect. Pure.

A worker writes the events of an App. The supervisor only copies them, but it must be able to write what a
worker cannot: comments while a turn waits, and the end of a stream whose worker was lost. `web.dialects` has
the values. Nothing outside that package and the worker's `dialects` may know the bytes of a format.
"""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from agentscope_protocol.wire.frames import StreamKind, Will
from agentscope_supervisor.domain.errors import Failure


class Tail(Protocol):
    """The events that end a stream: see `WireFormat`."""

    def __call__(
        self,
        run_id: str,
        number: int,
        failure: Failure | None,
        metadata: bytes = b"",
        will: Will | None = None,
    ) -> tuple[bytes, int]: ...


class Result(Protocol):
    """The result of a run that its worker has not completed: see `WireFormat`."""

    def __call__(
        self, run_id: str, session_id: str, failure: Failure | None, will: Will | None, created: int = 0
    ) -> bytes: ...


class WireFormat:
    """A wire format, as the supervisor uses it.

    `number`: of the dialect in the Open frame. `name`: in metrics and in the state of a run. `headers`: of a
    response that is a stream of events. `comment`: text to bytes that a client ignores. `tail`: run id,
    number of the next event, the failure (None: success), what the worker sent with the end, and its will,
    to the events that end the stream and how many they are. `end_of`: a piece of whole events and a count to
    the position after so many events. `messages`: a piece of whole events and a count to the JSON array of
    what the first `count` events hold. `json_body`: session id, run id and what the worker sent with the end
    to the body of a response that is not streamed. `result`: run id, session id, the failure (None: the run
    is in progress), the worker's will and the time of acceptance (seconds since 1970; 0: unknown) to the JSON
    that stands for the result of the run; None: the dialect has no results, but messages.
    """

    __slots__ = ("comment", "end_of", "headers", "json_body", "messages", "name", "number", "result", "tail")

    def __init__(
        self,
        number: int,
        headers: Mapping[str, str],
        comment: Callable[[str], bytes],
        tail: Tail,
        end_of: Callable[[bytes, int], int],
        messages: Callable[[bytes, int], bytes],
        json_body: Callable[[str, str, bytes], bytes],
        name: str = "native",
        result: Result | None = None,
    ) -> None:
        self.number: Final = number
        self.name: Final = name
        self.result: Final = result
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
