"""What we add to aiohttp's HTTP: its settings, our form of its own errors, a way to the bare transport.

All that leans on aiohttp's inner workings is here. Knows no route and no turn: `front_door` gives it one
handler for every request.
"""

import asyncio
import logging
import math
import select
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo

from agentscope_supervisor import http_rules, sse
from agentscope_supervisor.listener import NO_PLACE, OnLost
from agentscope_supervisor.outcomes import ErrorCode, Failure
from agentscope_supervisor.outlet import Outlet
from agentscope_supervisor.responses import error_bytes, error_response, request_id

log = logging.getLogger(__name__)

MAX_LINE: Final = 16 * 1024  # bytes of a request line or a header; large cookies fit
RESERVED_HEAD_TIMEOUT: Final = 2.0
"""Seconds in which a connection in a reserved place must have said what it wants: others need the place."""
FIRST_LOOK: Final = 0.05  # seconds after which a half-closed peer is looked at; each time twice as long
LAST_LOOK: Final = 5.0  # but not longer

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

FAILED: Final = Failure(ErrorCode.INTERNAL_ERROR, "the request failed in the supervisor")

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

    __slots__ = (
        "_body",
        "_head_timeout",
        "_head_timer",
        "_is_half_closed",
        "_on_lost",
        "is_reserved",
        "outlet",
    )

    def __init__(
        self, server: "Server", limits: Limits, is_reserved: bool, on_lost: OnLost, **options: Any
    ) -> None:
        super().__init__(server, **options)
        self.is_reserved = is_reserved  # one request of a probe, and no other
        self.outlet: Outlet | None = None  # of the newest stream
        self._on_lost = on_lost
        self._head_timeout = min(limits.head_timeout, RESERVED_HEAD_TIMEOUT if is_reserved else math.inf)
        self._head_timer: asyncio.TimerHandle | None = None
        self._is_half_closed = False
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
            arrived: Any = self._messages[at]
            message, self._body = arrived
            if not isinstance(message, _ErrInfo):
                problem = http_rules.violation(message)
                if problem is not None:
                    error = BrokenRule(problem)
                    self._messages[at] = _ErrInfo(HTTPStatus.BAD_REQUEST, error, problem), EMPTY_PAYLOAD

    def _is_idle(self) -> bool:
        """Whether there is no request that has come whole and is not answered."""
        waits = self._request_count == 0 or (self._waiter is not None and not self._waiter.done())
        return waits and not self._messages

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
        if self.transport is not None and self._is_idle():
            message = f"the head of a request did not come within {self._head_timeout:g} s"
            failure = NO_PLACE if self.is_reserved else Failure(ErrorCode.REQUEST_TIMEOUT, message)
            self.transport.write(error_bytes(failure))
            self.force_close()

    # -- a peer that sends no more ------------------------------------------------------------

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp leaves the transport's default
        """The peer has left, or only sends no more and waits for its answer. TCP tells the two apart when
        something is sent to it: who has left resets the connection. So it is sent what a client must ignore.
        """
        if self._is_idle() or not self._body.is_eof():
            return False
        if not self._is_half_closed:  # uvloop may tell it twice
            self._is_half_closed = True
            self._loop.call_soon(self._look_at_half_closed, FIRST_LOOK)
        return True

    def _look_at_half_closed(self, next_look: float) -> None:
        transport, asked = self.transport, self._current_request
        if transport is None or transport.is_closing():
            return
        if self._is_idle():  # all that it asked for is answered
            self.force_close()
            return
        if not self._messages:
            self.close()  # after the answer under way
        if _is_reset(transport) or not self._provoke(transport, asked):
            transport.abort()
            return
        self._loop.call_later(next_look, self._look_at_half_closed, min(next_look * 2, LAST_LOOK))

    def _provoke(self, transport: asyncio.Transport, asked: web.BaseRequest | None) -> bool:
        """Send something that means nothing beside the answer to `asked`; returns whether there was a way."""
        if asked is None:
            return True
        if self.outlet is not None and self.outlet.request is asked:
            self.outlet.write(sse.comment("keep-alive"))
        elif asked.writer.output_size == 0:
            if asked.version < HttpVersion11:
                return False  # it knows no interim answers: to cancel turns in time it is taken as gone
            transport.write(CONTINUE)
        return True

    # -- errors before there is a request -----------------------------------------------------

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        return answer_to_error(request, status, exc, {"X-Request-Id": request_id(request.headers)})


Make = Callable[..., Protocol]
"""`Protocol`, or what has its arguments and makes one."""


class Server(web.Server):
    """Makes the protocols of connections (`connect`); all of them call `handler` for each request. `make`:
    makes those of connections that have a place of their own."""

    def __init__(self, handler: Handler, limits: Limits, make: Make = Protocol) -> None:
        self._limits = limits
        self._make = make
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
        factory = partial(plain_request, limits.max_body)
        super().__init__(handler, request_factory=factory, handler_cancellation=True)

    def connect(self, is_reserved: bool, on_lost: OnLost) -> Protocol:
        """The protocol of one more connection. `on_lost`: called once, when it is lost."""
        loop, options = asyncio.get_running_loop(), self._protocol_options
        make = Protocol if is_reserved else self._make
        return make(self, self._limits, is_reserved, on_lost, loop=loop, **options)


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


def _is_reset(transport: asyncio.Transport) -> bool:
    """Whether the peer has reset the connection; the loop does not look after the end of what it sends."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), 0)
    return len(poll.poll(0)) > 0


def is_reserved(request: web.BaseRequest) -> bool:
    """Whether it came on a connection that has its place for a probe."""
    return cast(Protocol, request.protocol).is_reserved


def outlet_of(request: web.BaseRequest) -> Outlet:
    """The way to the client of a request."""
    connection = cast(Protocol, request.protocol)
    return Outlet(connection, chunked=request.version >= HttpVersion11, request=request)
