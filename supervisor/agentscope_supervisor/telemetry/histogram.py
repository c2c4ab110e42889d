"""A histogram with cumulative buckets, as Prometheus expects it. Pure."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Histogram:
    """Counts values in buckets. `bounds` are the upper bounds of the buckets, in ascending order.

    One more bucket counts the values above the last bound.
    """

    bounds: Sequence[float]
    total: float = 0.0  # sum of the values
    _counts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Return the cumulative buckets as pairs of upper bound and count; the last bound is `+Inf`."""
        found, so_far = [], 0
        for bound, count in zip([*map(repr, self.bounds), "+Inf"], self._counts, strict=True):
            so_far += count
            found.append((bound, float(so_far)))
        return found
