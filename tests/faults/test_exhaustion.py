"""Workers that run out of what they need: threads, memory, descriptors. It costs the turn that asked for it;
the worker goes on where it can, and no other one notices."""

import asyncio
import os
from collections.abc import Callable
from typing import Final

import pytest

from tests.harness.bystanders import unharmed
from tests.harness.client import Stream, invoke, session_in, texts
from tests.harness.instance import Instance, Worker
from tests.harness.waiting import eventually

THREADS: Final = min(32, (os.cpu_count() or 1) + 4)  # of the executor that asyncio makes


@pytest.fixture(scope="module")
def _exhausted(start_module_instance: Callable[..., Instance]) -> Instance:
    return start_module_instance()


@pytest.fixture
async def exhausted(_exhausted: Instance) -> Instance:
    """An instance whose workers may run out of something; all are ready."""
    await asyncio.to_thread(_exhausted.wait_ready)
    return _exhausted


async def is_replaced(instance: Instance, worn: Worker) -> None:
    await eventually(
        lambda: (
            [w.generation > worn.generation for w in instance.ready_workers() if w.slot == worn.slot]
            == [True]
        ),
        30,
        "a fresh process alone is in its place",
    )


@pytest.mark.fault("F15")
async def test_f15_no_more_memory_for_a_worker(exhausted: Instance) -> None:
    port, before = exhausted.port, exhausted.ready_workers()
    session, neighbour, other = [await session_in(port, slot) for slot in (0, 0, 1)]
    async with unharmed(port, other):
        script = [{"limit_memory": 100}, {"say": "one"}, {"sleep": 0.01}, {"allocate": 300}]
        async with Stream(port, session, script) as stream:
            assert [event.text for event in await stream.whole(error="APP_ERROR")] == ["one"]
        assert "MemoryError" in exhausted.log
        assert await texts(port, neighbour, "what was taken is given back") == [
            "what was taken is given back"
        ]
        await is_replaced(exhausted, before[0])
        assert await texts(port, session, [{"allocate": 300}]) == ["300"]
    assert exhausted.ready_workers()[1] == before[1]


@pytest.mark.fault("F18")
async def test_f18_no_more_descriptors_for_a_worker(exhausted: Instance) -> None:
    """Its other turns go on, and a fresh process takes its place."""
    port, before = exhausted.port, exhausted.ready_workers()
    leaking, session, other = [await session_in(port, slot) for slot in (0, 0, 1)]
    assert await texts(port, session, [{"count": 1}]) == ["1"]
    async with unharmed(port, other):
        refused = await invoke(port, leaking, [{"leak_descriptors": 1}])
        assert (refused.status, refused.code) == (500, "APP_ERROR")
        assert "Too many open files" in refused.json["error"]["message"]
        assert await texts(port, session, "needs none") == ["needs none"]
        await is_replaced(exhausted, before[0])
        assert "it is out of file descriptors" in exhausted.log
        assert await texts(port, session, [{"count": 1}]) == ["2"], "what was saved is there"
    assert exhausted.ready_workers()[1] == before[1]


@pytest.mark.fault("F14")
async def test_f14_every_thread_of_the_executor_hangs(exhausted: Instance) -> None:
    """The loop turns, so that the worker lives: what needs no thread is served, what needs one waits."""
    port, before = exhausted.port, exhausted.ready_workers()
    hanging, session, other = [await session_in(port, slot) for slot in (0, 0, 1)]
    async with unharmed(port, other):
        script = [{"saturate": 2 * THREADS, "seconds": 1}, {"say": "they hang"}]
        assert await texts(port, hanging, script) == ["they hang"]
        saving = asyncio.create_task(invoke(port, session, [{"count": 1}]))
        for _ in range(10):
            assert await texts(port, hanging, "needs no thread") == ["needs no thread"]
        assert not saving.done()
        answer = await saving
        assert answer.status == 200, answer.body
    assert exhausted.ready_workers() == before
