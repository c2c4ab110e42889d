"""What we add to aiohttp's HTTP: its settings, our form of its own errors, a way to the bare transport.

All that leans on aiohttp's inner workings is here. Knows no route and no turn: `front_door` gives it one
handler for every request.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.streams import StreamReader

from agentscope_supervisor.outcomes import ErrorCode, Failure
from agentscope_supervisor.responses import error_response, request_id

log = logging.getLogger(__name__)

BACKLOG: Final = 4096  # connections the kernel may hold for us; a burst must not meet a refusal
MAX_LINE: Final = 16 * 1024  # bytes of a request line or a header; large cookies fit

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Protocol(web.RequestHandler):
    """aiohttp's HTTP protocol, with our form of its own errors (what it could not parse)."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun; no error can be sent any more")
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            failure = Failure(ErrorCode.INVALID_REQUEST, "this is not an HTTP/1.1 request")
        else:
            log.error("request failed", exc_info=exc)
            failure = Failure(ErrorCode.INTERNAL_ERROR, "the request failed in the supervisor")
        response = error_response(failure, {"X-Request-Id": request_id(request)})
        response.force_close()
        return response


class Server(web.Server):
    """Makes the protocol of each connection. `max_body`: bytes of a request's body."""

    def __init__(self, handler: Handler, max_body: int) -> None:
        self._max_body = max_body
        self._protocol_options: Mapping[str, Any] = {
            "keepalive_timeout": 75.0,
            # How long the rest of a refused body is read, so that its sender sees the refusal.
            "lingering_time": 2.0,
            "access_log": None,
            "max_line_size": MAX_LINE,
            "max_field_size": MAX_LINE,
        }
        super().__init__(handler, request_factory=self._request, handler_cancellation=True)

    def __call__(self) -> web.RequestHandler:
        return Protocol(self, loop=asyncio.get_running_loop(), **self._protocol_options)

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: Any,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        loop = asyncio.get_running_loop()
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=self._max_body)


class Outlet:
    """The client's transport, with chunked framing where the client understands it."""

    __slots__ = ("_chunked", "_request")

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self._chunked = request.version >= HttpVersion11

    def write(self, data: bytes) -> None:
        transport = self._request.transport
        # uvloop raises on a write to a closing transport; the handler hears of the end by itself.
        if transport is not None and not transport.is_closing():
            transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def is_full(self) -> bool:
        return self._request.protocol.writing_paused

    def cut(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()
