"""The commands of `fleet`: what `controller` must do with processes and their turns. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a process. `process` is its number; unlike a pid it is never reused."""

    process: int
    slot: int
    generation: int  # of the slot, counted from 1
    revision: int  # of the settings


@dataclass(frozen=True, slots=True)
class Retire:
    """Let this process exit once its turns have ended."""

    process: int
    reason: str


@dataclass(frozen=True, slots=True)
class Assign:
    """Send the turns of `slot` to `process` from now on; None: they wait."""

    slot: int
    process: int | None


@dataclass(frozen=True, slots=True)
class Resize:
    """Distribute the sessions over the slots 0 to `slots` - 1 from now on."""

    slots: int


@dataclass(frozen=True, slots=True)
class RolloutEnded:
    """A rollout has ended."""

    revision: int
    failure: str
    """Why it failed; empty if every process is of this revision now."""
    asked: bool = True
    """Whether `Fleet.roll` began it. Otherwise it was the replacement of single processes, or a rollback."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Exit with this status: no process is left, and none will be started."""

    status: int


Command = Spawn | Retire | Assign | Resize | RolloutEnded | Finished
