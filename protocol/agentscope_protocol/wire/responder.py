"""The worker's end of a link. Pure.

Read `endpoint` first; `requester` is the other end.
"""

from collections.abc import Mapping
from typing import Final

from agentscope_protocol.wire import stream as st
from agentscope_protocol.wire.codec import encode, header
from agentscope_protocol.wire.endpoint import Endpoint, Event, Writable
from agentscope_protocol.wire.errors import Code, LocalProtocolError, RemoteProtocolError
from agentscope_protocol.wire.flow import SendCredit
from agentscope_protocol.wire.frames import (
    MAX_ANSWER,
    Cancel,
    CancelReason,
    Credit,
    End,
    Fail,
    Frame,
    Notice,
    Open,
    Tag,
)

# Read once: see `agentscope_protocol.wire.values`.
_OPEN: Final = st.StreamState.OPEN
_SEND_TERMINAL: Final = st.Move.SEND_TERMINAL
_DATA: Final = int(Tag.DATA)

# Where Data is legal, it changes no state: the states are looked up once, not once per event.
_SENDING: Final = st.unchanged(st.RESPONDER, st.Move.SEND_DATA)


class _ResponderStream:
    __slots__ = ("credit", "events", "size", "state")

    def __init__(self) -> None:
        self.state: st.StreamState = _OPEN
        self.credit: Final = SendCredit()
        self.events: list[bytes] = []  # sent, but not yet combined into a frame
        self.size = 0  # bytes in `events`


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
        """Whether `send` is legal now: the stream is open, not cancelled, and has credit."""
        entry = self._streams.get(stream)
        return entry is not None and entry.state is _OPEN and entry.credit.can_send

    def send(self, stream: int, event: bytes) -> bool:
        """Send one event; returns whether the stream has credit for another.

        Raises: LocalProtocolError if the stream is not open, is cancelled or is out of credit, or if the
        event exceeds MAX_ANSWER bytes; nothing is sent in these cases.
        """
        entry = self._entry(stream)
        if entry.state not in _SENDING:
            entry.state = st.step(st.RESPONDER, entry.state, st.Move.SEND_DATA)
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
        closed = st.step(st.RESPONDER, entry.state, _SEND_TERMINAL)
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
                unblocked = was_blocked and entry.credit.can_send and entry.state is _OPEN
                return Writable(stream) if unblocked else None
            case Open(stream):
                if stream <= self._last_stream:
                    raise RemoteProtocolError(f"stream {stream} opened after stream {self._last_stream}")
                self._last_stream = stream
                self._streams[stream] = _ResponderStream()
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
                raise self._unexpected(frame)

    def _open_entry(self, stream: int) -> _ResponderStream | None:
        """The stream, or None if it is closed: our terminal frame crossed the received one."""
        if stream > self._last_stream:
            raise RemoteProtocolError(f"frame for stream {stream}, which was never opened")
        return self._streams.get(stream)
