"""The direct way of a request: answered in its connection's callbacks, without aiohttp's parser and tasks.

A connection begins here and stays as long as each request is a usual turn (`fast_head`) that comes when the
one before has been answered. Whatever else comes is handed over to aiohttp, with all that has come of it, for
good: nothing here is needed to be a server, it only makes the usual turn cheap, and which way a request goes
is never seen. Leans on nothing of aiohttp but its being a protocol of asyncio.

Where to read next: `web.invoke` takes the requests, `web.respond_fast` answers them.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final, Protocol, cast

from agentscope_supervisor.domain import sse
from agentscope_supervisor.http1 import aiohttp_connection, fast_head, half_close
from agentscope_supervisor.http1.aiohttp_connection import HttpLimits
from agentscope_supervisor.http1.chunked_writer import ChunkedWriter
from agentscope_supervisor.http1.fast_head import FastHead
from agentscope_supervisor.http1.listener import OnLost
from agentscope_supervisor.http1.responses import error_bytes, request_id

log = logging.getLogger(__name__)

BODY_FOLLOWS_WITHIN: Final = 0.05
"""Seconds in which the body comes that a client sends right after its head. What takes longer is for aiohttp
to wait for, with the time limits of bodies."""
MAX_BODY: Final = 64 * 1024  # bytes; larger ones are read as they come
MAX_EARLY: Final = 64 * 1024  # bytes taken in while an answer is under way
LAST_CHUNK: Final = b"0\r\n\r\n"  # RFC 9112, section 7.1


class Exchange(Protocol):
    """The answer that is under way on a connection. Nothing here may raise."""

    def resumed(self) -> None:
        """The client's socket takes more again."""

    def lost(self) -> None:
        """The client is gone."""


class FastServer:
    """Makes the connections (`connect`). `take`: begins to answer a request, with its whole body; None: it
    has been answered. `plain`: has those that are handed over, and those in a reserved place from the start.
    `body_within`: as BODY_FOLLOWS_WITHIN."""

    def __init__(
        self,
        take: "Take",
        plain: aiohttp_connection.Server,
        limits: HttpLimits,
        body_within: float = BODY_FOLLOWS_WITHIN,
    ) -> None:
        self.loop: Final = asyncio.get_running_loop()
        self.take: Final = take
        self.plain: Final = plain
        self.limits: Final = limits
        self.max_body: Final = min(MAX_BODY, limits.max_body)
        self.body_within: Final = body_within
        self.connections: Final[set[FastConnection]] = set()
        self._emptied: asyncio.Future[None] | None = None

    def connect(self, is_reserved: bool, on_lost: OnLost) -> asyncio.BaseProtocol:
        """The protocol of one more connection. `on_lost`: called once, when it is lost."""
        if is_reserved:
            return self.plain.connect(is_reserved, on_lost)
        # It has a protocol's methods, which is all that a loop asks; deriving from it would cost each a dict.
        return cast(asyncio.BaseProtocol, FastConnection(self, on_lost))

    def forget(self, connection: "FastConnection") -> None:
        """It is lost, or handed over."""
        self.connections.discard(connection)
        if self._emptied is not None and not self.connections and not self._emptied.done():
            self._emptied.set_result(None)

    async def shutdown(self, timeout: float) -> None:  # noqa: ASYNC109 - how long answers may take
        """End the connections, those with an answer under way after it, but within `timeout` seconds."""
        for connection in list(self.connections):
            connection.close()
        if self.connections:
            self._emptied = self.loop.create_future()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._emptied, timeout)
            for connection in list(self.connections):
                connection.abort()


class FastConnection:
    """One connection: a protocol of asyncio."""

    __slots__ = (
        "_data",
        "_due",
        "_exchange",
        "_has_asked",
        "_has_begun",
        "_head",
        "_is_answering",
        "_is_half_closed",
        "_on_lost",
        "_opened_at",
        "_server",
        "_timer",
        "_transport",
        "is_closing",
        "outlet",
        "writing_paused",
    )

    def __init__(self, server: FastServer, on_lost: OnLost) -> None:
        self.is_closing = False  # it ends with the answer under way
        self.outlet: ChunkedWriter | None = None  # of the answer under way
        self.writing_paused = False
        self._server: Final = server
        self._on_lost: Final = on_lost
        self._transport: asyncio.Transport | None = None
        self._opened_at: Final = server.loop.time()
        self._data = b""  # that has come and is not taken
        self._head: FastHead | None = None  # at its beginning, while the body is awaited
        self._exchange: Exchange | None = None
        self._is_answering = False
        self._has_begun = False  # that answer
        self._has_asked = False  # anything
        self._is_half_closed = False
        self._due = 0.0  # when the next request must be here
        self._timer: asyncio.TimerHandle | None = None

    # -- what `take` and its exchange do ------------------------------------------------------

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop on which it lives; to ask asyncio for it is a system call."""
        return self._server.loop

    def send(self, data: bytes) -> None:
        """Write to the client, if it is there."""
        self._has_begun = True
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    def stream(self, head: bytes) -> ChunkedWriter:
        """The way for an answer in pieces, as chunks after its head."""
        assert self._transport is not None, "an answer begins on a connection that was made"
        self._has_begun = True
        self.outlet = ChunkedWriter(self._transport, self.writing_paused, head=head, end=LAST_CHUNK)
        return self.outlet

    def answered(self) -> None:
        """The answer is out, all of it."""
        self._is_answering, self._exchange, self.outlet = False, None, None
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self.is_closing:
            transport.close()
        elif self._data:
            self._hand_over()
        elif self._is_half_closed:  # there will be no request, and nobody looks after it any more
            transport.close()
        else:
            now = self._server.loop.time()
            self._await_request(now, now + self._server.limits.idle_timeout)

    def close(self) -> None:
        """End the connection, after the answer under way."""
        self.is_closing = True
        if not self._is_answering and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # -- which way ------------------------------------------------------------------------------

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
            if self._head is not None or not self._has_asked:  # else the timer of idleness goes on
                self._head = None
                self._forget_timer()
            self._begin(head, data[head.start :])
        else:
            self._data = data
            if self._head is None:
                self._head = head
                self._forget_timer()
                self._timer = self._server.loop.call_later(self._server.body_within, self._hand_over)

    def _begin(self, head: FastHead, body: bytes) -> None:
        self._is_answering = self._has_asked = True
        self._has_begun = False
        try:
            self._exchange = self._server.take(head, body, self)
        except Exception:  # a bug of ours must not be the end of the loop's callback
            log.exception("request failed")
            if not self._has_begun:
                headers = {"X-Request-Id": request_id(head.fields), "Connection": "close"}
                self.send(error_bytes(aiohttp_connection.FAILED, headers))
            self.is_closing = True
        if self._exchange is None:
            self.answered()

    def _hand_over(self) -> None:
        """Let aiohttp have the connection, and what it has not seen of it."""
        transport, data = self._transport, self._data
        self._forget_timer()
        self._head, self._data = None, b""
        if transport is None or transport.is_closing():
            return  # `connection_lost` is still to come, or has come
        self._server.forget(self)
        plain = self._server.plain.connect(False, self._on_lost, None if self._has_asked else self._opened_at)
        transport.set_protocol(plain)
        plain.connection_made(transport)
        if self.writing_paused:
            plain.pause_writing()
        transport.resume_reading()
        plain.data_received(data)
        if self._is_half_closed and not plain.eof_received():
            transport.close()

    # -- time limits ----------------------------------------------------------------------------

    def _await_request(self, now: float, due: float) -> None:
        self._due = due
        if self._timer is None:
            self._timer = self._server.loop.call_later(due - now, self._look_at_clock)

    def _look_at_clock(self) -> None:
        self._timer = None
        if self._is_answering or self._transport is None:
            return
        now = self._server.loop.time()
        if now < self._due:
            self._await_request(now, self._due)
        else:
            if not self._has_asked:
                self._transport.write(error_bytes(aiohttp_connection.late(self._server.limits.head_timeout)))
            self._transport.close()

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- what the loop tells --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio.Transport without deriving from it.
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)
        self._await_request(self._opened_at, self._opened_at + self._server.limits.head_timeout)

    def pause_writing(self) -> None:
        self.writing_paused = True
        if self.outlet is not None:
            self.outlet.is_blocked = True

    def resume_writing(self) -> None:
        self.writing_paused = False
        if self.outlet is not None:
            self.outlet.is_blocked = False
        if self._exchange is not None:
            self._exchange.resumed()

    def eof_received(self) -> bool:
        """Whether the connection stays for the answer under way."""
        if not self._is_answering:
            return False
        if not self._is_half_closed:  # uvloop may tell it twice
            self._is_half_closed = True
            assert self._transport is not None, "it has just told something"
            half_close.watch(self._server.loop, self._transport, self._provoke)
        return True

    def _provoke(self) -> bool:
        if not self._is_answering:  # it was handed over, or is closed
            return False
        if not self._data:  # nothing more is asked
            self.is_closing = True
        if self.outlet is not None:
            self.outlet.write(sse.comment("keep-alive"))
        elif not self._has_begun:
            assert self._transport is not None, "something is being answered"
            self._transport.write(half_close.CONTINUE)
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        self._forget_timer()
        self._server.forget(self)
        exchange, self._exchange = self._exchange, None
        self._is_answering, self.outlet = False, None
        if exchange is not None:
            exchange.lost()
        self._on_lost()


Take = Callable[[FastHead, bytes, FastConnection], Exchange | None]
