"""What must hold when a soak is over: read from the journals of the App, its counts, and from the kernel.

Every check is one line with its number; `broken` says whether it holds.
"""

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import psutil

from tests.harness.instance import Instance
from tests.harness.projects import journal
from tests.soak.load import WELL, Session, Tally

GROWTH: Final = 8.0
"""MB that the supervisor may have grown from its second minute to its last: what an allocator keeps of its
peaks. A leak of one body for each turn would be ten times as much."""


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    number: float
    most: float = 0.0
    detail: str = ""

    @property
    def broken(self) -> bool:
        return self.number > self.most


@dataclass(frozen=True, slots=True)
class Held:
    """What the supervisor holds at one moment; memory in MB."""

    rss: float
    descriptors: int
    children: int


def held(instance: Instance) -> Held:
    supervisor = psutil.Process(instance.pid)
    return Held(supervisor.memory_info().rss / 2**20, supervisor.num_fds(), len(supervisor.children()))


def of_turns(tally: Tally) -> list[Check]:
    kinds = {
        "turns without exactly one terminal event": tally.broken,
        "turns that ended INTERRUPTED although nobody asked": tally.uninvited,
        "turns that the App or its store failed": tally.failed,
        "wrong children, and failed tool calls that no server refused": tally.wrong,
    }
    return [Check(name, len(turns), detail="; ".join(turns[:5])) for name, turns in kinds.items()]


def of_deaths(log: str) -> Check:
    """A worker that gets the signal of its child exits with 0 or with that signal. Nothing else sends one."""
    died = [line for line in log.splitlines() if "worker died" in line]
    unasked = [line for line in died if re.search(r"status=\"?(SIGTERM|SIGINT|exit 0)\b", line)]
    return Check("workers that ended with a child", len(unasked), detail="; ".join(unasked[:5]))


def of_journals(sessions: Iterable[Session]) -> list[Check]:
    """Order, overlap and repetition, as the App itself has seen its turns."""
    reordered, overlapping, twice = [], [], []
    for session in sessions:
        begun: list[int] = []
        for line in journal(session.journal):
            label, last = line["label"], begun[-1] if begun else 0
            if line["word"] == "begin":
                where = twice if label in begun else reordered if label < last else None
                begun.append(label)
            else:
                where = overlapping if label != last else None
            if where is not None:
                where.append(f"{session.name} turn {label} {line['word']} after {last}")
    return [
        Check("turns out of order", len(reordered), detail="; ".join(reordered[:5])),
        Check("turns that overlap", len(overlapping), detail="; ".join(overlapping[:5])),
        Check("turns that were begun twice", len(twice), detail="; ".join(twice[:5])),
    ]


def of_counts(last: Sequence[tuple[Session, str, int]]) -> list[Check]:
    """Each turn that went well must be in what is stored, once; any other turn may be in it, once."""
    lost, invented, unread = [], [], []
    for session, outcome, stored in last:
        if outcome != WELL:
            unread.append(f"{session.name}: {outcome}")
            continue
        counts = [count for _, count in sorted(session.counts.items())]
        if len(counts) > stored or sorted(set(counts)) != counts or (counts and counts[-1] > stored):
            lost.append(f"{session.name}: {stored} stored, {len(counts)} went well")
        if stored >= session.sent:
            invented.append(f"{session.name}: {stored} stored, {session.sent - 1} sent")
    return [
        Check("sessions with a lost update", len(lost), detail="; ".join(lost[:5])),
        Check("sessions with more updates than turns", len(invented), detail="; ".join(invented[:5])),
        # A session that was in three deaths in a row is refused for a while: that is no loss.
        Check(
            "sessions whose count could not be read",
            sum(not each.endswith("POISONED") for each in unread),
            detail="; ".join(unread[:5]),
        ),
    ]


def of_supervisor(before: Held, after: Held, minutes: Sequence[float]) -> list[Check]:
    """`before` and `after`: at rest, with as many workers. `minutes`: the median memory of each."""
    checks = [
        Check("descriptors more than before", after.descriptors - before.descriptors),
        Check("children more than before", after.children - before.children),
    ]
    if len(minutes) > 2:
        checks.append(Check("MB of memory grown since the second minute", minutes[-1] - minutes[1], GROWTH))
    return checks


def by_minute(samples: Sequence[tuple[float, float]]) -> list[float]:
    """The median of each whole minute of (seconds, MB)."""
    found: dict[int, list[float]] = {}
    for seconds, megabytes in samples:
        found.setdefault(int(seconds // 60), []).append(megabytes)
    return [statistics.median(found[minute]) for minute in sorted(found)]
