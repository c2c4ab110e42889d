"""When a worker is forked, when it starts in a new interpreter, and when it waits for the zygote."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope_supervisor.processes.launch_policy import (
    HANGS_AFTER,
    Command,
    Execute,
    Fork,
    KillZygote,
    LaunchPolicy,
    StartZygote,
    ZygoteState,
)

CHANCE: Final = 0.5
WAIT_TIMEOUT: Final = 30.0


def policy_in(state: ZygoteState) -> LaunchPolicy:
    """Return a policy whose zygote is in `state` at 100 s; process 1 was the first of revision 1."""
    policy = LaunchPolicy(True, WAIT_TIMEOUT)
    if state is ZygoteState.ABSENT:
        return policy
    policy.spawn(1, 1, 100.0)
    match state:
        case ZygoteState.READY:
            policy.ready(100.0)
        case ZygoteState.RESTING:
            policy.exited(100.0, CHANCE)
        case ZygoteState.REFUSED:
            policy.refused()
    assert policy.state is state
    return policy


# -- the decision ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state, revision, commands",
    [
        (ZygoteState.ABSENT, 1, [StartZygote(1)]),  # and waits
        (ZygoteState.WARMING, 1, []),  # waits
        (ZygoteState.READY, 1, [Fork(2)]),
        (ZygoteState.RESTING, 1, [Execute(2)]),
        (ZygoteState.REFUSED, 1, [Execute(2)]),
        # A worker of a newer revision is never forked from an older zygote.
        (ZygoteState.WARMING, 2, [Execute(1), KillZygote(), StartZygote(2)]),
        (ZygoteState.READY, 2, [KillZygote(), StartZygote(2)]),
        (ZygoteState.RESTING, 2, [StartZygote(2)]),
        (ZygoteState.REFUSED, 2, [StartZygote(2)]),
        # A worker of an older revision, after a failed rollout, may be forked.
        (ZygoteState.READY, 0, [Fork(2)]),
        (ZygoteState.WARMING, 0, []),
    ],
)
def test_a_process_starts_as_the_state_of_the_zygote_requires(
    state: ZygoteState, revision: int, commands: list[Command]
) -> None:
    policy = policy_in(state)
    assert policy.spawn(2, revision, 100.0) == commands


def test_without_a_zygote_each_process_starts_in_a_new_interpreter() -> None:
    policy = LaunchPolicy(False, WAIT_TIMEOUT)
    assert policy.spawn(1, 1, 0.0) == [Execute(1)]
    assert policy.spawn(2, 2, 0.0) == [Execute(2)]
    assert (policy.state, policy.next_due) == (ZygoteState.ABSENT, None)


# -- waiting for the zygote --------------------------------------------------------------------------


def test_waiting_processes_are_forked_when_the_zygote_is_ready() -> None:
    policy = policy_in(ZygoteState.WARMING)
    policy.spawn(2, 1, 100.5)
    assert policy.ready(101.0) == [Fork(1), Fork(2)]
    assert policy.next_due is None
    assert policy.spawn(3, 1, 102.0) == [Fork(3)]


def test_waiting_processes_start_in_new_interpreters_when_the_zygote_refuses() -> None:
    policy = policy_in(ZygoteState.WARMING)
    assert policy.refused() == [Execute(1)]
    assert policy.exited(101.0, CHANCE) == [], "its exit has no further effect"
    assert policy.next_due is None


def test_waiting_processes_start_in_new_interpreters_when_the_zygote_dies() -> None:
    assert policy_in(ZygoteState.WARMING).exited(101.0, CHANCE) == [Execute(1)]


def test_waiting_ends_after_the_timeout() -> None:
    policy = policy_in(ZygoteState.WARMING)
    assert policy.next_due == 100.0 + WAIT_TIMEOUT
    assert policy.tick(100.0 + WAIT_TIMEOUT - 0.01, CHANCE) == []
    assert policy.tick(100.0 + WAIT_TIMEOUT, CHANCE) == [Execute(1)]
    assert policy.spawn(2, 1, 120.0) == [Execute(2)], "no worker waits for a late zygote again"
    assert policy.ready(121.0) == []
    assert policy.spawn(3, 1, 122.0) == [Fork(3)]


def test_a_cancelled_process_is_not_started() -> None:
    policy = policy_in(ZygoteState.WARMING)
    assert policy.cancel(1)
    assert not policy.cancel(1)
    assert policy.ready(101.0) == []


# -- a zygote that dies ------------------------------------------------------------------------------


def test_a_dead_zygote_is_replaced_later_and_no_process_waits_for_it() -> None:
    policy = policy_in(ZygoteState.READY)
    assert policy.exited(110.0, CHANCE) == []
    due = policy.next_due
    assert due is not None
    assert due > 110.0
    assert policy.spawn(2, 1, 110.0) == [Execute(2)]
    assert policy.tick(due, CHANCE) == [StartZygote(1)]
    assert policy.spawn(3, 1, due) == [Execute(3)]
    assert policy.ready(due + 2) == []
    assert policy.spawn(4, 1, due + 2) == [Fork(4)]


@pytest.mark.parametrize("first", [True, False])
def test_a_hung_zygote_is_killed_and_started_again_later(first: bool) -> None:
    policy = policy_in(ZygoteState.WARMING if first else ZygoteState.RESTING)
    due = policy.next_due
    assert due is not None
    assert policy.tick(due, CHANCE) == ([Execute(1)] if first else [StartZygote(1)])
    assert policy.tick(due + HANGS_AFTER - 1, CHANCE) == []
    assert policy.tick(due + HANGS_AFTER, CHANCE) == [KillZygote()]
    assert policy.state is ZygoteState.RESTING
    again = policy.next_due
    assert again is not None
    assert policy.tick(again, CHANCE) == [StartZygote(1)]


def test_a_zygote_that_keeps_dying_is_started_with_growing_delays() -> None:
    policy, now, waits = policy_in(ZygoteState.READY), 100.0, []
    for _ in range(8):
        policy.exited(now, CHANCE)
        due = policy.next_due
        assert due is not None
        waits.append(due - now)
        now = due
        assert policy.tick(now, CHANCE) == [StartZygote(1)]
        policy.ready(now)
    assert waits[0] < 1
    assert waits[-1] > 100


def test_a_zygote_that_was_ready_for_long_is_replaced_at_once() -> None:
    policy = policy_in(ZygoteState.READY)
    policy.exited(4000.0, CHANCE)
    assert policy.next_due == 4000.0


def test_a_new_revision_starts_with_an_empty_history() -> None:
    policy = policy_in(ZygoteState.RESTING)
    assert policy.spawn(2, 2, 100.1) == [StartZygote(2)]
    assert policy.ready(101.0) == [Fork(2)]


# -- stop --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ZygoteState)
def test_stop_kills_the_zygote_and_starts_nothing(state: ZygoteState) -> None:
    policy = policy_in(state)
    alive = state in (ZygoteState.WARMING, ZygoteState.READY)
    assert policy.stop() == ([KillZygote()] if alive else [])
    assert policy.next_due is None
    assert policy.tick(1e6, CHANCE) == policy.ready(1e6) == policy.exited(1e6, CHANCE) == []
    assert policy.spawn(9, 9, 1e6) == [Execute(9)]


# -- any sequence of events ---------------------------------------------------------------------------

EVENTS: Final = st.lists(
    st.sampled_from(["spawn", "reload", "roll back", "ready", "refused", "exited", "cancel", "later"]),
    max_size=40,
)


@given(EVENTS)
def test_each_process_starts_once_and_never_from_an_older_zygote(events: list[str]) -> None:
    policy, now, newest = LaunchPolicy(True, WAIT_TIMEOUT), 0.0, 1
    revision_of: dict[int, int] = {}
    started: list[int] = []
    cancelled: set[int] = set()
    zygotes: list[int] = []  # revisions; the last zygote runs if `alive`
    alive = False

    def carry_out(commands: list[Command]) -> None:
        nonlocal alive
        for command in commands:
            match command:
                case StartZygote(revision):
                    assert not alive, "at most one zygote"
                    zygotes.append(revision)
                    alive = True
                case KillZygote():
                    assert alive
                    alive = False
                case Fork(process):
                    assert alive
                    assert zygotes[-1] >= revision_of[process]
                    started.append(process)
                case Execute(process):
                    started.append(process)

    def spawn(revision: int) -> None:
        process = len(revision_of) + 1
        revision_of[process] = revision
        carry_out(policy.spawn(process, revision, now))

    for event in events:
        now += 0.5
        match event:
            case "spawn":
                spawn(newest)
            case "reload":
                newest += 1
                spawn(newest)
            case "roll back":
                spawn(max(newest - 1, 1))
            case "ready" if alive:
                carry_out(policy.ready(now))
            case "refused" if alive:
                alive = False
                carry_out(policy.refused())
            case "exited" if alive:
                alive = False
                carry_out(policy.exited(now, CHANCE))
            case "cancel" if revision_of:
                if policy.cancel(max(revision_of)):
                    cancelled.add(max(revision_of))
            case "later":
                now += WAIT_TIMEOUT
                carry_out(policy.tick(now, CHANCE))
    now += HANGS_AFTER
    carry_out(policy.tick(now, CHANCE))
    assert sorted([*started, *cancelled]) == sorted(revision_of)
