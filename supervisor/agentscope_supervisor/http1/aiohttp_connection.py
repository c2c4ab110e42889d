"""Connections that aiohttp parses: its settings, stricter rules, time limits, and the form of its errors.

All code that relies on aiohttp's internals is in this module. Knows neither routes nor turns: `web.app`
passes it one handler for every request.

Where to read next: `aiohttp_channel` writes responses past aiohttp's response classes; `strictness` has the
rules for heads.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Final, cast

from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo

from agentscope_supervisor.http1 import aiohttp_web as web
from agentscope_supervisor.http1 import strictness
from agentscope_supervisor.http1.channel import CONTINUE, Channel, Exchange
from agentscope_supervisor.http1.chunked_writer import ChunkedWriter
from agentscope_supervisor.http1.connection_table import Entry
from agentscope_supervisor.http1.deadline import Deadline
from agentscope_supervisor.http1.half_close import HalfClose
from agentscope_supervisor.http1.listener import NO_PLACE, OnLost
from agentscope_supervisor.http1.output_limits import OutputLimits
from agentscope_supervisor.http1.request_errors import ERRORS, BrokenRule, answer_to_error, late
from agentscope_supervisor.http1.responses import SERVER, error_bytes, request_id

MAX_LINE: Final = 16 * 1024  # bytes of a request line or a header; large cookies fit
RESERVED_HEAD_TIMEOUT: Final = 2.0
"""Seconds in which a connection in a reserved place must send a head: other probes need the place."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Limits of one connection. Times in seconds."""

    head_timeout: float  # from the accept, or from the first byte of a later request, to the end of its head
    max_body: int  # bytes
    max_head: int = 32 * 1024  # bytes of the request line and all headers
    idle_timeout: float = 75.0  # between two requests; above the 60 s that load balancers keep connections


class Request(web.BaseRequest):
    """A request whose response does not name the versions of Python and aiohttp."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        response.headers["Server"] = SERVER


class SentResponse(web.StreamResponse):
    """A response that `aiohttp_channel` has already written to the connection."""

    def __init__(self, status: int, *, keeps_alive: bool) -> None:
        super().__init__(status=status)
        self._keep_alive = keeps_alive

    async def prepare(self, request: web.BaseRequest) -> Any:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class AiohttpConnection(web.RequestHandler):
    """One connection: aiohttp's HTTP protocol, with a time limit and strict rules for heads, and JSON errors
    for requests that cannot be parsed."""

    __slots__ = (
        "_body",
        "_channel",
        "_deadline",
        "_entry",
        "_exchange",
        "_half_close",
        "_head_size",
        "_head_timeout",
        "_ignores_input",
        "_max_head",
        "_on_lost",
        "_opened_at",
        "_output",
        "_wire",
        "_writer",
        "is_reserved",
    )

    def __init__(
        self,
        server: "Server",
        limits: HttpLimits,
        is_reserved: bool,
        on_lost: OnLost,
        entry: Entry,
        opened_at: float | None,
        **options: Any,
    ) -> None:
        super().__init__(server, **options)
        self.is_reserved = is_reserved  # the connection serves one request, of a probe
        self._on_lost = on_lost
        self._entry = entry
        entry.owner = self
        self._opened_at = opened_at
        self._output = server.output
        self._wire: asyncio.Transport | None = None  # aiohttp drops its reference when it begins to close
        self._max_head = limits.max_head
        self._head_size = 0  # bytes that were received of an incomplete head
        self._ignores_input = False
        self._head_timeout = min(limits.head_timeout, RESERVED_HEAD_TIMEOUT if is_reserved else math.inf)
        self._deadline = Deadline(self._loop, self._head_is_late)
        self._half_close: HalfClose | None = None
        self._body: StreamReader = EMPTY_PAYLOAD  # of the newest request
        self._channel: Channel | None = None  # of the request in progress, if it has one
        self._exchange: Exchange | None = None
        self._writer: ChunkedWriter | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._wire = self.transport
        self._await_head(self._opened_at)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._deadline.close()
        self._half_close = None
        self._output.unblocked(self)
        self._wire = None
        if self._exchange is not None:  # before its handler is cancelled: it may be due to write
            self._exchange.lost()
        super().connection_lost(exc)
        self._on_lost()

    def data_received(self, data: bytes) -> None:
        if self._ignores_input:
            return
        if self._payload_parser is not None:  # of a WebSocket: there are no more heads
            super().data_received(data)
            return
        seen, was_in_body = self._request_count, not self._body.is_eof()
        super().data_received(data)
        if self._request_count != seen:
            self._heads_arrived(self._request_count - seen, data)
        elif data and self._body.is_eof() and not was_in_body:  # these bytes belong to a head
            # One that begins in the same read as the end of a body gets its time limit with its next byte.
            self._head_size += len(data)
            if not self._deadline.is_set:
                self._await_head()
            if self._head_size > self._max_head:
                self._refuse_head()
            else:
                self._entry.hold(self._head_size)

    def _refuse_head(self) -> None:
        """Respond to a head that is too long; the connection ends with the response."""
        self._ignores_input = True
        self._deadline.clear()
        self._request_count += 1
        self._messages.append((self._too_long(), EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _too_long(self) -> _ErrInfo:
        error = BrokenRule(f"the request headers are over server.max_head_kb: {self._max_head // 1024}")
        return _ErrInfo(HTTPStatus.BAD_REQUEST, error, str(error))

    def _is_alone_in(self, data: bytes) -> bool:
        """Whether a read has the newest request from its head to its end, and nothing else."""
        body = self._body
        return body.is_eof() and len(data) == data.find(b"\r\n\r\n") + 4 + body.total_bytes

    def _heads_arrived(self, count: int, data: bytes) -> None:
        """`data`: the read in which these heads were completed."""
        size = self._head_size + len(data)
        self._deadline.clear()
        self._head_size = 0
        self._entry.hold(0)
        if not self._body.is_eof():
            # The parser failed in the middle of a body, and reports that as another message. Without this
            # exception, a reader of that body would wait without end.
            self._body.set_exception(web.RequestPayloadError("its framing is broken"))
        for at in range(-count, 0):
            arrived: Any = self._messages[at]
            message, self._body = arrived
            if isinstance(message, _ErrInfo):
                # The connection ends with this response. Further bytes would be further errors, and the
                # traceback of each holds the bytes that were read.
                self._ignores_input = True
                if message.exc is not None:
                    message.exc.__traceback__ = None
            elif size > self._max_head and strictness.size(message) > self._max_head:
                self._messages[at] = self._too_long(), EMPTY_PAYLOAD
            elif (problem := strictness.violation(message)) is not None:
                error = BrokenRule(problem)
                self._messages[at] = _ErrInfo(HTTPStatus.BAD_REQUEST, error, problem), EMPTY_PAYLOAD
            elif message.upgrade and not (count == 1 and self._is_alone_in(data)):
                # The parser drops what follows such a request in the same read, so that a part of the next
                # request would be missing. Remove when aiohttp's parser reads on after an upgrade to a
                # protocol that it does not know.
                self._messages[at] = message._replace(should_close=True), self._body

    def _is_idle(self) -> bool:
        """Whether every complete request has its response."""
        waits = self._request_count == 0 or (self._waiter is not None and not self._waiter.done())
        return waits and not self._messages

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if not self._entry.is_let_in and "Transfer-Encoding" in request.headers and not self._body.is_eof():
            # The parser would keep the trailers of a stranger's body, of which nothing is needed any more.
            self._ignores_input = True
            resp.force_close()
        return await super().finish_response(request, resp, start_time)

    # -- its place ----------------------------------------------------------------------------

    @property
    def address(self) -> str:
        return self._entry.address

    @property
    def is_let_in(self) -> bool:
        """Whether a request on this connection was let in."""
        return self._entry.is_let_in

    def let_in(self) -> None:
        """The request in progress is let in."""
        self._entry.let_in()

    def evict(self) -> None:
        """Make room for another connection."""
        transport = self.transport
        if transport is None:
            return
        if not self._is_idle():
            transport.abort()
            return
        if self._request_count == 0:  # else the client may send its next request on another connection
            transport.write(error_bytes(NO_PLACE))
        self.force_close()

    def idle_since(self) -> float | None:
        """Since when it waits for a request; None: a request is in progress."""
        if not self._is_idle():
            return None
        return max(self._entry.since, self._next_keepalive_close_time - self._keepalive_timeout)

    def unsent(self) -> int:
        """Bytes that the transport holds."""
        return self._wire.get_write_buffer_size() if self._wire is not None else 0

    def cut(self) -> None:
        """The client reads too slowly."""
        if self._wire is not None:
            self._wire.abort()

    # -- the time limit for heads -------------------------------------------------------------

    def _await_head(self, since: float | None = None) -> None:
        since = self._loop.time() if since is None else since
        self._deadline.set(since + self._head_timeout)

    def _head_is_late(self) -> None:
        # While a request is in progress, the next head may be late: its next byte begins a new time limit.
        if self.transport is not None and self._is_idle():
            failure = NO_PLACE if self.is_reserved else late(self._head_timeout)
            self.transport.write(error_bytes(failure))
            self.force_close()

    # -- half-closed connections --------------------------------------------------------------

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp keeps asyncio's default, which is None
        """The client sends no more. Returns whether the connection stays open for the responses."""
        if self._is_idle() or not self._body.is_eof() or self._payload_parser is not None:
            return False
        assert self.transport is not None, "it has just reported"
        if self._half_close is None:
            self._half_close = HalfClose(self._loop, self._probe)
        self._half_close.begin(self.transport)
        return True

    def _probe(self) -> bool:
        transport, asked = self.transport, self._current_request
        assert transport is not None, "it is not closed yet"
        if self._is_idle():  # every response was sent
            self.force_close()
            return False
        if not self._messages:
            self.close()  # after the response in progress
        if asked is None or (self._exchange is not None and self._exchange.probe()):
            return True
        if asked.writer.output_size == 0:
            if asked.version < HttpVersion11:
                # HTTP/1.0 has no interim responses to probe with: the client counts as gone, so that its turn
                # is cancelled in time.
                transport.abort()
                return False
            transport.write(CONTINUE)
        return True

    # -- the channel of a request -------------------------------------------------------------

    @property
    def is_paused(self) -> bool:
        """Whether the transport's write buffer is full."""
        return self._paused

    @property
    def is_ending(self) -> bool:
        """Whether the connection closes after the response in progress."""
        return self._close or self._force_close

    def begin(self, channel: Channel, exchange: Exchange) -> None:
        """Report events of the connection to `channel` and `exchange` from now on, until `end`."""
        self._channel, self._exchange = channel, exchange

    def end(self) -> None:
        """The response of the present exchange is over."""
        self._channel = self._exchange = self._writer = None

    def writer_of(self, head: bytes, end: bytes) -> ChunkedWriter:
        """A writer for the response in progress; chunked if `end` is not empty."""
        assert self.transport is not None, "the client is there, or the handler was cancelled"
        self._writer = ChunkedWriter(self.transport, self._paused, chunked=bool(end), head=head, end=end)
        return self._writer

    def close(self) -> None:
        super().close()
        if self._channel is not None:
            self._channel.is_closing = True

    def pause_writing(self) -> None:
        super().pause_writing()
        self._output.blocked(self)
        if self._writer is not None:
            self._writer.is_blocked = True
        if self._channel is not None:
            self._channel.writing_paused = True

    def resume_writing(self) -> None:
        super().resume_writing()
        self._output.unblocked(self)
        if self._writer is not None:
            self._writer.is_blocked = False
        if self._channel is not None and self._exchange is not None:
            self._channel.writing_paused = False
            self._exchange.resumed()

    # -- errors in requests that cannot be parsed ---------------------------------------------

    def log_exception(self, *_: Any, exc_info: BaseException | None = None) -> None:
        ERRORS.failed(exc_info)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        return answer_to_error(request, status, exc, {"X-Request-Id": request_id(request.headers)})


class Server(web.Server):
    """Creates the connections (`connect`). Each connection calls `handler` for each of its requests."""

    def __init__(self, handler: Handler, limits: HttpLimits) -> None:
        self._limits = limits
        self.output = OutputLimits()  # of the fast connections too
        self._protocol_options: Mapping[str, Any] = {
            "keepalive_timeout": limits.idle_timeout,
            # Seconds for which the rest of a refused body is read, so that the client receives the response.
            "lingering_time": 2.0,
            "access_log": None,
            "tcp_keepalive": False,  # accepted sockets inherit it from the listening socket
            "auto_decompress": False,  # `body` refuses compressed bodies
            "max_line_size": MAX_LINE,
            "max_field_size": MAX_LINE,
        }
        factory = partial(plain_request, limits.max_body)
        super().__init__(handler, request_factory=factory, handler_cancellation=True)

    def connect(
        self,
        is_reserved: bool,
        on_lost: OnLost,
        entry: Entry | None = None,
        opened_at: float | None = None,
    ) -> AiohttpConnection:
        """The protocol of a new connection. `on_lost`: called once, when the connection is lost. `entry`: its
        place; None: nothing limits it. `opened_at`: when the time limit for its first head began, in the
        event loop's time; None: now."""
        loop, options = asyncio.get_running_loop(), self._protocol_options
        return AiohttpConnection(
            self, self._limits, is_reserved, on_lost, entry or Entry(), opened_at, loop=loop, **options
        )


def plain_request(
    max_body: int,
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: Any,
    task: "asyncio.Task[None]",
) -> web.BaseRequest:
    """The request factory of aiohttp's server. `max_body`: bytes."""
    loop = asyncio.get_running_loop()
    return Request(message, payload, protocol, writer, task, loop, client_max_size=max_body)


def is_reserved(request: web.BaseRequest) -> bool:
    """Whether the request arrived on a connection in a reserved place."""
    return cast(AiohttpConnection, request.protocol).is_reserved


def let_in(request: web.BaseRequest) -> None:
    """This request is let in: its client is no stranger any more."""
    cast(AiohttpConnection, request.protocol).let_in()


def address_of(request: web.BaseRequest) -> str:
    """The address of the client, as `listener` counts it."""
    return cast(AiohttpConnection, request.protocol).address


def is_let_in(request: web.BaseRequest) -> bool:
    """Whether a request on this connection was let in."""
    return cast(AiohttpConnection, request.protocol).is_let_in
