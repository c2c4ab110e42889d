"""Lists of runs: which ones are wanted, their order, and where a page ends. Pure.

Runs are listed in the order of their start. Those in memory and those in the store are read one after the
other, and merged here. A run that is in both is listed as it is in memory.

Where to read next: `recorder` reads both; `web.runs` has the routes.
"""

import heapq
import re
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain.errors import Failure
from agentscope_supervisor.domain.run import Run, RunState
from agentscope_supervisor.domain.usage import Usage

Place = tuple[int, str]
"""Where a run is in the order of all runs: its start, in microseconds since 1970, and its id."""

_PLACE: Final = re.compile(r"([0-9]{1,17})-([0-9a-f]{32})")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The runs that a page lists. `session_id`, `state`: None: any. `after`: the end of the page before."""

    session_id: str | None = None
    state: RunState | None = None
    after: Place | None = None
    newest_first: bool = True

    def follows(self, place: Place, other: Place) -> bool:
        """Whether `place` comes after `other` in the list."""
        return place < other if self.newest_first else place > other


@dataclass(frozen=True, slots=True)
class Listed:
    """One run in a list."""

    place: Place
    session_id: str
    state: RunState
    kind: StreamKind
    worker: str | None
    failure: Failure | None
    usage: Usage | None

    @property
    def run_id(self) -> str:
        return self.place[1]


def pick(
    runs: Iterable[Run], wanted: Wanted, count: int, epoch: float, is_kept: Callable[[Run], bool]
) -> list[Listed]:
    """The first `count` of the wanted runs in memory. `epoch`: seconds from 1970 to the zero of their clock.

    It may run in a thread: it only reads, and a run that changes meanwhile is listed in one state or the
    other.
    """
    found: list[tuple[Place, Run]] = []
    for run in runs:
        if wanted.session_id is not None and run.session_id != wanted.session_id:
            continue
        if (wanted.state is not None and run.state is not wanted.state) or not is_kept(run):
            continue
        place = place_of(run, epoch)
        if wanted.after is None or wanted.follows(place, wanted.after):
            found.append((place, run))
    select = heapq.nlargest if wanted.newest_first else heapq.nsmallest
    return [listed(run, place) for place, run in select(count, found, key=_first)]


def merge(
    wanted: Wanted,
    in_memory: Sequence[Listed],
    stored: Sequence[Listed],
    is_in_memory: Container[str],
    limit: int,
) -> tuple[list[Listed], Place | None]:
    """At most `limit` runs, and the end of the page, None if it is the last one. Of both sources, the caller
    must ask for one run more than `limit`. A page may be shorter than `limit` although more follow."""
    # Nothing is known of a source behind the last run that it returned.
    ends = [source[-1].place for source in (in_memory, stored) if len(source) > limit]
    horizon = None
    if ends:
        horizon = max(ends) if wanted.newest_first else min(ends)
    picked = {each.run_id for each in in_memory}
    found = [
        *in_memory,
        *(each for each in stored if each.run_id not in picked and each.run_id not in is_in_memory),
    ]
    found.sort(key=_place, reverse=wanted.newest_first)
    if horizon is not None:
        found = [each for each in found if not wanted.follows(each.place, horizon)]
    page = found[:limit]
    return page, page[-1].place if len(found) > limit else horizon


def listed(run: Run, place: Place) -> Listed:
    """How a run in memory is listed."""
    return Listed(place, run.session_id, run.state, run.kind, run.worker, run.failure, run.usage)


def place_of(run: Run, epoch: float) -> Place:
    """The place of a run in memory. `epoch`: seconds from 1970 to the zero of its clock."""
    return round((run.started_at + epoch) * 1e6), run.run_id


def cursor(place: Place) -> str:
    """A place as clients see it."""
    return f"{place[0]}-{place[1]}"


def read_cursor(text: str) -> Place | None:
    """The place in what a client sends back; None: it is no place."""
    found = _PLACE.fullmatch(text)
    return (int(found[1]), found[2]) if found is not None else None


def time_of(place: Place) -> str:
    """When the run started, as in RFC 3339, in UTC and with milliseconds."""
    moment = _EPOCH + timedelta(milliseconds=place[0] // 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _first(pair: tuple[Place, Run]) -> Place:
    return pair[0]


def _place(each: Listed) -> Place:
    return each.place
