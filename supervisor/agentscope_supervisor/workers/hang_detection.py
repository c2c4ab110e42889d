"""Whether a worker's event loop turns, and if not, why: from two counters and what the kernel says. Pure.

A worker counts the turns of its loop and those of a thread (`page`). From their ages and the state of the
process follows what is wrong:

    loop old, thread fresh    sleeping    a blocking call in the loop
    loop old, thread fresh    running     Python that computes in the loop
    both old                  running     C code that holds the interpreter's lock
    both old                  stopped     SIGSTOP, a debugger, a suspended container
    both old                  sleeping    deadlock below Python
    both old                  in the disk waits for a disk: given twice the time
    both old                  wants CPU   and had little: the machine is starved and the worker not to blame;
                                          given ten times the time: one that answers nobody for that long
                                          is no use

Only workers that are ready are looked at: an import may hold the lock for a minute. And nobody is judged
while the supervisor itself was late, or just after: what is old then may be its own fault.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

SUSPECT_AFTER: Final = 5.0
"""Seconds without a turn of the loop. Starved machines showed 0.3 s; no App that waits properly shows 1 s."""

LATE: Final = 1.0  # seconds by which the supervisor's own look may be late and still judge
GRACE: Final = 5.0  # seconds after such a lateness before it judges again, and as long as it was late
STARVED_SHARE: Final = 0.5  # of a CPU: one who wants to run and gets less is starved
SPENT_ENOUGH: Final = (
    2.5  # CPU seconds after which one who got them slowly, and still did not turn, is not spared
)
DUMP_WITHIN: Final = 1.0  # seconds for the stacks of a suspect, before it can be condemned


class Kind(StrEnum):
    """What keeps a loop from turning."""

    BLOCKING_CALL = "blocking call"
    PYTHON_LOOP = "python loop"
    LOCK_HELD = "interpreter lock held"
    STOPPED = "stopped"
    DEADLOCK = "deadlock"
    DISK_WAIT = "disk wait"
    STARVED = "starved"


PATIENCE: Final[Mapping[Kind, int]] = {Kind.DISK_WAIT: 2, Kind.STARVED: 10}
"""By how much the time of a worker is longer that is not to blame."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What the page of a worker says now."""

    loop: int
    thread: int


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """What the kernel says of a process.

    `state` as in ps (R, S, D, T, …); `cpu` its share of one CPU since the last look; `spent` the seconds of
    CPU that it has used since it was first seen late.
    """

    state: str
    cpu: float
    spent: float = 0.0


@dataclass(frozen=True, slots=True)
class Suspect:
    """Ask for its stacks: its loop has not turned for `age` seconds."""

    process: int
    age: float
    kind: Kind


@dataclass(frozen=True, slots=True)
class RequestKill:
    """End it: its loop has not turned for `age` seconds."""

    process: int
    age: float
    kind: Kind


@dataclass(frozen=True, slots=True)
class Recovered:
    """It was suspect, and its loop turns again after `age` seconds."""

    process: int
    age: float


Command = Suspect | RequestKill


@dataclass(slots=True)
class _Watched:
    counters: Counters
    loop_at: float  # when the counter was seen to change
    thread_at: float
    suspect_since: float | None = None


def diagnose(thread_old: bool, sample: ProcessSample) -> Kind:
    """Why a loop does not turn."""
    if sample.state in "Tt":
        return Kind.STOPPED
    if not thread_old:
        return Kind.PYTHON_LOOP if sample.state == "R" else Kind.BLOCKING_CALL
    if sample.state == "R":
        had_its_chance = sample.cpu >= STARVED_SHARE or sample.spent >= SPENT_ENOUGH
        return Kind.LOCK_HELD if had_its_chance else Kind.STARVED
    return Kind.DISK_WAIT if sample.state == "D" else Kind.DEADLOCK


@dataclass(slots=True)
class HangDetector:
    """The watch over all ready workers. Times in seconds of a monotonic clock."""

    unresponsive_timeout: float
    _watched: dict[int, _Watched] = field(default_factory=dict)
    _last_look: float | None = None
    _judge_from: float = 0.0

    def look(
        self, pages: Mapping[int, Counters], now: float, interval: float
    ) -> tuple[list[Recovered], list[int]]:
        """Note the counters of all ready workers.

        Returns who has recovered, and those whose samples `judge` needs to know. `interval`: seconds that
        should have passed since the last look.
        """
        if self._last_look is not None:
            late = now - self._last_look - interval
            if late > LATE:
                self._judge_from = now + late + GRACE
        self._last_look = now
        for process in self._watched.keys() - pages.keys():
            del self._watched[process]
        recovered = []
        for process, counters in pages.items():
            watched = self._watched.setdefault(process, _Watched(counters, now, now))
            if counters.loop != watched.counters.loop:
                if watched.suspect_since is not None:
                    watched.suspect_since = None
                    recovered.append(Recovered(process, now - watched.loop_at))
                watched.loop_at = now
            if counters.thread != watched.counters.thread:
                watched.thread_at = now
            watched.counters = counters
            if now < self._judge_from:  # what passed while nobody looked counts against nobody
                watched.loop_at = watched.thread_at = now
        old = [
            process for process, watched in self._watched.items() if now - watched.loop_at >= SUSPECT_AFTER
        ]
        return recovered, old

    def judge(self, samples: Mapping[int, ProcessSample], now: float) -> list[Command]:
        """What to do about those that `look` named, with what the kernel says of each."""
        commands: list[Command] = []
        for process, sample in samples.items():
            watched = self._watched[process]
            age = now - watched.loop_at
            kind = diagnose(now - watched.thread_at >= SUSPECT_AFTER, sample)
            is_over = age >= self.unresponsive_timeout * PATIENCE.get(kind, 1)
            if kind is Kind.STARVED and not is_over:
                continue
            if watched.suspect_since is None:
                watched.suspect_since = now
                commands.append(Suspect(process, age, kind))
            elif is_over and now - watched.suspect_since >= DUMP_WITHIN:
                commands.append(RequestKill(process, age, kind))
        return commands
