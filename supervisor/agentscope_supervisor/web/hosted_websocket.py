"""WebSockets of a hosted app: each is one exchange with a worker. aiohttp speaks the protocol.

Messages flow in both directions with their kind, and each direction at the pace of its reader. A WebSocket
whose worker is replaced or stopped is closed with 1012 (service restart), and its client may connect again.

Where to read next: `hosted` serves HTTP requests, and finds the worker for both.
"""

import asyncio
import logging
from typing import Any, Final

from aiohttp import WSCloseCode, WSMsgType, web

from agentscope_protocol.wire.errors import Code
from agentscope_protocol.wire.exchange import ABNORMAL, NO_STATUS, close_payload, read_close
from agentscope_protocol.wire.frames import CancelReason, Head, MessageKind, StreamKind
from agentscope_supervisor.domain.errors import Refused, invalid
from agentscope_supervisor.exchanges.heads import BadHead, websocket_headers
from agentscope_supervisor.exchanges.open_exchange import OpenExchange
from agentscope_supervisor.http1.aiohttp_channel import AiohttpChannel
from agentscope_supervisor.web.hosted import (
    BAD_HEAD,
    TIMEOUT,
    HostedListener,
    HostedResponse,
    HostedRoute,
    Opening,
    failure_of,
)

log = logging.getLogger(__name__)

MAX_MESSAGE: Final = 16 * 1024 * 1024
"""Bytes of one message, as one frame of the link has. A longer one closes the WebSocket with 1009."""

PING_EVERY: Final = 40.0
"""Seconds of silence after which a client gets a ping. It must answer within half of that, also while the app
does not read its messages."""

CLOSES_WITHIN: Final = 10.0  # seconds that the client, and then the app, may take after a close

_ACCEPTED: Final = 101
_CLOSE: Final = int(MessageKind.CLOSE)
_OPCODES: Final = {int(MessageKind.TEXT): WSMsgType.TEXT, int(MessageKind.BINARY): WSMsgType.BINARY}
_KINDS: Final = {WSMsgType.TEXT: int(MessageKind.TEXT), WSMsgType.BINARY: int(MessageKind.BINARY)}
_UNSENDABLE: Final = frozenset({NO_STATUS, ABNORMAL, 1015})  # RFC 6455, section 7.4.1


class WebSocketRoute:
    """The handler of WebSockets for the app."""

    def __init__(self, hosted: HostedRoute) -> None:
        self._hosted: Final = hosted

    async def serve(self, opening: Opening) -> web.StreamResponse:
        """Serve one WebSocket until it is closed. Raises: Refused."""
        request, hosted = opening.request, self._hosted
        if request.method != "GET" or "Sec-WebSocket-Key" not in request.headers:
            raise invalid("this is not a valid WebSocket handshake")
        key = hosted.key(request, None)
        process = await hosted.exchanges.place(key)
        answer = _Answer(hosted, opening)
        exchange = answer.exchange = hosted.begin(opening, process, key, StreamKind.WEBSOCKET, answer)
        try:
            head = await answer.head_within(hosted.timeout)
            if answer.rejection is not None:
                return await answer.rejection.finish()
            return await self._accepted(opening, answer, head)
        except BaseException:  # refused, or the client has left
            exchange.cancel(CancelReason.CLIENT_GONE)
            raise

    async def _accepted(self, opening: Opening, answer: "_Answer", head: Head) -> web.StreamResponse:
        """Serve a WebSocket that the app has accepted."""
        exchange = answer.exchange
        try:
            subprotocol, headers = websocket_headers(head.headers)
        except BadHead as error:
            log.error("the app's response cannot be sent", extra={"reason": str(error)})
            raise Refused(BAD_HEAD) from None
        socket: web.WebSocketResponse[Any] = web.WebSocketResponse(
            timeout=CLOSES_WITHIN,
            heartbeat=PING_EVERY,
            protocols=(subprotocol,) if subprotocol is not None else (),
            compress=False,
            max_msg_size=MAX_MESSAGE,
            decode_text=False,
        )
        for name, value in (*opening.fields.items(), ("X-Agentscope-Worker", exchange.label), *headers):
            socket.headers.add(name, value)
        await socket.prepare(opening.request)
        writing = asyncio.ensure_future(_write(socket, answer))
        try:
            await _read(socket, exchange)
            if answer.closes:  # the writer has begun the close, and ends with it
                await writing
        finally:
            writing.cancel()
            answer.discard()
            exchange.send_last(_CLOSE, close_payload(ABNORMAL))
            if not exchange.is_over:  # the app has its disconnect, and may finish its work
                loop = asyncio.get_running_loop()
                loop.call_later(CLOSES_WITHIN, exchange.cancel, CancelReason.CLIENT_GONE)
        return socket


async def _read(socket: "web.WebSocketResponse[Any]", exchange: OpenExchange) -> None:
    """Send the client's messages to the app, until either has closed."""
    while True:
        message = await socket.receive()
        kind = _KINDS.get(message.type)
        if kind is not None:
            await exchange.send(kind, message.data)
            continue
        code, reason = socket.close_code or ABNORMAL, ""
        if message.type is WSMsgType.CLOSE:
            code, reason = message.data or NO_STATUS, message.extra or ""
        exchange.send_last(_CLOSE, close_payload(code, reason))
        return


async def _write(socket: "web.WebSocketResponse[Any]", answer: "_Answer") -> None:
    """Send the app's messages to the client, until either has closed."""
    while True:
        kind, payload = await answer.messages.get()
        if kind == _CLOSE:
            answer.closes = True
            code, reason = read_close(payload)
            code = WSCloseCode.OK if code in _UNSENDABLE else code
            await socket.close(code=code, message=reason.encode()[:123])
            return
        try:
            await socket.send_frame(payload, _OPCODES[kind])
        except ConnectionError:  # the reader finds out too
            return
        answer.exchange.consumed(len(payload))


class _Answer(HostedListener):
    """The listener of one WebSocket: the messages of the app, and how it ends."""

    exchange: OpenExchange

    def __init__(self, hosted: HostedRoute, opening: Opening) -> None:
        self.messages: Final[asyncio.Queue[tuple[int, bytes]]] = (
            asyncio.Queue()
        )  # as many as the credit allows
        self.rejection: HostedResponse | None = None
        self.closes = False  # the app, or the end of its worker, closes the WebSocket
        self._hosted: Final = hosted
        self._opening: Final = opening
        self._head: Final[asyncio.Future[Head]] = asyncio.get_running_loop().create_future()
        self._is_discarded = False

    async def head_within(self, seconds: float) -> Head:
        """The head; 0 seconds: no limit. Raises: Refused."""
        try:
            async with asyncio.timeout(seconds or None):
                return await asyncio.shield(self._head)
        except TimeoutError:
            raise Refused(TIMEOUT) from None

    def discard(self) -> None:
        """The client is gone: whatever the app still sends is dropped."""
        self._is_discarded = True
        while not self.messages.empty():
            kind, payload = self.messages.get_nowait()
            if kind != _CLOSE:
                self.exchange.consumed(len(payload))

    # -- from the worker ------------------------------------------------------------------------

    def head(self, head: Head) -> None:
        self._hosted.exchanges.learn(head.ids, self.exchange)
        if head.status != _ACCEPTED:
            channel = AiohttpChannel(self._opening.request)
            channel.close()
            self.rejection = HostedResponse(channel, self._hosted, self._opening)
            self.rejection.exchange = self.exchange
            self.rejection.head(head)
        if not self._head.done():
            self._head.set_result(head)

    def message(self, kind: int, payload: bytes) -> None:
        if self.rejection is not None:
            self.rejection.message(kind, payload)
        elif self._is_discarded or kind not in _OPCODES:
            self.exchange.consumed(len(payload))
            if kind == _CLOSE:
                self._close(payload)
        else:
            self.messages.put_nowait((kind, payload))

    def over(self, code: Code | None, message: str) -> None:
        if self.rejection is not None:
            self.rejection.over(code, message)
            return
        self._hosted.exchanges.over(self.exchange)
        if self._head.done():
            self._close(close_payload(WSCloseCode.OK if code is None else WSCloseCode.INTERNAL_ERROR))
        else:
            assert code is not None, "an exchange ends without a head only if it fails"
            self._head.set_exception(Refused(failure_of(self.exchange, code, message)))
            self._head.exception()  # its handler may have ended

    def restarting(self) -> None:
        if self._head.done() and self.rejection is None:
            self._close(close_payload(WSCloseCode.SERVICE_RESTART))

    def _close(self, payload: bytes) -> None:
        if not self._is_discarded:
            self.messages.put_nowait((_CLOSE, payload))
