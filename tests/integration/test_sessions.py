"""Turns of one session: one at a time, in order, in one place; and what a second turn may do to the first."""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from tests.harness.client import Stream, invoke, new_session, stop, texts
from tests.harness.instance import Instance
from tests.harness.projects import journal, written
from tests.harness.redis_server import RedisServer
from tests.harness.waiting import eventually

SESSIONS: Final = 1000
AT_ONCE: Final = 64  # of them


@pytest.fixture(scope="module")
def rejecting(start_module_instance: Callable[..., Instance]) -> Instance:
    """A second turn is refused unless it asks for a queue, which is long."""
    return start_module_instance(sessions={"on_busy": "reject", "max_queue": 100})


async def workers_of(instance: Instance, sessions: list[str]) -> dict[str, str]:
    """The worker that each session meets, by one turn of each."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def ask(session: str) -> str:
        async with gate:
            response = await invoke(instance.port, session, "x")
            assert response.status == 200
            return response.headers["x-agentscope-worker"]

    return dict(zip(sessions, await asyncio.gather(*map(ask, sessions)), strict=True))


def has_open_turns(instance: Instance, count: int) -> bool:
    """Whether so many turns run and wait, all sessions together."""
    return bool(instance.health()["turns"]["open"] == count)


# -- routing ------------------------------------------------------------------------------------


async def test_sessions_spread_evenly_and_each_keeps_its_worker(shared: Instance) -> None:
    sessions = [new_session("user") for _ in range(SESSIONS)]
    first = await workers_of(shared, sessions)
    counts = Counter(first.values())
    assert len(counts) == 2
    for worker, count in counts.items():
        assert abs(count - SESSIONS / 2) <= 0.15 * SESSIONS / 2, f"{count} of {SESSIONS} on {worker}"
    again = await workers_of(shared, sessions[:200])
    assert again == {session: first[session] for session in sessions[:200]}


async def test_a_session_meets_the_same_slot_in_another_instance(
    shared: Instance, rejecting: Instance
) -> None:
    sessions = [new_session("user") for _ in range(50)]
    here = await workers_of(shared, sessions)
    there = await workers_of(rejecting, sessions)
    assert [label.split(".")[0] for label in here.values()] == [
        label.split(".")[0] for label in there.values()
    ]


async def test_a_session_keeps_its_state(shared: Instance) -> None:
    session, other = new_session(), new_session()
    assert [await texts(shared.port, session, [{"count": 1}]) for _ in range(3)] == [["1"], ["2"], ["3"]]
    assert await texts(shared.port, other, [{"count": 1}]) == ["1"]


async def test_sessions_of_one_worker_run_at_the_same_time(shared: Instance, tmp_path: Path) -> None:
    """The first turn ends only after the second one has begun, in the same process."""
    sessions = [new_session() for _ in range(20)]
    home = await workers_of(shared, sessions)
    one, two = [session for session in sessions if home[session] == home[sessions[0]]][:2]
    gate = tmp_path / "gate"
    async with Stream(shared.port, one, [{"say": "a"}, {"wait_for": str(gate)}]) as first:
        await first.until(events=1)
        assert await texts(shared.port, two, "b") == ["b"]
        gate.touch()
        await first.whole()


# -- order ----------------------------------------------------------------------------------------


async def test_turns_of_a_session_run_in_order_and_never_overlap(shared: Instance, tmp_path: Path) -> None:
    session, path = new_session(), tmp_path / "journal"
    gate = tmp_path / "gate"
    script: list[dict[str, Any]] = [{"say": "x"}, {"sleep": 0.05}]

    def turn(label: int, steps: list[dict[str, Any]]) -> Stream:
        return Stream(shared.port, session, steps, metadata={"journal": str(path), "label": label})

    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(turn(0, [*script, {"wait_for": str(gate)}]))
        await first.until(events=1)
        waiting = []
        for label in (1, 2, 3):  # one by one, so that their order of arrival is known
            waiting.append(await stack.enter_async_context(turn(label, script)))
            await eventually(partial(has_open_turns, shared, label + 1), 30, "it has arrived")
        gate.touch()
        await asyncio.gather(first.whole(), *(stream.whole() for stream in waiting))
    words = [(line["label"], line["word"]) for line in journal(path)]
    assert words == [(label, word) for label in range(4) for word in ("begin", "end")]


async def test_a_burst_on_one_session_loses_no_update(rejecting: Instance) -> None:
    """Each turn reads a number, waits, and writes it back: an overlap would lose one."""
    session = new_session()
    turns = [texts(rejecting.port, session, [{"count": 1}], on_busy="queue") for _ in range(60)]
    answers = await asyncio.gather(*turns)
    assert sorted(int(text) for (text,) in answers) == list(range(1, 61))


async def test_the_queue_of_a_session_is_bounded(shared: Instance, tmp_path: Path) -> None:
    session, gate = new_session(), tmp_path / "gate"
    limit = 3  # sessions.max_queue of the shared instance
    async with Stream(shared.port, session, [{"say": "x"}, {"wait_for": str(gate)}]) as first:
        await first.until(events=1)
        waiting = [asyncio.create_task(texts(shared.port, session, f"w{n}")) for n in range(limit)]
        await eventually(partial(has_open_turns, shared, limit + 1), 30, "they wait")
        refused = await invoke(shared.port, session, "one too many")
        assert (refused.status, refused.code) == (429, "TOO_MANY_REQUESTS")
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json["error"]["retryable"] is True
        assert await texts(shared.port, new_session(), "other sessions go on") == ["other sessions go on"]
        gate.touch()
        await first.whole()
        assert sorted(itertools.chain(*await asyncio.gather(*waiting))) == ["w0", "w1", "w2"]


async def test_turns_of_instances_that_share_a_store_run_one_after_the_other(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path], tmp_path: Path
) -> None:
    """The second one waits where it loads the session, and goes on from what the first has saved."""
    store = {"save_dir": str(tmp_path / "sessions")}
    one, two = (
        new_instance(make_project(name, session=store), name=name, workers=1).start() for name in ("a", "b")
    )
    session, gate = new_session(), tmp_path / "gate"
    script = [{"count": 1}, {"wait_for": str(gate)}, {"count": 1}]
    async with Stream(one.port, session, script) as first:
        await first.until(events=1)
        second = asyncio.create_task(texts(two.port, session, [{"count": 1}]))
        told = "waits for a turn of its session in another process"
        await eventually(lambda: told in two.log, 30, "the second one waits")
        assert not second.done()
        gate.touch()
        assert [event.text for event in await first.whole()] == ["1", "2"]
        assert await second == ["3"]


KEEPS_SESSIONS: Final = """
    from agentscope.message import Msg
    from agentscope.runtime import AgentApp, SessionContext, runtime

    class History:
        def __init__(self):
            self.items = []
        def state_dict(self):
            return {"items": list(self.items)}
        def load_state_dict(self, state):
            self.items = list(state["items"])

    class App(AgentApp):
        def __init__(self):
            self.held = {}

        async def __call__(self, msg, ctx: SessionContext):
            history = self.held.get(ctx.session_id)
            if history is None:
                history = self.held[ctx.session_id] = History()
                await runtime.session.load_session_state(ctx.session_id, history=history)
            history.items.append(msg.get_text_content())
            await runtime.session.save_session_state(ctx.session_id, history=history)
            yield Msg(name="a", content=",".join(history.items), role="assistant")
"""
DROPS_STALE_SESSIONS: Final = """
        async def on_session_stale(self, ctx):
            del self.held[ctx.session_id]
"""


async def test_a_session_in_the_memory_of_two_instances_loses_no_turn(
    new_instance: Callable[..., Instance], tmp_path: Path
) -> None:
    """The instance whose memory is outdated says so, and goes on from what the other one has saved: after the
    App has dropped the session, or in a new worker."""
    server = RedisServer(tmp_path)
    config = json.dumps({"session": {"backend": "redis", "redis_url": server.start().url}})
    try:
        plain, dropping = (
            new_instance(written(tmp_path / name, app, config), name=name, workers=1).start()
            for name, app in (("plain", KEEPS_SESSIONS), ("dropping", KEEPS_SESSIONS + DROPS_STALE_SESSIONS))
        )
        session = new_session()
        for number, history in ((1, "1"), (2, "1,2")):
            assert await texts(plain.port, session, str(number)) == [history]
        assert await texts(dropping.port, session, "3") == ["1,2,3"]
        refused = await invoke(plain.port, session, "4")
        assert (refused.status, refused.code) == (500, "APP_ERROR")
        assert "another process has saved it" in refused.json["error"]["message"]
        await eventually(lambda: plain.generations() == [2], 30, "the worker is replaced")
        assert await texts(plain.port, session, "4") == ["1,2,3,4"]
        assert (await invoke(dropping.port, session, "5")).code == "APP_ERROR"
        assert await texts(dropping.port, session, "5") == ["1,2,3,4,5"]
        assert dropping.generations() == [1]
    finally:
        server.kill()


# -- on_busy ----------------------------------------------------------------------------------------


async def test_reject_refuses_a_second_turn(shared: Instance, tmp_path: Path) -> None:
    session, gate = new_session(), tmp_path / "gate"
    async with Stream(shared.port, session, [{"say": "x"}, {"wait_for": str(gate)}]) as first:
        await first.until(events=1)
        refused = await invoke(shared.port, session, "second", on_busy="reject")
        assert (refused.status, refused.code) == (409, "SESSION_BUSY")
        gate.touch()
        await first.whole()
    assert await texts(shared.port, session, "free again", on_busy="reject") == ["free again"]


async def test_interrupt_ends_the_running_turn_and_then_runs(shared: Instance, tmp_path: Path) -> None:
    session, path = new_session(), tmp_path / "journal"
    first_noted, second_noted = ({"journal": str(path), "label": label} for label in ("first", "second"))
    script = [{"say": "x"}, {"sleep": 60}]
    async with Stream(shared.port, session, script, metadata=first_noted) as first:
        await first.until(events=1)
        answer = await texts(shared.port, session, "mine", on_busy="interrupt", metadata=second_noted)
        assert answer == ["mine"]
        assert [event.text for event in await first.whole(error="INTERRUPTED")] == ["x"]
    words = [(line["label"], line["word"]) for line in journal(path)]
    assert words == [("first", "begin"), ("first", "cancelled"), ("second", "begin"), ("second", "end")]


async def test_latest_keeps_only_the_newest_of_those_that_wait(shared: Instance, tmp_path: Path) -> None:
    session, gate = new_session(), tmp_path / "gate"
    async with Stream(shared.port, session, [{"say": "x"}, {"wait_for": str(gate)}]) as first:
        await first.until(events=1)
        async with Stream(shared.port, session, "second") as second:  # has begun: what comes is an event
            await second.until(comments=1)
            third = asyncio.create_task(invoke(shared.port, session, "third", on_busy="latest"))
            assert await second.whole(error="SUPERSEDED") == []
            fourth = asyncio.create_task(texts(shared.port, session, "fourth", on_busy="latest"))
            superseded = await third
            assert (superseded.status, superseded.code) == (409, "SUPERSEDED")
            gate.touch()
            assert [event.text for event in await first.whole()] == ["x"]
            assert await fourth == ["fourth"]


async def test_on_busy_may_be_configured(rejecting: Instance, tmp_path: Path) -> None:
    session, gate, port = new_session(), tmp_path / "gate", rejecting.port
    async with Stream(port, session, [{"say": "x"}, {"wait_for": str(gate)}]) as first:
        await first.until(events=1)
        assert (await invoke(port, session, "second")).code == "SESSION_BUSY"
        queued = asyncio.create_task(texts(port, session, "third", on_busy="queue"))
        await eventually(partial(has_open_turns, rejecting, 2), 30, "it waits")
        gate.touch()
        await first.whole()
        assert await queued == ["third"]


# -- a limit of the instance ------------------------------------------------------------------------


async def test_an_instance_takes_so_many_turns(start_instance: Callable[..., Instance]) -> None:
    instance = start_instance(workers=1, server={"max_turns": 2})
    async with (
        Stream(instance.port, new_session(), [{"say": "x"}, {"sleep": 60}]) as one,
        Stream(instance.port, new_session(), [{"say": "x"}, {"sleep": 60}]) as two,
    ):
        await one.until(events=1)
        await two.until(events=1)
        refused = await invoke(instance.port, new_session(), "third")
        assert (refused.status, refused.code) == (503, "OVERLOADED")
        assert int(refused.headers["retry-after"]) > 0
        assert await stop(instance.port, run_id=one.run_id) == 1
        await one.whole(error="INTERRUPTED")
        assert await texts(instance.port, new_session(), "room again") == ["room again"]
