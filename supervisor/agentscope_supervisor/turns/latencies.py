"""How long the last turns took, and their clients waited for the first event. Pure.

What has ever been counted is in `metrics`; this is what somebody who looks now wants to know.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

KEPT: Final = 500
"""Turns that are remembered: enough for a 95th percentile, and sorted in 0.1 ms by who asks for it."""


@dataclass(slots=True)
class Latencies:
    """Of the last turns, in seconds."""

    _turns: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    _firsts: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    def note(self, turn: float, first: float | None) -> None:
        """A turn has ended. `first`: until its first event, if it had one."""
        self._turns.append(turn)
        if first is not None:
            self._firsts.append(first)

    def told(self) -> dict[str, dict[str, float | None]]:
        """The median and the 95th percentile of both; None: not known yet."""
        return {"turn": _percentiles(self._turns), "first_event": _percentiles(self._firsts)}


def _percentiles(values: deque[float]) -> dict[str, float | None]:
    ordered = sorted(values)
    if not ordered:
        return {"p50": None, "p95": None}
    return {
        name: round(ordered[(len(ordered) - 1) * share // 100], 4)
        for name, share in (("p50", 50), ("p95", 95))
    }
