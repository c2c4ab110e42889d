"""What we add to aiohttp's HTTP: its settings, our form of its own errors, a way to the bare transport.

All that leans on aiohttp's inner workings is here. Knows no route and no turn: `front_door` gives it one
handler for every request.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo

from agentscope_supervisor import http_rules
from agentscope_supervisor.listener import NO_PLACE, OnLost
from agentscope_supervisor.outcomes import ErrorCode, Failure
from agentscope_supervisor.responses import error_bytes, error_response, request_id

log = logging.getLogger(__name__)

MAX_LINE: Final = 16 * 1024  # bytes of a request line or a header; large cookies fit
RESERVED_HEAD_TIMEOUT: Final = 2.0
"""Seconds in which a connection in a reserved place must have said what it wants: others need the place."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one connection. Times in seconds."""

    head_timeout: float  # from the accept, or from the first byte of a later request, to the end of its head
    max_body: int  # bytes
    idle_timeout: float = 75.0  # between two requests; above the sixty seconds that balancers keep theirs


class BrokenRule(Exception):
    """A head that the parser takes and we do not; the text is for the client."""


class Protocol(web.RequestHandler):
    """One connection: aiohttp's HTTP protocol, with a time limit for heads, our rules for them, and our form
    of the errors that come before there is a request."""

    __slots__ = ("_body", "_head_timeout", "_head_timer", "_on_lost", "is_reserved")

    def __init__(
        self, server: "Server", limits: Limits, is_reserved: bool, on_lost: OnLost, **options: Any
    ) -> None:
        super().__init__(server, **options)
        self.is_reserved = is_reserved  # one request of a probe, and no other
        self._on_lost = on_lost
        self._head_timeout = min(limits.head_timeout, RESERVED_HEAD_TIMEOUT if is_reserved else math.inf)
        self._head_timer: asyncio.TimerHandle | None = None
        self._body: StreamReader = EMPTY_PAYLOAD  # of the newest request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._forget_head()
        super().connection_lost(exc)
        self._on_lost()

    def data_received(self, data: bytes) -> None:
        seen = self._request_count
        super().data_received(data)
        if self._request_count != seen:
            self._heads_arrived(self._request_count - seen)
        elif data and self._head_timer is None and self._body.is_eof():
            self._await_head()  # the beginning of one

    def _heads_arrived(self, count: int) -> None:
        self._forget_head()
        if not self._body.is_eof():
            # The parser gave up in the middle of a body, and tells it as one more message: whoever reads
            # that body would wait for ever.
            self._body.set_exception(web.RequestPayloadError("its framing is broken"))
        for at in range(-count, 0):
            message, self._body = self._messages[at]
            if isinstance(message, RawRequestMessage):
                problem = http_rules.violation(message)
                if problem is not None:
                    error = BrokenRule(problem)
                    self._messages[at] = _ErrInfo(HTTPStatus.BAD_REQUEST, error, problem), EMPTY_PAYLOAD

    # -- the time limit of heads --------------------------------------------------------------

    def _await_head(self) -> None:
        self._head_timer = self._loop.call_later(self._head_timeout, self._head_is_late)

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        # Behind a request that is being answered it may be late: its next byte begins a new time limit.
        if self.transport is not None and self._current_request is None and not self._messages:
            message = f"the head of a request did not come within {self._head_timeout:g} s"
            failure = NO_PLACE if self.is_reserved else Failure(ErrorCode.REQUEST_TIMEOUT, message)
            self.transport.write(error_bytes(failure))
            self.force_close()

    # -- errors before there is a request -----------------------------------------------------

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
            text = str(exc) if isinstance(exc, BrokenRule) else "this is not an HTTP/1.1 request"
            failure = Failure(ErrorCode.INVALID_REQUEST, text)
        else:
            log.error("request failed", exc_info=exc)
            failure = Failure(ErrorCode.INTERNAL_ERROR, "the request failed in the supervisor")
        response = error_response(failure, {"X-Request-Id": request_id(request)})
        response.force_close()
        return response


class Server(web.Server):
    """Makes the protocols of connections (`connect`); all of them call `handler` for each request."""

    def __init__(self, handler: Handler, limits: Limits) -> None:
        self._limits = limits
        self._protocol_options: Mapping[str, Any] = {
            "keepalive_timeout": limits.idle_timeout,
            # How long the rest of a refused body is read, so that its sender sees the refusal.
            "lingering_time": 2.0,
            "access_log": None,
            "tcp_keepalive": False,  # the listening socket has it for all
            "auto_decompress": False,  # `request_body` refuses what is compressed
            "max_line_size": MAX_LINE,
            "max_field_size": MAX_LINE,
        }
        super().__init__(handler, request_factory=self._request, handler_cancellation=True)

    def connect(self, is_reserved: bool, on_lost: OnLost) -> Protocol:
        """The protocol of one more connection. `on_lost`: called once, when it is lost."""
        loop, options = asyncio.get_running_loop(), self._protocol_options
        return Protocol(self, self._limits, is_reserved, on_lost, loop=loop, **options)

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: Any,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        loop, limit = asyncio.get_running_loop(), self._limits.max_body
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=limit)


def is_reserved(request: web.BaseRequest) -> bool:
    """Whether it came on a connection that has its place for a probe."""
    return cast(Protocol, request.protocol).is_reserved


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
