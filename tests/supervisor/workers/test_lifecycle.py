"""The life of a process: the table is total, moves only to the right, and agrees with its diagram."""

import re
from itertools import product
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentscope_supervisor.workers import lifecycle
from agentscope_supervisor.workers.lifecycle import (
    IGNORED,
    TABLE,
    Command,
    Drained,
    Event,
    Exited,
    Expired,
    KillRequested,
    LinkLost,
    ProcessState,
    Ready,
    Retired,
    step,
)

EVENTS: tuple[type[Event], ...] = get_args(Event)
PLAIN: list[Event] = [Ready(), Retired(), Drained(), KillRequested(), LinkLost(), Exited()]
EXPIRIES = [Expired(state) for state in ProcessState]


def as_met(state: ProcessState, kind: type[Event]) -> Event:
    """An event of this kind as `state` meets it: an expiry is that of its own deadline."""
    return next(event for event in [*PLAIN, Expired(state)] if type(event) is kind)


def test_each_pair_is_in_the_table_or_ignored_and_never_both() -> None:
    assert TABLE.keys() | IGNORED == set(product(ProcessState, EVENTS))
    assert not TABLE.keys() & IGNORED


@pytest.mark.parametrize("state, kind", sorted(IGNORED, key=str))
def test_what_is_ignored_changes_nothing(state: ProcessState, kind: type[Event]) -> None:
    assert step(state, as_met(state, kind)) == (state, ())


def test_a_process_only_moves_to_the_right() -> None:
    assert all(after > state for (state, _), (after, _) in TABLE.items())


def test_only_the_kernel_says_that_a_process_is_gone() -> None:
    ends = {(state, event) for (state, event), (after, _) in TABLE.items() if after is ProcessState.GONE}
    assert ends == {(state, Exited) for state in ProcessState if state is not ProcessState.GONE}


@pytest.mark.parametrize(
    "state, armed_in", [(a, b) for a, b in product(ProcessState, ProcessState) if a is not b]
)
def test_a_late_timer_is_ignored(state: ProcessState, armed_in: ProcessState) -> None:
    assert step(state, Expired(armed_in)) == (state, ())


def test_the_diagram_is_the_order_of_the_states() -> None:
    (diagram,) = re.findall(r"^ +([A-Z]+(?: -> [A-Z]+)+)$", lifecycle.__doc__ or "", re.MULTILINE)
    assert diagram.split(" -> ") == [state.name for state in sorted(ProcessState)]


@pytest.mark.parametrize("state", [ProcessState.READY, ProcessState.DRAINING])
@pytest.mark.parametrize("event", [LinkLost(), KillRequested()])
def test_what_cannot_be_trusted_is_killed(state: ProcessState, event: Event) -> None:
    assert step(state, event) == (ProcessState.KILLING, (Command.KILL,))


def test_a_start_that_closes_its_link_may_exit_with_its_own_status() -> None:
    """Killed at once, a worker that says that the App cannot work would end with SIGKILL instead of 78."""
    assert step(ProcessState.STARTING, LinkLost()) == (ProcessState.STOPPING, ())
    assert step(ProcessState.STARTING, KillRequested()) == (ProcessState.KILLING, (Command.KILL,))


@pytest.mark.parametrize("event", [Retired(), Expired(ProcessState.STARTING)])
def test_a_process_that_is_still_starting_has_nothing_to_save(event: Event) -> None:
    assert step(ProcessState.STARTING, event) == (ProcessState.KILLING, (Command.KILL,))


def test_a_good_life_gets_ready_drains_then_terminates_then_waits_for_the_kernel() -> None:
    assert step(ProcessState.STARTING, Ready()) == (ProcessState.READY, ())
    assert step(ProcessState.READY, Retired()) == (ProcessState.DRAINING, ())
    assert step(ProcessState.DRAINING, Drained()) == (ProcessState.STOPPING, (Command.TERMINATE,))
    assert step(ProcessState.STOPPING, LinkLost()) == (ProcessState.STOPPING, ())
    assert step(ProcessState.STOPPING, Exited()) == (ProcessState.GONE, (Command.KILL, Command.CLOSE_LINK))


def test_a_drain_that_takes_too_long_has_its_turns_cancelled_and_a_stop_that_does_is_killed() -> None:
    assert step(ProcessState.DRAINING, Expired(ProcessState.DRAINING)) == (
        ProcessState.STOPPING,
        (Command.CANCEL_TURNS, Command.TERMINATE),
    )
    assert step(ProcessState.STOPPING, Expired(ProcessState.STOPPING)) == (
        ProcessState.KILLING,
        (Command.KILL,),
    )


@given(st.lists(st.sampled_from(PLAIN + EXPIRIES), max_size=30))
@settings(deadline=None, derandomize=True)
def test_any_life_ends_only_with_exited_and_gives_each_order_once(events: list[Event]) -> None:
    state, given_orders = ProcessState.STARTING, list[Command]()
    for event in events:
        before = state
        state, orders = step(state, event)
        assert state >= before
        assert (state is ProcessState.GONE) is (before is ProcessState.GONE or isinstance(event, Exited))
        given_orders += orders
    once = [order for order in given_orders if order is not Command.KILL]  # again for what it has started
    assert len(once) == len(set(once))
    assert (Command.CLOSE_LINK in given_orders) is (state is ProcessState.GONE)
