"""The pool of worker processes: carries out their life cycle, with their links and deadlines.

`fleet` decides which processes should exist, and `lifecycle` what a process does next. The pool makes no
decisions. It posts every event to the event queue of the instance and reports it to a `PoolListener`, in the
order of events. `process` holds the data about one process.
"""

import asyncio
import logging
import secrets
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from agentscope_protocol.config import supervisor_secrets
from agentscope_protocol.config.settings import Settings
from agentscope_protocol.wire.errors import Code, LocalProtocolError
from agentscope_protocol.wire.frames import CancelReason, StreamKind
from agentscope_protocol.wire.link import PROTOCOL_ERROR
from agentscope_supervisor.domain.turn import Turn
from agentscope_supervisor.exchanges.open_exchange import ExchangeListener, OpenExchange
from agentscope_supervisor.processes import interpreter, spawn
from agentscope_supervisor.processes.launcher import Launcher, LaunchRequest
from agentscope_supervisor.system import control_group
from agentscope_supervisor.system.event_queue import Post
from agentscope_supervisor.system.log_setup import log_output
from agentscope_supervisor.workers import lifecycle, notices
from agentscope_supervisor.workers.exit_reasons import Cause, ExitReason, ExitRecord, ExitRecords
from agentscope_supervisor.workers.fleet import EX_TEMPFAIL
from agentscope_supervisor.workers.fleet_commands import Spawn
from agentscope_supervisor.workers.lifecycle import Command, ProcessState
from agentscope_supervisor.workers.link import WorkerLink
from agentscope_supervisor.workers.process import Process, exit_record, status_name

log = logging.getLogger(__name__)

LINK_END_WAIT: Final = 0.05
"""Seconds to wait for the end of the link after a worker has exited: its last frames are still in the socket.

The end of the link normally follows at once, unless a grandchild holds the socket open."""

STACKS_BEFORE: Final = 1.0
"""Seconds before the end of `start_timeout` at which a worker that is not ready prints its stacks."""


class PoolListener(Protocol):
    """Receives the events of processes and of their turns, from the event queue."""

    def became_ready(self, process: Process) -> None:
        """A process accepts turns."""

    def left_ready(self, process: Process) -> None:
        """A process that was ready accepts no further turns."""

    def drain_timed_out(self, process: Process) -> None:
        """The open turns of a draining process must end now."""

    def is_idle(self, process: Process) -> bool:
        """Return whether a process has no open turns."""

    def recycle_requested(self, process: Process, reason: str) -> None:
        """A process has requested its own replacement."""

    def exited(self, process: Process, record: ExitRecord) -> None:
        """A process has exited. This is its last event: its open turns have failed before."""

    def turn_ended(self, turn: Turn, json_body: bytes) -> None:
        """A turn ended successfully."""

    def turn_failed(self, turn: Turn, code: Code, message: str) -> None:
        """A turn failed."""


class Pool:
    """All worker processes of the instance, by number.

    The deadlines of the states are those of `settings`, which may be replaced at any time.
    """

    def __init__(
        self, settings: Settings, project: Path, listener: PoolListener, post: Post, zygote_fits: bool
    ) -> None:
        """`zygote_fits`: whether the memory limit leaves room for a zygote."""
        self.settings = settings
        self._project: Final = project
        self._listener: Final = listener
        self._post: Final = post
        self._loop: Final = asyncio.get_running_loop()
        self._processes: dict[int, Process] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._oom_kills = control_group.oom_kills()
        self.exit_records: Final = ExitRecords()
        # Identifies the instance among others that share its session store.
        self._instance: Final = secrets.token_hex(8)
        command = interpreter.worker_command(settings, project)
        self._launcher: Final = Launcher(settings, command, project, post, zygote_fits)

    def __iter__(self) -> Iterator[Process]:
        return iter(self._processes.values())

    def __getitem__(self, number: int) -> Process:
        return self._processes[number]

    def get(self, number: int) -> Process | None:
        """Return a process, or None if it has exited."""
        return self._processes.get(number)

    def marks(self) -> dict[int, str]:
        """Return pid and mark of each process that has not exited, including the zygote."""
        marks = {process.child.pid: process.mark for process in self if process.child is not None}
        return marks | self._launcher.marks()

    def dispatch(self, number: int, turn: Turn) -> None:
        """Send a turn to a process that is ready. Raises: LocalProtocolError if it cannot be sent."""
        process = self._processes.get(number)
        if process is None:  # a notification about a session, which may come late
            raise LocalProtocolError("the process has exited")
        assert process.link is not None, "turns are sent only to ready processes"
        if turn.request.kind not in process.stream_kinds:
            raise LocalProtocolError(f"this worker's package is too old for {turn.request.kind.name}")
        process.link.dispatch(turn)

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
        """Send the head of an exchange to a process. Raises: LocalProtocolError if it cannot be sent."""
        process = self._processes.get(number)
        if process is None or process.link is None or kind not in process.stream_kinds:
            raise LocalProtocolError(f"no worker that serves {kind.name}")
        return process.link.open_exchange(kind, session, request_id, head, headers, listener)

    def cancel(self, number: int, turn: Turn, reason: CancelReason) -> None:
        """Ask a process to cancel a turn. Does nothing if the process has exited."""
        process = self._processes.get(number)
        if process is not None and process.link is not None:
            process.link.cancel(turn, reason)

    # -- commands ---------------------------------------------------------------------------

    def start(self, command: Spawn, snapshot: bytes, preload_revision: int) -> None:
        """Start a process with these settings. `preload_revision` is that of `Revisions.preload_revision`."""
        now = self._loop.time()
        process = Process(command.process, command.slot, command.generation, now, now)
        self._processes[process.number] = process
        log.info("worker starts", extra={"worker": process.label})
        self._launcher.start(
            LaunchRequest(
                process.number,
                preload_revision,
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
        """The process was started. Its start timeout begins now: it may have waited for the zygote."""
        process.child = child
        if process.state is not ProcessState.STARTING:
            child.kill()
        greeting: Mapping[str, str | int | bytes] = {
            "settings": supervisor_secrets.removed(snapshot),
            "project": spawn.path_for_worker(self._project),
            "slot": process.slot,
            "generation": process.generation,
            "member": f"{self._instance}.{process.number}",
            "marks_stop": 1,  # `Child.terminate` does
        }
        process.link = WorkerLink(process.number, process.label, greeting, child.page, self)
        # The loop holds only weak references to tasks. This one cannot fail: the socket is connected.
        task = self._loop.create_task(process.link.connect(child.socket))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        self._arm(process)
        delay = max(0.0, self.settings.supervisor.start_timeout - STACKS_BEFORE)
        self._loop.call_later(delay, self._dump_slow_start, process)

    def _on_start_failed(self, process: Process, failure: str) -> None:
        """The process could not be started."""
        process.failure = failure
        self._post(lambda: self._exited(process, EX_TEMPFAIL))

    def step(self, process: Process, event: lifecycle.Event) -> None:
        """Apply an event to the life cycle of a process, and carry out the commands."""
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
        """Like `step`, by number. Does nothing if the process has exited."""
        process = self._processes.get(number)
        if process is not None:
            self.step(process, event)

    def retire(self, process: Process, reason: ExitReason) -> None:
        """Let a process exit once its turns have ended. A process that is not ready yet is killed.

        If the process is being recycled already, it keeps that reason.
        """
        process.retire_reason = process.retire_reason or reason
        if process.state is ProcessState.STARTING:
            process.kill_reason = reason
        self.step(process, lifecycle.Retired())

    def kill(self, process: Process, reason: ExitReason) -> None:
        """Kill a process. Its exit record has the first reason."""
        process.kill_reason = process.kill_reason or reason
        self.step(process, lifecycle.KillRequested())

    @property
    def stopping(self) -> bool:
        """Whether the instance stops, so that draining has a deadline."""
        return self._stopping

    def stop(self) -> None:
        """Start no further process, and give draining a deadline, also for processes that drain already."""
        self._stopping = True
        self._launcher.stop()
        for process in self._processes.values():
            if process.state is ProcessState.DRAINING:
                self._arm(process)

    def dump_stacks(self) -> None:
        """Ask every worker to print its stacks."""
        for process in self._processes.values():
            if process.can_dump_stacks and process.child is not None:
                process.child.dump_stacks()

    # -- LinkListener: events of links --------------------------------------------------------

    def noticed(self, number: int, word: str, detail: str) -> None:
        match word:
            case "ready":
                # Read here, where the link handles the error.
                kinds, hosted = notices.stream_kinds(detail), notices.hosted(detail)
                self._post(lambda: self._became_ready(number, kinds, hosted))
            case "failed":
                self._processes[number].failure = notices.message(detail)
            case "worn":
                self._post(lambda: self._recycle_requested(number, notices.message(detail)))
            case _:
                pass  # a worker of a newer version

    def turn_ended(self, turn: Turn, json_body: bytes) -> None:
        self._post(lambda: self._listener.turn_ended(turn, json_body))

    def turn_failed(self, turn: Turn, code: Code, message: str) -> None:
        self._post(lambda: self._listener.turn_failed(turn, code, message))

    def link_lost(self, number: int, reason: str, lost_turns: int) -> None:
        self._processes[number].turns_lost = lost_turns

        def lost() -> None:
            process = self._processes.get(number)
            if process is not None:
                assert process.link is not None, "its link was lost"
                if process.link.violated and process.kill_reason is None:
                    process.kill_reason = ExitReason(Cause.PROTOCOL_ERROR, reason)
                if process.state in (ProcessState.READY, ProcessState.DRAINING):
                    log.warning("link lost", extra={"worker": process.label, "reason": reason})
                elif not process.failure and reason.startswith(PROTOCOL_ERROR):
                    process.failure = reason
                self.step(process, lifecycle.LinkLost())
                # Not now: the link has yet to report the turns that were lost with it.
                self._loop.call_soon(self._post, lambda: self._finish_exit(process))

        self._post(lost)

    # -- inside -----------------------------------------------------------------------------

    def _dump_slow_start(self, process: Process) -> None:
        if process.state is ProcessState.STARTING and process.child is not None:
            log.warning("worker is not ready yet; its stacks follow", extra={"worker": process.label})
            process.child.dump_stacks()

    def _became_ready(self, number: int, stream_kinds: frozenset[int], hosted: str) -> None:
        process = self._processes.get(number)
        if process is not None and process.state is ProcessState.STARTING:
            seconds = round(self._loop.time() - process.since, 2)
            log.info("worker is ready", extra={"worker": process.label, "seconds": seconds})
            process.ready_at = self._loop.time()
            process.stream_kinds, process.hosted = stream_kinds, hosted
            self.step(process, lifecycle.Ready())
            self._listener.became_ready(process)

    def _recycle_requested(self, number: int, reason: str) -> None:
        process = self._processes.get(number)
        if process is not None and process.state is ProcessState.READY:
            self._listener.recycle_requested(process, reason)

    def _exited(self, process: Process, status: int) -> None:
        """The kernel reported the exit. The last frames of the worker may still be in the socket."""
        process.status = status
        if process.link is None or process.link.closed:
            self._finish_exit(process)
        else:
            self._loop.call_later(LINK_END_WAIT, self._post, lambda: self._finish_exit(process))

    def _finish_exit(self, process: Process) -> None:
        """Remove a process, once it has exited and all its frames are read."""
        if process.number not in self._processes or process.status is None:
            return
        self.step(process, lifecycle.Exited())
        del self._processes[process.number]
        if process.child is not None:
            process.child.close()
        if process.ready_at is None and not process.failure:
            lines = process.child.output.last_lines if process.child is not None else ()
            summary = f"the worker exited during its start with {status_name(process.status)}"
            process.failure = "\n".join([summary, *lines])
        oom_kills_before, self._oom_kills = self._oom_kills, control_group.oom_kills()
        oom = self._oom_kills > oom_kills_before
        record = exit_record(process, process.status, self._loop.time(), oom=oom)
        self.exit_records.add(record)
        self._post(lambda: self._listener.exited(process, record))

    def _do(self, process: Process, command: Command) -> None:
        child = process.child
        match command:
            case Command.CANCEL_TURNS:
                self._listener.drain_timed_out(process)
            case Command.TERMINATE if child is not None:
                child.terminate()
            case Command.KILL if child is not None:
                child.kill()
            case Command.KILL if self._launcher.cancel(process.number):
                self._on_start_failed(process, "the start of the worker was cancelled")
            case Command.CLOSE_LINK if process.link is not None:
                process.link.worker_ended()

    def _arm(self, process: Process) -> None:
        """Set the deadline of the current state of a process."""
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
