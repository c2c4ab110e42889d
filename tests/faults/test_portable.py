"""The same promises where the kernel has no pidfds and no parent-death signal: the portable ways, forced."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.harness.client import Stream, new_session, texts
from tests.harness.instance import Instance
from tests.harness.waiting import wait_until


@pytest.fixture
def portable(new_instance: Callable[..., Instance], make_project: Callable[..., Path]) -> Instance:
    variables = {"AGENTSCOPE_SUPERVISOR_PORTABLE": "1"}
    return new_instance(make_project(), workers=1, variables=variables).start()


async def test_a_worker_that_dies_is_noticed_and_replaced(portable: Instance) -> None:
    (victim,) = portable.ready_workers()
    session = new_session()
    async with Stream(portable.port, session, [{"say": "x", "times": 500, "every": 0.02}]) as stream:
        await stream.until(events=2)
        os.kill(victim.pid, signal.SIGKILL)
        await stream.whole(error="WORKER_LOST")
    assert await texts(portable.port, session, "goes on") == ["goes on"]
    (successor,) = portable.ready_workers()
    assert successor.generation == victim.generation + 1
    assert portable.stop() == 0


async def test_workers_leave_when_their_supervisor_is_gone(portable: Instance) -> None:
    """The kernel does not end them here; the closed link does."""
    (worker,) = portable.ready_workers()
    process = psutil.Process(worker.pid)
    portable.signal(signal.SIGKILL)
    wait_until(lambda: not process.is_running(), 10, "the worker ends by itself")
