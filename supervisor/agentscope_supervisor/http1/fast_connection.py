"""The fast path for requests: served in the connection's callbacks, without aiohttp's parser and tasks.

Every connection begins here, and stays as long as each request is a usual turn (`fast_head`) that arrives
after the response to the one before. At the first other request, the connection is passed to aiohttp for
good, with all bytes that aiohttp has not seen. So this module is only an optimization for the usual turn, and
a client cannot see which path its request takes. It relies on nothing of aiohttp except that its connection
is an asyncio protocol.

Where to read next: `web.invoke` takes the requests, `web.respond` sends the responses.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, cast

from agentscope_supervisor.http1 import aiohttp_connection, fast_head, request_errors
from agentscope_supervisor.http1.aiohttp_connection import HttpLimits
from agentscope_supervisor.http1.channel import CONTINUE, Channel, Exchange
from agentscope_supervisor.http1.chunked_writer import ChunkedWriter
from agentscope_supervisor.http1.connection_table import Entry
from agentscope_supervisor.http1.deadline import Deadline
from agentscope_supervisor.http1.fast_head import FastHead
from agentscope_supervisor.http1.half_close import HalfClose
from agentscope_supervisor.http1.listener import NO_PLACE, OnLost
from agentscope_supervisor.http1.responses import error_bytes, request_id

BODY_FOLLOWS_WITHIN: Final = 0.05
"""Seconds in which the body of a request must follow its head. aiohttp waits for slower ones, with the time
limits of bodies."""
MAX_BODY: Final = 64 * 1024  # bytes; aiohttp reads larger bodies
MAX_EARLY: Final = 64 * 1024  # bytes that are buffered while a request is in progress


class FastServer:
    """Creates the connections (`connect`).

    `take`: begins the response to a request, which has its whole body; returns None if the response is
    already complete. `plain`: aiohttp's server, for connections that are passed on, and from the start for
    those in a reserved place. `body_within`: as BODY_FOLLOWS_WITHIN. `delays`: seconds that requests of an
    address must wait; `take` does not wait, so that such an address gets a connection of `plain`.
    """

    def __init__(
        self,
        take: "Take",
        plain: aiohttp_connection.Server,
        limits: HttpLimits,
        body_within: float = BODY_FOLLOWS_WITHIN,
        delays: Callable[[str], float] = lambda _: 0.0,
    ) -> None:
        self.loop: Final = asyncio.get_running_loop()
        self.take: Final = take
        self.plain: Final = plain
        self.limits: Final = limits
        self.max_body = min(MAX_BODY, limits.max_body)
        self.body_within: Final = body_within
        self._delays: Final = delays
        self.connections: Final[set[FastConnection]] = set()
        self._emptied: asyncio.Future[None] | None = None

    def connect(self, is_reserved: bool, on_lost: OnLost, entry: Entry | None = None) -> asyncio.BaseProtocol:
        """The protocol of a new connection. `on_lost`: called once, when the connection is lost. `entry`: its
        place; None: nothing limits it."""
        if is_reserved or (entry is not None and self._delays(entry.address)):
            return self.plain.connect(is_reserved, on_lost, entry)
        # It has a protocol's methods, and a loop asks for no more; deriving from one would cost each a dict.
        return cast(asyncio.BaseProtocol, FastConnection(self, on_lost, entry or Entry()))

    def leave_all(self) -> None:
        """Pass every further request to aiohttp."""
        self.max_body = -1

    def take_all(self) -> None:
        """Take usual turns again."""
        self.max_body = min(MAX_BODY, self.limits.max_body)

    def forget(self, connection: "FastConnection") -> None:
        """A connection is lost, or was passed to aiohttp."""
        self.connections.discard(connection)
        if self._emptied is not None and not self.connections and not self._emptied.done():
            self._emptied.set_result(None)

    async def shutdown(self, timeout: float) -> None:  # noqa: ASYNC109 - how long responses may take
        """Close the connections; those with a response in progress after the response, but within `timeout`
        seconds."""
        for connection in list(self.connections):
            connection.close()
        if self.connections:
            self._emptied = self.loop.create_future()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._emptied, timeout)
            for connection in list(self.connections):
                connection.abort()


class FastConnection(Channel):
    """One connection: an asyncio protocol, and the channel of the request in progress."""

    __slots__ = (
        "_data",
        "_deadline",
        "_entry",
        "_exchange",
        "_half_close",
        "_has_asked",
        "_has_begun",
        "_head",
        "_idle_since",
        "_is_answering",
        "_on_lost",
        "_opened_at",
        "_server",
        "_transport",
        "_writer",
    )

    def __init__(self, server: FastServer, on_lost: OnLost, entry: Entry) -> None:
        super().__init__(server.loop)
        self._server: Final = server
        self._on_lost: Final = on_lost
        self._entry: Final = entry
        entry.owner = self
        self._transport: asyncio.Transport | None = None
        self._opened_at: Final = server.loop.time()
        self._idle_since = self._opened_at
        self._data = b""  # received, and not processed yet
        self._head: FastHead | None = None  # at the beginning of `_data`, while the body is awaited
        self._exchange: Exchange | None = None
        self._writer: ChunkedWriter | None = None  # of the response in progress
        self._is_answering = False  # a request is in progress
        self._has_begun = False  # bytes of its response were sent
        self._has_asked = False  # the connection has had a request
        self._deadline: Final = Deadline(server.loop, self._is_late)
        self._half_close: HalfClose | None = None

    # -- the channel ----------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        self._has_begun = True
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    def writer(self, head: bytes, end: bytes) -> ChunkedWriter:
        assert self._transport is not None, "a response begins on a connection that was made"
        self._has_begun = True
        self._writer = ChunkedWriter(self._transport, self.writing_paused, head=head, end=end)
        return self._writer

    def close(self) -> None:
        self.is_closing = True
        if not self._is_answering and self._transport is not None:
            self._transport.close()

    def done(self) -> None:
        self._is_answering, self._exchange, self._writer = False, None, None
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self.is_closing:
            transport.close()
        elif self._data:
            self._hand_over()
        elif self._half_close is not None:  # there will be no request, and nothing else watches it
            transport.close()
        else:
            self._idle_since = self.loop.time()
            self._deadline.set(self._idle_since + self._server.limits.idle_timeout)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # -- its place ------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """The address of the client, as `listener` counts it."""
        return self._entry.address

    def let_in(self) -> None:
        """The request in progress is let in."""
        if not self._entry.is_let_in:
            self._entry.let_in()

    def evict(self) -> None:
        """Make room for another connection."""
        transport = self._transport
        if transport is None or self._is_answering:
            self.abort()
            return
        if not self._has_asked:  # else it may send its next request on another connection
            transport.write(error_bytes(NO_PLACE))
        transport.close()

    def idle_since(self) -> float | None:
        """Since when it waits for a request; None: a request is in progress."""
        return None if self._is_answering else self._idle_since

    def unsent(self) -> int:
        """Bytes that the transport holds."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def cut(self) -> None:
        """The client reads too slowly."""
        self.abort()

    # -- requests -------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._data:
            data = self._data + data
        if self._is_answering:
            self._data = data
            if len(data) > MAX_EARLY and self._transport is not None:
                self._transport.pause_reading()
            return
        head = self._head
        if head is None:
            head = fast_head.read(data, self._server.max_body)
        if head is None or len(data) > head.end:
            self._data = data
            self._hand_over()
        elif len(data) == head.end:
            self._data = b""
            if self._head is not None or not self._has_asked:  # else the idle deadline stays
                self._head = None
                self._deadline.clear()
                self._entry.hold(0)
            self._begin(head, data[head.start :])
        else:
            self._data = data
            if self._head is None:
                self._head = head
                self._deadline.clear()
                self._deadline.set(self.loop.time() + self._server.body_within)
            self._entry.hold(len(data))

    def _begin(self, head: FastHead, body: bytes) -> None:
        self._is_answering = self._has_asked = True
        self._has_begun = False
        try:
            self._exchange = self._server.take(head, body, self)
        except Exception as error:  # a bug of ours must not end the loop's callback
            request_errors.ERRORS.failed(error)
            if not self._has_begun:
                headers = {"X-Request-Id": request_id(head.fields), "Connection": "close"}
                self.send(error_bytes(request_errors.FAILED, headers))
            self.is_closing = True
        if self._exchange is None:
            self.done()

    def _hand_over(self) -> None:
        """Pass the connection to aiohttp, with the bytes that aiohttp has not seen."""
        transport, data = self._transport, self._data
        self._deadline.close()
        self._head, self._data = None, b""
        if transport is None or transport.is_closing():
            return  # `connection_lost` is still to come, or has come
        self._server.forget(self)
        opened_at = None if self._has_asked else self._opened_at
        plain = self._server.plain.connect(False, self._on_lost, self._entry, opened_at)
        transport.set_protocol(plain)
        plain.connection_made(transport)
        if self.writing_paused:
            self._server.plain.output.unblocked(self)
            plain.pause_writing()
        transport.resume_reading()
        plain.data_received(data)
        half_closed, self._half_close = self._half_close is not None, None
        if half_closed and not plain.eof_received():
            transport.close()

    def _is_late(self) -> None:
        """No request arrived in time, or no body."""
        if self._is_answering or self._transport is None:
            return
        if self._head is not None:
            self._hand_over()
            return
        if not self._has_asked:
            self._transport.write(error_bytes(request_errors.late(self._server.limits.head_timeout)))
        self._transport.close()

    # -- events of the transport ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio.Transport without deriving from it.
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)
        self._deadline.set(self._opened_at + self._server.limits.head_timeout)

    def pause_writing(self) -> None:
        self.writing_paused = True
        self._server.plain.output.blocked(self)
        if self._writer is not None:
            self._writer.is_blocked = True

    def resume_writing(self) -> None:
        self.writing_paused = False
        self._server.plain.output.unblocked(self)
        if self._writer is not None:
            self._writer.is_blocked = False
        if self._exchange is not None:
            self._exchange.resumed()

    def eof_received(self) -> bool:
        """The client sends no more. Returns whether the connection stays open for a response in progress."""
        if not self._is_answering:
            return False
        assert self._transport is not None, "it has just reported"
        if self._half_close is None:
            self._half_close = HalfClose(self.loop, self._probe)
        self._half_close.begin(self._transport)
        return True

    def _probe(self) -> bool:
        exchange = self._exchange
        if exchange is None:  # the connection was passed to aiohttp, or is closed
            return False
        if not self._data:  # the client has sent no further request
            self.is_closing = True
        if not exchange.probe() and not self._has_begun:
            assert self._transport is not None, "a request is being answered"
            self._transport.write(CONTINUE)
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        self._deadline.close()
        self._half_close = None
        self._server.forget(self)
        if self.writing_paused:
            self._server.plain.output.unblocked(self)
        exchange, self._exchange = self._exchange, None
        self._is_answering, self._writer = False, None
        if exchange is not None:
            exchange.lost()
        self._on_lost()


Take = Callable[[FastHead, bytes, FastConnection], Exchange | None]
