"""SIGHUP: new workers with the new files, without an interrupted turn (F40, F46)."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.client import Stream, invoke, new_session, texts
from tests.harness.instance import Instance
from tests.harness.projects import configure, hooks
from tests.harness.waiting import eventually


@pytest.mark.fault("F40")
async def test_f40_a_reload_interrupts_and_refuses_no_turn(
    start_instance: Callable[..., Instance], tmp_path: Path
) -> None:
    instance = start_instance(supervisor={"soak": 0.1})
    gate, done = tmp_path / "gate", asyncio.Event()
    answered = 0

    async def load(session: str) -> None:
        nonlocal answered
        expected = 0
        while not done.is_set():
            response = await invoke(instance.port, session, [{"count": 1}])
            assert response.status == 200, response.body
            expected += 1
            assert f'"{expected}"' in response.body.decode(), "no turn is lost or run twice"
            answered += 1
            await asyncio.sleep(0.01)

    async with (
        Stream(
            instance.port, new_session(), [{"say": "old"}, {"wait_for": str(gate)}, {"pid": 1}]
        ) as running,
        asyncio.TaskGroup() as group,
    ):
        await running.until(events=1)
        for _ in range(8):
            group.create_task(load(new_session("load")))
        instance.signal(signal.SIGHUP)
        await eventually(lambda: instance.generations() == [2, 2], 30, "both workers are replaced")
        done.set()
        gate.touch()
        old = await running.whole()
        assert old[1].text not in {str(worker.pid) for worker in instance.ready_workers()}
    assert answered > 8
    await eventually(lambda: len(instance.workers()) == 2, 30, "the old workers have exited")


@pytest.mark.fault("F46")
async def test_f46_a_reload_of_an_invalid_file_changes_nothing(
    start_instance: Callable[..., Instance],
) -> None:
    instance = start_instance(workers=1)
    before = instance.ready_workers()
    (instance.project / "agentapp.yaml").write_text("server:\n  prot: 1\n", "utf-8")
    instance.signal(signal.SIGHUP)
    await eventually(lambda: "server.prot" in instance.log, 30, "the error is logged")
    assert "agentapp.yaml:2" in instance.log
    assert instance.ready_workers() == before
    assert await texts(instance.port, new_session(), "as before") == ["as before"]
    configure(instance.project, supervisor={"soak": 0.1})
    instance.signal(signal.SIGHUP)
    await eventually(lambda: instance.generations() == [2], 15, "the corrected file is active")


@pytest.mark.fault("F41")
async def test_f41_a_reload_of_a_broken_app_keeps_the_old_workers(
    start_instance: Callable[..., Instance],
) -> None:
    instance = start_instance(workers=1, supervisor={"soak": 0.1})
    before = instance.ready_workers()
    (instance.project / "app.py").write_text("raise RuntimeError('half an upload')\n", "utf-8")
    instance.signal(signal.SIGHUP)
    await eventually(lambda: "half an upload" in instance.log, 15, "the error is logged")
    await eventually(lambda: instance.workers() == before, 30, "only the old worker remains")
    assert await texts(instance.port, new_session(), "as before") == ["as before"]


@pytest.mark.fault("F42")
async def test_f42_code_that_crashes_after_its_soak_gets_no_second_slot(
    start_instance: Callable[..., Instance],
) -> None:
    instance = start_instance(supervisor={"soak": 0.4})
    before = instance.ready_workers()
    hooks(instance.project, startup=[{"exit_later": 1.2}])
    instance.signal(signal.SIGHUP)
    await eventually(
        lambda: "rollout failed" in instance.log, 20, "the crash after the soak fails the rollout"
    )
    hooks(instance.project, startup=[])
    await eventually(lambda: len(instance.ready_workers()) == 2, 20, "slot 0 is ready again")
    assert instance.generations()[0] > 2
    assert instance.ready_workers()[1] == before[1], "slot 1 was not replaced"
    for session in [new_session() for _ in range(4)]:
        assert await texts(instance.port, session, "as before") == ["as before"]


async def test_a_reload_changes_the_limits_of_turns(start_instance: Callable[..., Instance]) -> None:
    instance = start_instance(workers=1, supervisor={"soak": 0.1})
    configure(instance.project, supervisor={"soak": 0.1}, sessions={"on_busy": "reject"})
    instance.signal(signal.SIGHUP)
    await eventually(lambda: "rollout done" in instance.log, 20, "the new file is active")
    assert "need a restart" not in instance.log
    session = new_session()
    async with Stream(instance.port, session, [{"say": "one"}, {"sleep": 60}]) as running:
        await running.until(events=1)
        second = await invoke(instance.port, session, "two")
        assert (second.status, second.code) == (409, "SESSION_BUSY")
        running.leave()
