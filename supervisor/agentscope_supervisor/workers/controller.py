"""Controls the worker processes of an instance: carries out the decisions of `fleet` on `pool`.

Starts, replaces, retires and kills processes, and turns the settings of a reload into a revision that is
rolled out. Receives the events of processes from `pool`, and forwards their effect on turns to
`turns.service`. It must not decide which processes exist; read `fleet` next.
"""

import asyncio
import logging
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from agentscope_protocol.config import settings as settings_module
from agentscope_protocol.config.settings import Settings, SettingsError
from agentscope_protocol.wire.errors import Code
from agentscope_protocol.wire.frames import CancelReason, StreamKind
from agentscope_supervisor.domain.turn import Purpose, Turn
from agentscope_supervisor.exchanges.open_exchange import ExchangeListener, OpenExchange
from agentscope_supervisor.exchanges.service import ExchangeService
from agentscope_supervisor.project.config import Project, ProjectError
from agentscope_supervisor.system import control_group, kernel
from agentscope_supervisor.system.event_queue import Post
from agentscope_supervisor.telemetry.metrics import Metrics
from agentscope_supervisor.turns.service import TurnService
from agentscope_supervisor.workers import fleet_commands, lifecycle, sizing
from agentscope_supervisor.workers.exit_reasons import Cause, ExitReason, ExitRecord
from agentscope_supervisor.workers.fleet import Fleet
from agentscope_supervisor.workers.pool import Pool
from agentscope_supervisor.workers.process import Process
from agentscope_supervisor.workers.recycling import Recycling
from agentscope_supervisor.workers.reloadable_keys import needs_restart
from agentscope_supervisor.workers.revisions import ReloadRefused, Revisions, Rolling, Unchanged

log = logging.getLogger(__name__)

STOPPING: Final = ReloadRefused("the instance is stopping")


class Controller:
    """The slots and processes of one instance. `metrics` is None if metrics are disabled."""

    def __init__(
        self,
        project: Project,
        settings: Settings,
        turns: TurnService,
        exchanges: ExchangeService,
        post: Post,
        metrics: Metrics | None,
        became_ready: Callable[[], None],
        rollout_ended: Callable[[int, str], None],
    ) -> None:
        """Create a controller; `start` begins its work.

        `became_ready` is called when the first process is ready. `rollout_ended` is called with the revision
        and the reason of the failure, which is empty if the rollout succeeded.
        """
        self._project: Final = project
        self._at_start: Final = settings
        self.settings = settings
        """The settings in service: those of the last revision whose rollout succeeded."""
        self._turns: Final = turns
        self._exchanges: Final = exchanges
        self._post: Final = post
        self._metrics: Final = metrics
        self._became_ready: Final = became_ready
        self._rollout_ended: Final = rollout_ended
        self._loop: Final = asyncio.get_running_loop()
        supervisor = settings.supervisor
        self._chosen_slots = slots = worker_count(settings)  # `scale` changes the number until a reload
        self.fleet: Final = Fleet(slots, supervisor.start_deadline, supervisor.soak, waits=project.watched)
        fits = sizing.zygote_fits(slots, control_group.memory_limit())
        self.pool: Final = Pool(settings, project.folder, self, post, fits)
        self.revisions: Final = Revisions(settings_module.dump(settings))
        self.recycling: Final = Recycling(supervisor.max_turns, None)
        self._limit_memory(slots)
        self.restarts = 0
        """Number of workers that exited unexpectedly."""
        self.failure = ""
        """Why the instance could not start, as reported by its worker; for the operator."""
        self._reported = ""  # the last failure of a start
        self.finished: Final[asyncio.Future[int]] = self._loop.create_future()
        """Resolves to the exit status when no process is left and none will be started."""
        self._timer: asyncio.TimerHandle | None = None

    # -- operations; call them from the event queue -------------------------------------------------

    def start(self) -> None:
        """Start the first process. Call it once."""
        self._carry_out(self.fleet.start(self._loop.time()))

    def stop(self) -> None:
        """Stop the instance: each process exits when its turns have ended."""
        self.pool.stop()
        self.revisions.stopped()
        self._turns.drain()
        self._exchanges.drain()
        self._carry_out(self.fleet.stop("the instance stops"))

    def stop_at_once(self) -> None:
        """Kill all processes, and fail their turns."""
        for process in list(self.pool):
            self.drain_timed_out(process)
            self.pool.kill(process, ExitReason(Cause.ASKED, "the instance stops at once"))

    def scale(self, slots: int) -> None:
        """Set the number of slots, at least 1. Removed slots finish their turns."""
        log.info("number of slots changes", extra={"slots": slots})
        self._limit_memory(slots)
        self._carry_out(self.fleet.scale(slots, self._loop.time()))

    def reset(self, slot: int) -> None:
        """Close the breaker of a slot and start its process at once."""
        log.info("slot is reset", extra={"slot": slot})
        self._carry_out(self.fleet.reset(slot, self._loop.time()))

    def kill(self, process: Process, reason: ExitReason) -> None:
        """Kill a process. The fleet starts the next one as after any unexpected exit."""
        log.warning("worker is killed", extra={"worker": process.label, "cause": reason})
        self.pool.kill(process, reason)

    def check(self) -> ReloadRefused | None:
        """Validate the configuration file. Returns None if a reload would accept it."""
        settings = self._read_settings()
        return settings if isinstance(settings, ReloadRefused) else None

    def reload(self, *, even_unchanged: bool, code_only: bool = False) -> Rolling | Unchanged | ReloadRefused:
        """Read the configuration file and replace all workers.

        If the settings have not changed, workers are replaced only with `even_unchanged`. `code_only`: no
        package was installed since the last reload.
        """
        if self.fleet.stopping:
            return STOPPING
        variables = dict(self._project.from_file)
        settings = self._read_settings()
        if isinstance(settings, ReloadRefused):
            return settings
        code_only &= variables == self._project.from_file  # a zygote has the variables of its start
        snapshot = settings_module.dump(settings)
        if snapshot == self.revisions.snapshot(self.fleet.revision) and not even_unchanged:
            return Rolling(self.fleet.revision, "") if self.fleet.rolling_out else Unchanged()
        stale, note = ", ".join(needs_restart(self._at_start, settings)), ""
        if stale:
            note = f"these changes need a restart of the instance: {stale}"
            log.warning("these changes need a restart of the instance", extra={"keys": stale})
        return self._roll_to(snapshot, note, code_only=code_only)

    def roll(self) -> Rolling | ReloadRefused:
        """Replace all workers, without reading the configuration file."""
        if self.fleet.stopping:
            return STOPPING
        return self._roll_to(self.revisions.snapshot(self.fleet.revision), "")

    # -- Processes: requests from `turns.service` --------------------------------------------------

    def dispatch(self, number: int, turn: Turn) -> None:
        self.pool.dispatch(number, turn)
        if turn.purpose is not Purpose.NOTIFY_IDLE:  # which is not a turn of a client
            self._count(number)

    def open_exchange(
        self,
        number: int,
        kind: StreamKind,
        session: str,
        request_id: str,
        head: bytes,
        headers: Mapping[str, str],
        listener: ExchangeListener,
    ) -> OpenExchange:
        exchange = self.pool.open_exchange(number, kind, session, request_id, head, headers, listener)
        self._count(number)
        return exchange

    def _count(self, number: int) -> None:
        """Count a turn or an exchange of a process, which may be replaced after `supervisor.max_turns`."""
        reason = self.recycling.dispatched(number, self._loop.time())
        if reason is not None:
            self._post(partial(self._replace, number, ExitReason(Cause.TURN_LIMIT, reason)))

    def cancel(self, number: int, turn: Turn, reason: CancelReason) -> None:
        self.pool.cancel(number, turn, reason)

    def drained(self, number: int) -> None:
        if self._is_idle(number):
            self.pool.step_number(number, lifecycle.Drained())

    def replace(self, number: int) -> None:
        self._carry_out(self.fleet.replace(number, self._loop.time()))

    def is_leaving(self, number: int) -> bool:
        return number in self.fleet.leaving

    # -- PoolListener: events of processes and their turns -------------------------------------------

    def became_ready(self, process: Process) -> None:
        self._reported = ""
        first = not self.fleet.ever_ready
        if StreamKind.IDLE in process.stream_kinds:
            self._turns.joined(process.number)
        self._exchanges.reports(process.hosted)
        self._carry_out(self.fleet.ready(process.number, self._loop.time()))
        if first and self.fleet.ever_ready:
            log.info("instance is ready", extra={"slots": self.fleet.size})
            self._became_ready()

    def left_ready(self, process: Process) -> None:
        self.fleet.unready(process.number)
        self._turns.unassign(process.slot, process.number)
        if process.state is lifecycle.ProcessState.DRAINING and not self.fleet.stopping:
            self._turns.departs(process.number)
        else:
            self._turns.gone(process.number)
        if process.state is lifecycle.ProcessState.DRAINING:
            self._exchanges.departs(process.number)

    def drain_timed_out(self, process: Process) -> None:
        self._turns.cut(process.number)
        self._exchanges.cut(process.number)

    def is_idle(self, process: Process) -> bool:
        return self._is_idle(process.number)

    def _is_idle(self, number: int) -> bool:
        return self._turns.is_done(number) and not self._exchanges.on_process(number)

    def exited(self, process: Process, record: ExitRecord) -> None:
        assert process.status is not None, "the process has exited"
        expected, blamed = self.is_leaving(process.number), self._turns.is_blamed(process.number)
        self.recycling.exited(process.number)
        self._turns.gone(process.number)
        commands = self.fleet.exited(
            process.number, process.status, self._loop.time(), random.random(), blamed=blamed
        )
        self.restarts += not expected
        if self._metrics is not None:
            self._metrics.worker_exited(record.reason.cause)
        fields = {
            "worker": process.label,
            "status": record.ended,
            "cause": record.reason,
            "turns": record.turns,
        }
        if expected:
            log.info("worker exited", extra=fields)
        elif not process.failure:
            log.error("worker died", extra=fields)
        elif any(isinstance(command, fleet_commands.Finished) for command in commands):
            self.failure = self._unreported(process.failure)
        else:
            fields["cause"] = record.reason.cause  # its detail is the failure
            log.error("worker did not start: %s", self._unreported(process.failure), extra=fields)
            self._report_next_try(process.slot)
        self._carry_out(_explained(commands, record))

    def _unreported(self, failure: str) -> str:
        """Return the part of a failed start that the log does not have yet: a traceback is reported once."""
        before, self._reported = self._reported, failure
        return failure if failure != before else failure.partition("\n")[0]

    def _report_next_try(self, slot: int) -> None:
        start_at = self.fleet.slots[slot].start_at
        if start_at is None:
            return
        if start_at == math.inf:
            log.warning("the app cannot start; it waits for a change of the project", extra={"slot": slot})
            return
        fields: dict[str, object] = {
            "slot": slot,
            "seconds": round(max(0.0, start_at - self._loop.time()), 1),
        }
        if not self.fleet.ever_ready:
            limit = self.settings.supervisor.start_deadline
            fields["limit"] = f"supervisor.start_deadline: {limit:g} s after the start of the instance"
        log.info("next try of the worker", extra=fields)

    def recycle_requested(self, process: Process, reason: str) -> None:
        accepted = self.recycling.requested(process.number, reason, self._loop.time())
        if accepted is not None:
            self._replace(process.number, ExitReason(Cause.ASKED, accepted))

    def turn_ended(self, turn: Turn, json_body: bytes) -> None:
        self._turns.ended(turn, json_body)

    def turn_failed(self, turn: Turn, code: Code, message: str) -> None:
        self._turns.failed(turn, code, message)

    # -- memory -------------------------------------------------------------------------------------

    def memory_limited(self) -> dict[int, int]:
        """Return number and pid of the processes to measure; none if memory is not limited."""
        if self.recycling.memory is None:
            return {}
        ready = [each for each in self.pool if each.state is lifecycle.ProcessState.READY]
        return {each.number: each.child.pid for each in ready if each.child is not None}

    def memory_measured(self, number: int, megabytes: float) -> None:
        """Handle the measured memory of a process, in MB."""
        reason = self.recycling.measured(number, megabytes, self._loop.time())
        if reason is not None:
            self._replace(number, ExitReason(Cause.MEMORY_LIMIT, reason))

    def _limit_memory(self, slots: int) -> None:
        limit = sizing.memory_limit(self.settings.supervisor, slots, control_group.memory_limit())
        is_derived = limit is not None and limit.megabytes != self.settings.supervisor.max_memory_mb
        if limit is not None and is_derived and limit != self.recycling.memory:
            log.info("memory of workers is limited", extra={"mb": round(limit.megabytes), "slots": slots})
        self.recycling.memory = limit

    # -- carrying out -------------------------------------------------------------------------------

    def _carry_out(self, commands: Iterable[fleet_commands.Command]) -> None:
        for command in commands:
            match command:
                case fleet_commands.Spawn(revision=revision):
                    self.recycling.started(command.process, random.random())
                    self.pool.start(
                        command, self.revisions.snapshot(revision), self.revisions.preload_revision(revision)
                    )
                    if self._metrics is not None:
                        self._metrics.worker_started()
                case fleet_commands.Retire(number, reason):
                    process = self.pool[number]
                    log.info("worker retires", extra={"worker": process.label, "reason": reason})
                    self.pool.retire(process, ExitReason(Cause.ASKED, reason))
                case fleet_commands.Assign(slot, assigned):
                    self._turns.assign(slot, assigned)
                    self._exchanges.assigned()
                case fleet_commands.Resize(slots):
                    log.info("sessions are redistributed", extra={"slots": slots})
                    self._turns.resize(slots)
                case fleet_commands.RolloutEnded(revision, failure, asked=True):
                    self._end_rollout(revision, failure)
                case fleet_commands.RolloutEnded(_, failure):
                    if failure:
                        log.error(
                            "replacement failed, the old worker keeps running", extra={"reason": failure}
                        )
                case fleet_commands.Finished(status):
                    if not self.finished.done():
                        self.finished.set_result(status)
        self._arm_timer()

    def _replace(self, number: int, reason: ExitReason) -> None:
        """Recycle a process. Does nothing if it is not ready."""
        process = self.pool.get(number)
        if process is None or process.state is not lifecycle.ProcessState.READY:
            return
        process.retire_reason = reason
        log.info("worker is recycled", extra={"worker": process.label, "reason": reason.detail})
        self._carry_out(self.fleet.replace(number, self._loop.time()))

    def _roll_to(self, snapshot: bytes, note: str, *, code_only: bool = False) -> Rolling:
        revision = self.revisions.begin(snapshot, code_only=code_only)
        log.info("replacing all workers", extra={"edition": revision})
        self._post(lambda: self._carry_out(self.fleet.roll(revision, self._loop.time())))
        return Rolling(revision, note)

    def _end_rollout(self, revision: int, failure: str) -> None:
        if self._metrics is not None:
            self._metrics.rollout_ended(succeeded=not failure)
        self.revisions.ended(revision, failure, self.fleet.revision)
        if failure:
            stays = "the old workers keep running" if self.fleet.ever_ready else "no worker runs yet"
            log.error("rollout failed, %s", stays, extra={"edition": revision, "reason": failure})
        else:
            log.info("rollout done", extra={"edition": revision})
            self._take_over(settings_module.restore(self.revisions.snapshot(revision)))
        self._rollout_ended(revision, failure)

    def _take_over(self, settings: Settings) -> None:
        """Apply the settings that are in service now, as far as `reloadable_keys` allows."""
        before, self._chosen_slots = self._chosen_slots, worker_count(settings)
        self.settings = settings
        supervisor = settings.supervisor
        self.fleet.soak = supervisor.soak
        self.recycling.max_turns = supervisor.max_turns
        self._limit_memory(self.fleet.size)
        self.pool.settings = settings
        self._turns.take_over(settings)
        self._exchanges.take_over(settings)
        if self._chosen_slots != before:
            self._post(partial(self.scale, self._chosen_slots))

    def _read_settings(self) -> Settings | ReloadRefused:
        try:
            return self._project.read_settings()
        except (ProjectError, SettingsError) as error:
            log.error("reload refused, the old configuration stays in service: %s", error)
            return ReloadRefused(str(error))

    def _arm_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.fleet.next_due
        if due is not None:
            tick = partial(self._post, lambda: self._carry_out(self.fleet.tick(self._loop.time())))
            self._timer = self._loop.call_at(due, tick)


def worker_count(settings: Settings) -> int:
    """Return `supervisor.workers`. `auto` is the number of CPUs that this process may use, at most
    MAX_WORKERS."""
    return sizing.worker_count(settings.supervisor.workers, kernel.usable_cpus(), control_group.cpu_limit())


def _explained(
    commands: list[fleet_commands.Command], record: ExitRecord
) -> Iterator[fleet_commands.Command]:
    """Yield the commands; add the reason of this exit to the failure of a rollout that it has ended."""
    for command in commands:
        if isinstance(command, fleet_commands.RolloutEnded) and command.failure:
            yield replace(command, failure=f"{command.failure}: {record.reason}")
        else:
            yield command
