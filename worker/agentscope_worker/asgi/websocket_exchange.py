"""One WebSocket of an ASGI app: accepted, or rejected with a response, then messages in both directions.

Messages out of order raise the errors that uvicorn raises.
"""

from collections.abc import MutableMapping
from enum import Enum, auto
from typing import Any, Final

from agentscope_protocol.wire.exchange import (
    ABNORMAL,
    NO_STATUS,
    PIECE,
    RequestHead,
    close_payload,
    read_close,
)
from agentscope_protocol.wire.frames import CancelReason, Input, MessageKind, Open
from agentscope_protocol.wire.link import Link
from agentscope_protocol.wire.responder import Responder
from agentscope_worker.asgi.exchange import ClientDisconnected, Exchange, Message, headers_of
from agentscope_worker.asgi.scopes import websocket_scope

GOING_AWAY: Final = 1012  # "service restart", in the registry of RFC 6455
NORMAL: Final = 1000


class _State(Enum):
    CONNECTING = auto()
    REJECTING = auto()  # the head of a rejection has been sent, and its body may follow
    ACCEPTED = auto()
    CLOSED = auto()


class WebSocketExchange(Exchange):
    """One WebSocket."""

    def __init__(self, opened: Open, head: RequestHead, link: Link[Responder]) -> None:
        super().__init__(opened, head, link)
        self._state = _State.CONNECTING
        self._has_connected = False
        self._disconnect: Message | None = None
        self._client_has_closed = False

    def scope(self, state: MutableMapping[str, Any]) -> dict[str, Any]:
        return websocket_scope(self.head, state)

    @property
    def is_deaf(self) -> bool:
        return self.is_gone or self._client_has_closed

    def put(self, event: Input) -> None:
        # A close behind unread messages counts when the app reads it, so that it can answer them before.
        if event.kind == MessageKind.CLOSE and not self._input:
            self._client_has_closed = True
        super().put(event)

    def leave(self, reason: int) -> None:
        if self._disconnect is None and not (self._input and self._input[-1].kind == MessageKind.CLOSE):
            no_code = NO_STATUS if self._state is _State.ACCEPTED else ABNORMAL
            code = GOING_AWAY if reason == CancelReason.DRAINING else no_code
            self._disconnect = _disconnected(code)
        super().leave(reason)

    async def receive(self) -> Message:
        if not self._has_connected:
            self._has_connected = True
            return {"type": "websocket.connect"}
        while True:
            if self._input:
                return self._received(self._input.popleft())
            if self._disconnect is not None:
                return self._disconnect
            await self._change()

    def _received(self, event: Input) -> Message:
        if event.kind == MessageKind.CLOSE:
            self._client_has_closed = True
            self._disconnect = _disconnected(*read_close(event.payload))
            return self._disconnect
        self._responder.taken(self.stream, len(event.payload))
        self._link.flush_soon()
        if event.kind == MessageKind.TEXT:
            return {"type": "websocket.receive", "text": event.payload.decode("utf-8", "replace")}
        return {"type": "websocket.receive", "bytes": event.payload}

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if self.is_deaf and self._state is not _State.CLOSED:
            raise ClientDisconnected
        match self._state, kind:
            case _State.CONNECTING, "websocket.accept":
                self._accept(message)
            case _State.CONNECTING, "websocket.close":
                self._send_head(403, [])
                self._close(_disconnected(ABNORMAL))
            case _State.CONNECTING, "websocket.http.response.start":
                self._send_head(message["status"], headers_of(message))
                self._state = _State.REJECTING
            case _State.CONNECTING, _:
                raise RuntimeError(
                    "Expected ASGI message 'websocket.accept', 'websocket.close' or "
                    f"'websocket.http.response.start' but got '{kind}'."
                )
            case _State.REJECTING, "websocket.http.response.body":
                await self._reject(message.get("body", b""), message.get("more_body", False))
            case _State.REJECTING, _:
                raise RuntimeError(f"Expected ASGI message 'websocket.http.response.body' but got '{kind}'.")
            case _State.ACCEPTED, "websocket.send":
                await self._message(message)
            case _State.ACCEPTED, "websocket.close":
                await self._finish(message.get("code", NORMAL), message.get("reason") or "")
            case _State.ACCEPTED, _:
                raise RuntimeError(
                    f"Expected ASGI message 'websocket.send' or 'websocket.close', but got '{kind}'."
                )
            case _:
                raise RuntimeError(
                    f"Unexpected ASGI message '{kind}', after sending 'websocket.close' or response already "
                    "completed."
                )
        self._link.flush_early()

    def returned(self) -> str:
        if self.is_over or self.is_gone:
            return ""
        if self._state is _State.CONNECTING:
            return "returned without completing the handshake"
        if self._state is _State.REJECTING:
            return "did not complete its response"
        if self._responder.can_send(self.stream):
            self._responder.message(self.stream, MessageKind.CLOSE, close_payload(NORMAL))
        self._close(_disconnected(NORMAL))
        return ""

    def _accept(self, message: Message) -> None:
        headers = headers_of(message)
        if subprotocol := message.get("subprotocol"):
            headers.append((b"sec-websocket-protocol", subprotocol.encode("latin-1")))
        self._send_head(101, headers)
        self._state = _State.ACCEPTED

    async def _message(self, message: Message) -> None:
        data, text = message.get("bytes"), message.get("text")
        if text is not None:
            sent = await self._transmit(MessageKind.TEXT, text.encode())
        else:
            sent = await self._transmit(MessageKind.BINARY, bytes(data or b""))
        if not sent:
            raise ClientDisconnected

    async def _reject(self, body: bytes, more: bool) -> None:
        for start in range(0, len(body), PIECE):
            if not await self._transmit(MessageKind.BODY, bytes(body[start : start + PIECE])):
                raise ClientDisconnected
        if not more:
            self._close(_disconnected(ABNORMAL))

    async def _finish(self, code: int, reason: str) -> None:
        if not await self._transmit(MessageKind.CLOSE, close_payload(code, reason)):
            raise ClientDisconnected
        self._close(_disconnected(code, reason))

    def _close(self, disconnect: Message) -> None:
        self._state = _State.CLOSED
        if self._disconnect is None:
            self._disconnect = disconnect
        self._end()


def _disconnected(code: int, reason: str = "") -> Message:
    return {"type": "websocket.disconnect", "code": code, "reason": reason}
