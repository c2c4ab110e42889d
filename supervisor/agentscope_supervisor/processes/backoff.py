"""When may a slot start its next process? Pure.

After a healthy minute at once; else after a delay that doubles, with jitter; and a slot whose processes
keep dying gets a breaker: it rests, then is probed by one process at a time.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """All times in seconds."""

    healthy_after: float = 60.0  # ready for this long: the death was no failure to start
    first_delay: float = 0.5
    max_delay: float = 30.0
    # A burst of five is tolerated, as OTP advises; what goes on after it must not fill logs and CPUs.
    burst: int = 5
    burst_window: float = 60.0
    first_rest: float = 30.0  # of an open breaker; doubles with each probe that dies
    max_rest: float = 300.0


@dataclass(slots=True)
class RestartHistory:
    """The deaths of one slot."""

    policy: RestartPolicy = field(default_factory=RestartPolicy)
    short_lives: int = 0  # in a row
    probes: int = 0  # that exited since the breaker opened; 0: it is closed
    _exits: list[float] = field(default_factory=list)  # within burst_window

    @property
    def breaker_open(self) -> bool:
        return self.probes > 0

    def exited(self, now: float, ready_for: float, chance: float) -> float:
        """Note a death; returns the seconds until the next start.

        `ready_for`: seconds that the process was ready, 0 if never. `chance`: uniform in [0, 1).
        """
        policy = self.policy
        if ready_for >= policy.healthy_after:
            self.short_lives = self.probes = 0
            self._exits.clear()
            return 0.0
        self.short_lives += 1
        self._exits = [at for at in self._exits if now - at < policy.burst_window] + [now]
        if self.breaker_open or len(self._exits) >= policy.burst:
            self.probes += 1
            return _doubled(policy.first_rest, self.probes, policy.max_rest)
        delay = _doubled(policy.first_delay, self.short_lives, policy.max_delay)
        return delay * (0.5 + chance / 2)


def _doubled(first: float, times: int, most: float) -> float:
    """`first` at the first time, twice as much at each further one, at most `most`."""
    # After ten doublings any sensible bound is reached; a float would overflow in a week of failures.
    return min(most, first * 2.0 ** min(times - 1, 10))
