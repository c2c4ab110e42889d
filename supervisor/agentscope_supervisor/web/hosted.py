"""Requests for a hosted app: an HTTP request becomes an exchange with a worker, and its response goes back.

Bodies flow in both directions and are never collected. The client's pace limits the worker and the app's pace
limits the client, each through the credit of the exchange. A response that a worker could not complete ends
with its connection, so that the client does not take it for a complete one.

Where to read next: `exchanges.service` chooses the worker, `hosted_websocket` serves WebSockets.
"""

import asyncio
import contextlib
import logging
from collections import deque
from dataclasses import dataclass
from typing import Final

from aiohttp.helpers import rfc822_formatted_time

from agentscope_protocol.config.settings import ServerSettings
from agentscope_protocol.wire.errors import Code
from agentscope_protocol.wire.exchange import PIECE, encode_head
from agentscope_protocol.wire.frames import REQUEST_ID, CancelReason, Head, MessageKind, StreamKind
from agentscope_supervisor.domain.errors import ErrorCode, Failure, Refused, of_worker
from agentscope_supervisor.exchanges import heads
from agentscope_supervisor.exchanges.heads import Arrival, BadHead, Framing, TrustedProxies
from agentscope_supervisor.exchanges.open_exchange import OpenExchange
from agentscope_supervisor.exchanges.placement import MAX_SCANNED, Key, SessionSources, key_of, needs_body
from agentscope_supervisor.exchanges.service import ExchangeService
from agentscope_supervisor.http1 import aiohttp_web as web
from agentscope_supervisor.http1.aiohttp_channel import AiohttpChannel
from agentscope_supervisor.http1.body import PieceReader
from agentscope_supervisor.http1.channel import CONTINUE, LAST_CHUNK, Exchange
from agentscope_supervisor.http1.responses import SERVER
from agentscope_supervisor.web.request_record import RequestRecord

log = logging.getLogger(__name__)

SCANNED_WITHIN: Final = 1.0
"""Seconds in which the beginning of a JSON body must arrive to decide the place of its request. If it arrives
later, the session in it is not found."""

_SERVER: Final = SERVER.encode()
TIMEOUT: Final = Failure(ErrorCode.TIMEOUT, "the app did not begin its response in time")
BAD_HEAD: Final = Failure(ErrorCode.APP_ERROR, "the app's response has headers that cannot be sent")
_BODY: Final = int(MessageKind.BODY)
_LAST: Final = int(MessageKind.LAST)


def is_handshake(request: web.BaseRequest) -> bool:
    """Whether the client asks for a WebSocket."""
    return request.headers.get("Upgrade", "").lower() == "websocket"


@dataclass(frozen=True, slots=True)
class Opening:
    """One request for the app. `drops_token`: its Authorization header is for this server only."""

    request: web.BaseRequest
    fields: dict[str, str]  # headers of the response
    record: RequestRecord
    drops_token: bool


class HostedRoute:
    """The handler of HTTP requests for the app."""

    def __init__(self, settings: ServerSettings, exchanges: ExchangeService) -> None:
        self.exchanges: Final = exchanges
        self.timeout: Final = settings.request_timeout
        self._proxies: Final = TrustedProxies(settings.trusted_proxies)
        self._sources: Final = SessionSources(settings.session_cookie, settings.session_query)
        self._max_size: Final = int(settings.max_upload_mb * 1024 * 1024)
        self._too_large: Final = Failure(
            ErrorCode.PAYLOAD_TOO_LARGE, f"the body is over server.max_upload_mb: {settings.max_upload_mb:g}"
        )

    async def serve(self, opening: Opening) -> web.StreamResponse:
        """Serve one request. Raises: Refused."""
        request = opening.request
        if (request.content_length or 0) > self._max_size:
            raise Refused(self._too_large)
        body = _RequestBody(request)
        early = None
        if body.exists and needs_body(request.headers):
            early = await body.beginning()
        key = self.key(request, early)
        process = await self.exchanges.place(key)
        channel = AiohttpChannel(request)
        response = HostedResponse(channel, self, opening)
        response.exchange = self.begin(opening, process, key, StreamKind.HTTP, response)
        upload = None
        if body.exists:
            upload = asyncio.ensure_future(self._upload(body, response))
        else:
            response.exchange.send_last(_LAST, b"")
        try:
            return await response.finish()
        finally:
            if upload is not None:
                upload.cancel()

    def key(self, request: web.BaseRequest, early: bytes | None) -> Key:
        """The key of a request. `early`: the beginning of a JSON body; None: none."""
        url, names = request.rel_url, len(self.exchanges.learned) > 0
        return key_of(self._sources, request.headers, url.raw_path, url.raw_query_string, early, names=names)

    def begin(
        self, opening: Opening, process: int, key: Key, kind: StreamKind, listener: "HostedListener"
    ) -> OpenExchange:
        """Open the exchange of a request. Raises: Refused."""
        request = opening.request
        transport = request.transport
        message = request._message
        arrival = Arrival(
            request.method,
            message.path,
            message.raw_headers,
            _address(transport.get_extra_info("peername")) if transport is not None else None,
            _address(transport.get_extra_info("sockname")) if transport is not None else None,
            f"{request.version.major}.{request.version.minor}",
            kind is StreamKind.WEBSOCKET,
        )
        request_id = opening.fields["X-Request-Id"]
        head = heads.request_head(arrival, self._proxies, b"authorization" if opening.drops_token else b"")
        trace = opening.record.trace(request.headers) | {REQUEST_ID: request_id}
        return self.exchanges.begin(
            process, kind, key.session, request_id, encode_head(head), trace, listener
        )

    async def _upload(self, body: "_RequestBody", response: "HostedResponse") -> None:
        """Send the request's body to the app."""
        exchange, size = response.exchange, 0
        try:
            while True:
                piece = await body.read()
                size += len(piece)
                if size > self._max_size:
                    raise Refused(self._too_large)
                if body.is_over and len(piece) <= PIECE:
                    exchange.send_last(_LAST, piece)
                    return
                for at in range(0, len(piece), PIECE):
                    if not await exchange.send(_BODY, piece[at : at + PIECE]):
                        return
                    response.progressed()
        except Refused as refused:
            response.refuse(refused.failure)
        except ConnectionError:  # the client has left, and the handler of its request is cancelled
            return


class _RequestBody:
    """The body of a request, as it arrives."""

    def __init__(self, request: web.BaseRequest) -> None:
        self.exists: Final = request.body_exists
        self._request: Final = request
        self._pieces: Final = PieceReader(request.content)
        self._early = b""
        self._expects = request.headers.get("Expect", "").lower() == "100-continue"

    @property
    def is_over(self) -> bool:
        """Whether `read` has returned all of it."""
        return not self._early and self._request.content.at_eof()

    async def beginning(self) -> bytes:
        """The first MAX_SCANNED bytes, or as many as arrive in time. Raises: Refused."""
        pieces, size = [], 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SCANNED_WITHIN):
                while size < MAX_SCANNED and (piece := await self.read()):
                    pieces.append(piece)
                    size += len(piece)
        self._early = b"".join(pieces)
        return self._early[:MAX_SCANNED]

    async def read(self) -> bytes:
        """The next piece; empty at the end. Raises: Refused."""
        if self._early:
            early, self._early = self._early, b""
            return early
        if self._expects:
            self._expects = False
            await self._request.writer.write(CONTINUE)
        return await self._pieces.read()


class HostedListener(Exchange):
    """The listener of an exchange, of either kind. See `exchanges.open_exchange.ExchangeListener`."""

    __slots__ = ()

    def head(self, head: Head) -> None:
        raise NotImplementedError

    def message(self, kind: int, payload: bytes) -> None:
        raise NotImplementedError

    def over(self, code: Code | None, message: str) -> None:
        raise NotImplementedError

    def restarting(self) -> None:
        raise NotImplementedError


class HostedResponse(HostedListener):
    """The response of the app to one request, written to its client as it arrives."""

    exchange: OpenExchange

    def __init__(self, channel: AiohttpChannel, route: HostedRoute, opening: Opening) -> None:
        self._channel: Final = channel
        self._route: Final = route
        self._opening: Final = opening
        self._loop: Final = channel.loop
        self._head: heads.ResponseHead | None = None
        self._unsent = b""  # the head, until it leaves with the first piece
        self._has_begun = False
        self._left = 0  # bytes that Content-Length announces
        self._waiting: Final[deque[bytes]] = deque()  # pieces that the client's socket does not take yet
        self._end: tuple[Code | None, str] | None = None
        self._is_finished = False  # nothing more is written
        self._timer: asyncio.TimerHandle | None = None
        self._progress_at = self._loop.time()

    # -- from the worker ------------------------------------------------------------------------

    def head(self, head: Head) -> None:
        opening, exchange, channel = self._opening, self.exchange, self._channel
        self._route.exchanges.learn(head.ids, exchange)
        added = {
            b"x-request-id": opening.fields["X-Request-Id"].encode("ascii"),
            b"x-agentscope-worker": exchange.label.encode("ascii"),
            b"date": rfc822_formatted_time().encode("ascii"),
            b"server": _SERVER,
        }
        try:
            self._head = heads.response_head(
                opening.request.method, head.status, head.headers, added, is_http_1_0=channel.is_http_1_0
            )
        except BadHead as error:
            log.error("the app's response cannot be sent", extra={"reason": str(error)})
            self._fail(BAD_HEAD)
            exchange.cancel(CancelReason.INTERRUPTED)
            return
        if self._head.closes or self._head.framing is Framing.CLOSE:
            channel.close()
        self._left = self._head.length
        self._unsent = channel.head(head.status, self._head.lines)
        self._loop.call_soon(self._flush)  # its first piece has normally arrived with it

    def message(self, kind: int, payload: bytes) -> None:
        if self._channel.writing_paused and not self._is_finished:
            self._waiting.append(payload)
        else:
            self._write(payload)

    def over(self, code: Code | None, message: str) -> None:
        self._route.exchanges.over(self.exchange)
        self._end = code, message
        if not self._waiting:
            self._finish()

    def restarting(self) -> None:
        """The exchange goes on."""

    # -- from the client ------------------------------------------------------------------------

    def resumed(self) -> None:
        while self._waiting and not self._channel.writing_paused:
            self._write(self._waiting.popleft())
        if self._end is not None and not self._waiting:
            self._finish()

    def lost(self) -> None:
        self._is_finished = True
        self._waiting.clear()
        self.exchange.cancel(CancelReason.CLIENT_GONE)

    def probe(self) -> bool:
        return False

    def progressed(self) -> None:
        """The app has taken a piece of the request's body."""
        self._progress_at = self._loop.time()

    def refuse(self, failure: Failure) -> None:
        """The request's body is refused."""
        self._fail(failure)
        self.exchange.cancel(CancelReason.CLIENT_GONE)

    async def finish(self) -> web.StreamResponse:
        """Wait until the response is written. Raises: CancelledError: the client has left."""
        self._arm()
        try:
            return await self._channel.finish(self)
        finally:
            if self._timer is not None:
                self._timer.cancel()

    # -- inside ---------------------------------------------------------------------------------

    def _write(self, payload: bytes) -> None:
        self.exchange.consumed(len(payload))
        head = self._head
        if self._is_finished or head is None or not payload or head.framing is Framing.NONE:
            return
        if head.framing is Framing.CHUNKED:
            self._send(b"%x\r\n%b\r\n" % (len(payload), payload))
            return
        if head.framing is Framing.LENGTH:
            if len(payload) > self._left:
                log.error("the app's response is longer than its Content-Length")
                self._cut()
                self.exchange.cancel(CancelReason.INTERRUPTED)
                return
            self._left -= len(payload)
        self._send(payload)

    def _send(self, data: bytes) -> None:
        self._has_begun = True
        if self._unsent:
            data, self._unsent = self._unsent + data, b""
        self._channel.send(data)

    def _flush(self) -> None:
        if self._unsent and not self._is_finished:
            self._send(b"")

    def _finish(self) -> None:
        """The exchange has ended, and all that the client gets of it is written."""
        assert self._end is not None, "called at the end"
        code, message = self._end
        head = self._head
        if self._is_finished:
            return
        if head is None:
            assert code is not None, "an exchange ends without a head only if it fails"
            self._fail(failure_of(self.exchange, code, message))
        elif code is not None or (head.framing is Framing.LENGTH and self._left > 0):
            self._cut()
        else:
            if head.framing is Framing.CHUNKED:
                self._send(LAST_CHUNK)
            self._flush()
            self._is_finished = True
            self._channel.done()

    def _fail(self, failure: Failure) -> None:
        """End the response with an error; with its connection, if the response has begun."""
        if self._is_finished:
            return
        if self._has_begun:
            self._cut()
            return
        self._opening.record.failure = failure
        self._is_finished, self._unsent = True, b""
        self._channel.fail(failure, self._opening.fields)
        self._channel.done()

    def _cut(self) -> None:
        """End the connection of a response that stays incomplete."""
        self._flush()
        self._is_finished = True
        self._waiting.clear()
        if self._head is not None and self._head.framing is Framing.CLOSE:
            self._channel.reset()  # with an orderly end the response would look complete
        self._channel.close()
        self._channel.done()

    def _arm(self) -> None:
        if timeout := self._route.timeout:
            self._timer = self._loop.call_at(self._progress_at + timeout, self._is_late)

    def _is_late(self) -> None:
        if self._head is not None or self._is_finished:
            return
        if self._loop.time() - self._progress_at < self._route.timeout:
            self._arm()
            return
        self._fail(TIMEOUT)
        self.exchange.cancel(CancelReason.TIMEOUT)


_DRAINED: Final = Failure(ErrorCode.DRAINING, "the worker was stopped before the response began")


def failure_of(exchange: OpenExchange, code: Code, message: str) -> Failure:
    """The error of an exchange that failed before its response began."""
    return _DRAINED if exchange.cancelled_for is CancelReason.DRAINING else of_worker(code, message)


def _address(name: object) -> tuple[str, int] | None:
    """Host and port of a socket's name; None: it has none, as on a Unix socket."""
    match name:
        case (str(host), int(port), *_):
            return host, port
    return None
