"""What we add to aiohttp's HTTP: its settings, our form of its own errors, a way to the bare transport.

All that leans on aiohttp's inner workings is here. Knows no route and no turn: `web.app` gives it one
handler for every request.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo

from agentscope_supervisor.domain import sse
from agentscope_supervisor.domain.errors import ErrorCode, Failure
from agentscope_supervisor.http1 import half_close, strictness
from agentscope_supervisor.http1.chunked_writer import ChunkedWriter
from agentscope_supervisor.http1.listener import NO_PLACE, OnLost
from agentscope_supervisor.http1.responses import error_bytes, error_response, request_id

log = logging.getLogger(__name__)

MAX_LINE: Final = 16 * 1024  # bytes of a request line or a header; large cookies fit
RESERVED_HEAD_TIMEOUT: Final = 2.0
"""Seconds in which a connection in a reserved place must have said what it wants: others need the place."""

FAILED: Final = Failure(ErrorCode.INTERNAL_ERROR, "the request failed in the supervisor")

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Of one connection. Times in seconds."""

    head_timeout: float  # from the accept, or from the first byte of a later request, to the end of its head
    max_body: int  # bytes
    idle_timeout: float = 75.0  # between two requests; above the sixty seconds that balancers keep theirs


class BrokenRule(Exception):
    """A head that the parser takes and we do not; the text is for the client."""


class Protocol(web.RequestHandler):
    """One connection: aiohttp's HTTP protocol, with a time limit for heads, our rules for them, and our form
    of the errors that come before there is a request."""

    __slots__ = (
        "_body",
        "_head_timeout",
        "_head_timer",
        "_is_half_closed",
        "_on_lost",
        "_opened_at",
        "_streamed",
        "is_reserved",
        "outlet",
    )

    def __init__(
        self,
        server: "Server",
        limits: HttpLimits,
        is_reserved: bool,
        on_lost: OnLost,
        opened_at: float | None,
        **options: Any,
    ) -> None:
        super().__init__(server, **options)
        self.is_reserved = is_reserved  # one request of a probe, and no other
        self.outlet: ChunkedWriter | None = None  # of the newest stream
        self._streamed: web.BaseRequest | None = None  # that asked for it
        self._on_lost = on_lost
        self._opened_at = opened_at
        self._head_timeout = min(limits.head_timeout, RESERVED_HEAD_TIMEOUT if is_reserved else math.inf)
        self._head_timer: asyncio.TimerHandle | None = None
        self._is_half_closed = False
        self._body: StreamReader = EMPTY_PAYLOAD  # of the newest request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._await_head(self._opened_at)

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
            arrived: Any = self._messages[at]
            message, self._body = arrived
            if not isinstance(message, _ErrInfo):
                problem = strictness.violation(message)
                if problem is not None:
                    error = BrokenRule(problem)
                    self._messages[at] = _ErrInfo(HTTPStatus.BAD_REQUEST, error, problem), EMPTY_PAYLOAD

    def _is_idle(self) -> bool:
        """Whether there is no request that has come whole and is not answered."""
        waits = self._request_count == 0 or (self._waiter is not None and not self._waiter.done())
        return waits and not self._messages

    # -- the time limit of heads --------------------------------------------------------------

    def _await_head(self, since: float | None = None) -> None:
        since = self._loop.time() if since is None else since
        self._head_timer = self._loop.call_at(since + self._head_timeout, self._head_is_late)

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        # Behind a request that is being answered it may be late: its next byte begins a new time limit.
        if self.transport is not None and self._is_idle():
            failure = NO_PLACE if self.is_reserved else late(self._head_timeout)
            self.transport.write(error_bytes(failure))
            self.force_close()

    # -- a peer that sends no more ------------------------------------------------------------

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp leaves the transport's default
        """Whether the connection stays for what its peer has asked."""
        if self._is_idle() or not self._body.is_eof():
            return False
        if not self._is_half_closed:  # uvloop may tell it twice
            self._is_half_closed = True
            assert self.transport is not None, "it has just told something"
            half_close.watch(self._loop, self.transport, self._provoke)
        return True

    def _provoke(self) -> bool:
        """Send something that means nothing beside the answer under way."""
        transport, asked = self.transport, self._current_request
        assert transport is not None, "it is not closed yet"
        if self._is_idle():  # all that it asked for is answered
            self.force_close()
            return False
        if not self._messages:
            self.close()  # after the answer under way
        if asked is None:
            return True
        if self.outlet is not None and self._streamed is asked:
            self.outlet.write(sse.comment("keep-alive"))
        elif asked.writer.output_size == 0:
            if asked.version < HttpVersion11:
                transport.abort()  # it knows no interim answers: to cancel turns in time it is taken as gone
                return False
            transport.write(half_close.CONTINUE)
        return True

    # -- a stream -----------------------------------------------------------------------------

    def stream(self, request: web.BaseRequest) -> ChunkedWriter:
        """The way to the client of a request, after the head of its answer."""
        assert self.transport is not None, "who asks has just been sent the head"
        self.outlet = ChunkedWriter(self.transport, self._paused, chunked=request.version >= HttpVersion11)
        self._streamed = request
        return self.outlet

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.outlet is not None:
            self.outlet.is_blocked = True

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.outlet is not None:
            self.outlet.is_blocked = False

    # -- errors before there is a request -----------------------------------------------------

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        return answer_to_error(request, status, exc, {"X-Request-Id": request_id(request.headers)})


class Server(web.Server):
    """Makes the protocols of connections (`connect`); all of them call `handler` for each request."""

    def __init__(self, handler: Handler, limits: HttpLimits) -> None:
        self._limits = limits
        self._protocol_options: Mapping[str, Any] = {
            "keepalive_timeout": limits.idle_timeout,
            # How long the rest of a refused body is read, so that its sender sees the refusal.
            "lingering_time": 2.0,
            "access_log": None,
            "tcp_keepalive": False,  # the listening socket has it for all
            "auto_decompress": False,  # `body` refuses what is compressed
            "max_line_size": MAX_LINE,
            "max_field_size": MAX_LINE,
        }
        factory = partial(plain_request, limits.max_body)
        super().__init__(handler, request_factory=factory, handler_cancellation=True)

    def connect(self, is_reserved: bool, on_lost: OnLost, opened_at: float | None = None) -> Protocol:
        """The protocol of one more connection. `on_lost`: called once, when it is lost. `opened_at`: since
        when its first head is awaited, in the loop's time, if not from now on."""
        loop, options = asyncio.get_running_loop(), self._protocol_options
        return Protocol(self, self._limits, is_reserved, on_lost, opened_at, loop=loop, **options)


def plain_request(
    max_body: int,
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: Any,
    task: "asyncio.Task[None]",
) -> web.BaseRequest:
    """What aiohttp's server makes of a request, with the bound of bodies in bytes bound first."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=max_body)


def answer_to_error(
    request: web.BaseRequest, status: int, error: BaseException | None, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Our form of what went wrong in aiohttp, before or in a handler; the connection ends with it.

    Raises: ConnectionError if the answer has begun.
    """
    if request.writer.output_size > 0:
        raise ConnectionError("the answer has begun; no error can be sent any more")
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        text = str(error) if isinstance(error, BrokenRule) else "this is not an HTTP/1.1 request"
        failure = Failure(ErrorCode.INVALID_REQUEST, text)
    else:
        log.error("request failed", exc_info=error)
        failure = FAILED
    response = error_response(failure, headers)
    response.force_close()
    return response


def late(timeout: float) -> Failure:
    """What is told to who has not sent a head within so many seconds."""
    return Failure(ErrorCode.REQUEST_TIMEOUT, f"the head of a request did not come within {timeout:g} s")


def is_reserved(request: web.BaseRequest) -> bool:
    """Whether it came on a connection that has its place for a probe."""
    return cast(Protocol, request.protocol).is_reserved


def outlet_of(request: web.BaseRequest) -> ChunkedWriter:
    """The way to the client of a request, after the head of its answer."""
    return cast(Protocol, request.protocol).stream(request)
