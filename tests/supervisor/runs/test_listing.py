"""Lists of runs: pages that together have each run once, in order, whichever source a run comes from."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain.errors import ErrorCode, Failure
from agentscope_supervisor.domain.run import Run, RunState
from agentscope_supervisor.domain.usage import ModelUsage, Usage
from agentscope_supervisor.runs.listing import (
    Listed,
    Place,
    Wanted,
    cursor,
    listed,
    merge,
    pick,
    place_of,
    read_cursor,
    time_of,
)
from agentscope_supervisor.runs.log import RunLog
from agentscope_supervisor.web.dialects.native import NATIVE

ID = "0123456789abcdef0123456789abcdef"
EPOCH = 1_700_000_000.0


def run_of(number: int, session: str = "s", kind: StreamKind = StreamKind.EVENTS) -> Run:
    return Run(f"{number:032x}", session, kind, NATIVE, float(number))


def row(place: Place) -> Listed:
    return Listed(place, "s", RunState.ENDED, StreamKind.EVENTS, None, None, None)


# -- from memory ---------------------------------------------------------------------------------


def numbers(found: Sequence[Listed]) -> list[int]:
    return [int(each.run_id, 16) for each in found]


def picked(runs: Sequence[Run], wanted: Wanted, count: int = 10) -> list[int]:
    return numbers(pick(runs, wanted, count, EPOCH, lambda run: run.run_id != f"{4:032x}"))


def test_the_wanted_runs_are_picked_in_order() -> None:
    runs = [run_of(3, "t"), run_of(1), run_of(2), run_of(4)]
    runs[1].worker = runs[2].worker = "0.1"
    runs[2].end(None, 9.0)
    assert picked(runs, Wanted()) == [3, 2, 1], "the fourth is not kept"
    assert picked(runs, Wanted(newest_first=False), 2) == [1, 2]
    assert picked(runs, Wanted("s")) == [2, 1]
    states = {state: picked(runs, Wanted(state=state)) for state in RunState}
    assert states == {RunState.QUEUED: [3], RunState.RUNNING: [1], RunState.ENDED: [2]}
    place = place_of(runs[2], EPOCH)
    assert picked(runs, Wanted(after=place)) == [1]
    assert picked(runs, Wanted(after=place, newest_first=False)) == [3]


def test_a_run_is_listed_as_it_is() -> None:
    run, failure = run_of(1), Failure(ErrorCode.APP_ERROR, "no")
    run.usage = Usage((ModelUsage("m", 1, 2, 3, 4),))
    run.end(failure, 2.0)
    found = listed(run, (1, run.run_id))
    assert (found.state, found.failure, found.session_id) == (RunState.ENDED, failure, "s")
    assert found.usage is run.usage


def test_runs_in_memory() -> None:
    runs = RunLog(1 << 20, 60.0, 60.0)
    run = run_of(1)
    runs.open(run)
    assert (runs.all(), run.run_id in runs, "another" in runs) == ([run], True, False)
    assert runs.is_kept(run, 1e9)
    run.end(None, 0.0)
    runs.end(run, 0.0)
    assert not runs.is_kept(run, 60.0)


# -- from both -----------------------------------------------------------------------------------

places = st.tuples(st.integers(0, 9), st.integers(0, 3).map(lambda number: f"{number:032x}"))


@given(
    st.lists(places, unique=True),
    st.lists(places, unique=True),
    st.integers(1, 4),
    st.booleans(),
)
def test_all_pages_together_have_each_run_once(
    memory: list[Place], store: list[Place], limit: int, newest_first: bool
) -> None:
    memory = list({run_id: (start, run_id) for start, run_id in memory}.values())
    store = list({run_id: (start, run_id) for start, run_id in store}.values())
    in_memory = {run_id for _, run_id in memory}
    expected = sorted([*memory, *(p for p in store if p[1] not in in_memory)], reverse=newest_first)
    found: list[Place] = []
    after: Place | None = None
    for _ in range(20):
        wanted = Wanted(after=after, newest_first=newest_first)

        def first(all_of_it: list[Place], wanted: Wanted = wanted) -> list[Listed]:
            ordered = sorted(all_of_it, reverse=newest_first)
            follow = [p for p in ordered if wanted.after is None or wanted.follows(p, wanted.after)]
            return [row(p) for p in follow[: limit + 1]]

        page, after = merge(wanted, first(memory), first(store), in_memory, limit)
        assert len(page) <= limit
        found += [each.place for each in page]
        if after is None:
            break
    assert found == expected


def test_a_run_that_leaves_the_memory_meanwhile_is_listed_once() -> None:
    assert merge(Wanted(), [row((1, ID))], [row((2, ID))], (), 5) == ([row((1, ID))], None)


# -- cursors and times ---------------------------------------------------------------------------


@given(st.tuples(st.integers(0, 10**16), st.just(ID)))
def test_a_cursor_comes_back(place: Place) -> None:
    assert read_cursor(cursor(place)) == place


@pytest.mark.parametrize(
    "text", ["", "1", f"1-{ID}0", f"-1-{ID}", f"1{ID}", f"1-{ID.upper()}", f"\u0663-{ID}"]
)
def test_anything_else_is_no_cursor(text: str) -> None:
    assert read_cursor(text) is None


def test_times_are_those_of_rfc_3339() -> None:
    assert time_of((1_768_473_000_123_999, ID)) == "2026-01-15T10:30:00.123Z"
    assert time_of((0, ID)) == "1970-01-01T00:00:00.000Z"
