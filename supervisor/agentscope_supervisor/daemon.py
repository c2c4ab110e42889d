"""The supervisor itself: decisions and shells put together. One event at a time, in one place.

Whatever happens (a request, the end of a turn, an exit, a signal, a timer) goes through one queue and becomes
a call of `fleet` or `ledger`; the commands that come back are carried out here, in order, before the next
event is looked at. Nothing calls back into a decision. The bytes of answers do not come this way: they go
from `worker_link` to `answer` directly.
"""

import asyncio
import logging
import os
import random
import signal
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from agentscope_protocol import settings as settings_module
from agentscope_protocol.errors import Code, LocalProtocolError
from agentscope_protocol.frames import CancelReason
from agentscope_protocol.settings import Settings, SettingsError
from agentscope_supervisor import __version__, fleet, ledger, lifecycle, routing, signals
from agentscope_supervisor.answer import Answer
from agentscope_supervisor.control import MAX_SLOTS, Control
from agentscope_supervisor.deaths import Cause, Death, Verdict
from agentscope_supervisor.desk import OperatorsDesk
from agentscope_supervisor.front_door import FrontDoor
from agentscope_supervisor.heartbeat import Heartbeat, VitalSigns
from agentscope_supervisor.instance import Address
from agentscope_supervisor.invocation import Invocation
from agentscope_supervisor.journal import Journal
from agentscope_supervisor.ledger import Turn
from agentscope_supervisor.memory_watch import MemoryWatch
from agentscope_supervisor.metrics import Look, Metrics
from agentscope_supervisor.orphans import Orphans
from agentscope_supervisor.outcomes import ErrorCode, Failure, refusal
from agentscope_supervisor.poison import Poison
from agentscope_supervisor.project import Project, ProjectError
from agentscope_supervisor.pulse import Pulse
from agentscope_supervisor.recorder import Recorder, limits
from agentscope_supervisor.rollouts import Refused, Rolling, Rollouts, Unchanged
from agentscope_supervisor.sdnotify import Notifier
from agentscope_supervisor.sessions_seen import SessionsSeen
from agentscope_supervisor.store import Store
from agentscope_supervisor.tracing import Tracing
from agentscope_supervisor.wear import Wear
from agentscope_supervisor.workforce import Process, Workforce

log = logging.getLogger(__name__)

_MAINTENANCE: Final = refusal(ErrorCode.DRAINING, "the instance is in maintenance")
END_MARGIN: Final = 15.0  # seconds from the last worker's deadline to our end: answers leave, orphans end
RETURN_WITHIN: Final = 10.0
"""Seconds after which a client that sent an Idempotency-Key and lost its connection is taken to have left:
who sends a key means to ask again, and finds its turn still running."""

SWEEP_EVERY: Final = 0.5  # seconds between two looks for turns that have taken too long

_PLATFORM_STATUS: Final = {"healthy": "running", "unhealthy": "degraded"}
"""The platform's words for ours, where they differ."""


class Daemon:
    """One running instance. `run` is its whole life; to be made on the event loop that runs it. `store`: the
    file for what must outlive it."""

    def __init__(self, project: Project, settings: Settings, store: Path) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._project: Final = project
        self._settings: Final = settings
        self._queue: Final[deque[Callable[[], None]]] = deque()
        self._handling = False
        self._rollouts: Final = Rollouts(settings_module.dump(settings))
        self._maintenance = False
        self._idle: Final[set[asyncio.Future[None]]] = set()  # who waits until no turn is open
        slots = worker_count(settings)
        self._fleet: Final = fleet.Fleet(slots, settings.supervisor.start_deadline, settings.supervisor.soak)
        self._ledger: Final = ledger.Ledger(_limits(settings), slots, routing.slot_of)
        self._workforce: Final = Workforce(settings, project.folder, self, self._post)
        self._orphans: Final = Orphans(self._workforce.marks)
        self._trouble = ""  # why the last reload came to nothing
        self._open: Final[dict[int, tuple[Invocation, Answer]]] = {}  # by number of the turn
        self._store: Final = Store(store, limits(settings.sessions))
        self._recorder: Final = Recorder(settings.sessions, self._store)
        self._poison: Final = Poison()
        self._blamed: Final[set[int]] = set()  # turns that keep killing were lost with these processes
        self._wear: Final = Wear(settings.supervisor.max_turns, settings.supervisor.max_memory_mb)
        self._fleet_timer: asyncio.TimerHandle | None = None
        self._sweeping = False
        self._seen: Final = SessionsSeen()
        self._deaths = 0  # of workers that nobody asked to end
        self._heartbeat: Heartbeat | None = None
        self._metrics: Final = Metrics(self) if settings.server.metrics else None
        self._started_at: Final = self._loop.time()
        self._finished: Final[asyncio.Future[int]] = self._loop.create_future()
        self.failure = ""
        """Why the instance could not start, as its worker told it; for a person."""
        self._manager: Final = Notifier(os.environ, os.getpid(), self._described)
        self._leave_door: Callable[[], None] = lambda: None

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
                signal.SIGQUIT: self._workforce.dump_stacks,
                signal.SIGTTIN: lambda: self.scale(min(self._fleet.size + 1, MAX_SLOTS)),
                signal.SIGTTOU: lambda: self.scale(max(self._fleet.size - 1, 1)),
            }
        )
        pulse = Pulse(self._settings.supervisor.unresponsive_timeout, self._workforce, self._post)
        memory_watch = None
        if self._settings.supervisor.max_memory_mb is not None:
            memory_watch = MemoryWatch(
                self._measurable, lambda *seen: self._post(partial(self._weigh, *seen))
            )
        traced = self._settings.tracing
        tracing = Tracing(traced.endpoint, self._project.folder.name) if traced is not None else None
        door = FrontDoor(self._settings.server, self, self._recorder, tracing, self._metrics)
        self._store.start()
        await door.listen(sock)
        if passed_on:
            self._leave_door = door.leave
        if self._settings.platform is not None:
            leaves = self._settings.supervisor.on_platform_restart == "exit"
            self._heartbeat = Heartbeat(self._settings.platform, self, self._post, leaves=leaves)
            self._heartbeat.start()
        journal = Journal()
        logging.getLogger().addHandler(journal)
        control = Control(self._operators_desk(address), journal)
        await control.listen(control_sock)
        self._post(lambda: self._carry_out(self._fleet.start(self._loop.time())))
        try:
            return await self._finished
        finally:
            pulse.stop()
            if memory_watch is not None:
                await memory_watch.stop()
            if self._metrics is not None:
                self._metrics.close()
            self._carry_out_turns(self._ledger.close())
            if self._heartbeat is not None:
                await self._heartbeat.close()
            await control.close()
            logging.getLogger().removeHandler(journal)
            await door.close()
            await self._orphans.stop()
            self._manager.update()
            self._manager.close()
            self._recorder.close()
            await self._store.close()
            if tracing is not None:
                await tracing.close()

    # -- Desk: what the front door asks -----------------------------------------------------

    def submit(self, request: Invocation, answer: Answer) -> Turn | Failure:
        if self._maintenance:
            return _MAINTENANCE
        if len(self._poison):
            refused = self._poison.refusal(request.session_id, request.body, self._loop.time())
            if refused is not None:
                return refused
        turn, commands = self._ledger.accept(
            answer.run_id,
            request.session_id,
            len(request.body),
            request.principal,
            request.on_busy or self._settings.sessions.on_busy,
            self._loop.time(),
        )
        if isinstance(turn, Turn):
            self._open[turn.number] = request, answer
            self._recorder.begin(request, turn, answer)
            self._post(lambda: self._carry_out_turns(commands))
            self._sweep_soon()
        return turn

    def leave(self, turn: Turn) -> None:
        entry = self._open.get(turn.number)
        if entry is not None and self._settings.sessions.on_disconnect == "cancel":
            if entry[0].key is None:
                self._post(partial(self._left, turn))
            else:
                self._loop.call_later(RETURN_WITHIN, self._post, partial(self._left, turn))

    def ahead(self, turn: Turn) -> int:
        return self._ledger.ahead(turn)

    def interrupt(self, *, session_id: str | None, run_id: str | None) -> int:
        count, commands = self._ledger.interrupt(self._loop.time(), session_id=session_id, run_id=run_id)
        self._post(lambda: self._carry_out_turns(commands))
        return count

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
                for process in self._workforce
            ],
            "turns": {"open": len(self._ledger), "accepted": self._ledger.total},
            "orphans": self._orphans.counted(),
            "store": {
                "status": "degraded" if self._store.failure else "ok",
                "reason": self._store.failure or None,
            },
        }

    def unready(self) -> Failure | None:
        if self._fleet.stopping:
            return refusal(ErrorCode.DRAINING, "the instance is stopping")
        if self._maintenance:
            return _MAINTENANCE
        if self._fleet.serving() == 0:
            return refusal(ErrorCode.NOT_READY, "no worker is ready")
        return None

    def _status(self) -> str:
        if self._fleet.stopping:
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

    def look(self) -> Look:
        running = self._ledger.running()
        heartbeat = self._heartbeat
        return Look(
            running=running,
            waiting=len(self._ledger) - running,
            active_sessions=self._active_sessions(),
            workers=Counter(process.state for process in self._workforce),
            worker_pids=self._worker_pids(),
            rolling=self._fleet.rolling,
            platform_failures=heartbeat.failures if heartbeat is not None else {},
        )

    def _active_sessions(self) -> int:
        running = (invocation.session_id for invocation, _ in self._open.values())
        return self._seen.active(running, self._loop.time())

    def _worker_pids(self) -> list[int]:
        """Of what is counted as the workers' memory: the one they are copies of included."""
        return list(self._workforce.marks())

    # -- Host: what the platform asks ---------------------------------------------------------

    def vital_signs(self) -> VitalSigns:
        status = self._status()
        metrics = {
            "active_sessions": self._active_sessions(),
            "total_requests": self._ledger.total,
            "in_flight": len(self._ledger),
            "workers": self._fleet.serving(),
            "restarts": self._deaths,
            "generation": max(slot.generation for slot in self._fleet.slots),
        }
        return VitalSigns(_PLATFORM_STATUS.get(status, status), metrics, self._worker_pids())

    def check(self) -> Refused | None:
        settings = self._read_settings()
        return settings if isinstance(settings, Refused) else None

    def reload(self, *, even_unchanged: bool) -> Rolling | Unchanged | Refused:
        if self._fleet.stopping:
            return Refused("the instance is stopping")
        self._manager.reloading()
        settings = self._read_settings()
        if isinstance(settings, Refused):
            self._trouble = settings.reason
            self._manager.reloaded()
            return settings
        snapshot = settings_module.dump(settings)
        if snapshot == self._rollouts.snapshot(self._fleet.edition) and not even_unchanged:
            self._manager.reloaded()
            return Rolling(self._fleet.edition, "") if self._fleet.rolling else Unchanged()
        stale = ", ".join(_needs_restart(self._settings, settings))
        if stale:
            log.warning("these changes need a restart of the instance", extra={"keys": stale})
        return self._roll_to(
            snapshot, f"these changes need a restart of the instance: {stale}" if stale else ""
        )

    def roll(self) -> Rolling | Refused:
        """Replace all workers, without a look at the file."""
        if self._fleet.stopping:
            return Refused("the instance is stopping")
        self._manager.reloading()
        return self._roll_to(self._rollouts.snapshot(self._fleet.edition), "")

    def _roll_to(self, snapshot: bytes, note: str) -> Rolling:
        edition = self._rollouts.begin(snapshot)
        log.info("replacing all workers", extra={"edition": edition})
        self._post(lambda: self._carry_out(self._fleet.roll(edition, self._loop.time())))
        return Rolling(edition, note)

    def depart(self, reason: str) -> None:
        if not self._workforce.stopping:
            log.info("leaving", extra={"reason": reason})
            self._stop()

    # -- Overseer: what happens to processes and their turns ----------------------------------

    def became_ready(self, process: Process) -> None:
        first = not self._fleet.ever_ready
        self._carry_out(self._fleet.ready(process.number, self._loop.time()))
        if first and self._fleet.ever_ready:
            log.info("instance is ready", extra={"slots": self._fleet.size})
            self._manager.ready()

    def left_ready(self, process: Process) -> None:
        self._fleet.unready(process.number)
        if self._ledger.assigned(process.slot) == process.number:
            self._carry_out_turns(self._ledger.assign(process.slot, None, self._loop.time()))

    def out_of_time(self, process: Process) -> None:
        self._carry_out_turns(self._ledger.cut(process.number, self._loop.time()))

    def is_idle(self, process: Process) -> bool:
        return self._ledger.on_process(process.number) == 0

    def exited(self, process: Process, death: Death) -> None:
        assert process.status is not None, "it has ended"
        now = self._loop.time()
        asked = process.number in self._fleet.leaving
        blamed = process.number in self._blamed
        self._blamed.discard(process.number)
        self._wear.gone(process.number)
        commands = self._fleet.gone(process.number, process.status, now, random.random(), blamed=blamed)
        told = {"worker": process.label, "status": death.ended, "cause": death.verdict, "turns": death.turns}
        self._deaths += not asked
        if self._metrics is not None:
            self._metrics.died(death.verdict.cause)
        if asked:
            log.info("worker ended", extra=told)
        elif not process.failure:
            log.error("worker died", extra=told)
        elif any(isinstance(command, fleet.Finished) for command in commands):
            self.failure = process.failure
        else:
            log.error("worker did not start: %s", process.failure, extra=told)
        self._carry_out(_explained(commands, death))

    def ended(self, turn: Turn, whole: bytes) -> None:
        entry = self._open.get(turn.number)
        if entry is not None:
            entry[1].whole = whole
            self._survived(entry[0])
        self._carry_out_turns(self._ledger.ended(turn))

    def failed(self, turn: Turn, code: Code, message: str) -> None:
        entry = self._open.get(turn.number)
        if entry is not None and turn.process is not None:
            if code is Code.LINK_LOST:
                if turn.process not in self._fleet.leaving and self._poison.lost(
                    turn.session_id, entry[0].body, self._loop.time()
                ):
                    self._blamed.add(turn.process)
            elif code is not Code.UNSENT:
                self._survived(entry[0])
        self._carry_out_turns(self._ledger.failed(turn, code, message))

    def worn(self, process: Process, why: str) -> None:
        asked = self._wear.said(process.number, why, self._loop.time())
        if asked is not None:
            self._replace(process.number, Verdict(Cause.ASKED, asked))

    def _measurable(self) -> dict[int, int]:
        """Number and pid of the processes that may be replaced for their memory."""
        ready = [each for each in self._workforce if each.state is lifecycle.State.READY]
        return {each.number: each.child.pid for each in ready if each.child is not None}

    def _weigh(self, number: int, megabytes: float) -> None:
        worn = self._wear.memory(number, megabytes, self._loop.time())
        if worn is not None:
            self._replace(number, Verdict(Cause.MEMORY_LIMIT, worn))

    def _left(self, turn: Turn) -> None:
        """The client of this turn is gone for good, unless somebody reads its answer."""
        entry = self._open.get(turn.number)
        if entry is not None and not entry[1].is_heard:
            self._carry_out_turns(self._ledger.cancel(turn, CancelReason.CLIENT_GONE, self._loop.time()))

    def _survived(self, request: Invocation) -> None:
        if len(self._poison):
            self._poison.survived(request.session_id, request.body)

    def _replace(self, number: int, why: Verdict) -> None:
        """Replace a process that is worn."""
        process = self._workforce[number]
        process.retired = why
        log.info("worker is to be replaced", extra={"worker": process.label, "reason": why.detail})
        self._carry_out(self._fleet.replace(number, self._loop.time()))

    # -- the queue --------------------------------------------------------------------------

    def _post(self, event: Callable[[], None]) -> None:
        """Handle an event now, or after those that are being handled."""
        self._queue.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._queue:
                try:
                    self._queue.popleft()()
                except Exception:  # a bug of ours in one event must not be the end of all others
                    log.exception("event failed")
        finally:
            self._handling = False

    # -- carrying out -----------------------------------------------------------------------

    def _carry_out(self, commands: Iterable[fleet.Command]) -> None:
        for command in commands:
            match command:
                case fleet.Spawn(edition=edition):
                    self._wear.started(command.process, random.random())
                    self._workforce.start(command, self._rollouts.snapshot(edition))
                    if self._metrics is not None:
                        self._metrics.started()
                case fleet.Retire(number, reason):
                    process = self._workforce[number]
                    log.info("worker retires", extra={"worker": process.label, "reason": reason})
                    self._workforce.retire(process, Verdict(Cause.ASKED, reason))
                case fleet.Assign(slot, assigned):
                    self._carry_out_turns(self._ledger.assign(slot, assigned, self._loop.time()))
                case fleet.Resize(slots):
                    log.info("sessions are shared out anew", extra={"slots": slots})
                    self._carry_out_turns(self._ledger.resize(slots, self._loop.time()))
                case fleet.RolloutEnded(edition, failure):
                    self._rollout_ended(edition, failure)
                case fleet.Finished(status):
                    if not self._finished.done():
                        self._finished.set_result(status)
        self._arm_fleet_timer()

    def _carry_out_turns(self, commands: Iterable[ledger.Command]) -> None:
        for command in commands:
            match command:
                case ledger.Hand(turn, number):
                    self._hand(number, turn)
                case ledger.Cancel(turn, number, reason):
                    self._workforce.cancel(number, turn, reason)
                case ledger.Settle(turn, failure):
                    _, answer = self._open.pop(turn.number)
                    self._seen.ended(turn.session_id, self._loop.time())
                    if self._metrics is not None:
                        self._metrics.turn(answer, failure, self._loop.time())
                    answer.settle(failure, self._loop.time())
                    self._recorder.end(answer, failure)
                    if not self._open:
                        self._tell_idle()
                case ledger.Idle(number):
                    self._workforce.step_number(number, lifecycle.Drained())
                case ledger.Distrust(turn, number):
                    log.error(
                        "turn ignores its cancellation; its worker is replaced",
                        extra={"slot": turn.slot, "run": turn.run_id},
                    )
                    self._carry_out(self._fleet.replace(number, self._loop.time()))

    def _hand(self, number: int, turn: Turn) -> None:
        try:
            self._workforce.hand(number, turn, *self._open[turn.number])
            worn = self._wear.turn(number, self._loop.time())
            if worn is not None:
                self._post(partial(self._replace, number, Verdict(Cause.TURN_LIMIT, worn)))
        except LocalProtocolError as error:
            log.error("turn cannot be sent", extra={"run": turn.run_id, "reason": str(error)})
            self._post(partial(self.failed, turn, Code.PROTOCOL, "the turn cannot be sent to a worker"))

    def _rollout_ended(self, edition: int, failure: str) -> None:
        if self._metrics is not None:
            self._metrics.rolled(well=not failure)
        if self._heartbeat is not None:
            # Later: a rollout may be over before the one who asked for it knows its edition.
            self._post(partial(self._heartbeat.rollout_ended, edition, failure))
        self._rollouts.ended(edition, failure, self._fleet.edition)
        if failure:
            log.error("rollout failed, the old workers go on", extra={"edition": edition, "reason": failure})
            self._trouble = failure
            self._manager.reloaded()
            return
        log.info("rollout done", extra={"edition": edition})
        if edition == self._rollouts.newest:
            self._trouble = ""
        self._manager.reloaded()

    # -- signals and timers -------------------------------------------------------------------

    def _stop_signal(self) -> None:
        self.stop(at_once=self._workforce.stopping)

    def stop(self, *, at_once: bool) -> None:
        """End the instance. `at_once`: do not wait for turns."""
        if not self._workforce.stopping:
            self._post(self._stop)
        if at_once:
            self._post(self._stop_at_once)

    def _stop(self) -> None:
        log.info("stopping", extra={"turns": len(self._ledger)})
        self._leave_door()
        self._workforce.stop()
        self._rollouts.stopped()
        self._carry_out_turns(self._ledger.drain())
        self._carry_out(self._fleet.stop("the instance stops"))
        limits = self._settings.supervisor
        self._manager.stopping(limits.drain_timeout + limits.stop_timeout + END_MARGIN)

    def _stop_at_once(self) -> None:
        log.warning("stopping at once", extra={"turns": len(self._ledger)})
        self._orphans.hurry()
        for process in list(self._workforce):
            self._carry_out_turns(self._ledger.cut(process.number, self._loop.time()))
            self._workforce.condemn(process, Verdict(Cause.ASKED, "the instance stops at once"))

    def _read_settings(self) -> Settings | Refused:
        try:
            return self._project.read_settings()
        except (ProjectError, SettingsError) as error:
            log.error("reload refused, the old configuration goes on: %s", error)
            return Refused(str(error))

    def scale(self, slots: int) -> None:
        """Have this many slots, at least one; those that are taken away end the turns they have."""
        log.info("slots are wanted", extra={"slots": slots})
        self._post(lambda: self._carry_out(self._fleet.scale(slots, self._loop.time())))

    def reset(self, slot: int) -> None:
        """Close the breaker of a slot, and start it at once."""
        log.info("slot is reset", extra={"slot": slot})
        self._post(lambda: self._carry_out(self._fleet.reset(slot, self._loop.time())))

    def kill(self, process: Process, verdict: Verdict) -> None:
        """End a process at once; the fleet starts the next one as after any death."""
        log.warning("worker is killed", extra={"worker": process.label, "cause": verdict})
        self._post(lambda: self._workforce.condemn(process, verdict))

    def maintain(self, on: bool) -> None:
        """Refuse new turns and say so where readiness is asked for, or take them again."""
        if on is not self._maintenance:
            log.info("maintenance begins" if on else "maintenance ends", extra={"turns": len(self._ledger)})
        self._maintenance = on

    async def idle(self) -> None:
        """Wait until no turn is open."""
        if self._open:
            waiter = self._loop.create_future()
            self._idle.add(waiter)
            try:
                await waiter
            finally:
                self._idle.discard(waiter)

    def _tell_idle(self) -> None:
        for waiter in self._idle:
            if not waiter.done():
                waiter.set_result(None)

    def _operators_desk(self, address: Address) -> OperatorsDesk:
        return OperatorsDesk(
            self, self._fleet, self._ledger, self._workforce, self._rollouts, self._open, address
        )

    def _sweep_soon(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_EVERY, self._post, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = False
        self._carry_out_turns(self._ledger.expire(self._loop.time()))
        if len(self._ledger):
            self._sweep_soon()

    def _arm_fleet_timer(self) -> None:
        if self._fleet_timer is not None:
            self._fleet_timer.cancel()
            self._fleet_timer = None
        due = self._fleet.next_due
        if due is not None:
            tick = partial(self._post, lambda: self._carry_out(self._fleet.tick(self._loop.time())))
            self._fleet_timer = self._loop.call_at(due, tick)


def worker_count(settings: Settings) -> int:
    """`supervisor.workers`, with `auto` resolved to the CPUs that this process may use."""
    workers = settings.supervisor.workers
    if isinstance(workers, int):
        return workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _explained(commands: list[fleet.Command], death: Death) -> Iterator[fleet.Command]:
    """These commands; a rollout that this death has ended is told with its reason."""
    for command in commands:
        if isinstance(command, fleet.RolloutEnded) and command.failure:
            yield fleet.RolloutEnded(command.edition, f"{command.failure}: {death.verdict}")
        else:
            yield command


def _needs_restart(old: Settings, new: Settings) -> Iterator[str]:
    """The keys that differ and that the supervisor itself has read at its start."""
    for section in ("server", "sessions", "supervisor", "platform", "tracing"):
        before, after = getattr(old, section), getattr(new, section)
        if before != after:
            keys = type(before or after).model_fields
            yield from (f"{section}.{k}" for k in keys if getattr(before, k, None) != getattr(after, k, None))


def _limits(settings: Settings) -> ledger.Limits:
    return ledger.Limits(
        max_turns=settings.server.max_turns,
        max_inflight=settings.supervisor.max_inflight,
        max_queue=settings.sessions.max_queue,
        max_turns_per_principal=settings.server.max_turns_per_principal,
        request_timeout=settings.server.request_timeout,
        start_timeout=settings.supervisor.start_timeout,
        cancel_grace=settings.sessions.cancel_grace,
    )
