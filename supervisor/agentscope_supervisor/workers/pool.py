"""The running worker processes: each with its life, its link and its one deadline.

`fleet` says which processes should exist and `lifecycle` what a process may do next; this carries both out.
Decides nothing itself. What happens is posted to the instance's queue and comes back through
`PoolListener`, in one place and in request.
"""

import asyncio
import json
import logging
import secrets
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from agentscope_protocol.config.settings import Settings
from agentscope_protocol.wire.errors import Code, LocalProtocolError
from agentscope_protocol.wire.frames import CancelReason, StreamKind
from agentscope_protocol.wire.link import BROKE_THE_RULES
from agentscope_protocol.wire.page import LifePage
from agentscope_supervisor.domain.request import TurnRequest
from agentscope_supervisor.domain.turn import Turn
from agentscope_supervisor.processes import interpreter, reaper, spawn
from agentscope_supervisor.processes.kept_output import KEPT_LINES, KEPT_STACK_LINES, kept
from agentscope_supervisor.processes.launcher import Launcher, LaunchRequest
from agentscope_supervisor.runs.client_stream import Answer
from agentscope_supervisor.system import kernel
from agentscope_supervisor.system.event_queue import Post
from agentscope_supervisor.system.log_setup import log_output
from agentscope_supervisor.workers import exit_reasons, fleet, lifecycle
from agentscope_supervisor.workers.exit_reasons import Cause, ExitReason, ExitRecord, ExitRecords
from agentscope_supervisor.workers.lifecycle import Command, ProcessState
from agentscope_supervisor.workers.link import WorkerLink

log = logging.getLogger(__name__)

LINK_END_WAIT: Final = 0.05
"""Seconds between the exit of a worker and the end of its link: what it wrote last is still in the socket.
Its end is normally seen at once; this is for a link that a grandchild holds open."""

STACKS_BEFORE: Final = 1.0
"""Seconds before the end of `start_timeout` at which a worker that is not ready is asked for its stacks."""


@dataclass(slots=True, eq=False)
class Process:
    """One worker process. `number` is our id of it and never reused."""

    number: int
    slot: int
    generation: int
    started_at: float  # monotonic
    since: float  # monotonic, when it entered its state
    state: ProcessState = ProcessState.STARTING
    child: spawn.Child | None = None
    link: WorkerLink | None = None
    timer: asyncio.TimerHandle | None = None
    ready_at: float | None = None  # monotonic; None: never
    stream_kinds: frozenset[int] = frozenset()  # that it takes; known when it is ready
    failure: str = ""  # what it said, or printed last, when its start failed
    retire_reason: ExitReason | None = None  # why it was asked to go, if it was
    kill_reason: ExitReason | None = None  # why it is killed, if we decided that
    turns_lost: int = 0  # that had begun when its link ended
    status: int | None = None  # exit code, or minus the signal, once it has ended

    @property
    def page(self) -> LifePage | None:
        """Its signs of life."""
        return self.child.page if self.child is not None else None

    @property
    def label(self) -> str:
        """Its name for people: "<slot>.<generation>"."""
        return f"{self.slot}.{self.generation}"

    @property
    def mark(self) -> str:
        """What its descendants are known by."""
        return reaper.mark_of(self.number, self.label)


class PoolListener(Protocol):
    """Who is told what happens to processes, from the queue; and what is asked of the turns."""

    def became_ready(self, process: Process) -> None: ...

    def left_ready(self, process: Process) -> None: ...

    def drain_timed_out(self, process: Process) -> None: ...

    def is_idle(self, process: Process) -> bool: ...

    def recycle_requested(self, process: Process, why: str) -> None: ...

    def exited(self, process: Process, death: ExitRecord) -> None:
        """The last that is heard of a process: its turns have been failed before."""

    def ended(self, turn: Turn, whole: bytes) -> None: ...

    def failed(self, turn: Turn, code: Code, message: str) -> None: ...


class Pool:
    """All worker processes of the instance, by number."""

    def __init__(self, settings: Settings, project: Path, listener: PoolListener, post: Post) -> None:
        self.settings = settings  # of which the deadlines are
        self._project: Final = project
        self._listener: Final = listener
        self._post: Final = post
        self._loop: Final = asyncio.get_running_loop()
        self._processes: dict[int, Process] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._oom_kills = kernel.oom_kills()
        self.exit_records: Final = ExitRecords()
        # What workers know each other by where they share a store with those of other instances.
        self._instance: Final = secrets.token_hex(8)
        command = worker_command(settings, project)
        self._launcher: Final = Launcher(settings, command, project, post)

    def __iter__(self) -> Iterator[Process]:
        return iter(self._processes.values())

    def __getitem__(self, number: int) -> Process:
        return self._processes[number]

    def get(self, number: int) -> Process | None:
        """The process, or None if it is gone."""
        return self._processes.get(number)

    def marks(self) -> dict[int, str]:
        """The pid and the mark of each process whose end has not been seen through, the zygote's too."""
        marks = {process.child.pid: process.mark for process in self if process.child is not None}
        return marks | self._launcher.marks()

    def dispatch(self, number: int, turn: Turn, invocation: TurnRequest, answer: Answer) -> None:
        """Give a turn to a process that is ready. Raises: LocalProtocolError if it cannot be sent."""
        process = self._processes.get(number)
        if process is None:  # there was a session to be told of
            raise LocalProtocolError("the process is gone")
        assert process.link is not None, "turns go to processes that are ready"
        if invocation.form not in process.stream_kinds:
            raise LocalProtocolError(f"this worker's package is too old for {invocation.form.name}")
        process.link.dispatch(turn, invocation, answer)

    def cancel(self, number: int, turn: Turn, reason: CancelReason) -> None:
        """Ask a process to end a turn; nothing happens if it is gone."""
        process = self._processes.get(number)
        if process is not None and process.link is not None:
            process.link.cancel(turn, reason)

    # -- commands ---------------------------------------------------------------------------

    def start(self, command: fleet.Spawn, snapshot: bytes, image: int) -> None:
        """Start a process with this settings snapshot. `image`: as `Rollouts.image` has it."""
        now = self._loop.time()
        process = Process(command.process, command.slot, command.generation, now, now)
        self._processes[process.number] = process
        log.info("worker starts", extra={"worker": process.label})
        self._launcher.start(
            LaunchRequest(
                process.number,
                image,
                snapshot,
                process.mark,
                partial(log_output, process.label),
                lambda status: self._post(lambda: self._exited(process, status)),
                lambda child: self._on_started(process, child, snapshot),
                lambda error: self._on_start_failed(
                    process, f"the worker process cannot be started: {error}"
                ),
            )
        )

    def _on_started(self, process: Process, child: spawn.Child, snapshot: bytes) -> None:
        """The process of a worker is there. Its time runs from now on: it may have waited for a zygote."""
        process.child = child
        if process.state is not ProcessState.STARTING:
            child.kill()
        greeting: Mapping[str, str | int | bytes] = {
            "settings": snapshot,
            "project": str(self._project),
            "slot": process.slot,
            "generation": process.generation,
            "member": f"{self._instance}.{process.number}",
        }
        process.link = WorkerLink(process.number, process.label, greeting, child.page, self)
        # Kept, because the loop itself holds tasks only weakly. It cannot fail: the socket is connected.
        task = self._loop.create_task(process.link.connect(child.socket))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        self._arm(process)
        patience = max(0.0, self.settings.supervisor.start_timeout - STACKS_BEFORE)
        self._loop.call_later(patience, self._dump_slow_start, process)

    def _on_start_failed(self, process: Process, failure: str) -> None:
        """There will be no process of this worker."""
        process.failure = failure
        self._post(lambda: self._exited(process, fleet.EX_TEMPFAIL))

    def step(self, process: Process, event: lifecycle.Event) -> None:
        """Take one step in the life of a process, and do what it asks for."""
        before = process.state
        process.state, commands = lifecycle.step(before, event)
        if process.state is not before:
            process.since = self._loop.time()
            self._arm(process)
            if before is ProcessState.READY:
                self._listener.left_ready(process)
        for command in commands:
            self._do(process, command)
        if process.state is ProcessState.DRAINING and self._listener.is_idle(process):
            self.step(process, lifecycle.Drained())

    def step_number(self, number: int, event: lifecycle.Event) -> None:
        """The same by number; nothing happens if the process is gone."""
        process = self._processes.get(number)
        if process is not None:
            self.step(process, event)

    def retire(self, process: Process, reason: ExitReason) -> None:
        """Let a process go once its turns have ended; at once if it was not ready yet. What has
        recycle_requested it out is its reason, if anything has."""
        process.retire_reason = process.retire_reason or reason
        if process.state is ProcessState.STARTING:
            process.kill_reason = reason
        self.step(process, lifecycle.Retired())

    def kill(self, process: Process, reason: ExitReason) -> None:
        """Kill a process; the first reason is the one that its record tells."""
        process.kill_reason = process.kill_reason or reason
        self.step(process, lifecycle.KillRequested())

    @property
    def stopping(self) -> bool:
        """The instance stops: draining has a deadline."""
        return self._stopping

    def stop(self) -> None:
        """From now on draining has a deadline, for those too that drain already."""
        self._stopping = True
        self._launcher.stop()
        for process in self._processes.values():
            if process.state is ProcessState.DRAINING:
                self._arm(process)

    def dump_stacks(self) -> None:
        """Have every worker print its stacks into its output, but for those that start: the signal would
        end an interpreter that does not handle it yet."""
        for process in self._processes.values():
            if process.child is not None and process.state is not ProcessState.STARTING:
                process.child.dump_stacks()

    # -- Reports: what links tell -------------------------------------------------------------

    def noticed(self, number: int, word: str, detail: str) -> None:
        match word:
            case "ready":
                self._post(lambda: self._became_ready(number, _stream_kinds(detail)))
            case "failed":
                self._processes[number].failure = _told(detail)
            case "worn":
                self._post(lambda: self._recycle_requested(number, _told(detail)))
            case _:
                pass  # of a newer worker

    def ended(self, turn: Turn, whole: bytes) -> None:
        self._post(lambda: self._listener.ended(turn, whole))

    def failed(self, turn: Turn, code: Code, message: str) -> None:
        self._post(lambda: self._listener.failed(turn, code, message))

    def link_lost(self, number: int, reason: str, lost_turns: int) -> None:
        self._processes[number].turns_lost = lost_turns

        def lost() -> None:
            process = self._processes.get(number)
            if process is not None:
                assert process.link is not None, "it was lost"
                if process.link.violated and process.kill_reason is None:
                    process.kill_reason = ExitReason(Cause.PROTOCOL_ERROR, reason)
                if process.state in (ProcessState.READY, ProcessState.DRAINING):
                    log.warning("link lost", extra={"worker": process.label, "reason": reason})
                elif not process.failure and reason.startswith(BROKE_THE_RULES):
                    process.failure = reason
                self.step(process, lifecycle.LinkLost())
                # Not yet: the link is about to report the turns that were lost with it.
                self._loop.call_soon(self._post, lambda: self._finish_exit(process))

        self._post(lost)

    # -- inside -----------------------------------------------------------------------------

    def _dump_slow_start(self, process: Process) -> None:
        if process.state is ProcessState.STARTING and process.child is not None:
            log.warning("worker is not ready yet; its stacks follow", extra={"worker": process.label})
            process.child.dump_stacks()

    def _became_ready(self, number: int, stream_kinds: frozenset[int]) -> None:
        process = self._processes.get(number)
        if process is not None and process.state is ProcessState.STARTING:
            seconds = round(self._loop.time() - process.since, 2)
            log.info("worker is ready", extra={"worker": process.label, "seconds": seconds})
            process.ready_at = self._loop.time()
            process.stream_kinds = stream_kinds
            self.step(process, lifecycle.Ready())
            self._listener.became_ready(process)

    def _recycle_requested(self, number: int, why: str) -> None:
        process = self._processes.get(number)
        if process is not None and process.state is ProcessState.READY:
            self._listener.recycle_requested(process, why)

    def _exited(self, process: Process, status: int) -> None:
        """The kernel reported the end: what the worker said last may still be in the socket."""
        process.status = status
        if process.link is None or process.link.closed:
            self._finish_exit(process)
        else:
            self._loop.call_later(LINK_END_WAIT, self._post, lambda: self._finish_exit(process))

    def _finish_exit(self, process: Process) -> None:
        """The process has ended and all that it said is read."""
        if process.number not in self._processes or process.status is None:
            return
        self.step(process, lifecycle.Exited())
        del self._processes[process.number]
        if process.child is not None:
            process.child.close()
        if process.ready_at is None and not process.failure:
            lines = process.child.output.last_lines if process.child is not None else ()
            told = f"the worker ended at its start with {status_name(process.status)}"
            process.failure = "\n".join([told, *lines])
        death = self._record(process, process.status)
        self.exit_records.add(death)
        self._post(lambda: self._listener.exited(process, death))

    def _record(self, process: Process, status: int) -> ExitRecord:
        before, self._oom_kills = self._oom_kills, kernel.oom_kills()
        evidence = exit_reasons.ExitEvidence(
            status,
            status_name(status),
            process.ready_at is not None,
            process.retire_reason,
            process.kill_reason,
            process.failure,
            oom=self._oom_kills > before,
        )
        now, output = self._loop.time(), process.child.output if process.child is not None else None
        return ExitRecord(
            slot=process.slot,
            generation=process.generation,
            pid=process.child.pid if process.child is not None else None,
            at=time.time(),
            lived=now - process.started_at,
            ready=now - process.ready_at if process.ready_at is not None else None,
            ended=evidence.ended,
            reason=exit_reasons.classify(evidence),
            turns=process.turns_lost,
            output=kept(output.last_lines if output is not None else (), KEPT_LINES),
            stacks=kept(output.stacks if output is not None else (), KEPT_STACK_LINES),
        )

    def _do(self, process: Process, command: Command) -> None:
        child = process.child
        match command:
            case Command.CANCEL_TURNS:
                self._listener.drain_timed_out(process)
            case Command.TERMINATE if child is not None:
                child.signal(signal.SIGTERM)
            case Command.KILL if child is not None:
                child.kill()
            case Command.KILL if self._launcher.cancel(process.number):
                self._on_start_failed(process, "the worker was not wanted any more")
            case Command.CLOSE_LINK if process.link is not None:
                process.link.worker_ended()

    def _arm(self, process: Process) -> None:
        """Set the one deadline of the state that a process is in."""
        if process.timer is not None:
            process.timer.cancel()
            process.timer = None
        seconds = self._deadline(process.state)
        if seconds is not None:
            expired = lifecycle.Expired(process.state)
            process.timer = self._loop.call_later(
                seconds, lambda: self._post(lambda: self._deadline_passed(process, expired))
            )

    def _deadline(self, state: ProcessState) -> float | None:
        supervisor = self.settings.supervisor
        match state:
            case ProcessState.STARTING:
                return supervisor.start_timeout
            case ProcessState.DRAINING if self._stopping:
                return supervisor.drain_timeout
            case ProcessState.STOPPING:
                return supervisor.stop_timeout
            case _:
                return None

    def _deadline_passed(self, process: Process, expired: lifecycle.Expired) -> None:
        if process.state is expired.armed_in:
            state = process.state.name.lower()
            log.warning("deadline passed", extra={"worker": process.label, "state": state})
            if process.state is ProcessState.STARTING:
                seconds = self.settings.supervisor.start_timeout
                process.failure = f"the worker was not ready within supervisor.start_timeout: {seconds:g} s"
                process.kill_reason = ExitReason(Cause.BOOT_TIMEOUT, f"{seconds:g} s")
            elif process.state is ProcessState.STOPPING and process.kill_reason is None:
                seconds = self.settings.supervisor.stop_timeout
                process.kill_reason = ExitReason(Cause.STOP_TIMEOUT, f"{seconds:g} s")
        self.step(process, expired)


def worker_command(settings: Settings, project: Path) -> Sequence[str]:
    """The command of a worker, but for the arguments that `spawn` adds."""
    # -P: the project folder must not shadow what the worker itself imports; it gets its place later.
    return [interpreter.path_of(settings, project), "-P", "-m", "agentscope_worker"]


def status_name(status: int) -> str:
    """An exit status for people: `exit 1`, `SIGKILL`."""
    if status >= 0:
        return f"exit {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:  # a real-time signal
        return f"signal {-status}"


def _stream_kinds(detail: str) -> frozenset[int]:
    """The stream_kinds of streams that a worker takes, as its `ready` notice says."""
    try:
        more = [int(form) for form in json.loads(detail or "{}").get("forms", ())]
    except (ValueError, TypeError, AttributeError, RecursionError):
        more = []
    return frozenset({StreamKind.EVENTS, StreamKind.WHOLE, *more})


def _told(detail: str) -> str:
    """The message of a `failed` or `recycle_requested` notice, fit for JSON: it may quote a name of a file
    that is not UTF-8, as a lone surrogate."""
    try:
        told: dict[str, Any] = json.loads(detail)
        return str(told["message"]).encode("utf-8", "backslashreplace").decode()
    except (ValueError, KeyError, TypeError, RecursionError):
        return detail
