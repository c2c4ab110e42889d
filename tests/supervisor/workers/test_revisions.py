"""Who waits for a rollout hears of its end, also when a newer one took its place; snapshots that are kept."""

import asyncio

import pytest

from agentscope_supervisor.workers.revisions import Revisions


async def test_who_waits_hears_how_it_ended() -> None:
    revisions = Revisions(b"one")
    revision = revisions.begin(b"two")
    waiters = [asyncio.create_task(revisions.outcome(revision)) for _ in range(2)]
    await asyncio.sleep(0)
    revisions.ended(revision, "no room", wanted=1)
    for outcome in await asyncio.gather(*waiters):
        assert (outcome.revision, outcome.failure) == (revision, "no room")


async def test_who_asks_afterwards_hears_it_too() -> None:
    revisions = Revisions(b"one")
    revision = revisions.begin(b"two")
    revisions.ended(revision, "", wanted=revision)
    assert (await revisions.outcome(revision)).failure == ""
    assert revisions.last is not None


async def test_a_newer_edition_answers_for_an_older_one_and_not_the_reverse() -> None:
    revisions = Revisions(b"one")
    older, newer = revisions.begin(b"two"), revisions.begin(b"three")
    first, second = (asyncio.create_task(revisions.outcome(revision)) for revision in (older, newer))
    await asyncio.sleep(0)
    revisions.ended(older, "", wanted=newer)
    assert (await first).revision == older
    await asyncio.sleep(0)
    assert not second.done()
    revisions.ended(newer, "", wanted=newer)
    assert (await second).revision == newer
    assert (await revisions.outcome(older)).revision == newer


async def test_the_end_of_the_instance_ends_every_wait() -> None:
    revisions = Revisions(b"one")
    waiting = asyncio.create_task(revisions.outcome(revisions.begin(b"two")))
    await asyncio.sleep(0)
    revisions.stopped()
    outcome = await waiting
    assert (outcome.failure, outcome.cut) == ("the instance is stopping", True)


async def test_who_no_longer_waits_is_forgotten() -> None:
    revisions = Revisions(b"one")
    waiting = asyncio.create_task(revisions.outcome(revisions.begin(b"two")))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    revisions.ended(2, "", wanted=2)


async def test_snapshots_live_as_long_as_a_process_may_be_started_with_them() -> None:
    revisions = Revisions(b"one")
    two = revisions.begin(b"two")
    revisions.ended(two, "broken", wanted=1)
    assert revisions.snapshot(1) == b"one"
    with pytest.raises(KeyError):
        revisions.snapshot(two)
    three = revisions.begin(b"three")
    assert three > two
    revisions.ended(three, "", wanted=three)
    assert revisions.snapshot(three) == b"three"
    with pytest.raises(KeyError):
        revisions.snapshot(1)
    revisions.ended(three, "a replacement in the same revision failed", wanted=three)
    assert revisions.snapshot(three) == b"three"


def test_an_image_serves_as_long_as_only_code_changes() -> None:
    revisions = Revisions(b"one")
    assert revisions.preload_revision(1) == 1
    assert [revisions.preload_revision(revisions.begin(b"one", code_only=True)) for _ in range(2)] == [1, 1]
    settings = revisions.begin(b"two", code_only=True)
    assert revisions.preload_revision(settings) == settings
    # A reload that was asked for may follow an installation.
    asked = revisions.begin(b"two")
    assert revisions.preload_revision(asked) == asked


def test_an_edition_that_failed_leaves_its_image_to_the_next() -> None:
    revisions = Revisions(b"one")
    tried = revisions.begin(b"two", code_only=True)
    revisions.ended(tried, "a syntax error", wanted=1)
    assert revisions.preload_revision(revisions.begin(b"two", code_only=True)) == tried
    back = revisions.begin(b"one", code_only=True)
    assert revisions.preload_revision(back) == back
