"""A token bucket: limits a flow to a rate per second, with bursts after quiet times. Pure.

`output_pipe` uses it to limit the output of a worker that reaches the log.
"""

from dataclasses import dataclass, field


@dataclass(slots=True)
class TokenBucket:
    """A bucket that gains `rate` units per second and holds at most `burst` units. It starts full.

    A caller may take more than is available. The bucket is then negative until the debt is refilled.
    """

    rate: float
    burst: float
    _available: float = field(init=False)
    _at: float | None = None  # time of the last refill, in seconds of a monotonic clock

    def __post_init__(self) -> None:
        self._available = self.burst

    def available(self, now: float) -> float:
        """Refill the bucket and return the units that it holds. If 0 or less, nothing may pass."""
        if self._at is not None:
            self._available = min(self.burst, self._available + (now - self._at) * self.rate)
        self._at = now
        return self._available

    def take(self, units: float) -> None:
        """Remove units that have passed."""
        self._available -= units
