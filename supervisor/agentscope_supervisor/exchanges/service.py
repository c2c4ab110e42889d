"""The open exchanges of an instance: where each of them goes, their limits, and their end with a worker.

Processes are known by number only, through `ExchangeProcesses`, which `workers.controller` implements. The
bytes of an exchange do not pass here: `open_exchange` connects the link with the route that serves the
client. An exchange is never sent to a second worker.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Final, Protocol

from agentscope_protocol.config.settings import Settings
from agentscope_protocol.wire.errors import LocalProtocolError
from agentscope_protocol.wire.frames import CancelReason, StreamKind
from agentscope_supervisor.domain.errors import ErrorCode, Refused, refusal
from agentscope_supervisor.exchanges.open_exchange import ExchangeListener, OpenExchange
from agentscope_supervisor.exchanges.placement import Key, Learned, slot_for
from agentscope_supervisor.system.event_queue import Post
from agentscope_supervisor.turns import routing
from agentscope_supervisor.turns.service import MAINTENANCE, TurnService

log = logging.getLogger(__name__)

_STOPPING: Final = refusal(ErrorCode.DRAINING, "the instance is stopping")
_NO_WORKER: Final = refusal(ErrorCode.NOT_READY, "no worker became ready in time")
_FULL: Final = refusal(ErrorCode.OVERLOADED, "the instance or the worker has too many open requests already")


class ExchangeProcesses(Protocol):
    """The processes that serve exchanges, by number."""

    def open_exchange(
        self,
        process: int,
        kind: StreamKind,
        session: str,
        request_id: str,
        head: bytes,
        headers: Mapping[str, str],
        listener: ExchangeListener,
    ) -> OpenExchange:
        """Send the head of an exchange to a process that is ready. Raises: LocalProtocolError."""

    def drained(self, process: int) -> None:
        """The last turn or exchange of this process has ended."""


class ExchangeService:
    """All open exchanges. `processes` must be set before the first request arrives.

    `hosted`: what the workers host in place of an App, as they report it; empty: an App. None: not known yet,
    because no worker has been ready. `on_hosted` is called when it is set.
    """

    processes: ExchangeProcesses

    def __init__(self, settings: Settings, turns: TurnService, post: Post) -> None:
        self.hosted: str | None = None
        self.on_hosted: Callable[[], None] = lambda: None
        self.learned: Final = Learned()
        self._settings = settings
        self._turns: Final = turns
        self._post: Final = post
        self._loop: Final = asyncio.get_running_loop()
        self._open: Final[dict[int, dict[OpenExchange, StreamKind]]] = {}  # by process
        self._departed: Final[set[int]] = set()  # processes that are leaving, and have exchanges
        self._waiting: Final[set[asyncio.Future[None]]] = set()
        self._reported: Final = asyncio.Event()  # a worker has reported what it hosts
        self._count = 0
        self._turn = 0  # of processes with the same load
        self._is_draining = False

    # -- clients ------------------------------------------------------------------------------

    @property
    def open(self) -> int:
        """The number of open exchanges."""
        return self._count

    async def place(self, key: Key) -> int:
        """The process for a new exchange. Waits for a worker for up to `supervisor.start_timeout`.

        Raises: Refused.
        """
        end = self._loop.time() + self._settings.supervisor.start_timeout
        while True:
            self._admit()
            process = self._process(key)
            if process is not None:
                if self.on_process(process) >= self._settings.supervisor.max_inflight:
                    raise Refused(_FULL)
                return process
            waiter = self._loop.create_future()
            self._waiting.add(waiter)
            try:
                async with asyncio.timeout_at(end):
                    await waiter
            except TimeoutError:
                raise Refused(_NO_WORKER) from None
            finally:
                self._waiting.discard(waiter)

    def begin(
        self,
        process: int,
        kind: StreamKind,
        session: str,
        request_id: str,
        head: bytes,
        headers: Mapping[str, str],
        listener: ExchangeListener,
    ) -> OpenExchange:
        """Send the head of an exchange to a process that `place` returned. `over` must be called when it has
        ended. Raises: Refused."""
        try:
            exchange = self.processes.open_exchange(
                process, kind, session, request_id, head, headers, listener
            )
        except LocalProtocolError as error:
            log.warning("exchange cannot be sent", extra={"request": request_id, "reason": str(error)})
            raise Refused(_NO_WORKER) from None
        self._open.setdefault(process, {})[exchange] = kind
        self._count += 1
        return exchange

    def over(self, exchange: OpenExchange) -> None:
        """An exchange has ended."""
        process = exchange.process
        of_process = self._open.get(process)
        if of_process is None:  # it was abandoned
            return
        del of_process[exchange]
        self._count -= 1
        if not of_process:
            del self._open[process]
            if process in self._departed:
                self._departed.discard(process)
                self._post(partial(self.processes.drained, process))

    async def known(self) -> None:
        """Wait until `hosted` is known, for up to `supervisor.start_timeout`. Raises: Refused."""
        try:
            async with asyncio.timeout(self._settings.supervisor.start_timeout):
                await self._reported.wait()
        except TimeoutError:
            raise Refused(_NO_WORKER) from None

    def learn(self, ids: Collection[str], exchange: OpenExchange) -> None:
        """The worker of this exchange has sent these identifiers."""
        if ids:
            self.learned.learn(ids, exchange.slot)

    # -- processes ------------------------------------------------------------------------------

    def on_process(self, process: int) -> int:
        """The number of open exchanges of a process."""
        return len(self._open.get(process, ()))

    def reports(self, hosted: str) -> None:
        """A worker that is ready reports what it hosts."""
        self.hosted = hosted
        self._reported.set()
        self.on_hosted()

    def assigned(self) -> None:
        """A slot has got a process, or has lost it."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    def departs(self, process: int) -> None:
        """A process gets no new exchange, and ends after those that it has.

        Its WebSockets are closed, so that their clients connect to another worker. Its other exchanges may
        take as long as a turn.
        """
        of_process = self._open.get(process)
        if not of_process:
            return
        self._departed.add(process)
        for exchange, kind in list(of_process.items()):
            if kind is StreamKind.WEBSOCKET:
                exchange.restarting()
        if seconds := self._settings.server.request_timeout:
            self._loop.call_later(seconds, self._end, process)

    def cut(self, process: int) -> None:
        """Cancel the exchanges of a process: its time is over."""
        for exchange in list(self._open.get(process, ())):
            exchange.cancel(CancelReason.DRAINING)

    def _end(self, process: int) -> None:
        """A process that is leaving has had its time: the apps that ignore their end do not keep it."""
        self.cut(process)
        self._loop.call_later(self._settings.sessions.cancel_grace, self._abandon, process)

    def _abandon(self, process: int) -> None:
        abandoned = self._open.pop(process, {})
        self._count -= len(abandoned)
        if abandoned:
            self._departed.discard(process)
            label = next(iter(abandoned)).label
            log.warning("exchanges do not end", extra={"worker": label, "exchanges": len(abandoned)})
            self._post(partial(self.processes.drained, process))

    def drain(self) -> None:
        """The instance stops: no exchange begins any more."""
        self._is_draining = True
        self.assigned()

    def take_over(self, settings: Settings) -> None:
        """Apply these settings from now on."""
        self._settings = settings

    # -- inside ---------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Raises: Refused."""
        if self._is_draining:
            raise Refused(_STOPPING)
        if self._turns.maintenance:
            raise Refused(MAINTENANCE)
        if self._count >= self._settings.server.max_turns:
            raise Refused(_FULL)

    def _process(self, key: Key) -> int | None:
        """The process for a new exchange; None: there is none at present."""
        ledger = self._turns.ledger
        slot = slot_for(key, self.learned, ledger.slots, routing.slot_of)
        if slot is not None:
            return ledger.assigned(slot)
        ready = [each for slot in range(ledger.slots) if (each := ledger.assigned(slot)) is not None]
        if not ready:
            return None
        self._turn += 1
        at = self._turn % len(ready)
        return min(ready[at:] + ready[:at], key=self._load)

    def _load(self, process: int) -> int:
        return self.on_process(process) + self._turns.ledger.on_process(process)
