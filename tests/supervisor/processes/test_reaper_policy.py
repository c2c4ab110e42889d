"""Which adopted processes are reaped, terminated, killed or left alone, in virtual time."""

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
OTHER = 999  # a session of no worker


def child(pid: int = 7, *, zombie: bool = False, session: int = OTHER, mark: str | None = None) -> Adopted:
    return Adopted(pid, zombie, session, mark)


def test_a_zombie_is_reaped_if_no_owner_claims_it_in_time() -> None:
    policy = ReaperPolicy()
    assert policy.decide([child(zombie=True)], WORKERS, 1.0) == []
    assert policy.decide([child(zombie=True)], WORKERS, 1.0 + UNCLAIMED / 2) == []
    assert policy.decide([child(zombie=True)], WORKERS, 1.0 + UNCLAIMED) == [Reap(7)]


def test_zombies_wait_in_parallel() -> None:
    policy = ReaperPolicy()
    many = [child(pid, zombie=True) for pid in range(1, 51)]
    policy.decide(many, WORKERS, 0.0)
    assert policy.decide(many, WORKERS, UNCLAIMED) == [Reap(pid) for pid in range(1, 51)]


def test_a_zombie_that_was_claimed_is_forgotten() -> None:
    """A reused pid is another process."""
    policy = ReaperPolicy()
    policy.decide([child(zombie=True)], WORKERS, 0.0)
    policy.decide([], WORKERS, 0.1)
    assert policy.decide([child(zombie=True)], WORKERS, UNCLAIMED) == []


def test_only_the_time_as_a_zombie_counts() -> None:
    policy = ReaperPolicy()
    policy.decide([child()], WORKERS, 0.0)
    assert policy.decide([child(zombie=True)], WORKERS, 100.0) == []


@pytest.mark.parametrize("orphan", [child(mark="a"), child(session=100)], ids=["mark", "session"])
def test_an_orphan_process_is_left_alone_then_terminated_then_killed(orphan: Adopted) -> None:
    policy = ReaperPolicy()
    assert policy.decide([orphan], WORKERS, 0.0) == []
    assert not policy.ending
    rest = {200: "b"}
    assert policy.decide([orphan], rest, 10.0) == [Terminate(7, "a")]
    assert policy.ending
    assert policy.decide([orphan], rest, 10.0 + END_WITHIN - 0.1) == []
    assert policy.decide([orphan], rest, 10.0 + END_WITHIN) == [Kill(7, "a")]
    assert policy.decide([orphan], rest, 30.0) == [], "it cannot be killed twice"
    assert policy.ending
    policy.decide([child(zombie=True)], rest, 31.0)
    assert not policy.ending


def test_an_orphan_process_that_appears_with_the_exit_of_its_worker_is_terminated() -> None:
    policy = ReaperPolicy()
    policy.decide([], WORKERS, 0.0)
    assert policy.decide([child(session=100)], {}, 1.0) == [Terminate(7, "a")]


def test_the_mark_takes_precedence_over_the_session() -> None:
    """An App may start a process in a session of its own, or in that of another worker."""
    assert ReaperPolicy().decide([child(session=100, mark="gone")], WORKERS, 0.0) == [Terminate(7, "gone")]


def test_a_process_of_no_worker_is_left_alone_and_reaped_as_a_zombie() -> None:
    policy = ReaperPolicy()
    assert policy.decide([child()], WORKERS, 0.0) == []
    assert policy.decide([child()], {}, 100.0) == []
    policy.decide([child(zombie=True)], {}, 200.0)
    assert policy.decide([child(zombie=True)], {}, 200.0 + UNCLAIMED) == [Reap(7)]


def test_a_reused_session_id_does_not_belong_to_the_old_worker() -> None:
    """The session of the exited worker was empty: a later session with the same id belongs to a stranger."""
    policy = ReaperPolicy()
    policy.decide([], WORKERS, 0.0)
    policy.decide([], {}, 1.0)
    assert policy.decide([child(session=100)], {}, 2.0) == []
    # If a new worker has this pid, the session belongs to that worker.
    assert policy.decide([child(session=100)], {100: "c"}, 3.0) == []
    assert policy.decide([child(session=100)], {}, 4.0) == [Terminate(7, "c")]


def test_with_end_within_zero_a_process_is_killed_at_the_next_poll() -> None:
    policy = ReaperPolicy()
    orphan = child(mark="gone")
    assert policy.decide([orphan], {}, 1.0) == [Terminate(7, "gone")]
    policy.end_within = 0.0
    assert policy.decide([orphan], {}, 1.05) == [Kill(7, "gone")]
