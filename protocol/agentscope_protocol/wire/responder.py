"""The worker's end of a link. Pure.

A turn is answered with `send`, an exchange with `head` and `message`; each ends with `end` or `fail`.

Read `endpoint` first; `requester` is the other end.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from agentscope_protocol.wire import stream as st
from agentscope_protocol.wire.codec import encode, header
from agentscope_protocol.wire.endpoint import Endpoint, Event, Writable
from agentscope_protocol.wire.errors import Code, LocalProtocolError, RemoteProtocolError
from agentscope_protocol.wire.flow import MessageCredit, MessageWindow, SendCredit
from agentscope_protocol.wire.frames import (
    INPUTS,
    LAST_INPUTS,
    MAX_ANSWER,
    OUTPUTS,
    Cancel,
    CancelReason,
    Credit,
    End,
    Fail,
    Frame,
    Head,
    Input,
    Notice,
    Open,
    Tag,
    Taken,
    Usage,
    Will,
)

# Read once: see `agentscope_protocol.wire.values`.
_OPEN: Final = st.StreamState.OPEN
_REQUESTING: Final = st.StreamState.REQUESTING
_SEND_END: Final = st.Move.SEND_END
_DATA: Final = int(Tag.DATA)

# The states of a turn where Data is legal and changes no state: looked up once, not once per event. Exchanges
# take their own way.
_SENDING: Final = st.unchanged(st.RESPONDER, st.Move.SEND_DATA) - st.EXCHANGE


class _ResponderStream:
    __slots__ = ("credit", "events", "size", "state")

    def __init__(self, state: st.StreamState, credit: SendCredit) -> None:
        self.state: st.StreamState = state
        self.credit: Final = credit
        self.events: list[bytes] = []  # sent, but not yet combined into a frame
        self.size = 0  # bytes in `events`


class _ResponderExchange(_ResponderStream):
    __slots__ = ("kind", "window")

    def __init__(self, kind: int) -> None:
        super().__init__(_REQUESTING, MessageCredit())
        self.kind: Final = kind
        self.window: Final = MessageWindow()


class Responder(Endpoint):
    """The worker's end. Combines the events that a stream sends between two calls of `take_output` into one
    Data frame."""

    def __init__(self, greeting: Mapping[str, str | int | bytes]) -> None:
        super().__init__(greeting)
        self._streams: dict[int, _ResponderStream] = {}
        self._last_stream = 0
        self._pending: dict[int, _ResponderStream] = {}  # streams with events to combine, in order

    @property
    def open_streams(self) -> int:
        """Number of streams without a terminal frame from here."""
        return len(self._streams)

    def can_send(self, stream: int) -> bool:
        """Whether `send` or `message` is legal now: the stream is open, not cancelled, and has credit. An
        exchange needs its head before."""
        entry = self._streams.get(stream)
        return entry is not None and self._may_send(entry)

    def send(self, stream: int, event: bytes) -> bool:
        """Send one event of a turn; returns whether the stream has credit for another.

        Raises: LocalProtocolError if the stream is not open, is cancelled or is out of credit, or if the
        event exceeds MAX_ANSWER bytes; nothing is sent in these cases.
        """
        entry = self._entry(stream)
        if entry.state not in _SENDING:
            st.step(st.RESPONDER, entry.state, st.Move.SEND_DATA)
            raise LocalProtocolError(f"stream {stream} is an exchange, which sends messages")
        credit = entry.credit
        if not credit.can_send:
            raise LocalProtocolError(f"stream {stream} is out of credit")
        size = len(event)
        if size > MAX_ANSWER:
            raise LocalProtocolError(f"event of {size} bytes exceeds the limit of {MAX_ANSWER}")
        entry.events.append(event)
        entry.size += size
        self._pending[stream] = entry
        return credit.spend(size)

    def head(
        self,
        stream: int,
        status: int,
        headers: Iterable[tuple[bytes, bytes]],
        ids: Iterable[str] = (),
    ) -> None:
        """Send the head of an exchange's response, once and before its messages. Fields: see `frames.Head`.

        Raises: LocalProtocolError if the stream cannot have a head now, or if the head is over the limit;
        nothing is sent in these cases.
        """
        entry = self._entry(stream)
        state = st.step(st.RESPONDER, entry.state, st.Move.SEND_HEAD)
        self._output.append(encode(Head(stream, status, tuple(headers), tuple(ids))))
        entry.state = state

    def message(self, stream: int, kind: int, payload: bytes) -> bool:
        """Send one message of an exchange; returns whether the stream has credit for another.

        `kind`: of `frames.MessageKind`. Messages are never combined. Split bodies into `exchange.PIECE`.
        Raises: as `send`, or if the stream kind has no such message.
        """
        entry = self._entry(stream)
        st.step(st.RESPONDER, entry.state, st.Move.SEND_DATA)
        if not isinstance(entry, _ResponderExchange) or kind not in OUTPUTS[entry.kind]:
            raise LocalProtocolError(f"message of kind {kind} on stream {stream}")
        if not entry.credit.can_send:
            raise LocalProtocolError(f"stream {stream} is out of credit")
        size = len(payload)
        if size > MAX_ANSWER:
            raise LocalProtocolError(f"message of {size} bytes exceeds the limit of {MAX_ANSWER}")
        self._output.append(header(_DATA, stream, kind, size))
        self._output.append(payload)
        return entry.credit.spend(size)

    def taken(self, stream: int, size: int) -> None:
        """Record that the app has received one message of `size` bytes; sends credit once that is worth a
        frame. Does nothing if no further input can arrive."""
        entry = self._streams.get(stream)
        if isinstance(entry, _ResponderExchange) and entry.state in st.TAKES_INPUT:
            amount = entry.window.consumed(size)
            if amount:
                self._output.append(encode(Taken(stream, amount)))

    def will(self, stream: int, end: bytes, result: bytes, request: bytes) -> None:
        """Send a Will, before the first event. Raises: LocalProtocolError if the stream is not open or is
        cancelled, or if the will is over the limit."""
        entry = self._entry(stream)
        st.step(st.RESPONDER, entry.state, st.Move.SEND_DATA)
        self._send(Will(stream, end, result, request))

    def usage(self, stream: int, payload: bytes) -> None:
        """Report what the response used, also of a stream that is cancelled. Raises: LocalProtocolError if
        the stream is not open, or over the limit."""
        self._entry(stream)
        self._send(Usage(stream, payload))

    def end(self, stream: int, payload: bytes = b"") -> None:
        """Complete the response. Raises: LocalProtocolError if the stream is not open, or over the limit."""
        self._finish(End(stream, payload))

    def fail(self, stream: int, code: Code, message: str) -> None:
        """End the stream without a complete response. Raises: LocalProtocolError if it is not open."""
        self._finish(Fail(stream, code, message))

    def take_output(self) -> list[bytes]:
        for stream, entry in self._pending.items():
            self._combine(stream, entry)
        self._pending.clear()
        return super().take_output()

    def close(self, _reason: str) -> list[Cancel]:
        """Cancel every open stream, because the link is gone and no client waits. Idempotent."""
        self.closed = True
        self._output.clear()
        self._pending.clear()
        streams, self._streams = self._streams, {}
        return [Cancel(stream, CancelReason.CLIENT_GONE) for stream in streams]

    def _combine(self, stream: int, entry: _ResponderStream) -> None:
        self._output.append(header(_DATA, stream, len(entry.events), entry.size))
        self._output += entry.events
        entry.events, entry.size = [], 0

    def _entry(self, stream: int) -> _ResponderStream:
        entry = self._streams.get(stream)
        if entry is None:
            raise LocalProtocolError(f"stream {stream} is not open")
        return entry

    def _finish(self, frame: End | Fail) -> None:
        stream = frame.stream
        entry = self._entry(stream)
        move = _SEND_END if type(frame) is End else st.Move.SEND_FAIL
        closed = st.step(st.RESPONDER, entry.state, move)
        terminal = encode(frame)
        if self._pending.pop(stream, None) is not None:
            self._combine(stream, entry)
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
                return Writable(stream) if was_blocked and self._may_send(entry) else None
            case Open(stream, kind):
                if stream <= self._last_stream:
                    raise RemoteProtocolError(f"stream {stream} opened after stream {self._last_stream}")
                self._last_stream = stream
                if kind in INPUTS:
                    self._streams[stream] = _ResponderExchange(kind)
                else:
                    self._streams[stream] = _ResponderStream(_OPEN, SendCredit())
                return frame
            case Input(stream):
                return self._receive_input(stream, frame)
            case Cancel(stream):
                entry = self._open_entry(stream)
                if entry is None:
                    return None
                entry.state = st.step(st.RESPONDER, entry.state, st.Move.RECV_CANCEL)
                return frame
            case Notice():
                return frame
            case _:
                raise self._unexpected(frame)

    def _receive_input(self, stream: int, frame: Input) -> Event | None:
        entry = self._open_entry(stream)
        if entry is None:
            return None
        if not isinstance(entry, _ResponderExchange) or frame.kind not in INPUTS[entry.kind]:
            raise RemoteProtocolError(f"input of kind {frame.kind} on stream {stream}")
        ends = frame.kind in LAST_INPUTS
        entry.state = st.step(st.RESPONDER, entry.state, st.Move.RECV_LAST if ends else st.Move.RECV_INPUT)
        if not ends:
            entry.window.received(len(frame.payload))
        return frame

    @staticmethod
    def _may_send(entry: _ResponderStream) -> bool:
        return (entry.state is _OPEN or entry.state in st.HAS_HEAD) and entry.credit.can_send

    def _open_entry(self, stream: int) -> _ResponderStream | None:
        """The stream, or None if it is closed: our terminal frame crossed the received one."""
        if stream > self._last_stream:
            raise RemoteProtocolError(f"frame for stream {stream}, which was never opened")
        return self._streams.get(stream)
