"""Turns that share a session: those of other processes are waited for, late ones refused, on each medium."""

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

WITHIN = 30.0  # seconds for what should take a moment
A_WHILE = 0.3  # seconds after which what waits is taken to wait

StartPeer = Callable[..., Peer]
Begin = Callable[..., OneTurn]


@pytest.fixture
def peer(medium: Medium) -> Iterator[StartPeer]:
    """Starts another worker on the same medium: of another instance, unless it is told."""
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
    """Begins turns; they end with the test."""
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


async def test_a_turn_waits_for_the_one_before_and_sees_what_it_saves(
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


async def test_a_late_save_does_not_replace_what_a_later_turn_has_saved(
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


async def test_a_late_save_does_not_come_between_what_a_later_turn_loads_and_saves(
    sessions: SessionStore, begin: Begin
) -> None:
    first, second = begin(sessions), begin(sessions)
    await first.load()
    first.end()
    assert await second.load() is None
    with pytest.raises(SessionStateError, match="was not saved: a later turn of the session has begun"):
        await first.save("first")
    await second.save("second")
    second.end()
    assert await begin(sessions).load() == "second"


async def test_a_late_save_that_nobody_has_overtaken_is_kept(sessions: SessionStore, begin: Begin) -> None:
    first, second = begin(sessions), begin(sessions)
    await first.load()
    first.end()
    await first.save("late")
    await second.load()
    second.end()
    await first.save("very late")
    third = begin(sessions)
    assert await wait_for(asyncio.create_task(third.load())) == "very late", "it has kept no claim"


async def test_several_late_saves_at_once_are_all_kept(sessions: SessionStore, begin: Begin) -> None:
    """Of several users of the session, some while the claim for others is taken or given back."""
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
    assert not sessions._claims._holders


async def test_who_has_loaded_the_newest_may_save_it_late(sessions: SessionStore, begin: Begin) -> None:
    first, second = begin(sessions), begin(sessions)
    await first.load()
    first.end()
    await second.save("second")
    second.end()
    assert await first.load() == "second"
    await first.save("first again")
    assert await begin(sessions).load() == "first again"


async def test_a_late_save_does_not_bring_back_what_a_later_turn_has_deleted(
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


async def test_a_deletion_waits_for_the_turn_of_another_instance(
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


async def test_what_a_turn_still_saves_when_it_ends_is_waited_for(
    sessions: SessionStore, begin: Begin
) -> None:
    """As where a turn is cancelled while it saves in its `finally`."""
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


async def test_the_wait_has_a_bound(
    sessions: SessionStore, monkeypatch: pytest.MonkeyPatch, begin: Begin
) -> None:
    monkeypatch.setattr(session_claims, "PATIENCE", 0.05)
    first, second = begin(sessions), begin(sessions)
    await first.load()
    with pytest.raises(TimeoutError, match=r"another turn of the session has not ended within 0\.05 s"):
        await second.load()
    first.end()
    assert await wait_for(asyncio.create_task(second.load())) is None, "it may try again"


async def test_what_is_not_of_the_turns_session_waits_for_nobody(
    sessions: SessionStore, begin: Begin
) -> None:
    """Two sessions that share a third state, and one that is in no turn: as ever, the last one wins."""
    one, two = begin(sessions, "one"), begin(sessions, "two")
    for turn in (one, two):
        await turn.load()
        await turn.start(sessions.load_session_state("profile"))
        await turn.start(sessions.save_session_state("profile"))
    await sessions.save_session_state("one")
    await one.save("mine")
    assert await sessions.load_session_state("one") == {"value": {"value": "mine"}}


async def test_a_turn_that_is_over_leaves_nothing_but_its_state(
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


async def test_a_turn_of_another_instance_is_waited_for(
    ours: SessionStore, peer: StartPeer, begin: Begin
) -> None:
    theirs, turn = peer(), begin(ours)
    await theirs.do("begin")
    assert await theirs.do("load") is None
    waiting = asyncio.create_task(turn.load())
    assert await is_waiting(waiting)
    assert await theirs.do("save theirs") is None
    assert await is_waiting(waiting), "it may save more than once"
    await theirs.do("end")
    assert await wait_for(waiting) == "theirs"
    await turn.save("ours")
    turn.end()
    await ours._claims.close()
    await theirs.do("begin")
    assert await theirs.do("load") == "ours"


async def test_after_a_crash_the_next_process_of_the_instance_goes_on_at_once(
    ours: SessionStore, peer: StartPeer, begin: Begin
) -> None:
    """Also where the medium sees no process die: there a claim of ours would last ten minutes."""
    before, turn = peer("ours.1"), begin(ours)
    await before.do("begin")
    await before.do("save before")
    before.signal(signal.SIGKILL)
    assert await wait_for(asyncio.create_task(turn.load())) == "before"
    await turn.save("after")
    turn.end()


async def test_after_the_crash_of_another_instance_its_claim_ends(
    ours: SessionStore, peer: StartPeer, begin: Begin
) -> None:
    theirs, turn = peer(lease=1.0), begin(ours)
    await theirs.do("begin")
    await theirs.do("save theirs")
    theirs.signal(signal.SIGKILL)
    assert await wait_for(asyncio.create_task(turn.load())) == "theirs"


@pytest.mark.parametrize("member", ["ours.1", "theirs.9"])
async def test_a_process_that_was_taken_for_dead_overwrites_nothing(
    medium: Medium, ours: SessionStore, peer: StartPeer, member: str, begin: Begin
) -> None:
    """It is stopped in its turn, and goes on when another has taken its place: that one waits for it, or it
    is refused. In no case is anything lost that was not told so."""
    stopped, turn = peer(member, lease=0.5), begin(ours)
    await stopped.do("begin")
    assert await stopped.do("load") is None
    stopped.signal(signal.SIGSTOP)
    asking = asyncio.create_task(turn.load())
    if medium.kind == "json":  # the kernel knows that it lives
        assert await is_waiting(asking)
        stopped.signal(signal.SIGCONT)
        assert await stopped.do("save stopped") is None
        await stopped.do("end")
        assert await wait_for(asking) == "stopped"
        return
    assert await wait_for(asking) is None
    stopped.signal(signal.SIGCONT)
    refused = await stopped.do("save stopped")
    assert refused is not None, "it has taken the claim back"
    assert "was not saved: a later turn of the session has begun" in refused
    await turn.save("ours")
    assert "has begun" in await stopped.do("save stopped")
    turn.end()
    await ours._claims.close()
    assert "has saved or deleted it, and that stands" in await stopped.do("save stopped")
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


# -- what only a Redis has -------------------------------------------------------------------------------


@pytest.fixture
async def in_redis(redis_server: RedisServer) -> AsyncIterator[RedisSessions]:
    keys = Keys(redis_server.url)
    store = keys.store()
    assert isinstance(store, RedisSessions)
    await store.open()
    yield store
    await store.close()
    await keys.close()


async def test_a_claim_that_is_held_is_renewed(
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


async def test_a_claim_that_a_server_has_forgotten_is_taken_anew(
    in_redis: RedisSessions, caplog: pytest.LogCaptureFixture, begin: Begin
) -> None:
    turn = begin(in_redis)
    await turn.save("x")
    await in_redis._redis.flushall()
    await turn.save("y")
    assert "has lost the claim of its session" in caplog.text
    assert len(await in_redis._redis.keys(CLAIM_PREFIX + "*")) == 1, "it holds it again"
    assert await turn.load() == "y"
