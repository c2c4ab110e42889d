"""The data about one worker process, and the record of its exit.

`pool` owns the processes and changes them; other modules only read. Makes no decisions: `lifecycle` decides
about the state, `exit_reasons` about the reason of an exit.
"""

import asyncio
import signal
import time
from dataclasses import dataclass

from agentscope_protocol.wire.page import LifePage
from agentscope_supervisor.processes import reaper, spawn
from agentscope_supervisor.processes.kept_output import KEPT_LINES, KEPT_STACK_LINES, kept
from agentscope_supervisor.workers import exit_reasons
from agentscope_supervisor.workers.exit_reasons import ExitReason, ExitRecord
from agentscope_supervisor.workers.lifecycle import ProcessState
from agentscope_supervisor.workers.link import WorkerLink


@dataclass(slots=True, eq=False)
class Process:
    """One worker process. `number` is its id; unlike a pid it is never reused."""

    number: int
    slot: int
    generation: int
    started_at: float  # monotonic
    since: float  # monotonic, when it entered its state
    state: ProcessState = ProcessState.STARTING
    child: spawn.Child | None = None  # None: not started yet, or it could not be started
    link: WorkerLink | None = None
    timer: asyncio.TimerHandle | None = None  # the deadline of its state
    ready_at: float | None = None  # monotonic; None: never ready
    stream_kinds: frozenset[int] = frozenset()  # kinds of streams that it accepts; known when it is ready
    hosted: str = ""  # what it hosts in place of an App; known when it is ready
    failure: str = ""  # the message, or the last output, of a failed start
    retire_reason: ExitReason | None = None  # why it was retired, if it was
    kill_reason: ExitReason | None = None  # why the supervisor kills it, if it does
    turns_lost: int = 0  # turns that had begun when its link was closed
    status: int | None = None  # exit code, or minus the signal number; None: it has not exited

    @property
    def page(self) -> LifePage | None:
        """Its heartbeat counters."""
        return self.child.page if self.child is not None else None

    @property
    def can_dump_stacks(self) -> bool:
        """Whether it has a handler for the signal, which kills an interpreter that has none yet."""
        return self.link is not None and self.link.greeted

    @property
    def label(self) -> str:
        """Its label for operators and clients: "<slot>.<generation>"."""
        return f"{self.slot}.{self.generation}"

    @property
    def mark(self) -> str:
        """Identifies its descendants."""
        return reaper.mark_of(self.number, self.label)


def exit_record(process: Process, status: int, now: float, *, oom: bool) -> ExitRecord:
    """Return the record of a process that has exited.

    `status` is the exit code, or minus the signal number. `oom` is whether the kernel has killed a process of
    the control group for memory since the previous exit. `now` is a time of the monotonic clock.
    """
    evidence = exit_reasons.ExitEvidence(
        status,
        status_name(status),
        process.ready_at is not None,
        process.retire_reason,
        process.kill_reason,
        process.failure,
        oom,
    )
    output = process.child.output if process.child is not None else None
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


def status_name(status: int) -> str:
    """Return an exit status as text: `exit 1`, `SIGKILL`."""
    if status >= 0:
        return f"exit {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:  # a real-time signal
        return f"signal {-status}"
