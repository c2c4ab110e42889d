"""One end of a link: bytes in, events out; method calls in, bytes out. No I/O, no clock. Pure.

`Endpoint` has what both ends share: they greet first, read frames, and collect output. The supervisor's end
is a `requester.Requester`, the worker's end a `responder.Responder`.

The shell that owns the socket (`link`) only does this:

    for event in connection.receive(data): handle(event)
    transport.writelines(connection.take_output())

Events are the received frames, after a check that they are legal, and `Writable`.

The invariant that the product rests on: every opened stream yields exactly one terminal event, End or Fail,
at the requester, whatever the peer does, and also when the peer dies. The shell reports that death with
`close`. An error is either RemoteProtocolError (drop the link) or LocalProtocolError (a bug in our code).

Read next: `stream` for the legal moves, `flow` for credit, `codec` for the bytes.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agentscope_protocol.wire.codec import FrameReader, encode
from agentscope_protocol.wire.errors import RemoteProtocolError
from agentscope_protocol.wire.frames import (
    PROTOCOL_VERSION,
    Cancel,
    Data,
    End,
    Fail,
    Frame,
    Head,
    Hello,
    Input,
    Notice,
    Open,
    Usage,
    Will,
)


@dataclass(frozen=True, slots=True)
class Writable:
    """A stream that was out of credit may send again: a responder its data, a requester its input."""

    stream: int


Event = Hello | Open | Data | End | Fail | Cancel | Notice | Head | Input | Will | Usage | Writable


class Endpoint(ABC):
    """One end of a link. Not thread-safe; one owner."""

    def __init__(self, greeting: Mapping[str, str | int | bytes]) -> None:
        self._reader = FrameReader()
        self._output: list[bytes] = []
        self.greeted = False
        self._received = 0
        self.closed = False
        self._send(Hello(PROTOCOL_VERSION, greeting))

    @property
    def partial_frame(self) -> tuple[int, int] | None:
        """(bytes of the incomplete frame that have arrived, total bytes received), or None if the last
        received frame is complete."""
        held = self._reader.buffered
        return (held, self._received) if held else None

    def take_output(self) -> list[bytes]:
        """The bytes to write to the socket now, removed from the connection."""
        output, self._output = self._output, []
        return output

    def notice(self, word: str, detail: str = "") -> None:
        """Send a Notice about the life of the process. Raises: LocalProtocolError if it is too long."""
        self._send(Notice(word, detail))

    def receive(self, data: bytes) -> Iterator[Event]:
        """The events that `data` completes, one at a time. Handle each before requesting the next.

        If the iteration ends early, by `close` or by an error, the remaining frames have no effect.
        Raises: RemoteProtocolError at the first illegal frame; then call `close` and drop the link.
        """
        if self.closed:
            return
        self._received += len(data)
        for frame in self._reader.feed(data):
            if self.greeted:
                event = self._receive(frame)
                if event is not None:
                    yield event
            elif not isinstance(frame, Hello):
                raise RemoteProtocolError(f"{type(frame).__name__} before Hello")
            elif frame.version != PROTOCOL_VERSION:
                raise RemoteProtocolError(
                    f"the peer uses protocol version {frame.version}, expected {PROTOCOL_VERSION}"
                )
            else:
                self.greeted = True
                yield frame
            if self.closed:
                return

    def _send(self, frame: Frame) -> None:
        if not self.closed:
            self._output.append(encode(frame))

    @abstractmethod
    def _receive(self, frame: Frame) -> Event | None:
        """Check one frame after the greeting; returns the event that it stands for, if any."""

    @staticmethod
    def _unexpected(frame: Frame) -> RemoteProtocolError:
        return RemoteProtocolError(f"{type(frame).__name__} from the wrong end or at the wrong time")
