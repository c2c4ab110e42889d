"""The exchanges of a worker: each opened stream is one call of the ASGI app, in one task.

When its client has gone, the app receives a disconnect. It is cancelled if it does not end within the grace
time, unless `sessions.on_disconnect` is `continue`. Work after the end of a response, such as a background
task of Starlette, is not limited while the worker runs.
"""

import asyncio
import functools
import logging
from typing import Final

from agentscope_protocol.config.settings import SessionsSettings
from agentscope_protocol.wire.endpoint import Event, Writable
from agentscope_protocol.wire.errors import Code
from agentscope_protocol.wire.exchange import decode_head
from agentscope_protocol.wire.frames import REQUEST_ID, Cancel, CancelReason, Input, Open, StreamKind
from agentscope_protocol.wire.link import Link
from agentscope_protocol.wire.responder import Responder
from agentscope_worker import log_output
from agentscope_worker.asgi.exchange import ClientDisconnected, Exchange
from agentscope_worker.asgi.http_exchange import HttpExchange
from agentscope_worker.asgi.websocket_exchange import WebSocketExchange
from agentscope_worker.runtime import tracing
from agentscope_worker.runtime.asgi_app import AsgiApp
from agentscope_worker.watchdog import LifeSigns

log = logging.getLogger(__name__)

KINDS: Final = {StreamKind.HTTP: HttpExchange, StreamKind.WEBSOCKET: WebSocketExchange}

GRACE_SHARE: Final = 0.5
"""Share of `sessions.cancel_grace` before an app is cancelled; the rest is for its `finally` blocks."""


class Exchanges:
    """Answers the exchanges of one link with an ASGI app."""

    stream_kinds: Final = [int(kind) for kind in KINDS]

    def __init__(
        self, app: AsgiApp, link: Link[Responder], life: LifeSigns, sessions: SessionsSettings
    ) -> None:
        self._app: Final = app
        self._link: Final = link
        self._responder: Final = link.connection
        self._life: Final = life
        self._grace: Final = sessions.cancel_grace * GRACE_SHARE
        self._cancels: Final = sessions.on_disconnect == "cancel"
        self._exchanges: dict[int, Exchange] = {}  # until the app's call has ended
        self._stopping = False
        self._loop: Final = asyncio.get_running_loop()

    def on_event(self, event: Event) -> bool:
        """Take one event of the link; returns whether it belongs to an exchange."""
        match event:
            case Open(_, kind) if kind in KINDS:
                if not self._stopping:  # else another worker gets it, once the link is closed
                    self._begin(event)
                return True
            case Input(stream) | Cancel(stream) | Writable(stream) if stream in self._exchanges:
                exchange = self._exchanges[stream]
                match event:
                    case Input():
                        exchange.put(event)
                    case Cancel(_, reason):
                        self._cancel(exchange, reason)
                    case Writable():
                        exchange.wake()
                return True
        return False

    async def stop(self, *, asked: bool, within: float) -> None:
        """Begin no further exchange, disconnect the open ones, and wait for their apps to end.

        `asked`: as for `serve.Server.stop`. `within`: seconds after which apps and their background work are
        cancelled; the caller bounds the wait after that.
        """
        self._stopping = True
        for exchange in list(self._exchanges.values()):
            exchange.is_lost = not asked and not exchange.is_gone
            if not exchange.is_over:
                self._cancel(exchange, CancelReason.DRAINING)
        if self._exchanges:
            await asyncio.wait(self._tasks(), timeout=within)
        if self._exchanges:
            log.warning(
                "%d calls of the app were cancelled: they did not end within %g s",
                len(self._exchanges),
                within,
            )
            for exchange in self._exchanges.values():
                exchange.is_gone = True
                exchange.task.cancel()
            await asyncio.wait(self._tasks())

    def _tasks(self) -> set[asyncio.Task[None]]:
        return {exchange.task for exchange in self._exchanges.values()}

    def _begin(self, opened: Open) -> None:
        self._life.begin(opened.stream)
        exchange = KINDS[StreamKind(opened.kind)](opened, decode_head(opened.body), self._link)
        request = opened.headers.get(REQUEST_ID) or opened.run_id
        about = functools.partial(log_output.about, "", opened.session_id, request)
        self._exchanges[opened.stream] = exchange
        exchange.task = self._loop.create_task(
            self._run(exchange), name=f"exchange {opened.stream}", context=log_output.in_turn(about)
        )
        exchange.task.add_done_callback(lambda task: self._done(exchange, task))

    def _cancel(self, exchange: Exchange, reason: int) -> None:
        if not exchange.is_gone:
            exchange.leave(reason)
            if reason == CancelReason.CLIENT_GONE and not self._cancels:
                return
            timer = self._loop.call_later(self._grace, exchange.task.cancel)
            exchange.task.add_done_callback(lambda _: timer.cancel())

    async def _run(self, exchange: Exchange) -> None:
        """Call the app, and complete the exchange after it."""
        opened = exchange.opened
        headers = {name: value for name, value in opened.headers.items() if name != REQUEST_ID}
        try:
            with tracing.turn("", opened.session_id, headers, lambda: exchange.is_gone, name="exchange"):
                await self._app.app(exchange.scope(self._app.state), exchange.receive, exchange.send)
        except (SystemExit, KeyboardInterrupt) as error:
            # asyncio would end the worker with it, and with the worker the exchanges of everybody else.
            self._over(exchange, RuntimeError(f"the app raised {type(error).__name__}({error})"))
        except BaseException as error:
            self._over(exchange, error)
        else:
            self._over(exchange, None)

    def _done(self, exchange: Exchange, task: asyncio.Task[None]) -> None:
        """Complete an exchange whose task was cancelled before its first step."""
        if task.cancelled():
            self._over(exchange, asyncio.CancelledError())

    def _over(self, exchange: Exchange, error: BaseException | None) -> None:
        del self._exchanges[exchange.stream]
        expected = isinstance(error, ClientDisconnected) or (
            exchange.is_gone and isinstance(error, asyncio.CancelledError)
        )
        if error is not None and not expected:
            log.error("the ASGI app raised", exc_info=error)
        if self._responder.closed or exchange.is_lost or exchange.is_over:
            return
        problem = f"raised {type(error).__name__}"  # not what the error says: other servers do not show it
        if error is None or expected:
            problem = exchange.returned()
            if problem:
                log.error("the ASGI app %s", problem)
        if not exchange.is_over:
            exchange.is_over = True
            if exchange.is_gone:
                self._responder.fail(exchange.stream, Code.CANCELLED, "cancelled")
            else:
                self._responder.fail(exchange.stream, Code.APP_ERROR, f"the app {problem}")
        self._link.flush_early()
