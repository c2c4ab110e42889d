"""The supervisor's end of a link. Pure.

`open` starts a turn. `open_exchange` starts an exchange, and `input` sends what its client sends.

Read `endpoint` first; `responder` is the other end.
"""

from collections.abc import Mapping
from typing import Final

from agentscope_protocol.wire import stream as st
from agentscope_protocol.wire.codec import header
from agentscope_protocol.wire.endpoint import Endpoint, Event, Writable
from agentscope_protocol.wire.errors import Code, LocalProtocolError, RemoteProtocolError
from agentscope_protocol.wire.flow import MessageCredit, MessageWindow, ReceiveWindow
from agentscope_protocol.wire.frames import (
    INPUTS,
    LAST_INPUTS,
    MAX_STREAM,
    OUTPUTS,
    Cancel,
    CancelReason,
    Credit,
    Data,
    End,
    Fail,
    Frame,
    Head,
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
_RECV_END: Final = st.Move.RECV_END
_DATA: Final = int(Tag.DATA)
_INPUT: Final = int(Tag.INPUT)

# The states of a turn where Data is legal and changes no state: looked up once, not once per event. Exchanges
# take their own way.
_RECEIVING: Final = st.unchanged(st.REQUESTER, st.Move.RECV_DATA) - st.EXCHANGE

_CANCELLABLE: Final = st.EXCHANGE | {_OPEN}


class _RequesterStream:
    __slots__ = ("state", "window")

    def __init__(self, state: st.StreamState, window: ReceiveWindow) -> None:
        self.state: st.StreamState = state
        self.window: Final = window


class _RequesterExchange(_RequesterStream):
    __slots__ = ("credit", "kind")

    def __init__(self, kind: int) -> None:
        super().__init__(_REQUESTING, MessageWindow())
        self.kind: Final = kind
        self.credit: Final = MessageCredit()


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
        entry = _RequesterStream(_OPEN, ReceiveWindow())
        return self._open(entry, kind, session_id, run_id, body, headers or {}, dialect)

    def open_exchange(
        self, kind: int, session_id: str, request_id: str, head: bytes, headers: Mapping[str, str]
    ) -> int:
        """Start an exchange; returns its stream id. `kind`: HTTP or WEBSOCKET. `head`: of
        `exchange.encode_head`. Its input must be ended, with LAST or CLOSE, or the exchange be cancelled.

        Raises: LocalProtocolError after `close`, or if the exchange cannot be encoded.
        """
        return self._open(_RequesterExchange(kind), kind, session_id, request_id, head, headers, 0)

    def _open(
        self,
        entry: _RequesterStream,
        kind: int,
        session_id: str,
        run_id: str,
        body: bytes,
        headers: Mapping[str, str],
        dialect: int,
    ) -> int:
        if self.closed or self._last_stream == MAX_STREAM:
            raise LocalProtocolError("open on a closed or exhausted connection")
        stream = self._last_stream + 1
        self._send(Open(stream, kind, session_id, run_id, body, headers, dialect))
        self._last_stream = stream
        self._streams[stream] = entry
        self._unwritten.add(stream)
        return stream

    def take_output(self) -> list[bytes]:
        self._unwritten.clear()
        return super().take_output()

    def can_input(self, stream: int) -> bool:
        """Whether `input` is legal now: the exchange takes input, and there is credit."""
        entry = self._streams.get(stream)
        if entry is None or entry.state not in st.TAKES_INPUT:
            return False
        assert isinstance(entry, _RequesterExchange), "turns have no such state"
        return entry.credit.can_send

    def input(self, stream: int, kind: int, payload: bytes) -> bool:
        """Send one message of an exchange's client; returns whether there is credit for another.

        `kind`: of `frames.MessageKind`. LAST and CLOSE end the input, and need no credit.
        Raises: LocalProtocolError if the stream is no exchange that takes input, is out of credit, or if the
        message exceeds MAX_ANSWER bytes; nothing is sent in these cases.
        """
        entry = self._streams.get(stream)
        if not isinstance(entry, _RequesterExchange):
            raise LocalProtocolError(f"stream {stream} is not an open exchange")
        if kind not in INPUTS[entry.kind]:
            raise LocalProtocolError(f"input of kind {kind} for stream kind {entry.kind}")
        ends = kind in LAST_INPUTS
        state = st.step(st.REQUESTER, entry.state, st.Move.SEND_LAST if ends else st.Move.SEND_INPUT)
        if not (ends or entry.credit.can_send):
            raise LocalProtocolError(f"stream {stream} is out of credit")
        self._output.append(header(_INPUT, stream, kind, len(payload)))
        self._output.append(payload)
        entry.state = state
        return not ends and entry.credit.spend(len(payload))

    def cancel(self, stream: int, reason: CancelReason) -> None:
        """Ask the responder to stop a stream. Does nothing if the stream is over or already cancelled."""
        entry = self._streams.get(stream)
        if entry is not None and entry.state in _CANCELLABLE:
            entry.state = st.step(st.REQUESTER, entry.state, st.Move.SEND_CANCEL)
            self._send(Cancel(stream, reason))

    def consumed(self, stream: int, size: int) -> None:
        """Record that the client consumed `size` bytes; sends credit once it is worth a frame. For an
        exchange: call it once for each message."""
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
                return self._receive_message(frame)
            entry.window.received(len(frame.payload))
            if entry.state is _OPEN:
                return frame
            self.consumed(frame.stream, len(frame.payload))  # cancelled: no client will consume it
            return None
        match frame:
            case Fail(_, Code.LINK_LOST | Code.UNSENT):
                # If UNSENT were accepted from a peer, a turn could run twice.
                raise RemoteProtocolError(f"the peer sent {frame.code.name}, which only the requester sets")
            case End(stream):
                self._move(stream, _RECV_END)
                del self._streams[stream]
                return frame
            case Fail(stream):
                self._move(stream, st.Move.RECV_FAIL)
                del self._streams[stream]
                return frame
            case Head(stream):
                state = self._move(stream, st.Move.RECV_HEAD).state
                return frame if state in st.HAS_HEAD else None  # else it is cancelled
            case Taken(stream, amount):
                return self._receive_taken(stream, amount)
            case Notice():
                return frame
            case Will(stream) | Usage(stream):
                entry = self._move(stream, st.Move.RECV_DATA)  # legal where Data of a turn is
                if isinstance(entry, _RequesterExchange):
                    raise self._unexpected(frame)
                return frame if entry.state is _OPEN or type(frame) is Usage else None
            case _:
                raise self._unexpected(frame)

    def _receive_message(self, data: Data) -> Event:
        """One message of an exchange, or Data where it is illegal."""
        entry = self._move(data.stream, st.Move.RECV_DATA)
        assert isinstance(entry, _RequesterExchange), "turns have no such state"
        if data.count not in OUTPUTS[entry.kind]:
            raise RemoteProtocolError(f"message of kind {data.count} on stream kind {entry.kind}")
        entry.window.received(len(data.payload))
        return data

    def _receive_taken(self, stream: int, amount: int) -> Event | None:
        entry = self._streams.get(stream)
        if not isinstance(entry, _RequesterExchange):
            raise RemoteProtocolError(f"Taken on stream {stream}, which is not an open exchange")
        was_blocked = not entry.credit.can_send
        entry.credit.granted(amount)
        unblocked = was_blocked and entry.credit.can_send and entry.state in st.TAKES_INPUT
        return Writable(stream) if unblocked else None

    def _move(self, stream: int, move: st.Move) -> _RequesterStream:
        entry = self._streams.get(stream)
        if entry is None:
            raise RemoteProtocolError(f"{move.name} on stream {stream}, which is not open")
        entry.state = st.step(st.REQUESTER, entry.state, move)
        return entry
