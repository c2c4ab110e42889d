"""Adopted processes in virtual time: who is reaped, asked, killed, left alone."""

import pytest

from agentscope_supervisor.processes.reaper_policy import (
    END_WITHIN,
    UNCLAIMED,
    Adopted,
    Kill,
    Reap,
    ReaperPolicy,
    Terminate,
)

WORKERS = {100: "a", 200: "b"}
OTHER = 999  # a session of nobody we know


def child(pid: int = 7, *, zombie: bool = False, session: int = OTHER, mark: str | None = None) -> Adopted:
    return Adopted(pid, zombie, session, mark)


def test_zombie_is_reaped_when_nobody_has_claimed_it_for_a_moment() -> None:
    policy = ReaperPolicy()
    assert policy.look([child(zombie=True)], WORKERS, 1.0) == []
    assert policy.look([child(zombie=True)], WORKERS, 1.0 + UNCLAIMED / 2) == []
    assert policy.look([child(zombie=True)], WORKERS, 1.0 + UNCLAIMED) == [Reap(7)]


def test_zombies_wait_side_by_side() -> None:
    policy = ReaperPolicy()
    many = [child(pid, zombie=True) for pid in range(1, 51)]
    policy.look(many, WORKERS, 0.0)
    assert policy.look(many, WORKERS, UNCLAIMED) == [Reap(pid) for pid in range(1, 51)]


def test_a_zombie_that_was_claimed_is_forgotten() -> None:
    """Its pid, used again, is another process."""
    policy = ReaperPolicy()
    policy.look([child(zombie=True)], WORKERS, 0.0)
    policy.look([], WORKERS, 0.1)
    assert policy.look([child(zombie=True)], WORKERS, UNCLAIMED) == []


def test_the_time_as_a_zombie_counts_not_that_before() -> None:
    policy = ReaperPolicy()
    policy.look([child()], WORKERS, 0.0)
    assert policy.look([child(zombie=True)], WORKERS, 100.0) == []


@pytest.mark.parametrize("orphan", [child(mark="a"), child(session=100)], ids=["mark", "session"])
def test_orphan_is_left_alone_while_its_worker_lives_then_asked_then_killed(orphan: Adopted) -> None:
    policy = ReaperPolicy()
    assert policy.look([orphan], WORKERS, 0.0) == []
    assert not policy.ending
    rest = {200: "b"}
    assert policy.look([orphan], rest, 10.0) == [Terminate(7, "a")]
    assert policy.ending
    assert policy.look([orphan], rest, 10.0 + END_WITHIN - 0.1) == []
    assert policy.look([orphan], rest, 10.0 + END_WITHIN) == [Kill(7, "a")]
    assert policy.look([orphan], rest, 30.0) == [], "it cannot be killed twice"
    assert policy.ending
    policy.look([child(zombie=True)], rest, 31.0)
    assert not policy.ending


def test_orphan_that_comes_with_the_end_of_its_worker() -> None:
    policy = ReaperPolicy()
    policy.look([], WORKERS, 0.0)
    assert policy.look([child(session=100)], {}, 1.0) == [Terminate(7, "a")]


def test_the_mark_says_more_than_the_session() -> None:
    """An App that lives may start something in a session of its own, or of another worker."""
    assert ReaperPolicy().look([child(session=100, mark="gone")], WORKERS, 0.0) == [Terminate(7, "gone")]


def test_who_is_of_no_worker_is_left_alone_and_reaped_in_the_end() -> None:
    policy = ReaperPolicy()
    assert policy.look([child()], WORKERS, 0.0) == []
    assert policy.look([child()], {}, 100.0) == []
    policy.look([child(zombie=True)], {}, 200.0)
    assert policy.look([child(zombie=True)], {}, 200.0 + UNCLAIMED) == [Reap(7)]


def test_number_of_a_session_that_is_used_again() -> None:
    """Nobody was left in the session of the worker that is gone: who has its number now is a stranger."""
    policy = ReaperPolicy()
    policy.look([], WORKERS, 0.0)
    policy.look([], {}, 1.0)
    assert policy.look([child(session=100)], {}, 2.0) == []
    # As pid of a new worker it means that one.
    assert policy.look([child(session=100)], {100: "c"}, 3.0) == []
    assert policy.look([child(session=100)], {}, 4.0) == [Terminate(7, "c")]


def test_nothing_is_given_time_once_the_instance_ends_at_once() -> None:
    policy = ReaperPolicy()
    orphan = child(mark="gone")
    assert policy.look([orphan], {}, 1.0) == [Terminate(7, "gone")]
    policy.end_within = 0.0
    assert policy.look([orphan], {}, 1.05) == [Kill(7, "gone")]
