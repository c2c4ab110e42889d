"""Workers whose event loop stands: told apart, their stacks shown, killed, and what waited in them served.

All tests share one instance, whose slots take turns; the other one must not notice.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Final

import pytest

from tests.harness.bystanders import unharmed
from tests.harness.client import Stream, invoke, session_in
from tests.harness.instance import Instance, Worker
from tests.harness.waiting import eventually

TIMEOUT: Final = 8.0  # seconds of supervisor.unresponsive_timeout: above the 5 s of suspicion


@pytest.fixture(scope="module")
def _standing(start_module_instance: Callable[..., Instance]) -> Instance:
    return start_module_instance(supervisor={"unresponsive_timeout": TIMEOUT})


@pytest.fixture
async def instance(_standing: Instance) -> Instance:
    """An instance of two workers, both ready."""
    await asyncio.to_thread(_standing.wait_ready)
    return _standing


async def is_replaced(instance: Instance, lost: Worker) -> None:
    def successor() -> bool:
        found = [w.generation for w in instance.ready_workers() if w.slot == lost.slot]
        return found == [lost.generation + 1]

    await eventually(successor, 30, "it is replaced")


@pytest.mark.parametrize(
    "slot, step, kind",
    [
        pytest.param(0, {"block": 60}, "blocking call", marks=pytest.mark.fault("F07"), id="f07"),
        pytest.param(1, {"spin": 60}, "python loop", marks=pytest.mark.fault("F09"), id="f09"),
        pytest.param(0, {"hold": 60}, "interpreter lock held", marks=pytest.mark.fault("F08"), id="f08"),
    ],
)
async def test_a_loop_that_stands_is_shown_killed_and_replaced(
    instance: Instance, slot: int, step: dict[str, int], kind: str
) -> None:
    port, victim, logged = instance.port, instance.worker_in(slot), len(instance.log)
    standing, session = [await session_in(port, slot) for _ in range(2)]
    async with unharmed(port, await session_in(port, 1 - slot)):
        async with Stream(port, standing, [{"say": "before"}, step]) as blocked:
            await blocked.until(events=1)
            waiting = asyncio.create_task(invoke(port, session, "unread"))
            assert [event.text for event in await blocked.whole(error="WORKER_LOST")] == ["before"]
            assert (await waiting).status == 200, "a turn that no worker had begun is not lost"
        await is_replaced(instance, victim)
    assert f"kind={kind}" in instance.log[logged:]
    assert "app.py" in instance.log[logged:], "the stacks name the file of the App"


@pytest.mark.fault("F06")
async def test_f06_a_stopped_worker_is_killed_and_replaced(instance: Instance) -> None:
    port, victim = instance.port, instance.worker_in(1)
    session, other = await session_in(port, 1), await session_in(port, 0)
    async with unharmed(port, other):
        os.kill(victim.pid, signal.SIGSTOP)
        response = await invoke(port, session, "unread")
        assert response.status == 200
        assert "kind=stopped" in instance.log
        await is_replaced(instance, victim)


@pytest.mark.fault("F10")
async def test_f10_a_short_block_kills_nobody(instance: Instance) -> None:
    port, before, logged = instance.port, instance.ready_workers(), len(instance.log)
    session = await session_in(port, 0)
    async with unharmed(port, await session_in(port, 1)):
        for _ in range(3):
            assert (await invoke(port, session, [{"block": 2}, {"say": "done"}])).status == 200
    assert instance.ready_workers() == before
    assert "event loop of worker is blocked" not in instance.log[logged:]
