"""What the product is to reach beside others, and whether it does. Pure.

Each goal is one figure of ours with two workers, alone or against that of a peer in the same run: ratios hold
on any machine, times only on one like that on which they were set (two shared cores, load beside). A figure
that is FAR_OFF times worse than its goal, or than where it `stands` while it misses that, has most likely
been broken, whatever the machine: the guard of `make bench-quick`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from tests.benchmarks.results import Results, Spread, spread

FAR_OFF: Final = 2.0  # times; a busy neighbour moves a ratio by a half
OURS: Final = "ours-2"


class How(Enum):
    """How the two figures are compared."""

    ALONE = "alone"
    RATIO = "times"
    MORE = "more"


@dataclass(frozen=True, slots=True)
class Goal:
    """`scale`: from the figure to the unit of `bound`. `stands`: what was measured, where that is missed."""

    title: str
    scenario: str
    figure: str
    bound: float
    at_least: bool
    how: How = How.ALONE
    peer: str = ""
    scale: float = 1.0
    stands: float | None = None

    @property
    def words(self) -> str:
        """The bound, as people write it."""
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"

    @property
    def candidates(self) -> Sequence[str]:
        """Those that it takes."""
        return [OURS, self.peer] if self.peer else [OURS]

    def value(self, results: Results) -> Spread | None:
        """Of the medians; its least and most are those of the rounds. None: not measured."""
        mine = results.rounds(self.scenario, OURS, self.figure)
        other = results.rounds(self.scenario, self.peer, self.figure) if self.peer else {}
        each = [self._compared(mine[at], other.get(at, 0)) for at in mine if not self.peer or at in other]
        of_rounds, middle, beside = spread(each), spread(mine.values()), spread(other.values())
        if of_rounds is None or middle is None or (self.peer and beside is None):
            return None
        median = self._compared(middle.median, beside.median if beside else 0)
        return Spread(median, min(median, of_rounds.least), max(median, of_rounds.most))

    def reached(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def far_off(self, value: float) -> bool:
        usual = self.bound if self.stands is None else self.stands
        return value < usual / FAR_OFF if self.at_least else value > usual * FAR_OFF

    def _compared(self, mine: float, other: float) -> float:
        if self.how is How.RATIO:
            return mine / other if other else 0.0
        return (mine - other if self.how is How.MORE else mine) * self.scale


def ratio(
    title: str,
    scenario: str,
    figure: str,
    peer: str,
    bound: float,
    *,
    at_least: bool = True,
    stands: float | None = None,
) -> Goal:
    return Goal(title, scenario, figure, bound, at_least, How.RATIO, peer, stands=stands)


GOALS: Final = (
    ratio("short, turns/s against HAProxy", "short", "turns", "haproxy-2", 1.2),
    ratio("burst, events/s against HAProxy", "burst", "events", "haproxy-2", 2.3),
    ratio("burst, events/s against FastAPI on uvicorn", "burst", "events", "uvicorn-2", 3),
    ratio("burst, events/s against agentscope-runtime", "burst", "events", "runtime-1", 40),
    ratio("short, turns/s against agentscope-runtime", "short", "turns", "runtime-1", 40),
    ratio(
        "1 000 paced streams, event p99 against FastAPI on uvicorn",
        "paced-1000",
        "event_p99",
        "uvicorn-2",
        1.2,
        at_least=False,
        stands=25,  # where two cores are too few, what is late grows from second to second
    ),
    Goal("1 000 paced streams, share of the full rate", "paced-1000", "rate", 0.99, True),
    Goal(
        "1 000 paced streams, supervisor's CPU, µs/event", "paced-1000", "front_event", 12, False, scale=1e6
    ),
    Goal("short, supervisor's CPU, µs/turn", "short", "front_turn", 45, False, scale=1e6, stands=60),
    ratio("CPU work, turns/s against FastAPI on uvicorn", "cpu", "turns", "uvicorn-2", 0.97),
    Goal("5 000 silent streams, supervisor's memory, KiB each", "idle-5000", "front_stream", 12, False),
    Goal(
        "one client, turn p50, µs more than plain aiohttp",
        "client",
        "p50",
        90,
        False,
        How.MORE,
        "aiohttp-1",
        1000,
        stands=130,
    ),
    ratio(
        "one client, turn p50 against FastAPI on uvicorn", "client", "p50", "uvicorn-2", 0.85, at_least=False
    ),
)
