"""One end of a link: bytes in, events out; calls in, bytes out. No I/O, no clock. Pure.

The shell that owns the socket (`link`) does no more than

    for event in connection.receive(data): handle(event)
    transport.writelines(connection.take_output())

The supervisor's end is a `Requester`, the worker's a `Responder`. Events are the frames received, after
their legality has been checked, and `Writable`.

The invariant that the product rests on: every stream opened yields exactly one terminal event, End or
Fail, at the requester, whatever the peer does, dying included. `close` is how the shell says that it
died. What goes wrong is either RemoteProtocolError (drop the link) or LocalProtocolError (our bug).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from agentscope_protocol.wire import stream as st
from agentscope_protocol.wire.codec import FrameReader, encode, header
from agentscope_protocol.wire.errors import Code, LocalProtocolError, RemoteProtocolError
from agentscope_protocol.wire.flow import ReceiveWindow, SendCredit
from agentscope_protocol.wire.frames import (
    MAX_ANSWER,
    MAX_STREAM,
    PROTOCOL_VERSION,
    Cancel,
    CancelReason,
    Credit,
    Data,
    End,
    Fail,
    Frame,
    Hello,
    Notice,
    Open,
    Tag,
)


@dataclass(frozen=True, slots=True)
class Writable:
    """A stream of a responder that was out of credit may send again."""

    stream: int


Event = Hello | Open | Data | End | Fail | Cancel | Notice | Writable


class _Connection(ABC):
    """What both ends do: greet first, read frames, gather output. Not thread-safe; one owner."""

    def __init__(self, greeting: Mapping[str, str | int | bytes]) -> None:
        self._reader = FrameReader()
        self._output: list[bytes] = []
        self._greeted = False
        self._received = 0
        self.closed = False
        self._send(Hello(PROTOCOL_VERSION, greeting))

    @property
    def part(self) -> tuple[int, int] | None:
        """Of the frame that has come in part, the bytes that are there, and all that were received until now;
        None: what has come is whole."""
        held = self._reader.buffered
        return (held, self._received) if held else None

    def take_output(self) -> list[bytes]:
        """The bytes to write to the socket now; they are forgotten here."""
        output, self._output = self._output, []
        return output

    def notice(self, word: str, detail: str = "") -> None:
        """Send a word about the life of the process. Raises: LocalProtocolError if it is too long."""
        self._send(Notice(word, detail))

    def receive(self, data: bytes) -> Iterator[Event]:
        """The events that `data` completes, one at a time: handle each before the next is looked at.

        What follows the end of the iteration, by `close` or by an error, has not happened.
        Raises: RemoteProtocolError at the frame that is not legal; then call `close` and drop the link.
        """
        if self.closed:
            return
        self._received += len(data)
        for frame in self._reader.feed(data):
            if self._greeted:
                event = self._receive(frame)
                if event is not None:
                    yield event
            elif not isinstance(frame, Hello):
                raise RemoteProtocolError(f"{type(frame).__name__} before Hello")
            elif frame.version != PROTOCOL_VERSION:
                raise RemoteProtocolError(
                    f"the peer speaks protocol {frame.version}, we speak {PROTOCOL_VERSION}"
                )
            else:
                self._greeted = True
                yield frame
            if self.closed:
                return

    def _send(self, frame: Frame) -> None:
        if not self.closed:
            self._output.append(encode(frame))

    @abstractmethod
    def _receive(self, frame: Frame) -> Event | None:
        """Check one frame that came after the greeting; returns what it means, if anything."""

    @staticmethod
    def _refuse(frame: Frame) -> RemoteProtocolError:
        return RemoteProtocolError(f"{type(frame).__name__} at the wrong end or time")


# Read once: see `agentscope_protocol.wire.values`.
_OPEN: Final = st.StreamState.OPEN
_RECV_TERMINAL: Final = st.Move.RECV_TERMINAL
_SEND_TERMINAL: Final = st.Move.SEND_TERMINAL
_DATA: Final = int(Tag.DATA)

# Data changes no state where it is legal: so for each event it is only looked up where that is.
_SENDING: Final = st.unchanged(st.RESPONDER, st.Move.SEND_DATA)
_TAKING: Final = st.unchanged(st.REQUESTER, st.Move.RECV_DATA)


class _Asked:
    __slots__ = ("state", "window")

    def __init__(self) -> None:
        self.state: st.StreamState = _OPEN
        self.window: Final = ReceiveWindow()


class Requester(_Connection):
    """The supervisor's end."""

    def __init__(self, greeting: Mapping[str, str | int | bytes]) -> None:
        super().__init__(greeting)
        self._streams: dict[int, _Asked] = {}
        self._last_stream = 0
        self._unwritten: set[int] = set()  # streams whose Open is still in our output

    @property
    def open_streams(self) -> int:
        """Streams whose terminal event has not come."""
        return len(self._streams)

    @property
    def unwritten(self) -> int:
        """Streams whose Open waits to be written."""
        return len(self._unwritten)

    def open(
        self,
        session_id: str,
        run_id: str,
        body: bytes,
        kind: int = 0,
        headers: Mapping[str, str] | None = None,
        dialect: int = 0,
    ) -> int:
        """Start a turn; returns its stream id. `kind`: of `frames.StreamKind`. `dialect`: as in
        `frames.Open`.

        Raises: LocalProtocolError once closed, or if the turn cannot be encoded.
        """
        if self.closed or self._last_stream == MAX_STREAM:
            raise LocalProtocolError("open on a closed or exhausted connection")
        stream = self._last_stream + 1
        self._send(Open(stream, kind, session_id, run_id, body, headers or {}, dialect))
        self._last_stream = stream
        self._streams[stream] = _Asked()
        self._unwritten.add(stream)
        return stream

    def take_output(self) -> list[bytes]:
        self._unwritten.clear()
        return super().take_output()

    def cancel(self, stream: int, reason: CancelReason) -> None:
        """Ask for a stream to stop. On a stream that is over, or asked before, nothing happens."""
        asked = self._streams.get(stream)
        if asked is not None and asked.state is _OPEN:
            asked.state = st.step(st.REQUESTER, asked.state, st.Move.SEND_CANCEL)
            self._send(Cancel(stream, reason))

    def consumed(self, stream: int, size: int) -> None:
        """Tell that the client took `size` bytes; sends credit when that is worth a frame."""
        asked = self._streams.get(stream)
        if asked is not None and (amount := asked.window.consumed(size)):
            self._send(Credit(stream, amount))

    def close(self, reason: str) -> list[Fail]:
        """The link is gone: every stream still open fails here, once. Idempotent.

        The code is UNSENT where the turn provably never left, so that it may be given to another worker.
        """
        self.closed = True
        self._output.clear()
        streams, self._streams = self._streams, {}
        return [
            Fail(stream, Code.UNSENT if stream in self._unwritten else Code.LINK_LOST, reason)
            for stream in streams
        ]

    def _receive(self, frame: Frame) -> Event | None:
        if type(frame) is Data:  # the hot path; a class pattern costs twice as much
            asked = self._streams.get(frame.stream)
            if asked is None or asked.state not in _TAKING:
                asked = self._move(frame.stream, st.Move.RECV_DATA)
            asked.window.received(len(frame.payload))
            if asked.state is _OPEN:
                return frame
            self.consumed(frame.stream, len(frame.payload))  # cancelled: nobody will take it
            return None
        match frame:
            case Fail(_, Code.LINK_LOST | Code.UNSENT):
                # Believed, UNSENT would have a turn run twice.
                raise RemoteProtocolError(f"the peer says {frame.code.name}, which only we can know")
            case End(stream) | Fail(stream):
                self._move(stream, _RECV_TERMINAL)
                del self._streams[stream]
                return frame
            case Notice():
                return frame
            case _:
                raise self._refuse(frame)

    def _move(self, stream: int, move: st.Move) -> _Asked:
        asked = self._streams.get(stream)
        if asked is None:
            raise RemoteProtocolError(f"{move.name} on stream {stream}, which is not open")
        asked.state = st.step(st.REQUESTER, asked.state, move)
        return asked


class _Answering:
    __slots__ = ("credit", "events", "size", "state")

    def __init__(self) -> None:
        self.state: st.StreamState = _OPEN
        self.credit: Final = SendCredit()
        self.events: list[bytes] = []  # sent, not yet gathered into a frame
        self.size = 0  # bytes in `events`


class Responder(_Connection):
    """The worker's end. What is sent on a stream between two calls of `take_output` leaves in one
    Data frame."""

    def __init__(self, greeting: Mapping[str, str | int | bytes]) -> None:
        super().__init__(greeting)
        self._streams: dict[int, _Answering] = {}
        self._last_stream = 0
        self._unsent: dict[int, _Answering] = {}  # streams with events to gather, in order

    @property
    def open_streams(self) -> int:
        """Streams that have not been ended or failed here."""
        return len(self._streams)

    def can_send(self, stream: int) -> bool:
        """Whether `send` is legal now: the stream is open, not cancelled, and has credit."""
        entry = self._streams.get(stream)
        return entry is not None and entry.state is _OPEN and entry.credit.can_send

    def send(self, stream: int, event: bytes) -> bool:
        """Send one event; returns whether there is credit for another.

        Raises: LocalProtocolError if the stream is not open, is cancelled, is out of credit, or the
        event is over MAX_ANSWER bytes; nothing is sent then.
        """
        entry = self._entry(stream)
        if entry.state not in _SENDING:
            entry.state = st.step(st.RESPONDER, entry.state, st.Move.SEND_DATA)
        credit = entry.credit
        if not credit.can_send:
            raise LocalProtocolError(f"stream {stream} is out of credit")
        size = len(event)
        if size > MAX_ANSWER:
            raise LocalProtocolError(f"event of {size} bytes is over {MAX_ANSWER}")
        entry.events.append(event)
        entry.size += size
        self._unsent[stream] = entry
        return credit.spend(size)

    def end(self, stream: int, payload: bytes = b"") -> None:
        """The answer is complete. Raises: LocalProtocolError if it was ended before, or too large."""
        self._finish(End(stream, payload))

    def fail(self, stream: int, code: Code, message: str) -> None:
        """The answer will not be completed. Raises: LocalProtocolError if it was ended before."""
        self._finish(Fail(stream, code, message))

    def take_output(self) -> list[bytes]:
        for stream, entry in self._unsent.items():
            self._gather(stream, entry)
        self._unsent.clear()
        return super().take_output()

    def close(self, _reason: str) -> list[Cancel]:
        """The link is gone: nobody waits for the answers any more. Idempotent."""
        self.closed = True
        self._output.clear()
        self._unsent.clear()
        streams, self._streams = self._streams, {}
        return [Cancel(stream, CancelReason.CLIENT_GONE) for stream in streams]

    def _gather(self, stream: int, entry: _Answering) -> None:
        self._output.append(header(_DATA, stream, len(entry.events), entry.size))
        self._output += entry.events
        entry.events, entry.size = [], 0

    def _entry(self, stream: int) -> _Answering:
        entry = self._streams.get(stream)
        if entry is None:
            raise LocalProtocolError(f"stream {stream} is not open")
        return entry

    def _finish(self, frame: End | Fail) -> None:
        stream = frame.stream
        entry = self._entry(stream)
        closed = st.step(st.RESPONDER, entry.state, _SEND_TERMINAL)
        terminal = encode(frame)
        if self._unsent.pop(stream, None) is not None:
            self._gather(stream, entry)
        entry.state = closed
        del self._streams[stream]
        self._output.append(terminal)

    def _receive(self, frame: Frame) -> Event | None:
        match frame:
            case Credit(stream, amount):
                entry = self._open_entry(stream)
                if entry is None:
                    return None
                was_blocked = not entry.credit.can_send
                entry.credit.granted(amount)
                unblocked = was_blocked and entry.credit.can_send and entry.state is _OPEN
                return Writable(stream) if unblocked else None
            case Open(stream):
                if stream <= self._last_stream:
                    raise RemoteProtocolError(f"stream {stream} after {self._last_stream}")
                self._last_stream = stream
                self._streams[stream] = _Answering()
                return frame
            case Cancel(stream):
                entry = self._open_entry(stream)
                if entry is None:
                    return None
                entry.state = st.step(st.RESPONDER, entry.state, st.Move.RECV_CANCEL)
                return frame
            case Notice():
                return frame
            case _:
                raise self._refuse(frame)

    def _open_entry(self, stream: int) -> _Answering | None:
        """The stream, or None if our terminal frame crossed what came for it."""
        if stream > self._last_stream:
            raise RemoteProtocolError(f"frame for stream {stream}, which was never opened")
        return self._streams.get(stream)
