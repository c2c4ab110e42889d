"""How a worker is started: forked from a process that has AgentScope loaded, or by itself. Pure.

The image is that process, at most one at a time: a "zygote". What there is of it, and what a worker that
is to be started does then:

    ABSENT     none was started yet, or none can be              starts by itself
    WARMING    it imports: the first one of its revision          waits for it, until `wait_timeout` is over
               a later one, its forerunner having exited           starts by itself
    READY      it forks on request                               is forked
    RESTING    it has exited; the next one starts after a while    starts by itself
    REFUSED    no worker can be forked from it                   starts by itself

The first worker of a revision waits because the image is ready about when it would be itself, and because it
then shares its memory. It never waits for an image that has failed before.

A worker is never forked from an image that is older than its revision: each reload makes a revision, and what
has been installed since, another AgentScope or interpreter too, must be what its workers run. So the first
worker of a revision begins a new image. One of an older revision, as a failed rollout starts them, is forked
from the newer image: by itself it would find the same things installed.
"""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from agentscope_supervisor.processes.backoff import RestartHistory

HANGS_AFTER: Final = 120.0
"""Seconds after which an image that is still not ready never will be: a hung mount, a lock in an import."""


class ZygoteState(Enum):
    """What there is to fork workers from."""

    ABSENT = auto()
    WARMING = auto()
    READY = auto()
    RESTING = auto()
    REFUSED = auto()


@dataclass(frozen=True, slots=True)
class StartZygote:
    """Start an image for workers of this revision."""

    revision: int


@dataclass(frozen=True, slots=True)
class KillZygote:
    """End the image: it is out of date, or everything stops."""


@dataclass(frozen=True, slots=True)
class Fork:
    """Start this process by a fork of the image."""

    process: int


@dataclass(frozen=True, slots=True)
class Execute:
    """Start this process by itself, in a new interpreter."""

    process: int


Command = StartZygote | KillZygote | Fork | Execute


@dataclass(slots=True)
class LaunchPolicy:
    """Owner of the image. Call one method for each thing that happened, and carry out what it returns.

    Times are seconds of a monotonic clock. `possible`: whether an image may be started at all.
    `wait_timeout`: how long a worker waits for one. It takes two seconds, or on a busy machine as long as the
    imports of the worker itself would, so that only one that hangs is waited for in vain.
    """

    possible: bool
    wait_timeout: float
    state: ZygoteState = ZygoteState.ABSENT
    revision: int = 0  # for which the image is
    _history: RestartHistory = field(default_factory=RestartHistory)  # of this revision's images
    _workers_wait: bool = False  # workers wait for the image that is WARMING
    _waiting: list[int] = field(default_factory=list)  # processes
    _due: float | None = (
        None  # the end of the wait_timeout with one that is WARMING; the next start while RESTING
    )
    _ready_at: float | None = None

    def spawn(self, process: int, revision: int, now: float) -> list[Command]:
        """A process is to be started."""
        commands: list[Command] = []
        if self.possible and revision > self.revision:
            # Those who wait for the image that goes do not wait for the next one too.
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
        """The image can be forked."""
        if self.state is not ZygoteState.WARMING:
            return []
        self.state, self._ready_at, self._due = ZygoteState.READY, now, None
        return self._release(Fork)

    def refused(self) -> list[Command]:
        """The image says that no worker can be forked from it, and ends."""
        self.state, self._due = ZygoteState.REFUSED, None
        return self._release(Execute)

    def exited(self, now: float, chance: float) -> list[Command]:
        """The image has ended. `chance`: uniform in [0, 1)."""
        if self.state not in (ZygoteState.WARMING, ZygoteState.READY):
            return []
        ready_for = now - self._ready_at if self._ready_at is not None else 0.0
        self.state, self._ready_at = ZygoteState.RESTING, None
        self._due = now + self._history.exited(now, ready_for, chance)
        return self._release(Execute)

    def cancel(self, process: int) -> bool:
        """A process is not wanted any more. Returns whether it waited, and is never started now."""
        waited = process in self._waiting
        if waited:
            self._waiting.remove(process)
        return waited

    def tick(self, now: float, chance: float) -> list[Command]:
        """Do what is due. To be called at `next_due`; earlier is harmless."""
        if self._due is None or now < self._due:
            return []
        if self.state is ZygoteState.RESTING:
            return self._start_zygote(now, workers_wait=False)
        if self._workers_wait:
            self._workers_wait, self._due = False, now + HANGS_AFTER
            return self._release(Execute)
        return [KillZygote(), *self.exited(now, chance)]

    def stop(self) -> list[Command]:
        """No worker will be started any more; whoever waits is to be abandoned."""
        discards = self.state in (ZygoteState.WARMING, ZygoteState.READY)
        self.possible, self.state, self._due = False, ZygoteState.ABSENT, None
        return [KillZygote()] if discards else []

    @property
    def next_due(self) -> float | None:
        """When `tick` has something to do, or None."""
        return self._due

    def _start_zygote(self, now: float, *, workers_wait: bool) -> list[Command]:
        self.state, self._workers_wait = ZygoteState.WARMING, workers_wait
        self._due = now + (self.wait_timeout if workers_wait else HANGS_AFTER)
        return [StartZygote(self.revision)]

    def _release(self, way: type[Fork] | type[Execute]) -> list[Command]:
        """Start those who wait."""
        waiting, self._waiting = self._waiting, []
        return [way(process) for process in waiting]
