"""Restart delays of a slot, with a circuit breaker. Pure.

A process that was ready for at least a minute is replaced at once. Otherwise the delay doubles with each
exit, with jitter. If the processes of a slot keep exiting, its breaker opens: the slot rests, and then one
probe process at a time is started. `workers.fleet` applies the delays.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """All times in seconds."""

    healthy_after: float = 60.0  # a process that was ready for this long counts as healthy
    first_delay: float = 0.5
    max_delay: float = 30.0
    # The breaker opens at the fifth exit, a limit that OTP recommends: a crash loop must not fill logs and
    # CPUs.
    burst: int = 5
    burst_window: float = 60.0
    first_rest: float = 30.0  # of an open breaker; doubles with each probe that exits
    max_rest: float = 300.0


@dataclass(slots=True)
class RestartHistory:
    """The recent exits of the processes of one slot."""

    policy: RestartPolicy = field(default_factory=RestartPolicy)
    short_lives: int = 0  # consecutive processes that were not healthy
    probes: int = 0  # exits since the breaker opened, including the one that opened it; 0: closed
    _exits: list[float] = field(default_factory=list)  # times of exits within burst_window

    @property
    def breaker_open(self) -> bool:
        return self.probes > 0

    def exited(self, now: float, ready_for: float, chance: float) -> float:
        """Record an exit and return the delay before the next start, in seconds.

        `ready_for` is how long the process was ready, in seconds; 0 if it never was. `chance` is a random
        number in [0, 1).
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
    """Return `first` for the first time and twice as much for each further time, at most `most`."""
    # Ten doublings reach any sensible bound; without a limit, a week of failures overflows a float.
    return min(most, first * 2.0 ** min(times - 1, 10))
