"""When a worker is forked, when it starts by itself, and when it waits to know."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope_supervisor.processes.launch_policy import (
    HANGS_AFTER,
    Begin,
    Command,
    Discard,
    Execute,
    Fork,
    Image,
    Preload,
)

CHANCE: Final = 0.5
PATIENCE: Final = 30.0


def image(state: Image) -> Preload:
    """A Preload whose image for edition 1, of which process 1 was the first, is in this state at 100 s."""
    preload = Preload(True, PATIENCE)
    if state is Image.ABSENT:
        return preload
    preload.spawn(1, 1, 100.0)
    match state:
        case Image.READY:
            preload.ready(100.0)
        case Image.RESTING:
            preload.died(100.0, CHANCE)
        case Image.REFUSED:
            preload.refused()
    assert preload.state is state
    return preload


# -- the decision ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state, edition, commands",
    [
        (Image.ABSENT, 1, [Begin(1)]),  # and waits
        (Image.WARMING, 1, []),  # waits
        (Image.READY, 1, [Fork(2)]),
        (Image.RESTING, 1, [Execute(2)]),
        (Image.REFUSED, 1, [Execute(2)]),
        # A newer edition is never forked from an older image.
        (Image.WARMING, 2, [Execute(1), Discard(), Begin(2)]),
        (Image.READY, 2, [Discard(), Begin(2)]),
        (Image.RESTING, 2, [Begin(2)]),
        (Image.REFUSED, 2, [Begin(2)]),
        # An older one, of a rollout that failed, may be.
        (Image.READY, 0, [Fork(2)]),
        (Image.WARMING, 0, []),
    ],
)
def test_how_a_process_is_started(state: Image, edition: int, commands: list[Command]) -> None:
    preload = image(state)
    assert preload.spawn(2, edition, 100.0) == commands


def test_where_nothing_can_be_preloaded_each_starts_by_itself() -> None:
    preload = Preload(False, PATIENCE)
    assert preload.spawn(1, 1, 0.0) == [Execute(1)]
    assert preload.spawn(2, 2, 0.0) == [Execute(2)]
    assert (preload.state, preload.next_due) == (Image.ABSENT, None)


# -- those who wait ----------------------------------------------------------------------------------


def test_who_waits_is_forked_when_the_image_is_ready() -> None:
    preload = image(Image.WARMING)
    preload.spawn(2, 1, 100.5)
    assert preload.ready(101.0) == [Fork(1), Fork(2)]
    assert preload.next_due is None
    assert preload.spawn(3, 1, 102.0) == [Fork(3)]


def test_who_waits_starts_by_itself_when_the_image_refuses() -> None:
    preload = image(Image.WARMING)
    assert preload.refused() == [Execute(1)]
    assert preload.died(101.0, CHANCE) == [], "it ends by itself then, and nothing follows"
    assert preload.next_due is None


def test_who_waits_starts_by_itself_when_the_image_dies() -> None:
    assert image(Image.WARMING).died(101.0, CHANCE) == [Execute(1)]


def test_nobody_waits_for_long() -> None:
    preload = image(Image.WARMING)
    assert preload.next_due == 100.0 + PATIENCE
    assert preload.tick(100.0 + PATIENCE - 0.01, CHANCE) == []
    assert preload.tick(100.0 + PATIENCE, CHANCE) == [Execute(1)]
    assert preload.spawn(2, 1, 120.0) == [Execute(2)], "what is late is not waited for again"
    assert preload.ready(121.0) == []
    assert preload.spawn(3, 1, 122.0) == [Fork(3)]


def test_who_is_not_wanted_any_more_is_not_started() -> None:
    preload = image(Image.WARMING)
    assert preload.abandon(1)
    assert not preload.abandon(1)
    assert preload.ready(101.0) == []


# -- an image that dies ------------------------------------------------------------------------------


def test_a_dead_image_is_replaced_after_a_while_and_nobody_waits_for_it() -> None:
    preload = image(Image.READY)
    assert preload.died(110.0, CHANCE) == []
    due = preload.next_due
    assert due is not None
    assert due > 110.0
    assert preload.spawn(2, 1, 110.0) == [Execute(2)]
    assert preload.tick(due, CHANCE) == [Begin(1)]
    assert preload.spawn(3, 1, due) == [Execute(3)]
    assert preload.ready(due + 2) == []
    assert preload.spawn(4, 1, due + 2) == [Fork(4)]


@pytest.mark.parametrize("first", [True, False])
def test_an_image_that_hangs_is_ended_and_tried_again_later(first: bool) -> None:
    preload = image(Image.WARMING if first else Image.RESTING)
    due = preload.next_due
    assert due is not None
    assert preload.tick(due, CHANCE) == ([Execute(1)] if first else [Begin(1)])
    assert preload.tick(due + HANGS_AFTER - 1, CHANCE) == []
    assert preload.tick(due + HANGS_AFTER, CHANCE) == [Discard()]
    assert preload.state is Image.RESTING
    again = preload.next_due
    assert again is not None
    assert preload.tick(again, CHANCE) == [Begin(1)]


def test_an_image_that_keeps_dying_is_tried_ever_more_seldom() -> None:
    preload, now, waits = image(Image.READY), 100.0, []
    for _ in range(8):
        preload.died(now, CHANCE)
        due = preload.next_due
        assert due is not None
        waits.append(due - now)
        now = due
        assert preload.tick(now, CHANCE) == [Begin(1)]
        preload.ready(now)
    assert waits[0] < 1
    assert waits[-1] > 100


def test_an_image_that_was_ready_for_long_is_replaced_at_once() -> None:
    preload = image(Image.READY)
    preload.died(4000.0, CHANCE)
    assert preload.next_due == 4000.0


def test_a_new_edition_has_no_past() -> None:
    preload = image(Image.RESTING)
    assert preload.spawn(2, 2, 100.1) == [Begin(2)]
    assert preload.ready(101.0) == [Fork(2)]


# -- the end -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", Image)
def test_stop_ends_the_image_and_starts_nothing(state: Image) -> None:
    preload = image(state)
    alive = state in (Image.WARMING, Image.READY)
    assert preload.stop() == ([Discard()] if alive else [])
    assert preload.next_due is None
    assert preload.tick(1e6, CHANCE) == preload.ready(1e6) == preload.died(1e6, CHANCE) == []
    assert preload.spawn(9, 9, 1e6) == [Execute(9)]


# -- whatever happens --------------------------------------------------------------------------------

EVENTS: Final = st.lists(
    st.sampled_from(["spawn", "reload", "roll back", "ready", "refused", "died", "abandon", "later"]),
    max_size=40,
)


@given(EVENTS)
def test_each_process_is_started_once_and_never_from_an_older_image(events: list[str]) -> None:
    preload, now, newest = Preload(True, PATIENCE), 0.0, 1
    edition_of: dict[int, int] = {}
    started: list[int] = []
    abandoned: set[int] = set()
    images: list[int] = []  # editions; the last one is there if `alive`
    alive = False

    def carry_out(commands: list[Command]) -> None:
        nonlocal alive
        for command in commands:
            match command:
                case Begin(edition):
                    assert not alive, "at most one image"
                    images.append(edition)
                    alive = True
                case Discard():
                    assert alive
                    alive = False
                case Fork(process):
                    assert alive
                    assert images[-1] >= edition_of[process]
                    started.append(process)
                case Execute(process):
                    started.append(process)

    def spawn(edition: int) -> None:
        process = len(edition_of) + 1
        edition_of[process] = edition
        carry_out(preload.spawn(process, edition, now))

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
                carry_out(preload.ready(now))
            case "refused" if alive:
                alive = False
                carry_out(preload.refused())
            case "died" if alive:
                alive = False
                carry_out(preload.died(now, CHANCE))
            case "abandon" if edition_of:
                if preload.abandon(max(edition_of)):
                    abandoned.add(max(edition_of))
            case "later":
                now += PATIENCE
                carry_out(preload.tick(now, CHANCE))
    now += HANGS_AFTER
    carry_out(preload.tick(now, CHANCE))
    assert sorted([*started, *abandoned]) == sorted(edition_of)
