"""Who waits for a rollout hears of its end, also when a newer one took its place; snapshots that are kept."""

import asyncio

import pytest

from agentscope_supervisor.workers.revisions import Revisions


async def test_who_waits_hears_how_it_ended() -> None:
    rollouts = Revisions(b"one")
    edition = rollouts.begin(b"two")
    waiters = [asyncio.create_task(rollouts.outcome(edition)) for _ in range(2)]
    await asyncio.sleep(0)
    rollouts.ended(edition, "no room", wanted=1)
    for outcome in await asyncio.gather(*waiters):
        assert (outcome.edition, outcome.failure) == (edition, "no room")


async def test_who_asks_afterwards_hears_it_too() -> None:
    rollouts = Revisions(b"one")
    edition = rollouts.begin(b"two")
    rollouts.ended(edition, "", wanted=edition)
    assert (await rollouts.outcome(edition)).failure == ""
    assert rollouts.last is not None


async def test_a_newer_edition_answers_for_an_older_one_and_not_the_reverse() -> None:
    rollouts = Revisions(b"one")
    older, newer = rollouts.begin(b"two"), rollouts.begin(b"three")
    first, second = (asyncio.create_task(rollouts.outcome(edition)) for edition in (older, newer))
    await asyncio.sleep(0)
    rollouts.ended(older, "", wanted=newer)
    assert (await first).edition == older
    await asyncio.sleep(0)
    assert not second.done()
    rollouts.ended(newer, "", wanted=newer)
    assert (await second).edition == newer
    assert (await rollouts.outcome(older)).edition == newer


async def test_the_end_of_the_instance_ends_every_wait() -> None:
    rollouts = Revisions(b"one")
    waiting = asyncio.create_task(rollouts.outcome(rollouts.begin(b"two")))
    await asyncio.sleep(0)
    rollouts.stopped()
    outcome = await waiting
    assert (outcome.failure, outcome.cut) == ("the instance is stopping", True)


async def test_who_no_longer_waits_is_forgotten() -> None:
    rollouts = Revisions(b"one")
    waiting = asyncio.create_task(rollouts.outcome(rollouts.begin(b"two")))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    rollouts.ended(2, "", wanted=2)


async def test_snapshots_live_as_long_as_a_process_may_be_started_with_them() -> None:
    rollouts = Revisions(b"one")
    two = rollouts.begin(b"two")
    rollouts.ended(two, "broken", wanted=1)
    assert rollouts.snapshot(1) == b"one"
    with pytest.raises(KeyError):
        rollouts.snapshot(two)
    three = rollouts.begin(b"three")
    assert three > two
    rollouts.ended(three, "", wanted=three)
    assert rollouts.snapshot(three) == b"three"
    with pytest.raises(KeyError):
        rollouts.snapshot(1)
    rollouts.ended(three, "a replacement in the same edition failed", wanted=three)
    assert rollouts.snapshot(three) == b"three"


def test_an_image_serves_as_long_as_only_code_changes() -> None:
    rollouts = Revisions(b"one")
    assert rollouts.image(1) == 1
    assert [rollouts.image(rollouts.begin(b"one", code_only=True)) for _ in range(2)] == [1, 1]
    settings = rollouts.begin(b"two", code_only=True)
    assert rollouts.image(settings) == settings
    # A reload that was asked for may follow an installation.
    asked = rollouts.begin(b"two")
    assert rollouts.image(asked) == asked


def test_an_edition_that_failed_leaves_its_image_to_the_next() -> None:
    rollouts = Revisions(b"one")
    tried = rollouts.begin(b"two", code_only=True)
    rollouts.ended(tried, "a syntax error", wanted=1)
    assert rollouts.image(rollouts.begin(b"two", code_only=True)) == tried
    back = rollouts.begin(b"one", code_only=True)
    assert rollouts.image(back) == back
