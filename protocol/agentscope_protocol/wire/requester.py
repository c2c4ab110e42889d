"""The supervisor's end of a link. Pure.

Read `endpoint` first; `responder` is the other end.
"""

from collections.abc import Mapping
from typing import Final

from agentscope_protocol.wire import stream as st
from agentscope_protocol.wire.endpoint import Endpoint, Event
from agentscope_protocol.wire.errors import Code, LocalProtocolError, RemoteProtocolError
from agentscope_protocol.wire.flow import ReceiveWindow
from agentscope_protocol.wire.frames import (
    MAX_STREAM,
    Cancel,
    CancelReason,
    Credit,
    Data,
    End,
    Fail,
    Frame,
    Notice,
    Open,
    Tag,
)

# Read once: see `agentscope_protocol.wire.values`.
_OPEN: Final = st.StreamState.OPEN
_RECV_TERMINAL: Final = st.Move.RECV_TERMINAL
_DATA: Final = int(Tag.DATA)

# Where Data is legal, it changes no state: the states are looked up once, not once per event.
_RECEIVING: Final = st.unchanged(st.REQUESTER, st.Move.RECV_DATA)


class _RequesterStream:
    __slots__ = ("state", "window")

    def __init__(self) -> None:
        self.state: st.StreamState = _OPEN
        self.window: Final = ReceiveWindow()


class Requester(Endpoint):
    """The supervisor's end."""

    def __init__(self, greeting: Mapping[str, str | int | bytes]) -> None:
        super().__init__(greeting)
        self._streams: dict[int, _RequesterStream] = {}
        self._last_stream = 0
        self._unwritten: set[int] = set()  # streams whose Open is still in the output

    @property
    def open_streams(self) -> int:
        """Number of streams without a terminal event."""
        return len(self._streams)

    @property
    def unwritten(self) -> int:
        """Number of streams whose Open has not been written yet."""
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

        Raises: LocalProtocolError after `close`, or if the turn cannot be encoded.
        """
        if self.closed or self._last_stream == MAX_STREAM:
            raise LocalProtocolError("open on a closed or exhausted connection")
        stream = self._last_stream + 1
        self._send(Open(stream, kind, session_id, run_id, body, headers or {}, dialect))
        self._last_stream = stream
        self._streams[stream] = _RequesterStream()
        self._unwritten.add(stream)
        return stream

    def take_output(self) -> list[bytes]:
        self._unwritten.clear()
        return super().take_output()

    def cancel(self, stream: int, reason: CancelReason) -> None:
        """Ask the responder to stop a stream. Does nothing if the stream is over or already cancelled."""
        entry = self._streams.get(stream)
        if entry is not None and entry.state is _OPEN:
            entry.state = st.step(st.REQUESTER, entry.state, st.Move.SEND_CANCEL)
            self._send(Cancel(stream, reason))

    def consumed(self, stream: int, size: int) -> None:
        """Record that the client consumed `size` bytes; sends credit once it is worth a frame."""
        entry = self._streams.get(stream)
        if entry is not None and (amount := entry.window.consumed(size)):
            self._send(Credit(stream, amount))

    def close(self, reason: str) -> list[Fail]:
        """Fail every open stream, because the link is gone. Idempotent: returns each failure once.

        The code is UNSENT if the turn was certainly never written, so that another worker can take it.
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
            entry = self._streams.get(frame.stream)
            if entry is None or entry.state not in _RECEIVING:
                entry = self._move(frame.stream, st.Move.RECV_DATA)
            entry.window.received(len(frame.payload))
            if entry.state is _OPEN:
                return frame
            self.consumed(frame.stream, len(frame.payload))  # cancelled: no client will consume it
            return None
        match frame:
            case Fail(_, Code.LINK_LOST | Code.UNSENT):
                # If UNSENT were accepted from a peer, a turn could run twice.
                raise RemoteProtocolError(f"the peer sent {frame.code.name}, which only the requester sets")
            case End(stream) | Fail(stream):
                self._move(stream, _RECV_TERMINAL)
                del self._streams[stream]
                return frame
            case Notice():
                return frame
            case _:
                raise self._unexpected(frame)

    def _move(self, stream: int, move: st.Move) -> _RequesterStream:
        entry = self._streams.get(stream)
        if entry is None:
            raise RemoteProtocolError(f"{move.name} on stream {stream}, which is not open")
        entry.state = st.step(st.REQUESTER, entry.state, move)
        return entry
