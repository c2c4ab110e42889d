"""Why processes exited: the reason of each exit, and records of the last exits. Pure.

The kernel reports only how a process exited, not why. A SIGKILL may come from the supervisor, from an
operator or from the kernel itself when memory runs out. `classify` combines the known facts. The records are
for operators and for metrics; they must not influence what is started next, which `fleet` decides.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from agentscope_supervisor.processes.kept_output import KEPT_WIDTH

KEPT: Final = 100
"""Number of exit records that are kept; with the limits of `kept_output`, at most 4 MB."""

_SIGKILL: Final = 9
_SIGTERM: Final = 15


class Cause(StrEnum):
    """Why a process exited. The values are part of the JSON output and must never change."""

    ASKED = "asked"  # replaced, its slot was removed, or the instance stopped
    MEMORY_LIMIT = "memory_limit"  # above supervisor.max_memory_mb, or above the limit that `sizing` derives
    TURN_LIMIT = "turn_limit"  # after supervisor.max_turns
    EXIT_CODE = "exit_code"  # it exited by itself
    SIGNAL = "signal"  # a crash in C code, or a signal from outside
    OOM = "oom"  # killed by the kernel, out of memory
    BOOT_FAILED = "boot_failed"  # exited before it was ready
    BOOT_TIMEOUT = "boot_timeout"  # not ready within supervisor.start_timeout
    STOP_TIMEOUT = "stop_timeout"  # did not exit within supervisor.stop_timeout
    UNRESPONSIVE = "unresponsive"  # its event loop was blocked
    PROTOCOL_ERROR = "protocol_error"  # broke the protocol of its link
    KILLED = "killed"  # by a command of the operator


@dataclass(frozen=True, slots=True)
class ExitReason:
    """A cause and its detail: the signal, the limit, or what blocked the event loop."""

    cause: Cause
    detail: str

    def __str__(self) -> str:
        return f"{self.cause} ({self.detail})" if self.detail else str(self.cause)


@dataclass(frozen=True, slots=True)
class ExitEvidence:
    """The known facts about a process that has exited."""

    status: int  # exit code, or minus the signal number
    ended: str  # the status as text: `exit 1`, `SIGKILL`
    was_ready: bool
    retire_reason: ExitReason | None  # why it was retired, if it was
    kill_reason: ExitReason | None  # why the supervisor killed it, if it did
    failure: str  # the message about its failed start
    oom: bool  # the kernel has killed a process of the control group for memory since the last exit


def classify(evidence: ExitEvidence) -> ExitReason:
    """Return why a process exited."""
    if evidence.status == -_SIGKILL:
        if evidence.kill_reason is not None:
            return evidence.kill_reason
        if evidence.oom:
            return ExitReason(Cause.OOM, "killed by the kernel, the control group ran out of memory")
    # SIGTERM kills a process whose handler is not installed yet, or not any more: it exits as requested.
    if evidence.retire_reason is not None and evidence.status in (0, -_SIGTERM):
        return evidence.retire_reason
    if evidence.status < 0:
        return ExitReason(Cause.SIGNAL, evidence.ended)
    if not evidence.was_ready:
        lines = evidence.failure.splitlines()  # a summary, then the details
        return ExitReason(Cause.BOOT_FAILED, lines[0][:KEPT_WIDTH] if lines else evidence.ended)
    return ExitReason(Cause.EXIT_CODE, evidence.ended)


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """The record of one process that has exited."""

    slot: int
    generation: int
    pid: int | None  # None: it could not be started
    at: float  # wall clock, seconds since 1970; for display only
    lived: float  # seconds from its start
    ready: float | None  # seconds since it became ready; None: never ready
    ended: str  # `exit 1`, `SIGKILL`
    reason: ExitReason
    turns: int  # turns that were lost with it
    output: tuple[str, ...]  # last lines of its output
    stacks: tuple[str, ...]  # lines of its last stack dump; may be empty

    @property
    def worker(self) -> str:
        """The label of the worker: "<slot>.<generation>"."""
        return f"{self.slot}.{self.generation}"


EXPECTED: Final = frozenset({Cause.ASKED, Cause.MEMORY_LIMIT, Cause.TURN_LIMIT})
"""Causes that are not failures: the process was replaced or removed on purpose."""


class ExitRecords:
    """The last exit records, oldest first, and the number of exits by cause and by slot."""

    def __init__(self) -> None:
        self._kept: Final[deque[ExitRecord]] = deque(maxlen=KEPT)
        self.counts: Final[dict[Cause, int]] = dict.fromkeys(Cause, 0)
        self._failures: Final[dict[int, int]] = {}  # unexpected exits by slot

    def add(self, record: ExitRecord) -> None:
        """Add a record, and drop the oldest one if there are too many."""
        self._kept.append(record)
        self.counts[record.reason.cause] += 1
        if record.reason.cause not in EXPECTED:
            self._failures[record.slot] = self.failures(record.slot) + 1

    def __iter__(self) -> Iterator[ExitRecord]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def failures(self, slot: int) -> int:
        """Return the number of unexpected exits in a slot since the start of the instance."""
        return self._failures.get(slot, 0)

    def last_of(self, slot: int) -> ExitRecord | None:
        """Return the last record of a slot, or None if none is kept."""
        return next((record for record in reversed(self._kept) if record.slot == slot), None)
