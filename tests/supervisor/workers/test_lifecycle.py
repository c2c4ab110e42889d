"""The life cycle of a process: the table is complete, moves only to the right, and matches its diagram."""

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
    """Return an event of this kind for `state`; an expiry is that of its own deadline."""
    return next(event for event in [*PLAIN, Expired(state)] if type(event) is kind)


def test_each_pair_is_either_in_the_table_or_ignored() -> None:
    assert TABLE.keys() | IGNORED == set(product(ProcessState, EVENTS))
    assert not TABLE.keys() & IGNORED


@pytest.mark.parametrize("state, kind", sorted(IGNORED, key=str))
def test_an_ignored_event_changes_nothing(state: ProcessState, kind: type[Event]) -> None:
    assert step(state, as_met(state, kind)) == (state, ())


def test_a_process_only_moves_to_the_right() -> None:
    assert all(after > state for (state, _), (after, _) in TABLE.items())


def test_only_an_exit_leads_to_gone() -> None:
    ends = {(state, event) for (state, event), (after, _) in TABLE.items() if after is ProcessState.GONE}
    assert ends == {(state, Exited) for state in ProcessState if state is not ProcessState.GONE}


@pytest.mark.parametrize(
    "state, armed_in", [(a, b) for a, b in product(ProcessState, ProcessState) if a is not b]
)
def test_a_late_timer_is_ignored(state: ProcessState, armed_in: ProcessState) -> None:
    assert step(state, Expired(armed_in)) == (state, ())


def test_the_diagram_matches_the_order_of_the_states() -> None:
    (diagram,) = re.findall(r"^ +([A-Z]+(?: -> [A-Z]+)+)$", lifecycle.__doc__ or "", re.MULTILINE)
    assert diagram.split(" -> ") == [state.name for state in sorted(ProcessState)]


@pytest.mark.parametrize("state", [ProcessState.READY, ProcessState.DRAINING])
@pytest.mark.parametrize("event", [LinkLost(), KillRequested()])
def test_a_broken_or_unresponsive_process_is_killed(state: ProcessState, event: Event) -> None:
    assert step(state, event) == (ProcessState.KILLING, (Command.KILL,))


def test_a_starting_process_that_closes_its_link_keeps_its_exit_status() -> None:
    """An immediate kill would replace exit status 78 of a worker whose App cannot work."""
    assert step(ProcessState.STARTING, LinkLost()) == (ProcessState.STOPPING, ())
    assert step(ProcessState.STARTING, KillRequested()) == (ProcessState.KILLING, (Command.KILL,))


@pytest.mark.parametrize("event", [Retired(), Expired(ProcessState.STARTING)])
def test_a_starting_process_is_killed_without_delay(event: Event) -> None:
    assert step(ProcessState.STARTING, event) == (ProcessState.KILLING, (Command.KILL,))


def test_a_normal_life_cycle_is_ready_draining_stopping_gone() -> None:
    assert step(ProcessState.STARTING, Ready()) == (ProcessState.READY, ())
    assert step(ProcessState.READY, Retired()) == (ProcessState.DRAINING, ())
    assert step(ProcessState.DRAINING, Drained()) == (ProcessState.STOPPING, (Command.TERMINATE,))
    assert step(ProcessState.STOPPING, LinkLost()) == (ProcessState.STOPPING, ())
    assert step(ProcessState.STOPPING, Exited()) == (ProcessState.GONE, (Command.KILL, Command.CLOSE_LINK))


def test_a_drain_timeout_cancels_turns_and_a_stop_timeout_kills() -> None:
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
def test_any_life_cycle_ends_only_with_an_exit_and_repeats_no_command(events: list[Event]) -> None:
    state, all_commands = ProcessState.STARTING, list[Command]()
    for event in events:
        before = state
        state, commands = step(state, event)
        assert state >= before
        assert (state is ProcessState.GONE) is (before is ProcessState.GONE or isinstance(event, Exited))
        all_commands += commands
    once = [
        command for command in all_commands if command is not Command.KILL
    ]  # repeated for its descendants
    assert len(once) == len(set(once))
    assert (Command.CLOSE_LINK in all_commands) is (state is ProcessState.GONE)
