"""Workers that run out of what they need: threads, memory, descriptors. It costs the turn that asked for it;
the worker goes on where it can, and no other one notices."""

import asyncio
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.harness.bystanders import unharmed
from tests.harness.client import Stream, call, invoke, session_in, texts
from tests.harness.instance import Instance, Worker
from tests.harness.waiting import eventually

MEGABYTE: Final = 2**20
THREADS: Final = min(32, (os.cpu_count() or 1) + 4)  # of the executor that asyncio makes
CGROUPS: Final = Path("/sys/fs/cgroup")


@pytest.fixture(scope="module")
def _exhausted(start_module_instance: Callable[..., Instance]) -> Instance:
    return start_module_instance()


@pytest.fixture
async def exhausted(_exhausted: Instance) -> Instance:
    """An instance whose workers may run out of something; all are ready."""
    await asyncio.to_thread(_exhausted.wait_ready)
    return _exhausted


def worker_in(instance: Instance, slot: int) -> Worker:
    return next(worker for worker in instance.ready_workers() if worker.slot == slot)


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


# -- killed by the kernel -------------------------------------------------------------------------------


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A new group whose processes may have 400 MB together: its folder. Version 1 or 2 of the hierarchy."""
    name = f"agentscope-test-{uuid.uuid4().hex[:8]}"
    v1, v2 = CGROUPS / "memory" / name, CGROUPS / name
    limit = {v1: "memory.limit_in_bytes", v2: "memory.max"}
    for group in (v1, v2):
        try:
            group.mkdir()
        except OSError:
            continue
        if (group / limit[group]).exists():
            (group / limit[group]).write_text(str(400 * MEGABYTE))
            break
        group.rmdir()
    else:
        pytest.skip("needs root, and a memory controller of cgroups that it may use")
    yield group
    for pid in (group / "cgroup.procs").read_text().split():
        (group.parent / "cgroup.procs").write_text(pid)
    group.rmdir()


@pytest.mark.fault("F16")
async def test_f16_the_kernel_kills_a_worker_for_its_memory(exhausted: Instance, small_cgroup: Path) -> None:
    port, victim = exhausted.port, worker_in(exhausted, 0)
    session, neighbour, other = [await session_in(port, slot) for slot in (0, 0, 1)]
    supervisor = psutil.Process(exhausted.pid).create_time()
    (small_cgroup / "cgroup.procs").write_text(str(victim.pid))
    async with unharmed(port, other):
        async with (
            Stream(port, neighbour, [{"say": "x"}, {"sleep": 60}]) as beside,
            Stream(port, session, [{"say": "one"}, {"sleep": 0.01}, {"allocate": 2000}]) as stream,
        ):
            await beside.until(events=1)
            assert [event.text for event in await stream.whole(error="WORKER_LOST")] == ["one"]
            assert [event.text for event in await beside.whole(error="WORKER_LOST")] == ["x"]
        assert await texts(port, session, "goes on") == ["goes on"]
    assert "SIGKILL" in exhausted.log
    assert worker_in(exhausted, 0).generation == victim.generation + 1
    assert psutil.Process(exhausted.pid).create_time() == supervisor
    await eventually(lambda: not psutil.pid_exists(victim.pid), 5, "it has been reaped")
    assert (await call(port, "GET", "/readiness")).status == 200
