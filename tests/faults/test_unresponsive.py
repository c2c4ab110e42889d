"""Workers whose event loop stands: told apart, their stacks shown, killed, and what waited in them served."""

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from tests.harness.client import Stream, invoke, new_session
from tests.harness.instance import Instance
from tests.harness.waiting import eventually

TIMEOUT = 8.0  # seconds of supervisor.unresponsive_timeout: above the 5 s of suspicion


@pytest.fixture
def instance(start_instance: Callable[..., Instance]) -> Instance:
    return start_instance(workers=1, supervisor={"unresponsive_timeout": TIMEOUT})


@pytest.mark.parametrize(
    "step, kind",
    [
        pytest.param({"block": 60}, "blocking call", marks=pytest.mark.fault("F07"), id="f07"),
        pytest.param({"spin": 60}, "python loop", marks=pytest.mark.fault("F09"), id="f09"),
        pytest.param({"hold": 60}, "interpreter lock held", marks=pytest.mark.fault("F08"), id="f08"),
    ],
)
async def test_a_loop_that_stands_is_shown_killed_and_replaced(
    instance: Instance, step: dict[str, int], kind: str
) -> None:
    async with Stream(instance.port, new_session(), [{"say": "before"}, step]) as blocked:
        await blocked.until(events=1)
        waiting = asyncio.create_task(invoke(instance.port, new_session(), "unread"))
        assert [event.text for event in await blocked.whole(error="WORKER_LOST")] == ["before"]
        assert (await waiting).status == 200, "a turn that no worker had begun is not lost"
    assert f"kind={kind}" in instance.log
    assert "app.py" in instance.log, "the stacks name the file of the App"


@pytest.mark.fault("F06")
async def test_f06_a_stopped_worker_is_killed_and_replaced(instance: Instance) -> None:
    (worker,) = instance.ready_workers()
    os.kill(worker.pid, signal.SIGSTOP)
    response = await invoke(instance.port, new_session(), "unread")
    assert response.status == 200
    assert "kind=stopped" in instance.log
    await eventually(
        lambda: [w.generation for w in instance.ready_workers()] == [worker.generation + 1], 10, "replaced"
    )


@pytest.mark.fault("F10")
async def test_f10_a_short_block_kills_nobody(instance: Instance) -> None:
    (worker,) = instance.ready_workers()
    for _ in range(3):
        assert (await invoke(instance.port, new_session(), [{"block": 2}, {"say": "done"}])).status == 200
    assert [w.generation for w in instance.ready_workers()] == [worker.generation]
    assert "does not turn" not in instance.log
