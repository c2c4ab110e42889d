"""Decides what to do with adopted processes: processes that were reparented to the supervisor. Pure.

    zombie                                   reaped after a short delay
    descendant of a worker that is alive     left alone: the App may need it
    descendant of a worker that has exited   terminated, and killed if it does not exit
    descendant of no worker                  left alone: PID 1 also adopts processes of `docker exec`

A descendant is recognised by the mark in its environment, which it inherits from the worker, and by the
session that the worker leads. A tool may change one of them, rarely both. Workers never appear here; their
owners collect their exit status. `reaper` polls and carries out the commands.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

UNCLAIMED: Final = 0.5
"""Seconds before a zombie is reaped: an owner may not have registered it yet."""

END_WITHIN: Final = 5.0  # seconds from SIGTERM to SIGKILL


@dataclass(frozen=True, slots=True)
class Adopted:
    """A child that is not a worker. `session` is the pid of its session leader."""

    pid: int
    zombie: bool
    session: int
    mark: str | None  # of the worker that it descends from, if its environment has one


@dataclass(frozen=True, slots=True)
class Reap:
    """Collect the exit status of the process."""

    pid: int


@dataclass(frozen=True, slots=True)
class Terminate:
    """Send SIGTERM; the worker with this mark has exited."""

    pid: int
    mark: str


@dataclass(frozen=True, slots=True)
class Kill:
    """Send SIGKILL; the process did not exit after SIGTERM."""

    pid: int
    mark: str


Command = Reap | Terminate | Kill


@dataclass(slots=True)
class _Known:
    zombie_since: float | None = None
    terminated_at: float | None = None
    killed: bool = False


@dataclass(slots=True)
class ReaperPolicy:
    """The adopted processes that are not reaped yet. Times are seconds of a monotonic clock."""

    end_within: float = END_WITHIN
    _known: dict[int, _Known] = field(default_factory=dict)  # by pid; not reused before it is reaped
    _sessions: dict[int, str] = field(default_factory=dict)  # mark of the worker that leads or led each one

    def decide(self, adopted: Iterable[Adopted], workers: Mapping[int, str], now: float) -> list[Command]:
        """Return the commands for the adopted processes. `workers`: pid and mark of the living workers."""
        present = {child.pid: child for child in adopted}
        living = set(workers.values())
        # A session id can be reused once no process is left in the session.
        in_use = {child.session for child in present.values()}
        self._sessions = {s: mark for s, mark in self._sessions.items() if s in in_use} | dict(workers)
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
            elif known.terminated_at is None:
                known.terminated_at = now
                commands.append(Terminate(pid, mark))
            elif now - known.terminated_at >= self.end_within and not known.killed:
                known.killed = True
                commands.append(Kill(pid, mark))
        return commands

    @property
    def ending(self) -> bool:
        """Whether a process that was terminated was still alive at the last call of `decide`."""
        return any(k.terminated_at is not None and k.zombie_since is None for k in self._known.values())
