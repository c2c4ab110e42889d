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
    adoption = ReaperPolicy()
    assert adoption.look([child(zombie=True)], WORKERS, 1.0) == []
    assert adoption.look([child(zombie=True)], WORKERS, 1.0 + UNCLAIMED / 2) == []
    assert adoption.look([child(zombie=True)], WORKERS, 1.0 + UNCLAIMED) == [Reap(7)]


def test_zombies_wait_side_by_side() -> None:
    adoption = ReaperPolicy()
    many = [child(pid, zombie=True) for pid in range(1, 51)]
    adoption.look(many, WORKERS, 0.0)
    assert adoption.look(many, WORKERS, UNCLAIMED) == [Reap(pid) for pid in range(1, 51)]


def test_a_zombie_that_was_claimed_is_forgotten() -> None:
    """Its pid, used again, is another process."""
    adoption = ReaperPolicy()
    adoption.look([child(zombie=True)], WORKERS, 0.0)
    adoption.look([], WORKERS, 0.1)
    assert adoption.look([child(zombie=True)], WORKERS, UNCLAIMED) == []


def test_the_time_as_a_zombie_counts_not_that_before() -> None:
    adoption = ReaperPolicy()
    adoption.look([child()], WORKERS, 0.0)
    assert adoption.look([child(zombie=True)], WORKERS, 100.0) == []


@pytest.mark.parametrize("orphan", [child(mark="a"), child(session=100)], ids=["mark", "session"])
def test_orphan_is_left_alone_while_its_worker_lives_then_asked_then_killed(orphan: Adopted) -> None:
    adoption = ReaperPolicy()
    assert adoption.look([orphan], WORKERS, 0.0) == []
    assert not adoption.ending
    rest = {200: "b"}
    assert adoption.look([orphan], rest, 10.0) == [Terminate(7, "a")]
    assert adoption.ending
    assert adoption.look([orphan], rest, 10.0 + END_WITHIN - 0.1) == []
    assert adoption.look([orphan], rest, 10.0 + END_WITHIN) == [Kill(7, "a")]
    assert adoption.look([orphan], rest, 30.0) == [], "it cannot be killed twice"
    assert adoption.ending
    adoption.look([child(zombie=True)], rest, 31.0)
    assert not adoption.ending


def test_orphan_that_comes_with_the_end_of_its_worker() -> None:
    adoption = ReaperPolicy()
    adoption.look([], WORKERS, 0.0)
    assert adoption.look([child(session=100)], {}, 1.0) == [Terminate(7, "a")]


def test_the_mark_says_more_than_the_session() -> None:
    """An App that lives may start something in a session of its own, or of another worker."""
    assert ReaperPolicy().look([child(session=100, mark="gone")], WORKERS, 0.0) == [Terminate(7, "gone")]


def test_who_is_of_no_worker_is_left_alone_and_reaped_in_the_end() -> None:
    adoption = ReaperPolicy()
    assert adoption.look([child()], WORKERS, 0.0) == []
    assert adoption.look([child()], {}, 100.0) == []
    adoption.look([child(zombie=True)], {}, 200.0)
    assert adoption.look([child(zombie=True)], {}, 200.0 + UNCLAIMED) == [Reap(7)]


def test_number_of_a_session_that_is_used_again() -> None:
    """Nobody was left in the session of the worker that is gone: who has its number now is a stranger."""
    adoption = ReaperPolicy()
    adoption.look([], WORKERS, 0.0)
    adoption.look([], {}, 1.0)
    assert adoption.look([child(session=100)], {}, 2.0) == []
    # As pid of a new worker it means that one.
    assert adoption.look([child(session=100)], {100: "c"}, 3.0) == []
    assert adoption.look([child(session=100)], {}, 4.0) == [Terminate(7, "c")]


def test_nothing_is_given_time_once_the_instance_ends_at_once() -> None:
    adoption = ReaperPolicy()
    orphan = child(mark="gone")
    assert adoption.look([orphan], {}, 1.0) == [Terminate(7, "gone")]
    adoption.end_within = 0.0
    assert adoption.look([orphan], {}, 1.05) == [Kill(7, "gone")]
