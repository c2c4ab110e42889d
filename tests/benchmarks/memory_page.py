"""docs/performance/memory.md of what `memory_line` has measured: its slopes, its tables, its plot. Pure."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.line_plot import drawing
from tests.benchmarks.report import number, table

PAGE: Final = "memory.md"
PLOT: Final = "images/memory.svg"

INTRODUCTION: Final = """# Memory

Written by `make bench-memory`; no number here is typed. Memory is PSS: what processes share counts to each in
its part. Two instances of two workers were there, one under load for the whole time, and one that rested
after its 100 000 sessions; they share the code of their libraries, so that each process of the first would
have some megabytes more alone.
""".strip()

LOAD: Final = """
{:g} minutes of load: {} short turns, each of a new session, {} bursts of 200 messages, also of new ones, and
{} streams that their clients left in the middle; {} failures. Settings are the defaults: of runs that ended
up to 64 MB are kept, of sessions up to 100 000 are known. These bounds are reached before any time is over;
at the end {} sessions counted as active.
""".strip()

SESSIONS: Final = """
A short turn in each. `sessions.replay_max_mb` is 0 here, so that of runs nothing is kept, and what is seen
are the sessions. They are forgotten after five minutes, when the next turn comes. What that frees stays with
the process, for the sessions that follow: see the line above.
""".strip()


@dataclass(frozen=True, slots=True)
class Sample:
    """All processes at one time, by name. `at`: seconds since the load began; below 0: at rest."""

    at: float
    megabytes: Mapping[str, float]
    descriptors: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Slope:
    """MB an hour. `within`: two standard errors of it."""

    value: float
    within: float


@dataclass(frozen=True, slots=True)
class Mix:
    """What the load was: counts of all the time. `active`: sessions that the instance counted at the end."""

    seconds: float
    turns: int
    bursts: int
    left: int
    failures: int
    active: int


@dataclass(frozen=True, slots=True)
class Sessions:
    """MB by process. `forgotten` None: there was no time for it."""

    count: int
    rest: Mapping[str, float]
    known: Mapping[str, float]
    forgotten: Mapping[str, float] | None


def slope(points: Sequence[tuple[float, float]]) -> Slope:
    """Of MB over seconds, by least squares. Raises: ValueError of less than three points."""
    if len(points) < 3:
        raise ValueError(f"{len(points)} points have no slope with an uncertainty")
    xs, ys = zip(*points, strict=True)
    line = statistics.linear_regression(xs, ys)
    off = sum((y - line.intercept - line.slope * x) ** 2 for x, y in points)
    error = math.sqrt(off / (len(points) - 2) / sum((x - statistics.fmean(xs)) ** 2 for x in xs))
    return Slope(line.slope * 3600, 2 * error * 3600)


def second_half(samples: Sequence[Sample], name: str) -> list[tuple[float, float]]:
    """A process's points in the second half of the time under load."""
    return [(each.at, each.megabytes[name]) for each in samples if each.at >= samples[-1].at / 2]


def page(samples: Sequence[Sample], mix: Mix, sessions: Sessions, told: str) -> str:
    counts = [number(each, 0) for each in (mix.turns, mix.bursts, mix.left, mix.failures, mix.active)]
    parts = [
        INTRODUCTION,
        told,
        "## Over time",
        LOAD.format(mix.seconds / 60, *counts),
        f"![Memory over time]({PLOT})",
        over_time(samples),
        "A slope below its uncertainty, which is two standard errors of least squares, is none.",
        f"## After {number(sessions.count, 0)} sessions",
        SESSIONS,
        of_sessions(sessions),
    ]
    return "\n\n".join(parts) + "\n"


def over_time(samples: Sequence[Sample]) -> str:
    """A row for each process."""
    rest, loaded = samples[0], [each for each in samples if each.at >= 0]
    half = min(loaded, key=lambda each: abs(each.at - samples[-1].at / 2))
    rows = []
    for name in rest.megabytes:
        found = slope(second_half(samples, name))
        most = max(each.megabytes[name] for each in samples)
        sizes = (rest.megabytes[name], half.megabytes[name], samples[-1].megabytes[name], most)
        open_files = (rest.descriptors[name], half.descriptors[name], samples[-1].descriptors[name])
        rows.append(
            [
                name,
                *(number(size, 1) for size in sizes),
                f"{number(found.value, 1)} ± {number(found.within, 1)}",
                *map(str, open_files),
            ]
        )
    head = ["process", "at rest, MB", "at half, MB", "at the end, MB", "most, MB", "second half, MB/hour"]
    return table([*head, "descriptors at rest", "at half", "at the end"], rows)


def of_sessions(sessions: Sessions) -> str:
    """A row for each process."""

    def each(name: str, held: Mapping[str, float] | None) -> list[str]:
        if held is None:
            return ["–", "–"]
        more = held[name] - sessions.rest[name]
        return [number(held[name], 1), number(more * 1024 / sessions.count, 2)]

    rows = [
        [name, number(rest, 1), *each(name, sessions.known), *each(name, sessions.forgotten)]
        for name, rest in sessions.rest.items()
    ]
    head = ["process", "at rest, MB", "with all known, MB", "KiB/session"]
    return table([*head, "all forgotten, MB", "KiB/session left"], rows)


def plot(samples: Sequence[Sample]) -> str:
    """MB over minutes under load."""
    loaded = [each for each in samples if each.at >= 0]
    return drawing(
        "Memory under a steady load, MB (PSS)",
        {name: [(each.at / 60, each.megabytes[name]) for each in loaded] for name in samples[0].megabytes},
        "minutes",
    )
