"""Waiting for the outcome of a rollout, and how long snapshots are kept."""

import asyncio

import pytest

from agentscope_supervisor.workers.revisions import Revisions


async def test_waiting_callers_get_the_outcome() -> None:
    revisions = Revisions(b"one")
    revision = revisions.begin(b"two")
    waiters = [asyncio.create_task(revisions.outcome(revision)) for _ in range(2)]
    await asyncio.sleep(0)
    revisions.ended(revision, "no room", wanted=1)
    for outcome in await asyncio.gather(*waiters):
        assert (outcome.revision, outcome.failure) == (revision, "no room")


async def test_a_later_caller_gets_the_outcome_too() -> None:
    revisions = Revisions(b"one")
    revision = revisions.begin(b"two")
    revisions.ended(revision, "", wanted=revision)
    assert (await revisions.outcome(revision)).failure == ""
    assert revisions.last is not None


async def test_a_newer_revision_answers_for_an_older_one_but_not_the_reverse() -> None:
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


async def test_the_stop_of_the_instance_answers_all_callers() -> None:
    revisions = Revisions(b"one")
    waiting = asyncio.create_task(revisions.outcome(revisions.begin(b"two")))
    await asyncio.sleep(0)
    revisions.stopped()
    outcome = await waiting
    assert (outcome.failure, outcome.cut) == ("the instance is stopping", True)


async def test_a_cancelled_caller_is_forgotten() -> None:
    revisions = Revisions(b"one")
    waiting = asyncio.create_task(revisions.outcome(revisions.begin(b"two")))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    revisions.ended(2, "", wanted=2)


async def test_a_snapshot_is_kept_while_a_process_may_start_with_it() -> None:
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


def test_the_preload_revision_stays_while_only_code_changes() -> None:
    revisions = Revisions(b"one")
    assert revisions.preload_revision(1) == 1
    assert [revisions.preload_revision(revisions.begin(b"one", code_only=True)) for _ in range(2)] == [1, 1]
    settings = revisions.begin(b"two", code_only=True)
    assert revisions.preload_revision(settings) == settings
    # A requested reload may follow the installation of a package.
    asked = revisions.begin(b"two")
    assert revisions.preload_revision(asked) == asked


def test_a_failed_revision_passes_its_preload_revision_on() -> None:
    revisions = Revisions(b"one")
    tried = revisions.begin(b"two", code_only=True)
    revisions.ended(tried, "a syntax error", wanted=1)
    assert revisions.preload_revision(revisions.begin(b"two", code_only=True)) == tried
    back = revisions.begin(b"one", code_only=True)
    assert revisions.preload_revision(back) == back
