"""Workers that are worn, replaced without cutting a turn (F17, F50); slots that come and go (F48)."""

import asyncio
import re
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness.client import Stream, invoke, new_session, session_in, texts
from tests.harness.instance import Instance
from tests.harness.waiting import eventually


class Load:
    """One client for each session counts its turns until `async with` ends; every turn must be answered."""

    def __init__(self, instance: Instance, sessions: list[str]) -> None:
        self.instance = instance
        self.answered = 0
        self._done = asyncio.Event()
        self._sessions = sessions
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Load":
        self._tasks = [asyncio.create_task(self._client(session)) for session in self._sessions]
        return self

    async def __aexit__(self, *_: Any) -> None:
        self._done.set()
        await asyncio.gather(*self._tasks)

    async def _client(self, session: str) -> None:
        expected = 0
        while not self._done.is_set():
            response = await invoke(self.instance.port, session, [{"count": 1}])
            assert response.status == 200, response.body
            expected += 1
            assert f'"{expected}"' in response.body.decode(), "no turn is lost or run twice"
            self.answered += 1
            await asyncio.sleep(0.005)


@pytest.mark.fault("F50")
async def test_f50_workers_are_replaced_after_their_turns_one_at_a_time(
    start_instance: Callable[..., Instance],
) -> None:
    instance = start_instance(supervisor={"max_turns": 60, "soak": 0.1})
    most = 0
    sessions = [await session_in(instance.port, slot) for slot in (0, 1) for _ in range(3)]
    async with Load(instance, sessions) as load:

        def both_replaced() -> bool:
            nonlocal most
            most = max(most, len(instance.workers()))
            return min(instance.generations(), default=0) >= 2 and len(instance.generations()) == 2

        await eventually(both_replaced, 30, "both have had their turns")
    assert load.answered >= 2 * 54
    assert most <= 2 + 2, "one extra, and at most one that drains"
    assert "supervisor.max_turns" in instance.log
    starts = re.findall(r"worker starts worker=(\d)\.([2-9])|worker retires worker=(\d)\.", instance.log)
    assert [bool(slot) for slot, _, _ in starts[:2]] == [True, False], "never two at once"


@pytest.mark.fault("F17")
async def test_f17_a_worker_that_leaks_is_replaced_without_cutting_a_turn(
    start_instance: Callable[..., Instance],
) -> None:
    instance = start_instance(workers=1, supervisor={"max_memory_mb": 400, "soak": 0.1})
    leaking = new_session()
    async with Stream(instance.port, new_session(), [{"say": "on", "times": 150, "every": 0.1}]) as stays:
        await stays.until(events=1)
        async with Load(instance, [new_session("load") for _ in range(4)]):
            assert await texts(instance.port, leaking, [{"leak_memory": 400}]) == ["400 MB more"]
            await eventually(
                lambda: any(worker.generation == 2 for worker in instance.ready_workers()),
                40,
                "it is replaced",
            )
        stays.leave()
    assert "supervisor.max_memory_mb: 400" in instance.log
    await eventually(lambda: instance.generations() == [2], 30, "the old one has ended")
    assert await texts(instance.port, leaking, "as before") == ["as before"]


@pytest.mark.fault("F48")
async def test_f48_slots_come_and_go_under_load(start_instance: Callable[..., Instance]) -> None:
    instance = start_instance(workers=2)
    moved = await session_in(instance.port, 1)
    async with Load(instance, [new_session("load") for _ in range(8)]) as load:
        async with Stream(instance.port, moved, [{"say": "on", "times": 60, "every": 0.05}]) as stays:
            await stays.until(events=1)
            on = stays.worker
            instance.signal(signal.SIGTTOU)
            await eventually(lambda: len(instance.ready_workers()) == 1, 30, "one slot is left")
            assert (await stays.whole())[-1].text == "on", "its stream ends where it began"
            assert stays.worker == on
        after = await invoke(instance.port, moved, [{"say": "now"}])
        assert after.headers["x-agentscope-worker"] == "0.1"
        for slots in (2, 3):
            instance.signal(signal.SIGTTIN)
            await eventually(lambda n=slots: len(instance.ready_workers()) == n, 20, "one more")
        before = load.answered
        await eventually(lambda: load.answered > before + 50, 20, "all go on")
    assert [(w.slot, w.generation) for w in instance.ready_workers()] == [(0, 1), (1, 2), (2, 1)]
