"""How much of a flow may pass: so much a second, and a burst after a quiet time. Pure.

`output_pipe` asks it before it logs a line of a worker.
"""

from dataclasses import dataclass, field


@dataclass(slots=True)
class TokenBucket:
    """Of units that come in at `rate` a second, up to `burst`. It begins full.

    What passes may overdraw it once: the next waits until that is paid.
    """

    rate: float
    burst: float
    _left: float = field(init=False)
    _at: float | None = None  # of the last look, in seconds of a monotonic clock

    def __post_init__(self) -> None:
        self._left = self.burst

    def available(self, now: float) -> float:
        """What may be spent now; 0 or less: nothing."""
        if self._at is not None:
            self._left = min(self.burst, self._left + (now - self._at) * self.rate)
        self._at = now
        return self._left

    def take(self, units: float) -> None:
        """Take away what has passed."""
        self._left -= units
