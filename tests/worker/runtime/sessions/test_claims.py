"""Turns that share a session, on each medium: they wait for other processes, and late saves are rejected."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from agentscope_worker.runtime.sessions import claims as session_claims
from agentscope_worker.runtime.sessions import redis_store
from agentscope_worker.runtime.sessions.redis_store import CLAIM_PREFIX, RedisSessions
from agentscope_worker.runtime.sessions.store import SessionStateError, SessionStore
from tests.harness.redis_server import RedisServer
from tests.worker.session_contract import Keys, Medium, OneTurn, slow_down
from tests.worker.session_turn import Peer
from tests.worker.values import Value

WITHIN = 30.0  # seconds; normally milliseconds
A_WHILE = 0.3  # seconds after which a pending operation counts as waiting

StartPeer = Callable[..., Peer]
Begin = Callable[..., OneTurn]


@pytest.fixture
def peer(medium: Medium) -> Iterator[StartPeer]:
    """Starts another worker on the same medium; by default it belongs to another instance."""
    started: list[Peer] = []

    def begin(member: str = "theirs.9", lease: float = 600.0) -> Peer:
        started.append(Peer(medium, member, lease))
        return started[-1]

    yield begin
    for each in started:
        each.close()


@pytest.fixture
async def ours(medium: Medium) -> AsyncIterator[SessionStore]:
    """The store of a worker of the instance "ours"."""
    store = medium.store(member="ours.2")
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def begin() -> AsyncIterator[Begin]:
    """Begins turns, and ends them after the test."""
    begun: list[OneTurn] = []

    def one(store: SessionStore, session: str = "s") -> OneTurn:
        begun.append(OneTurn(store, session))
        return begun[-1]

    yield one
    for each in begun:
        each.end()


async def is_waiting(task: "asyncio.Task[object]") -> bool:
    done, _ = await asyncio.wait([task], timeout=A_WHILE)
    return not done


async def wait_for(task: "asyncio.Task[object]") -> object:
    async with asyncio.timeout(WITHIN):
        return await task


# -- in one process -------------------------------------------------------------------------------------


async def test_a_turn_waits_for_the_previous_one_and_loads_its_save(
    sessions: SessionStore, begin: Begin
) -> None:
    first, second = begin(sessions), begin(sessions)
    assert await first.load() is None
    waiting = asyncio.create_task(second.load())
    assert await is_waiting(waiting)
    await first.save("first")
    first.end()
    assert await wait_for(waiting) == "first"
    await second.save("second")
    second.end()
    assert await begin(sessions).load() == "second"


async def test_a_late_save_does_not_replace_the_save_of_a_later_turn(
    sessions: SessionStore, begin: Begin
) -> None:
    first, second = begin(sessions), begin(sessions)
    await first.load()
    first.end()
    await second.load()
    await second.save("second")
    second.end()
    with pytest.raises(SessionStateError, match="was not saved: a later turn of the session has saved"):
        await first.save("first")
    assert await begin(sessions).load() == "second"


async def test_a_late_save_does_not_interfere_with_a_later_turn(sessions: SessionStore, begin: Begin) -> None:
    first, second = begin(sessions), begin(sessions)
    await first.load()
    first.end()
    assert await second.load() is None
    with pytest.raises(SessionStateError, match="was not saved: a later turn of the session has begun"):
        await first.save("first")
    await second.save("second")
    second.end()
    assert await begin(sessions).load() == "second"


async def test_a_late_save_without_a_later_turn_is_kept(sessions: SessionStore, begin: Begin) -> None:
    first, second = begin(sessions), begin(sessions)
    await first.load()
    first.end()
    await first.save("late")
    await second.load()
    second.end()
    await first.save("very late")
    third = begin(sessions)
    assert await wait_for(asyncio.create_task(third.load())) == "very late", (
        "the late save must release its claim"
    )


async def test_concurrent_late_saves_are_all_kept(sessions: SessionStore, begin: Begin) -> None:
    """For several users of the session, while the claim is acquired or released for others."""
    slow_down(sessions, 0.02, "_claim", "_release")
    turn, users, saves = begin(sessions), [f"user-{number}" for number in range(12)], []
    await turn.load()
    turn.end()
    for user in users:
        saves.append(turn.start(sessions.save_session_state("s", user, value=Value(user))))
        await asyncio.sleep(0.005)
    for save in saves:
        await wait_for(save)
    for user in users:
        assert await sessions.load_session_state("s", user) == {"value": {"value": user}}
    await sessions._claims.close()  # waits for the release at the end of the turn
    assert not sessions._claims._holders


async def test_a_turn_that_loaded_the_newest_state_may_save_late(
    sessions: SessionStore, begin: Begin
) -> None:
    first, second = begin(sessions), begin(sessions)
    await first.load()
    first.end()
    await second.save("second")
    second.end()
    assert await first.load() == "second"
    await first.save("first again")
    assert await begin(sessions).load() == "first again"


async def test_a_late_save_does_not_restore_a_deleted_state(
    sessions: SessionStore, medium: Medium, begin: Begin
) -> None:
    first, second = begin(sessions), begin(sessions)
    await first.save("first")
    first.end()
    assert await second.start(sessions.delete_session_state("s")) is True
    second.end()
    with pytest.raises(SessionStateError, match="a later turn of the session has saved or deleted it"):
        await first.save("late")
    assert await medium.contents() == []


async def test_a_deletion_waits_for_a_turn_of_another_instance(
    ours: SessionStore, medium: Medium, peer: StartPeer, begin: Begin
) -> None:
    theirs, turn = peer(), begin(ours)
    await theirs.do("begin")
    await theirs.do("save theirs")
    deleting = turn.start(ours.delete_session_state("s"))
    assert await is_waiting(deleting)
    await theirs.do("save theirs again")
    await theirs.do("end")
    assert await wait_for(deleting) is True
    await turn.save("anew")
    assert len(await medium.contents()) == 1


async def test_the_next_turn_waits_for_saves_of_an_ended_turn(sessions: SessionStore, begin: Begin) -> None:
    """This happens when a turn is cancelled while it saves in its `finally`."""
    slow_down(sessions, A_WHILE)
    first, second = begin(sessions), begin(sessions)
    save = asyncio.create_task(first.save("kept"))
    await asyncio.sleep(0.01)
    save.cancel()
    first.end()
    assert await wait_for(asyncio.create_task(second.load())) == "kept"


async def test_a_turn_that_gives_up_waiting_leaves_no_claim(sessions: SessionStore, begin: Begin) -> None:
    first, second, third = begin(sessions), begin(sessions), begin(sessions)
    await first.load()
    waiting = asyncio.create_task(second.load())
    assert await is_waiting(waiting)
    waiting.cancel()
    second.end()
    first.end()
    assert await wait_for(asyncio.create_task(third.load())) is None


async def test_the_wait_for_another_turn_times_out(
    sessions: SessionStore, monkeypatch: pytest.MonkeyPatch, begin: Begin
) -> None:
    monkeypatch.setattr(session_claims, "WAIT_TIMEOUT", 0.05)
    first, second = begin(sessions), begin(sessions)
    await first.load()
    with pytest.raises(TimeoutError, match=r"another turn of the session did not end within 0\.05 s"):
        await second.load()
    first.end()
    assert await wait_for(asyncio.create_task(second.load())) is None, "a second attempt must be possible"


async def test_code_outside_of_the_sessions_turns_does_not_wait(sessions: SessionStore, begin: Begin) -> None:
    """Two sessions share a third state, and one save is outside of turns: the last save wins."""
    one, two = begin(sessions, "one"), begin(sessions, "two")
    for turn in (one, two):
        await turn.load()
        await turn.start(sessions.load_session_state("profile"))
        await turn.start(sessions.save_session_state("profile"))
    await sessions.save_session_state("one")
    await one.save("mine")
    assert await sessions.load_session_state("one") == {"value": {"value": "mine"}}


async def test_an_ended_turn_leaves_nothing_but_its_state(
    sessions: SessionStore, medium: Medium, begin: Begin
) -> None:
    turn = begin(sessions)
    await turn.load()
    await turn.save("x")
    turn.end()
    await sessions._claims.close()
    assert await medium.leftovers() == []
    assert not any([sessions._claims._holders, sessions._claims._waits, sessions._saves])


# -- between processes -------------------------------------------------------------------------------------


async def test_a_turn_waits_for_a_turn_of_another_instance(
    ours: SessionStore, peer: StartPeer, begin: Begin
) -> None:
    theirs, turn = peer(), begin(ours)
    await theirs.do("begin")
    assert await theirs.do("load") is None
    waiting = asyncio.create_task(turn.load())
    assert await is_waiting(waiting)
    assert await theirs.do("save theirs") is None
    assert await is_waiting(waiting), "a turn may save more than once"
    await theirs.do("end")
    assert await wait_for(waiting) == "theirs"
    await turn.save("ours")
    turn.end()
    await ours._claims.close()
    await theirs.do("begin")
    assert await theirs.do("load") == "ours"


async def test_after_a_crash_the_next_process_of_the_instance_continues_at_once(
    ours: SessionStore, peer: StartPeer, begin: Begin
) -> None:
    """Also on a medium that does not notice the death of a process: there, the claim would last ten
    minutes."""
    before, turn = peer("ours.1"), begin(ours)
    await before.do("begin")
    await before.do("save before")
    before.signal(signal.SIGKILL)
    assert await wait_for(asyncio.create_task(turn.load())) == "before"
    await turn.save("after")
    turn.end()


async def test_the_claim_of_a_crashed_instance_ends(
    ours: SessionStore, peer: StartPeer, begin: Begin
) -> None:
    theirs, turn = peer(lease=1.0), begin(ours)
    await theirs.do("begin")
    await theirs.do("save theirs")
    theirs.signal(signal.SIGKILL)
    assert await wait_for(asyncio.create_task(turn.load())) == "theirs"


@pytest.mark.parametrize("member", ["ours.1", "theirs.9"])
async def test_a_process_considered_dead_overwrites_nothing(
    medium: Medium, ours: SessionStore, peer: StartPeer, member: str, begin: Begin
) -> None:
    """A process is suspended in its turn and resumes after another has replaced it. Either the other waits
    for it, or its save is rejected. No save is lost without an error."""
    stopped, turn = peer(member, lease=0.5), begin(ours)
    await stopped.do("begin")
    assert await stopped.do("load") is None
    stopped.signal(signal.SIGSTOP)
    asking = asyncio.create_task(turn.load())
    if medium.kind == "json":  # the kernel knows that the process lives
        assert await is_waiting(asking)
        stopped.signal(signal.SIGCONT)
        assert await stopped.do("save stopped") is None
        await stopped.do("end")
        assert await wait_for(asking) == "stopped"
        return
    assert await wait_for(asking) is None
    stopped.signal(signal.SIGCONT)
    refused = await stopped.do("save stopped")
    assert refused is not None, "the process must hold the claim again"
    assert "was not saved: a later turn of the session has begun" in refused
    await turn.save("ours")
    assert "has begun" in await stopped.do("save stopped")
    turn.end()
    await ours._claims.close()
    assert "has saved or deleted it; the later state is kept" in await stopped.do("save stopped")
    await stopped.do("end")
    assert await begin(ours).load() == "ours"


async def test_turns_of_several_processes_lose_no_update(
    ours: SessionStore, peer: StartPeer, begin: Begin
) -> None:
    """Each turn reads a number and writes back the next: an overlap would lose one."""
    peers = [peer(f"instance{number}.1") for number in range(3)]

    async def count(each: Peer) -> None:
        for _ in range(10):
            await each.do("begin")
            assert await each.do(f"save {int(await each.do('load') or 0) + 1}") is None
            await each.do("end")

    async with asyncio.timeout(2 * WITHIN):
        await asyncio.gather(*map(count, peers))
    assert await begin(ours).load() == "30"


# -- only for Redis --------------------------------------------------------------------------------------


@pytest.fixture
async def in_redis(redis_server: RedisServer) -> AsyncIterator[RedisSessions]:
    keys = Keys(redis_server.url)
    store = keys.store()
    assert isinstance(store, RedisSessions)
    await store.open()
    yield store
    await store.close()
    await keys.close()


async def test_a_held_claim_is_renewed(
    in_redis: RedisSessions, monkeypatch: pytest.MonkeyPatch, begin: Begin
) -> None:
    monkeypatch.setattr(redis_store, "LEASE", 6.0)
    turn = begin(in_redis)
    await turn.load()
    (name,) = await in_redis._redis.keys(CLAIM_PREFIX + "*")
    async with asyncio.timeout(WITHIN):
        left = await in_redis._redis.pttl(name)
        while (now := await in_redis._redis.pttl(name)) <= left:
            left = now
            await asyncio.sleep(0.05)
    await turn.save("x")


async def test_a_claim_lost_by_the_server_is_acquired_again(
    in_redis: RedisSessions, caplog: pytest.LogCaptureFixture, begin: Begin
) -> None:
    turn = begin(in_redis)
    await turn.save("x")
    await in_redis._redis.flushall()
    await turn.save("y")
    assert "has lost the claim of its session" in caplog.text
    assert len(await in_redis._redis.keys(CLAIM_PREFIX + "*")) == 1, "the turn must hold the claim again"
    assert await turn.load() == "y"
