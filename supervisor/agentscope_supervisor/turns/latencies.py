"""Durations of the most recent turns, and the time to their first events. Pure.

For the console and the operator's commands, which show the present. `telemetry.metrics` has the histograms
since the start.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

KEPT: Final = 500
"""Number of turns that are kept: enough for a 95th percentile, and sorted in 0.1 ms at each call."""


@dataclass(slots=True)
class Latencies:
    """Durations of the last `KEPT` turns, in seconds."""

    _turns: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    _firsts: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    def note(self, turn: float, first: float | None) -> None:
        """Record a turn that has ended. `turn`: its duration. `first`: the time to its first event; None: it
        had none."""
        self._turns.append(turn)
        if first is not None:
            self._firsts.append(first)

    def percentiles(self) -> dict[str, dict[str, float | None]]:
        """The median and the 95th percentile of both durations; None: no turn has been recorded yet."""
        return {"turn": _percentiles(self._turns), "first_event": _percentiles(self._firsts)}


def _percentiles(values: deque[float]) -> dict[str, float | None]:
    ordered = sorted(values)
    if not ordered:
        return {"p50": None, "p95": None}
    return {
        name: round(ordered[(len(ordered) - 1) * share // 100], 4)
        for name, share in (("p50", 50), ("p95", 95))
    }
