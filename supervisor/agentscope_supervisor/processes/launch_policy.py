"""Decides how a worker is started: forked from the zygote, or in a new interpreter. Pure.

The zygote is a process that has AgentScope loaded. There is at most one. Its state decides about a new
worker:

    ABSENT     no zygote has been started, or none can be     new interpreter
    WARMING    the first zygote of its revision imports       waits for it, at most `wait_timeout`
               a later zygote imports, after one has died     new interpreter
    READY      it accepts fork requests                       forked
    RESTING    it has died; the next one starts later         new interpreter
    REFUSED    it cannot fork workers                         new interpreter

The first worker of a revision waits because the zygote is ready at about the time at which the worker itself
would be, and because the forked worker shares its memory. A worker never waits for a zygote that has failed
before.

A worker is never forked from a zygote that is older than the worker's revision. Each reload creates a
revision, and its workers must run what has been installed since, including another AgentScope or another
interpreter. So the first worker of a revision starts a new zygote. A worker of an older revision, which a
failed rollout starts, is forked from the newer zygote: in a new interpreter it would find the same packages.

`launcher` carries out the commands.
"""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from agentscope_supervisor.processes.backoff import RestartHistory

HANGS_AFTER: Final = 120.0
"""Seconds after which a zygote that is not ready counts as hung: on a dead mount or a lock in an import."""


class ZygoteState(Enum):
    """The state of the zygote; the module docstring says what each state means for a new worker."""

    ABSENT = auto()
    WARMING = auto()
    READY = auto()
    RESTING = auto()
    REFUSED = auto()


@dataclass(frozen=True, slots=True)
class StartZygote:
    """Start a zygote for workers of this revision."""

    revision: int


@dataclass(frozen=True, slots=True)
class KillZygote:
    """Kill the zygote: it is out of date, it hangs, or the instance stops."""


@dataclass(frozen=True, slots=True)
class Fork:
    """Start this process as a fork of the zygote."""

    process: int


@dataclass(frozen=True, slots=True)
class Execute:
    """Start this process in a new interpreter."""

    process: int


Command = StartZygote | KillZygote | Fork | Execute


@dataclass(slots=True)
class LaunchPolicy:
    """Owner of the zygote. Call one method for each event, and carry out the commands that it returns.

    Times are seconds of a monotonic clock. `possible` is whether a zygote can be started at all.
    `wait_timeout` is how long a worker waits for the zygote. The zygote takes two seconds; on a busy machine
    it takes as long as the worker's own imports would, so only the wait for a zygote that hangs is lost time.
    """

    possible: bool
    wait_timeout: float
    state: ZygoteState = ZygoteState.ABSENT
    revision: int = 0
    """Revision that the zygote was started for."""
    _history: RestartHistory = field(default_factory=RestartHistory)  # of the zygotes of this revision
    _workers_wait: bool = False  # workers wait for the zygote that is WARMING
    _waiting: list[int] = field(default_factory=list)  # processes
    _due: float | None = None  # WARMING: when waiting or the zygote is given up; RESTING: the next start
    _ready_at: float | None = None

    def spawn(self, process: int, revision: int, now: float) -> list[Command]:
        """Start a process of this revision, now or as soon as the zygote is ready."""
        commands: list[Command] = []
        if self.possible and revision > self.revision:
            # Processes that wait for the old zygote do not wait for the new one too.
            commands += self._release(Execute)
            if self.state in (ZygoteState.WARMING, ZygoteState.READY):
                commands.append(KillZygote())
            self.revision, self._history, self._ready_at = revision, RestartHistory(), None
            commands += self._start_zygote(now, workers_wait=True)
        match self.state:
            case ZygoteState.READY:
                commands.append(Fork(process))
            case ZygoteState.WARMING if self._workers_wait:
                self._waiting.append(process)
            case _:
                commands.append(Execute(process))
        return commands

    def ready(self, now: float) -> list[Command]:
        """Handle that the zygote accepts fork requests."""
        if self.state is not ZygoteState.WARMING:
            return []
        self.state, self._ready_at, self._due = ZygoteState.READY, now, None
        return self._release(Fork)

    def refused(self) -> list[Command]:
        """Handle that the zygote has reported that it cannot fork workers. It exits by itself."""
        self.state, self._due = ZygoteState.REFUSED, None
        return self._release(Execute)

    def exited(self, now: float, chance: float) -> list[Command]:
        """Handle that the zygote has exited. `chance` is a random number in [0, 1)."""
        if self.state not in (ZygoteState.WARMING, ZygoteState.READY):
            return []
        ready_for = now - self._ready_at if self._ready_at is not None else 0.0
        self.state, self._ready_at = ZygoteState.RESTING, None
        self._due = now + self._history.exited(now, ready_for, chance)
        return self._release(Execute)

    def cancel(self, process: int) -> bool:
        """Cancel the start of a process. Returns whether it was waiting, and will now never start."""
        waited = process in self._waiting
        if waited:
            self._waiting.remove(process)
        return waited

    def tick(self, now: float, chance: float) -> list[Command]:
        """Do what is due. Call it at `next_due`; an earlier call does nothing."""
        if self._due is None or now < self._due:
            return []
        if self.state is ZygoteState.RESTING:
            return self._start_zygote(now, workers_wait=False)
        if self._workers_wait:
            self._workers_wait, self._due = False, now + HANGS_AFTER
            return self._release(Execute)
        return [KillZygote(), *self.exited(now, chance)]

    def stop(self) -> list[Command]:
        """End the zygote for good. Cancel the processes that still wait; they are not started."""
        alive = self.state in (ZygoteState.WARMING, ZygoteState.READY)
        self.possible, self.state, self._due = False, ZygoteState.ABSENT, None
        return [KillZygote()] if alive else []

    @property
    def next_due(self) -> float | None:
        """Time at which `tick` has something to do, or None."""
        return self._due

    def _start_zygote(self, now: float, *, workers_wait: bool) -> list[Command]:
        self.state, self._workers_wait = ZygoteState.WARMING, workers_wait
        self._due = now + (self.wait_timeout if workers_wait else HANGS_AFTER)
        return [StartZygote(self.revision)]

    def _release(self, way: type[Fork] | type[Execute]) -> list[Command]:
        """Start the waiting processes."""
        waiting, self._waiting = self._waiting, []
        return [way(process) for process in waiting]
