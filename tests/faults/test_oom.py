"""A worker that the kernel kills for want of memory (F16): told as that, and only that worker is gone."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.harness.bystanders import unharmed
from tests.harness.client import Stream, invoke, session_in, texts
from tests.harness.instance import Instance
from tests.harness.waiting import eventually

V1: Final = Path("/sys/fs/cgroup/memory")
V2: Final = Path("/sys/fs/cgroup")
LIMIT_MB: Final = 500  # a supervisor and one worker need less than half of it, two workers less than all


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group with little memory; whoever is still in it moves back to ours at the end."""
    parent, limit = (
        (V1, "memory.limit_in_bytes") if (V1 / "memory.oom_control").exists() else (V2, "memory.max")
    )
    group = parent / f"agentscope-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(LIMIT_MB * 1024 * 1024))
    except OSError as error:
        pytest.skip(f"no control group can be made here ({error}); test_deaths and test_kernel cover it")
    yield group
    while pids := (group / "cgroup.procs").read_text().split():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                (parent / "cgroup.procs").write_text(pid)
    group.rmdir()


@pytest.mark.fault("F16")
async def test_f16_the_kernel_has_no_memory_left(
    start_instance: Callable[..., Instance], small_group: Path
) -> None:
    instance = start_instance()
    port, worker = instance.port, instance.ready_workers()[0]
    greedy, beside, other = [await session_in(port, slot) for slot in (0, 0, 1)]
    for pid in (instance.pid, worker.pid):
        (small_group / "cgroup.procs").write_text(str(pid))
    async with (
        unharmed(port, other),
        Stream(port, beside, [{"say": "x"}, {"sleep": 60}]) as lost,
    ):
        await lost.until(events=1)
        response = await invoke(port, greedy, [{"allocate": 2 * LIMIT_MB}])
        assert (response.status, response.code) == (502, "WORKER_LOST")
        assert response.json["error"]["retryable"] is False
        assert [event.text for event in await lost.whole(error="WORKER_LOST")] == ["x"]
        await eventually(lambda: len(instance.ready_workers()) == 2, 20, "the slot is back")
        assert instance.ready_workers()[0].generation == worker.generation + 1
        assert await texts(port, greedy, "next") == ["next"]
    assert "cause=oom" in instance.log
    assert instance.running
