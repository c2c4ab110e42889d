"""How processes ended: the cause of each death, and the records of the last ones. Pure.

The kernel says only how a process ended, not why: a SIGKILL may be our own, an operator's, or that of a
machine without memory. `classify` puts together what the shell knows. The records are for people and for
counting; nothing here decides what is started next, that is `fleet`.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from agentscope_supervisor.processes.kept_output import KEPT_WIDTH

KEPT: Final = 100
"""ExitRecords kept. With the bounds of `kept_output` 4 MB if all are the longest."""

_SIGKILL: Final = 9
_SIGTERM: Final = 15


class Cause(StrEnum):
    """Why a process ended. The words are those of the JSON that is shown, and never change."""

    ASKED = "asked"  # replaced, scaled away, or the instance stopped
    MEMORY_LIMIT = "memory_limit"  # above supervisor.max_memory_mb
    TURN_LIMIT = "turn_limit"  # after supervisor.max_turns
    EXIT_CODE = "exit_code"  # it exited by itself
    SIGNAL = "signal"  # a crash in C, or somebody's kill
    OOM = "oom"  # the kernel had no memory left
    BOOT_FAILED = "boot_failed"  # exited before it was ready
    BOOT_TIMEOUT = "boot_timeout"  # not ready within supervisor.start_timeout
    STOP_TIMEOUT = "stop_timeout"  # asked to exit, and did not within supervisor.stop_timeout
    UNRESPONSIVE = "unresponsive"  # its event loop did not turn
    PROTOCOL_ERROR = "protocol_error"  # said on its link what no worker may say
    KILLED = "killed"  # by an operator's command


@dataclass(frozen=True, slots=True)
class ExitReason:
    """A cause, and what makes it particular: the signal, the limit, what blocked."""

    cause: Cause
    detail: str

    def __str__(self) -> str:
        return f"{self.cause} ({self.detail})" if self.detail else str(self.cause)


@dataclass(frozen=True, slots=True)
class ExitEvidence:
    """What is known of a process that has ended. `status`: exit code, or minus the signal number."""

    status: int
    ended: str  # the same for people: `exit 1`, `SIGKILL`
    was_ready: bool
    retire_reason: ExitReason | None  # why it was asked to go, if it was
    kill_reason: ExitReason | None  # why we killed it, if we did
    failure: str  # what it told of its failed start
    oom: bool  # the kernel has killed somebody of our control group for memory since the last look


def classify(evidence: ExitEvidence) -> ExitReason:
    """Why a process ended."""
    if evidence.status == -_SIGKILL:
        if evidence.kill_reason is not None:
            return evidence.kill_reason
        if evidence.oom:
            return ExitReason(Cause.OOM, "killed by the kernel, the control group had no memory left")
    # SIGTERM meets one that has not yet, or no longer, a handler for it: it does what it was asked.
    if evidence.retire_reason is not None and evidence.status in (0, -_SIGTERM):
        return evidence.retire_reason
    if evidence.status < 0:
        return ExitReason(Cause.SIGNAL, evidence.ended)
    if not evidence.was_ready:
        lines = evidence.failure.splitlines()  # a sentence, and then what explains it
        return ExitReason(Cause.BOOT_FAILED, lines[0][:KEPT_WIDTH] if lines else evidence.ended)
    return ExitReason(Cause.EXIT_CODE, evidence.ended)


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """One process that has ended."""

    slot: int
    generation: int
    pid: int | None  # None: it could not be started
    at: float  # wall clock, seconds since 1970; for people only
    lived: float  # seconds from its start
    ready: float | None  # seconds from its readiness; None: it never was
    ended: str  # `exit 1`, `SIGKILL`
    reason: ExitReason
    turns: int  # that ended with it
    output: tuple[str, ...]  # its last lines
    stacks: tuple[str, ...]  # lines of the last dump of its stacks; empty: there was none

    @property
    def worker(self) -> str:
        """Its name for people: "<slot>.<generation>"."""
        return f"{self.slot}.{self.generation}"


AS_WANTED: Final = frozenset({Cause.ASKED, Cause.MEMORY_LIMIT, Cause.TURN_LIMIT})
"""ExitRecords that are no failure: the next process was there before."""


class ExitRecords:
    """The last deaths, oldest first, and how many there were of each cause and in each slot."""

    def __init__(self) -> None:
        self._kept: Final[deque[ExitRecord]] = deque(maxlen=KEPT)
        self.counts: Final[dict[Cause, int]] = dict.fromkeys(Cause, 0)
        self._failures: Final[dict[int, int]] = {}  # by slot

    def add(self, death: ExitRecord) -> None:
        self._kept.append(death)
        self.counts[death.reason.cause] += 1
        if death.reason.cause not in AS_WANTED:
            self._failures[death.slot] = self.failures(death.slot) + 1

    def __iter__(self) -> Iterator[ExitRecord]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def failures(self, slot: int) -> int:
        """ExitRecords in a slot, since the start, that nobody wanted."""
        return self._failures.get(slot, 0)

    def last_of(self, slot: int) -> ExitRecord | None:
        """The last death in a slot that is still kept."""
        return next((death for death in reversed(self._kept) if death.slot == slot), None)
