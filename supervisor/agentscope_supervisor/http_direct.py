"""The direct way of a request: answered in its connection's callbacks, without aiohttp's request and tasks.

A connection begins here and stays as long as each request is a usual turn (`http_rules.is_direct`) that comes
when the one before has been answered. Whatever else comes is handed over to aiohttp, for good: nothing here
is needed to be a server, it only makes the usual turn cheap, and which way a request goes is never seen.
What this leans on of aiohttp's inner workings is in this class and in `http_protocol`.

Where to read next: `front_door` takes the requests, `direct_answer` answers them.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final
from typing import Protocol as Interface

from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import _ErrInfo
from multidict import CIMultiDictProxy

from agentscope_supervisor import http_protocol, http_rules, sse
from agentscope_supervisor.responses import error_bytes, request_id

log = logging.getLogger(__name__)

BODY_FOLLOWS_WITHIN: Final = 0.05
"""Seconds in which the body comes that a client sends right after its head. What takes longer is for aiohttp
to wait for, with the time limits of bodies."""


class DirectHead(http_rules.Head, Interface):
    """A head as aiohttp's parser makes it, in Python or in C: two classes."""

    @property
    def headers(self) -> CIMultiDictProxy[str]: ...


class Exchange(Interface):
    """The answer that is under way on a connection. Nothing here may raise."""

    def resumed(self) -> None:
        """The client's socket takes more again."""

    def lost(self) -> None:
        """The client is gone."""


class DirectProtocol(http_protocol.Protocol):
    """One connection. `take`: begins to answer a request, with its whole body; None: it has been answered."""

    __slots__ = ("_body_timer", "_exchange", "_handed_over", "_has_begun", "_is_answering", "_take")

    def __init__(self, take: "Take", *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._take = take
        self._exchange: Exchange | None = None
        self._is_answering = False  # a request that came the direct way
        self._has_begun = False  # that answer
        self._handed_over: asyncio.Future[None] = self._loop.create_future()
        self._body_timer: asyncio.TimerHandle | None = None

    # -- what `take` and its exchange do ------------------------------------------------------

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop on which it lives; to ask asyncio for it is a system call."""
        return self._loop

    def send(self, data: bytes) -> None:
        """Write to the client, if it is there."""
        self._has_begun = True
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def answered(self) -> None:
        """The answer is out, all of it."""
        self._end()
        if self._close or self._force_close:
            self._handed_over.cancel()
            self.force_close()
        elif self._messages:
            self._hand_over()
        else:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout

    def _end(self) -> None:
        self._is_answering, self._exchange, self.outlet = False, None, None
        self._request_in_progress = False
        if self._handler_waiter is not None:  # of `shutdown`
            self._handler_waiter.set_result(None)

    @property
    def is_closing(self) -> bool:
        """Whether the connection ends with the answer under way."""
        return self._close or self._force_close

    # -- which way ------------------------------------------------------------------------------

    async def start(self) -> None:
        """aiohttp's own loop, once there is something for it."""
        await self._handed_over
        await super().start()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages and not self._is_answering and not self._handed_over.done():
            self._offer()

    def _offer(self) -> None:
        first: Any = self._messages[0]
        head, body = first
        if (
            len(self._messages) > 1
            or isinstance(head, _ErrInfo)
            or not http_rules.is_direct(head)
            or body.exception() is not None
            or self._reading_paused  # it is large, and must be read to come
        ):
            self._hand_over()
        elif body.is_eof():
            self._forget_body()
            self._messages.popleft()
            assert self._parser is not None, "it has just given a message"
            self._parser.message_consumed()
            self._is_answering = self._request_in_progress = True
            self._has_begun = False
            # Not by its methods: they have the parser look for more, and what is whole has none.
            self._begin(head, b"" if body is EMPTY_PAYLOAD else b"".join(body._buffer))
            self._body = EMPTY_PAYLOAD  # a stream may be long, and the request's would stay as long
        elif self._body_timer is None:
            self._body_timer = self._loop.call_later(BODY_FOLLOWS_WITHIN, self._hand_over)

    def _begin(self, head: DirectHead, body: bytes) -> None:
        try:
            self._exchange = self._take(head, body, self)
        except Exception:  # a bug of ours must not be the end of the loop's callback
            log.exception("request failed")
            if not self._has_begun:
                headers = {"X-Request-Id": request_id(head.headers), "Connection": "close"}
                self.send(error_bytes(http_protocol.FAILED, headers))
            self.close()
        if self._exchange is None:
            self.answered()

    def _hand_over(self) -> None:
        self._forget_body()
        if not self._handed_over.done():
            self._handed_over.set_result(None)

    def _forget_body(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    # -- what aiohttp asks and tells ------------------------------------------------------------

    def _is_idle(self) -> bool:
        if self._handed_over.done():
            return super()._is_idle()
        return not self._is_answering and not self._messages

    def _provoke(self, transport: asyncio.Transport, asked: Any) -> bool:
        if not self._is_answering:
            return super()._provoke(transport, asked)
        if self.outlet is not None:
            self.outlet.write(sse.comment("keep-alive"))
        elif not self._has_begun:
            transport.write(http_protocol.CONTINUE)
        return True

    def _process_keepalive(self) -> None:
        if not self._handed_over.done():
            now = self._loop.time()
            if not self._is_idle():
                self._next_keepalive_close_time = now + self._keepalive_timeout
            elif now >= self._next_keepalive_close_time:
                self.force_close()
        super()._process_keepalive()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._exchange is not None:
            self._exchange.resumed()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._forget_body()
        exchange = self._exchange
        super().connection_lost(exc)
        if exchange is not None:
            self._end()
            exchange.lost()

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 - aiohttp's
        if not self._is_answering:
            self._handed_over.cancel()
        await super().shutdown(timeout)


Take = Callable[[DirectHead, bytes, DirectProtocol], Exchange | None]
