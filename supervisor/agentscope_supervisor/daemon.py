"""The daemon: creates the parts of one instance, connects them, and starts and stops them in order.

Every event (a request, the end of a turn, an exit, a signal, a timer) goes through one queue, and becomes a
call of `workers.fleet` or `turns.ledger`, through `workers.controller` and `turns.service`. Those execute the
resulting commands in order, before the next event. The daemon also implements the interfaces through which
the operator's commands and the platform act on the instance. It decides nothing about turns or workers.

Where to read next: `turns.service` for turns, `workers.controller` for workers, `web.app` for HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentscope_protocol.config.auth_settings import AuthSettings
from agentscope_protocol.config.setting_types import MAX_WORKERS
from agentscope_protocol.config.settings import Settings
from agentscope_protocol.wire.page import WRITES
from agentscope_supervisor.control.handlers import Handlers
from agentscope_supervisor.control.server import ControlServer
from agentscope_supervisor.exchanges.service import ExchangeService
from agentscope_supervisor.processes.reaper import Reaper
from agentscope_supervisor.project.config import Project
from agentscope_supervisor.project.watch_filter import WatchFilter
from agentscope_supervisor.project.watcher import Watcher
from agentscope_supervisor.runs.recorder import Recorder, limits
from agentscope_supervisor.runs.store import Store
from agentscope_supervisor.system import kernel, signals
from agentscope_supervisor.system.event_queue import EventQueue
from agentscope_supervisor.system.instance_dir import Address
from agentscope_supervisor.system.log_buffer import LogBuffer
from agentscope_supervisor.system.process_memory import ProcessMemory
from agentscope_supervisor.system.sdnotify import Notifier
from agentscope_supervisor.telemetry.metrics import Metrics
from agentscope_supervisor.turns.service import TurnService
from agentscope_supervisor.turns.session_table import SessionTable
from agentscope_supervisor.web.access.console_auth import SignIns
from agentscope_supervisor.web.access.tokens import Tokens
from agentscope_supervisor.web.app import FrontDoor
from agentscope_supervisor.web.console import Console
from agentscope_supervisor.web.dialects import FORMATS
from agentscope_supervisor.workers.condition import Condition
from agentscope_supervisor.workers.controller import Controller, worker_count
from agentscope_supervisor.workers.exit_reasons import Cause
from agentscope_supervisor.workers.hang_watch import HangWatch
from agentscope_supervisor.workers.lifecycle import ProcessState
from agentscope_supervisor.workers.memory_watch import MemoryWatch
from agentscope_supervisor.workers.revisions import ReloadRefused, Rolling, Unchanged

if TYPE_CHECKING:
    from agentscope_supervisor.heartbeat.loop import Heartbeat, VitalSigns

log = logging.getLogger(__name__)

END_MARGIN: Final = 15.0
"""Seconds from the last worker's deadline to the end of the supervisor: the last responses are sent, and
orphaned processes end."""

_PLATFORM_STATUS: Final = {"healthy": "running", "unhealthy": "degraded"}
"""The platform's name for a status, if it differs."""


class Daemon:
    """One running instance, from the start to the end of `run`. Must be created on the event loop that runs
    it. `store`: path of the file for runs that must survive a restart. `terminal`: the instance stops when it
    is closed. `on_ready` is called when the first worker is ready."""

    def __init__(
        self,
        project: Project,
        settings: Settings,
        store: Path,
        terminal: signals.Terminal | None = None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._project: Final = project
        self._settings: Final = settings
        self._terminal: Final = terminal
        self._on_ready: Final = on_ready
        self._console: Console | None = None
        self._post: Final = EventQueue().post
        self._memory: Final = ProcessMemory(lambda: [os.getpid(), *self._pool.marks()])
        states = [state.name.lower() for state in ProcessState if state < ProcessState.GONE]
        self._metrics: Final = (
            Metrics(lambda: self._condition.gauges(), self._memory, states, Cause)
            if settings.server.metrics
            else None
        )
        self._store: Final = Store(store, limits(settings.sessions))
        self._recorder: Final = Recorder(settings.sessions, self._store, FORMATS)
        self._turns: Final = TurnService(
            settings, worker_count(settings), self._post, self._recorder, self._metrics
        )
        self._ledger: Final = self._turns.ledger
        self._table: Final = SessionTable(self._ledger)
        self._exchanges: Final = ExchangeService(settings, self._turns, self._post)
        self._controller: Final = Controller(
            project,
            settings,
            self._turns,
            self._exchanges,
            self._post,
            self._metrics,
            self._ready,
            self._rollout_ended,
        )
        self._turns.processes = self._exchanges.processes = self._controller
        self._fleet: Final = self._controller.fleet
        self._pool: Final = self._controller.pool
        self._reaper: Final = Reaper(self._pool.marks)
        self._heartbeat: Heartbeat | None = None
        self._hang_watch: HangWatch
        self._watcher: Watcher | None = None
        self._condition: Final = Condition(settings, self._turns, self._controller, self._reaper, self._store)
        self._notifier: Final = Notifier(os.environ, os.getpid(), self._condition.summary)
        self._stop_accepting: Callable[[], None] = lambda: None
        self._admit: Callable[[Tokens], None] = lambda _: None

    @property
    def failure(self) -> str:
        """Why the instance could not start, as reported by its worker. For the operator."""
        return self._controller.failure

    @property
    def console_link(self) -> str | None:
        """Address of the console; without a token it signs in one browser. None: the console is off."""
        return self._console.link if self._console is not None else None

    async def run(
        self, sock: socket.socket, control_sock: socket.socket, address: Address, *, passed_on: bool = False
    ) -> int:
        """Serve on two bound sockets until stopped. Returns the exit status.

        `address`: where clients and operators reach the instance, as shown by its commands. `passed_on`:
        `sock` was passed by another process and stays open after the end of this one, so that clients that
        connect during the stop wait for the next supervisor.
        """
        signals.install(
            {
                signal.SIGTERM: self._stop_signal,
                signal.SIGINT: self._stop_signal,
                signal.SIGHUP: self._hang_up,
                signal.SIGQUIT: self._pool.dump_stacks,
                signal.SIGTTIN: lambda: self.scale(min(self._fleet.size + 1, MAX_WORKERS)),
                signal.SIGTTOU: lambda: self.scale(max(self._fleet.size - 1, 1)),
            }
        )
        settings = self._settings
        async with AsyncExitStack() as parts:  # parts end in the reverse order of their start
            tracing = None
            if settings.tracing is not None:
                from agentscope_supervisor.web.tracing import Tracing  # only for instances with traces

                tracing = Tracing(settings.tracing.endpoint, self._project.folder.name)
                parts.push_async_callback(tracing.close)
            self._store.start()
            parts.push_async_callback(self._store.close)
            parts.callback(self._recorder.close)
            parts.callback(self._notifier.close)
            parts.callback(self._notifier.update)
            parts.push_async_callback(self._reaper.stop)
            log_buffer = LogBuffer()
            handlers = Handlers(
                self,
                self._condition,
                self._controller,
                self._turns,
                self._table,
                self._memory,
                self._post,
                address,
            )
            tokens = self._tokens(settings.auth)
            console = None
            if settings.server.console == "on":
                sign_ins = SignIns(address.url, secrets.token_urlsafe(24), tokens)
                self._console = console = Console(
                    settings.server, sign_ins, handlers, log_buffer, address.url
                )
                console.announce()
            front_door = FrontDoor(
                settings.server,
                tokens,
                self._turns,
                self._exchanges,
                self._table,
                self._condition,
                self._recorder,
                tracing,
                self._metrics,
                console,
                settings.protocols,
            )
            self._admit = front_door.take_over
            await front_door.listen(sock, is_shared=passed_on)
            parts.push_async_callback(front_door.close)
            if console is not None:
                parts.callback(console.close)  # open streams would delay the end of the front door
            if passed_on:
                self._stop_accepting = front_door.leave
            logging.getLogger().addHandler(log_buffer)
            parts.callback(logging.getLogger().removeHandler, log_buffer)
            control = ControlServer(handlers, log_buffer)
            await control.listen(control_sock)
            parts.push_async_callback(control.close)
            self._start_heartbeat(parts)
            parts.callback(self._turns.close)
            if self._metrics is not None:
                parts.callback(self._metrics.close)
            memory_watch = MemoryWatch(
                self._memory,
                self._controller.memory_limited,
                lambda *seen: self._post(partial(self._controller.memory_measured, *seen)),
            )
            parts.push_async_callback(memory_watch.stop)
            self._hang_watch = HangWatch(settings.supervisor.unresponsive_timeout, self._pool, self._post)
            parts.callback(self._hang_watch.stop)
            if self._project.watched:
                writes = kernel.shared_record()
                parts.callback(os.close, writes)
                os.environ[WRITES] = str(writes)  # for the workers: see `processes.spawn`
                parts.callback(os.environ.pop, WRITES)
                self._watcher = Watcher(self._project.folder, self._watch_filter(), writes, self._edited)
                self._watcher.start()
                parts.push_async_callback(self._watcher.close)
            self._post(self._controller.start)
            return await self._controller.finished

    def _start_heartbeat(self, parts: AsyncExitStack) -> None:
        platform = self._settings.platform
        if platform is not None:
            from agentscope_supervisor.heartbeat.loop import Heartbeat  # only with a platform

            leaves = self._settings.supervisor.on_platform_restart == "exit"
            self._heartbeat = Heartbeat(platform, self, self._memory, self._post, leaves=leaves)
            self._condition.platform_failures = self._heartbeat.failures
            self._condition.platform_failing = self._heartbeat.failing
            self._heartbeat.start()
            parts.push_async_callback(self._heartbeat.close)

    # -- Actions and Host: the interfaces for the operator and the platform ---------------------

    def vital_signs(self) -> VitalSigns:
        from agentscope_supervisor.heartbeat.loop import VitalSigns

        status = self._condition.status()
        return VitalSigns(_PLATFORM_STATUS.get(status, status), self._condition.figures())

    def check(self) -> ReloadRefused | None:
        return self._controller.check()

    def reload(self, *, even_unchanged: bool, code_only: bool = False) -> Rolling | Unchanged | ReloadRefused:
        if not self._fleet.stopping:
            self._notifier.reloading()
        outcome = self._controller.reload(even_unchanged=even_unchanged, code_only=code_only)
        if isinstance(outcome, ReloadRefused):
            self._condition.trouble = outcome.reason
        if not isinstance(outcome, Rolling):
            self._notifier.reloaded()
        return outcome

    def reload_soon(self) -> None:
        """Load the code and the configuration of the project again. No package was installed meanwhile."""

        def reload() -> None:
            self.reload(even_unchanged=True, code_only=True)

        self._post(reload)

    def roll(self) -> Rolling | ReloadRefused:
        if not self._fleet.stopping:
            self._notifier.reloading()
        return self._controller.roll()

    def depart(self, reason: str) -> None:
        if not self._pool.stopping:
            log.info("stopping on request of the platform", extra={"reason": reason})
            self._stop()

    def scale(self, slots: int) -> None:
        self._post(partial(self._controller.scale, slots))

    def stop(self, *, at_once: bool) -> None:
        """Stop the instance. `at_once`: do not wait for open turns."""
        if not self._pool.stopping:
            self._post(self._stop)
        if at_once:
            self._post(self._stop_at_once)

    def _watch_filter(self) -> WatchFilter:
        project, settings = self._project, self._controller.settings
        save_dir, rules = Path(settings.session.save_dir), settings.reload
        return WatchFilter(project.folder, project.config, save_dir, rules.include, rules.exclude)

    # -- events ---------------------------------------------------------------------------------

    def _edited(self, files: str) -> None:
        """Files of the project have changed: replace the workers."""
        log.info("files changed; reload.exclude excludes files", extra={"files": files})
        self.reload_soon()

    def _ready(self) -> None:
        self._notifier.ready()
        self._on_ready()

    def _rollout_ended(self, revision: int, failure: str) -> None:
        if self._heartbeat is not None:
            # Later: a rollout may end before `reload` has returned its revision to the heartbeat.
            self._post(partial(self._heartbeat.rollout_ended, revision, failure))
        if failure or revision == self._controller.revisions.newest:
            self._condition.trouble = failure
        if not failure:
            settings = self._controller.settings
            self._hang_watch.set_timeout(settings.supervisor.unresponsive_timeout)
            self._admit(self._tokens(settings.auth))
            if self._watcher is not None:
                self._watcher.filter = self._watch_filter()
        self._notifier.reloaded()

    def _tokens(self, auth: AuthSettings) -> Tokens:
        """The tokens that admit callers. `server.auth_token` stays until a restart."""
        return Tokens(self._settings.server.auth_token, auth)

    def _stop_signal(self) -> None:
        self.stop(at_once=self._pool.stopping)

    def _hang_up(self) -> None:
        if self._terminal is not None and self._terminal.is_closed:
            self.stop(at_once=False)  # the kernel and a shell may both send HUP, which is no second request
        else:
            self.reload(even_unchanged=True)

    def _stop(self) -> None:
        log.info("stopping", extra={"turns": len(self._ledger)})
        self._stop_accepting()
        self._controller.stop()
        limits = self._controller.settings.supervisor
        self._notifier.stopping(limits.drain_timeout + limits.stop_timeout + END_MARGIN)

    def _stop_at_once(self) -> None:
        log.warning("stopping at once", extra={"turns": len(self._ledger)})
        self._reaper.hurry()
        self._controller.stop_at_once()
