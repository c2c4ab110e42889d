"""Decides when a healthy process is recycled, that is, replaced by a new one. Pure.

A process is recycled after `supervisor.max_turns` turns, above the memory limit of `sizing`, or at its own
request, when it is out of memory or descriptors or its App has outdated sessions in memory. `fleet` replaces
it as in a rollout, without interrupting a turn. If the replacement fails, the old process stays, and the
replacement is requested again later.
"""

from dataclasses import dataclass, field
from typing import Final

JITTER: Final = 0.1  # share of max_turns, so that processes that started together are not recycled together
REQUEST_AGAIN_AFTER: Final = 60.0  # seconds between two requests for one process; the first may have failed


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """The memory above which a process is recycled. `description` is the end of "more than ..."."""

    megabytes: float
    description: str


@dataclass(slots=True)
class _Usage:
    share: float  # of max_turns, with jitter
    turns: int = 0
    requested_at: float | None = None


@dataclass(slots=True)
class Recycling:
    """The usage of all processes. The methods return the reason to replace a process now, or None.

    `max_turns` and `memory` may be None for no limit, and may change at any time.
    """

    max_turns: int | None
    memory: MemoryLimit | None
    _processes: dict[int, _Usage] = field(default_factory=dict)

    def started(self, process: int, chance: float) -> None:
        """Add a process. `chance` is a random number in [0, 1)."""
        self._processes[process] = _Usage(1 + JITTER * (2 * chance - 1))

    def exited(self, process: int) -> None:
        """Remove a process."""
        del self._processes[process]

    def dispatched(self, process: int, now: float) -> str | None:
        """Count a turn that was sent to a process."""
        usage = self._processes[process]
        usage.turns += 1
        if self.max_turns is None or usage.turns < self.max_turns * usage.share:
            return None
        return self._request(process, f"it has had {usage.turns} turns, supervisor.max_turns", now)

    def measured(self, process: int, megabytes: float, now: float) -> str | None:
        """Record the memory of a process (PSS). Does nothing if the process has exited meanwhile."""
        if self.memory is None or megabytes <= self.memory.megabytes or process not in self._processes:
            return None
        return self._request(process, f"it uses {megabytes:.0f} MB, more than {self.memory.description}", now)

    def requested(self, process: int, reason: str, now: float) -> str | None:
        """Record that a process has requested its own replacement."""
        return self._request(process, reason, now)

    def _request(self, process: int, reason: str, now: float) -> str | None:
        usage = self._processes[process]
        if usage.requested_at is not None and now - usage.requested_at < REQUEST_AGAIN_AFTER:
            return None
        usage.requested_at = now
        return reason
