"""The supervisor itself: decisions and shells put together, and the life of the whole.

Whatever happens (a request, the end of a turn, an exit, a signal, a timer) goes through one queue and becomes
a call of `fleet` or `ledger`, by way of `workers.controller` and `turns.service`; the commands that come back
are carried out there, in order, before the next event is looked at. Here is who knows whom, what starts and
ends in which order, and how the instance describes itself to those who ask.
"""

import asyncio
import logging
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from agentscope_protocol.config.setting_types import MAX_WORKERS
from agentscope_protocol.config.settings import Settings
from agentscope_supervisor import __version__
from agentscope_supervisor.control.handlers import Handlers
from agentscope_supervisor.control.server import ControlServer
from agentscope_supervisor.domain.errors import ErrorCode, Failure, refusal
from agentscope_supervisor.domain.request import TurnRequest
from agentscope_supervisor.domain.turn import Turn
from agentscope_supervisor.heartbeat.loop import Heartbeat, VitalSigns
from agentscope_supervisor.processes.reaper import Reaper
from agentscope_supervisor.project.config import Project
from agentscope_supervisor.project.watch_filter import WatchFilter
from agentscope_supervisor.project.watcher import Watcher
from agentscope_supervisor.runs.client_stream import Answer
from agentscope_supervisor.runs.recorder import Recorder, limits
from agentscope_supervisor.runs.store import Store
from agentscope_supervisor.system import signals
from agentscope_supervisor.system.event_queue import EventQueue
from agentscope_supervisor.system.instance_dir import Address
from agentscope_supervisor.system.log_buffer import LogBuffer
from agentscope_supervisor.system.process_memory import ProcessMemory
from agentscope_supervisor.system.sdnotify import Notifier
from agentscope_supervisor.telemetry.metrics import Gauges, Metrics
from agentscope_supervisor.turns.service import MAINTENANCE, TurnService
from agentscope_supervisor.turns.session_table import SessionTable
from agentscope_supervisor.web.app import FrontDoor
from agentscope_supervisor.web.console import Console
from agentscope_supervisor.web.tracing import Tracing
from agentscope_supervisor.workers.controller import Controller, worker_count
from agentscope_supervisor.workers.exit_reasons import Cause, ExitReason
from agentscope_supervisor.workers.hang_watch import HangWatch
from agentscope_supervisor.workers.lifecycle import ProcessState
from agentscope_supervisor.workers.memory_watch import MemoryWatch
from agentscope_supervisor.workers.process import Process
from agentscope_supervisor.workers.revisions import ReloadRefused, Rolling, Unchanged

log = logging.getLogger(__name__)

END_MARGIN: Final = 15.0  # seconds from the last worker's deadline to our end: answers leave, orphans end

_PLATFORM_STATUS: Final = {"healthy": "running", "unhealthy": "degraded"}
"""The platform's words for ours, where they differ."""


class Daemon:
    """One running instance. `run` is its whole life; to be made on the event loop that runs it. `store`: the
    file for what must outlive it."""

    def __init__(self, project: Project, settings: Settings, store: Path) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._project: Final = project
        self._settings: Final = settings
        self._post: Final = EventQueue().post
        self._memory: Final = ProcessMemory(lambda: [os.getpid(), *self._pool.marks()])
        states = [state.name.lower() for state in ProcessState if state < ProcessState.GONE]
        self._metrics: Final = Metrics(self, self._memory, states, Cause) if settings.server.metrics else None
        self._store: Final = Store(store, limits(settings.sessions))
        self._recorder: Final = Recorder(settings.sessions, self._store)
        self._turns: Final = TurnService(
            settings, worker_count(settings), self._post, self._recorder, self._metrics
        )
        self._ledger: Final = self._turns.ledger
        self._table: Final = SessionTable(self._ledger, self._turns.open)
        self._controller: Final = Controller(
            project, settings, self._turns, self._post, self._metrics, self._ready, self._rollout_ended
        )
        self._turns.hands = self._controller
        self._fleet: Final = self._controller.fleet
        self._pool: Final = self._controller.pool
        self._reaper: Final = Reaper(self._pool.marks)
        self._heartbeat: Heartbeat | None = None
        self._hang_watch: HangWatch
        self._started_at: Final = self._loop.time()
        self._trouble = ""  # why the last reload came to nothing
        self._manager: Final = Notifier(os.environ, os.getpid(), self._described)
        self._leave_door: Callable[[], None] = lambda: None

    @property
    def failure(self) -> str:
        """Why the instance could not start, as its worker told it; for a person."""
        return self._controller.failure

    async def run(
        self, sock: socket.socket, control_sock: socket.socket, address: Address, *, passed_on: bool = False
    ) -> int:
        """Serve on two bound sockets until stopped; returns the exit status.

        `address`: what is published of it. `passed_on`: `sock` is there before and after us, so that who
        comes while we stop is left to the next.
        """
        signals.install(
            {
                signal.SIGTERM: self._stop_signal,
                signal.SIGINT: self._stop_signal,
                signal.SIGHUP: partial(self.reload, even_unchanged=True),
                signal.SIGQUIT: self._pool.dump_stacks,
                signal.SIGTTIN: lambda: self.scale(min(self._fleet.size + 1, MAX_WORKERS)),
                signal.SIGTTOU: lambda: self.scale(max(self._fleet.size - 1, 1)),
            }
        )
        self._hang_watch = HangWatch(self._settings.supervisor.unresponsive_timeout, self._pool, self._post)
        memory_watch = MemoryWatch(
            self._memory,
            self._controller.memory_limited,
            lambda *seen: self._post(partial(self._controller.memory_measured, *seen)),
        )
        traced = self._settings.tracing
        tracing = Tracing(traced.endpoint, self._project.folder.name) if traced is not None else None
        log_buffer = LogBuffer()
        logging.getLogger().addHandler(log_buffer)
        desk = self._operators_desk(address)
        has_console = self._settings.server.console == "on"
        console = Console(self._settings.server, desk, log_buffer) if has_console else None
        door = FrontDoor(self._settings.server, self, self._recorder, tracing, self._metrics, console)
        self._store.start()
        await door.listen(sock)
        if passed_on:
            self._leave_door = door.leave
        if self._settings.platform is not None:
            leaves = self._settings.supervisor.on_platform_restart == "exit"
            self._heartbeat = Heartbeat(
                self._settings.platform, self, self._memory, self._post, leaves=leaves
            )
            self._heartbeat.start()
        control = ControlServer(desk, log_buffer)
        await control.listen(control_sock)
        watcher = self._watcher() if self._project.watched else None
        if watcher is not None:
            watcher.start()
        self._post(self._controller.start)
        try:
            return await self._controller.finished
        finally:
            if watcher is not None:
                await watcher.close()
            self._hang_watch.stop()
            await memory_watch.stop()
            if self._metrics is not None:
                self._metrics.close()
            self._turns.close()
            if self._heartbeat is not None:
                await self._heartbeat.close()
            await control.close()
            logging.getLogger().removeHandler(log_buffer)
            if console is not None:
                console.close()
            await door.close()
            await self._reaper.stop()
            self._manager.update()
            self._manager.close()
            self._recorder.close()
            await self._store.close()
            if tracing is not None:
                await tracing.close()

    # -- Desk: what the front door asks -----------------------------------------------------

    def submit(self, request: TurnRequest, answer: Answer) -> Turn | Failure:
        return self._turns.submit(request, answer)

    def leave(self, turn: Turn) -> None:
        self._turns.leave(turn)

    def ahead(self, turn: Turn) -> int:
        return self._ledger.ahead(turn)

    def interrupt(self, *, session_id: str | None, run_id: str | None) -> int:
        return self._turns.interrupt(session_id=session_id, run_id=run_id)

    def health(self) -> dict[str, Any]:
        platform = self._settings.platform
        return {
            "status": self._status(),
            "instance_id": platform.instance_id if platform is not None else None,
            "uptime": round(self._loop.time() - self._started_at, 3),
            "version": __version__,
            "workers": [
                {
                    "slot": process.slot,
                    "generation": process.generation,
                    "pid": process.child.pid if process.child is not None else None,
                    "state": process.state.name.lower(),
                    "turns": self._ledger.on_process(process.number),
                }
                for process in self._pool
            ],
            "turns": {"open": len(self._ledger), "accepted": self._ledger.total},
            "orphans": self._reaper.counts(),
            "store": {
                "status": "degraded" if self._store.failure else "ok",
                "reason": self._store.failure or None,
            },
        }

    def unready(self) -> Failure | None:
        if self._fleet.stopping:
            return refusal(ErrorCode.DRAINING, "the instance is stopping")
        if self._turns.maintenance:
            return MAINTENANCE
        if self._fleet.serving() == 0:
            return refusal(ErrorCode.NOT_READY, "no worker is ready")
        return self._ledger.full()

    def session(self, session_id: str) -> dict[str, Any] | None:
        return self._table.row(session_id, self._loop.time())

    async def sessions(self, after: str, limit: int) -> tuple[list[dict[str, Any]], str | None]:
        return await self._table.page(after, limit, self._loop.time())

    def _status(self) -> str:
        if self._fleet.stopping or self._turns.maintenance:
            return "draining"
        if not self._fleet.ever_ready:
            return "starting"
        serving = self._fleet.serving()
        if serving == 0:
            return "unhealthy"
        return "healthy" if serving == self._fleet.size else "degraded"

    def _described(self) -> str:
        """The instance in one line, for the service manager."""
        turns = "1 turn" if len(self._ledger) == 1 else f"{len(self._ledger)} turns"
        text = f"{self._fleet.serving()} of {self._fleet.size} workers, {turns}"
        if self._status() in ("starting", "draining"):
            text = f"{self._status()}: {text}"
        if self._trouble:
            text += f"; the last reload failed: {self._trouble}"
        return f"{text}; the app cannot start: {self.failure}" if self.failure else text

    # -- Source: what metrics look at ---------------------------------------------------------

    def gauges(self) -> Gauges:
        running = self._ledger.running()
        heartbeat = self._heartbeat
        return Gauges(
            running=running,
            waiting=len(self._ledger) - running,
            active_sessions=self._turns.active_sessions(),
            workers=Counter(process.state.name.lower() for process in self._pool),
            rolling=self._fleet.rolling,
            platform_failures=heartbeat.failures if heartbeat is not None else {},
        )

    def outlook(self) -> dict[str, Any]:
        running, platform, heartbeat = self._ledger.running(), self._settings.platform, self._heartbeat
        return {
            "turns": {"running": running, "waiting": len(self._ledger) - running},
            "sessions": self._turns.active_sessions(),
            "latency": self._turns.latencies.told(),
            "platform": {
                "instance_id": platform.instance_id,
                "failing": sorted(heartbeat.failing),
                "failures": heartbeat.failures.total(),
            }
            if platform is not None and heartbeat is not None
            else None,
            "trouble": self._trouble or None,
        }

    # -- Host and InstanceActions: what the platform and the operator ask ----------------------

    def vital_signs(self) -> VitalSigns:
        status = self._status()
        metrics = {
            "active_sessions": self._turns.active_sessions(),
            "total_requests": self._ledger.total,
            "in_flight": len(self._ledger),
            "workers": self._fleet.serving(),
            "restarts": self._controller.restarts,
            "generation": max(slot.generation for slot in self._fleet.slots),
        }
        return VitalSigns(_PLATFORM_STATUS.get(status, status), metrics)

    def check(self) -> ReloadRefused | None:
        return self._controller.check()

    def reload(self, *, even_unchanged: bool, code_only: bool = False) -> Rolling | Unchanged | ReloadRefused:
        if not self._fleet.stopping:
            self._manager.reloading()
        told = self._controller.reload(even_unchanged=even_unchanged, code_only=code_only)
        if isinstance(told, ReloadRefused):
            self._trouble = told.reason
        if not isinstance(told, Rolling):
            self._manager.reloaded()
        return told

    def roll(self) -> Rolling | ReloadRefused:
        if not self._fleet.stopping:
            self._manager.reloading()
        return self._controller.roll()

    def depart(self, reason: str) -> None:
        if not self._pool.stopping:
            log.info("leaving", extra={"reason": reason})
            self._stop()

    def scale(self, slots: int) -> None:
        self._post(partial(self._controller.scale, slots))

    def reset(self, slot: int) -> None:
        self._post(partial(self._controller.reset, slot))

    def kill(self, process: Process, reason: ExitReason) -> None:
        self._post(partial(self._controller.kill, process, reason))

    def stop(self, *, at_once: bool) -> None:
        """End the instance. `at_once`: do not wait for turns."""
        if not self._pool.stopping:
            self._post(self._stop)
        if at_once:
            self._post(self._stop_at_once)

    def maintain(self, on: bool) -> None:
        """Refuse new turns and say so where readiness is asked for, or take them again."""
        if on is not self._turns.maintenance:
            log.info("maintenance begins" if on else "maintenance ends", extra={"turns": len(self._ledger)})
        self._turns.maintenance = on

    async def idle(self) -> None:
        """Wait until no turn is open."""
        await self._turns.idle()

    def _operators_desk(self, address: Address) -> Handlers:
        return Handlers(
            self,
            self._fleet,
            self._ledger,
            self._pool,
            self._memory,
            self._controller.revisions,
            self._table,
            address,
        )

    def _watcher(self) -> Watcher:
        project = self._project
        edits = WatchFilter(project.folder, project.config, Path(self._settings.session.save_dir))
        return Watcher(project.folder, edits, self._edited)

    # -- what happens ---------------------------------------------------------------------------

    def _edited(self, files: str) -> None:
        """The author has changed these files of the project."""
        log.info("files changed", extra={"files": files})

        def roll() -> None:
            self.reload(even_unchanged=True, code_only=True)

        self._post(roll)

    def _ready(self) -> None:
        self._manager.ready()

    def _rollout_ended(self, revision: int, failure: str) -> None:
        if self._heartbeat is not None:
            # Later: a rollout may be over before the one who asked for it knows its edition.
            self._post(partial(self._heartbeat.rollout_ended, revision, failure))
        if failure or revision == self._controller.revisions.newest:
            self._trouble = failure
        if not failure:
            self._hang_watch.set_timeout(self._controller.settings.supervisor.unresponsive_timeout)
        self._manager.reloaded()

    def _stop_signal(self) -> None:
        self.stop(at_once=self._pool.stopping)

    def _stop(self) -> None:
        log.info("stopping", extra={"turns": len(self._ledger)})
        self._leave_door()
        self._controller.stop()
        limits = self._controller.settings.supervisor
        self._manager.stopping(limits.drain_timeout + limits.stop_timeout + END_MARGIN)

    def _stop_at_once(self) -> None:
        log.warning("stopping at once", extra={"turns": len(self._ledger)})
        self._reaper.hurry()
        self._controller.stop_at_once()
