"""When is a process due to be replaced although nothing is wrong with it? Pure.

It has had its turns (`supervisor.max_turns`), it is larger than it may be (`supervisor.max_memory_mb`), or it
says so itself: out of memory, out of descriptors. `fleet` replaces it as in a rollout, without cutting a
turn. A replacement that fails leaves the old one in its place; it is asked for again after a while.
"""

from dataclasses import dataclass, field
from typing import Final

JITTER: Final = 0.1  # of max_turns: processes that started together do not all wear out together
REQUEST_AGAIN_AFTER: Final = 60.0  # seconds; what could not be replaced a moment ago still cannot


@dataclass(slots=True)
class _Usage:
    share: float  # of max_turns
    turns: int = 0
    requested_at: float | None = None


@dataclass(slots=True)
class Recycling:
    """How far the processes are usage. Each method returns why a process is to be replaced now, or None.

    `max_turns`, `max_memory_mb`: None, no limit.
    """

    max_turns: int | None
    max_memory_mb: float | None
    _processes: dict[int, _Usage] = field(default_factory=dict)

    def started(self, process: int, chance: float) -> None:
        """`chance`: uniform in [0, 1)."""
        self._processes[process] = _Usage(1 + JITTER * (2 * chance - 1))

    def exited(self, process: int) -> None:
        del self._processes[process]

    def turn(self, process: int, now: float) -> str | None:
        """It was handed a turn."""
        usage = self._processes[process]
        usage.turns += 1
        if self.max_turns is None or usage.turns < self.max_turns * usage.share:
            return None
        return self._request(process, f"it has had {usage.turns} turns, supervisor.max_turns", now)

    def memory(self, process: int, megabytes: float, now: float) -> str | None:
        """It holds so much memory (proportional set size)."""
        if self.max_memory_mb is None or megabytes <= self.max_memory_mb or process not in self._processes:
            return None
        limit = f"supervisor.max_memory_mb: {self.max_memory_mb:g}"
        return self._request(process, f"it holds {megabytes:.0f} MB, over {limit}", now)

    def requested(self, process: int, why: str, now: float) -> str | None:
        """It requested itself that it is usage."""
        return self._request(process, why, now)

    def _request(self, process: int, why: str, now: float) -> str | None:
        usage = self._processes[process]
        if usage.requested_at is not None and now - usage.requested_at < REQUEST_AGAIN_AFTER:
            return None
        usage.requested_at = now
        return why
