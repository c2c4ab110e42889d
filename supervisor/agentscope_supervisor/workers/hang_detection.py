"""Detects workers whose event loop is blocked, and diagnoses the reason. Pure.

A worker increments one counter in its event loop and one in a thread. Both are on its `page`. The ages of the
counters and the state of the process give the diagnosis:

    loop stale, thread fresh    sleeping      a blocking call in the event loop
    loop stale, thread fresh    running       Python code that computes in the event loop
    both stale                  running       C code that holds the interpreter lock
    both stale                  stopped       SIGSTOP, a debugger or a suspended container
    both stale                  sleeping      a deadlock below Python
    both stale                  disk sleep    waits for a disk; may take twice the timeout
    both stale                  runnable      got little CPU: the machine is overloaded, and the worker is not
                                              the cause. May take ten times the timeout; a worker that is
                                              blocked for longer is useless.

Only ready workers are checked: during startup, an import may hold the interpreter lock for a minute. While
the supervisor itself is late, and shortly after, no worker is judged, because the supervisor may be the cause
of stale counters. `hang_watch` reads the counters and carries out the commands.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

SUSPECT_AFTER: Final = 5.0
"""Seconds without a change of the loop counter before a worker is suspect.

Overloaded machines reached 0.3 s in tests; an App that awaits properly stays below 1 s."""

LATE: Final = 1.0  # seconds by which a check may be late and still judge workers
GRACE: Final = 5.0  # seconds without judgement after a late check, in addition to the delay itself
STARVED_SHARE: Final = 0.5  # share of a CPU; a runnable process that gets less is starved
SPENT_ENOUGH: Final = 2.5  # CPU seconds after which a worker that is still blocked does not count as starved
DUMP_WITHIN: Final = 1.0  # seconds between the stack dump of a suspect and its kill, at least


class Kind(StrEnum):
    """The cause that blocks the event loop of a worker. The values are shown to operators."""

    BLOCKING_CALL = "blocking call"
    PYTHON_LOOP = "python loop"
    LOCK_HELD = "interpreter lock held"
    STOPPED = "stopped"
    DEADLOCK = "deadlock"
    DISK_WAIT = "disk wait"
    STARVED = "starved"


PATIENCE: Final[Mapping[Kind, int]] = {Kind.DISK_WAIT: 2, Kind.STARVED: 10}
"""Factors for `supervisor.unresponsive_timeout` if the worker is not the cause."""


@dataclass(frozen=True, slots=True)
class Counters:
    """The current counters on the page of a worker."""

    loop: int
    thread: int


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """The state of a process as the kernel reports it."""

    state: str
    """State as in ps: R, S, D, T, …"""
    cpu: float
    """Share of one CPU since the last check."""
    spent: float = 0.0
    """CPU seconds since its event loop was first late."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """Request a stack dump: the event loop has been blocked for `age` seconds."""

    process: int
    age: float
    kind: Kind


@dataclass(frozen=True, slots=True)
class RequestKill:
    """Kill the worker: its event loop has been blocked for `age` seconds."""

    process: int
    age: float
    kind: Kind


@dataclass(frozen=True, slots=True)
class Recovered:
    """The event loop of a suspect runs again, after `age` seconds."""

    process: int
    age: float


Command = Suspect | RequestKill


@dataclass(slots=True)
class _Watched:
    counters: Counters
    loop_at: float  # time of the last change of the counter
    thread_at: float
    suspect_since: float | None = None


def diagnose(thread_stale: bool, sample: ProcessSample) -> Kind:
    """Return why an event loop is blocked. `thread_stale`: the counter of the thread is stale too."""
    if sample.state in "Tt":
        return Kind.STOPPED
    if not thread_stale:
        return Kind.PYTHON_LOOP if sample.state == "R" else Kind.BLOCKING_CALL
    if sample.state == "R":
        had_cpu = sample.cpu >= STARVED_SHARE or sample.spent >= SPENT_ENOUGH
        return Kind.LOCK_HELD if had_cpu else Kind.STARVED
    return Kind.DISK_WAIT if sample.state == "D" else Kind.DEADLOCK


@dataclass(slots=True)
class HangDetector:
    """Watches all ready workers. Times are seconds of a monotonic clock."""

    unresponsive_timeout: float
    _watched: dict[int, _Watched] = field(default_factory=dict)
    _last_check: float | None = None
    _judge_from: float = 0.0

    def observe(
        self, counters_of: Mapping[int, Counters], now: float, interval: float
    ) -> tuple[list[Recovered], list[int]]:
        """Record the counters of all ready workers. `interval` is the planned time since the last call.

        Returns the workers that have recovered, and the workers for which `judge` needs a sample.
        """
        if self._last_check is not None:
            late = now - self._last_check - interval
            if late > LATE:
                self._judge_from = now + late + GRACE
        self._last_check = now
        for process in self._watched.keys() - counters_of.keys():
            del self._watched[process]
        recovered = []
        for process, counters in counters_of.items():
            watched = self._watched.setdefault(process, _Watched(counters, now, now))
            if counters.loop != watched.counters.loop:
                if watched.suspect_since is not None:
                    watched.suspect_since = None
                    recovered.append(Recovered(process, now - watched.loop_at))
                watched.loop_at = now
            if counters.thread != watched.counters.thread:
                watched.thread_at = now
            watched.counters = counters
            if now < self._judge_from:  # the time in which the supervisor was late does not count
                watched.loop_at = watched.thread_at = now
        late_workers = [
            process for process, watched in self._watched.items() if now - watched.loop_at >= SUSPECT_AFTER
        ]
        return recovered, late_workers

    def judge(self, samples: Mapping[int, ProcessSample], now: float) -> list[Command]:
        """Return the commands for the workers that `observe` named, given a sample of each."""
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
