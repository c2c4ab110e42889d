"""What becomes of processes that the kernel gave us because their own parent has ended. Pure.

    zombie                                reaped, once it has been one for a moment
    descends from a worker that lives     left alone: the App may know why it runs on
    descends from a worker that is gone   asked to end, and ended when it does not
    descends from no worker of ours       left alone: as PID 1 we adopt what `docker exec` started too

What a process descends from is told by the mark that each worker has in its environment and passes on, and
by the session of processes that each worker leads: a tool may leave either of them, rarely both. The workers
themselves never come here; their owners take their statuses. `reaper` looks, and carries out the commands.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

UNCLAIMED: Final = 0.5
"""Seconds that a zombie is left for an owner who may not have told us yet that it is his."""

END_WITHIN: Final = 5.0  # seconds from SIGTERM to SIGKILL


@dataclass(frozen=True, slots=True)
class Adopted:
    """A child that is no worker: `session` is the pid of its session's leader, `mark` that of a worker."""

    pid: int
    zombie: bool
    session: int
    mark: str | None


@dataclass(frozen=True, slots=True)
class Reap:
    """Take its status."""

    pid: int


@dataclass(frozen=True, slots=True)
class Terminate:
    """Ask it to end; the worker with this mark is gone."""

    pid: int
    mark: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End it: it did not when it was asked."""

    pid: int
    mark: str


Command = Reap | Terminate | Kill


@dataclass(slots=True)
class _Known:
    zombie_since: float | None = None
    asked_at: float | None = None
    killed: bool = False


@dataclass(slots=True)
class ReaperPolicy:
    """Everything we have adopted and not yet reaped. Times are seconds of a monotonic clock."""

    end_within: float = END_WITHIN
    _known: dict[int, _Known] = field(default_factory=dict)  # by pid: none is used again before we reap it
    _sessions: dict[int, str] = field(default_factory=dict)  # mark of the worker that leads or led it

    def look(self, adopted: Iterable[Adopted], workers: Mapping[int, str], now: float) -> list[Command]:
        """What to do about all that is adopted at present. `workers`: pid and mark of those that live."""
        present = {child.pid: child for child in adopted}
        living = set(workers.values())
        # The number of a session can be used again once nobody is left in it.
        peopled = {child.session for child in present.values()}
        self._sessions = {s: mark for s, mark in self._sessions.items() if s in peopled} | dict(workers)
        self._known = {pid: self._known.get(pid, _Known()) for pid in present}
        commands: list[Command] = []
        for pid, known in self._known.items():
            child = present[pid]
            mark = child.mark or self._sessions.get(child.session)
            if child.zombie:
                if known.zombie_since is None:
                    known.zombie_since = now
                if now - known.zombie_since >= UNCLAIMED:
                    commands.append(Reap(pid))
            elif mark is None or mark in living:
                continue
            elif known.asked_at is None:
                known.asked_at = now
                commands.append(Terminate(pid, mark))
            elif now - known.asked_at >= self.end_within and not known.killed:
                known.killed = True
                commands.append(Kill(pid, mark))
        return commands

    @property
    def ending(self) -> bool:
        """Whether at the last look something lived that was asked to end."""
        return any(k.asked_at is not None and k.zombie_since is None for k in self._known.values())
