"""`sessions.retry_on_crash: before_first_event`: a turn that its worker took along runs once more (F03).

The two slots of the shared instance take turns in dying, as in test_worker_death.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.harness.client import Stream, invoke, session_in, stop, texts
from tests.harness.instance import Instance
from tests.harness.projects import hooks, journal
from tests.harness.waiting import eventually

RUNS_WITHIN: Final = 30.0  # seconds for a turn to begin, or a slot to come back; one or two when idle

ALLOWED: Final[dict[str, Any]] = {"retry_on_crash": "before_first_event"}


@pytest.fixture(scope="module")
def _forgiving(start_module_instance: Callable[..., Instance]) -> Instance:
    return start_module_instance(sessions=ALLOWED, server={"keepalive_interval": 0.2})


@pytest.fixture
def forgiving(_forgiving: Instance) -> Instance:
    """An instance that runs turns again; all workers are ready."""
    _forgiving.wait_ready()
    return _forgiving


def dies(path: Path, times: int = 1) -> dict[str, Any]:
    """A step that ends its process the first times."""
    return {"exit": 3, "only_first": times, "counted_in": str(path)}


def begun(path: Path) -> list[str]:
    """The turns that the App has begun, in order."""
    return [line["label"] for line in journal(path) if line["word"] == "begin"]


@pytest.mark.fault("F03")
async def test_f03_a_stream_goes_on_where_the_first_worker_left_only_comments(
    forgiving: Instance, tmp_path: Path
) -> None:
    """In its place of the session's order, under the same id, in the slot's next process."""
    port, victim, path = forgiving.port, forgiving.worker_in(0), tmp_path / "journal"
    session, gate = await session_in(port, 0), tmp_path / "gate"
    script = [{"wait_for": str(gate)}, {"say": "one"}, {"pid": 1}]

    def noted(label: str) -> dict[str, str]:
        return {"journal": str(path), "label": label}

    async with (
        Stream(port, session, script, metadata=noted("first")) as first,
        Stream(port, session, "second", metadata=noted("second")) as second,
    ):
        await first.until(comments=2, within=RUNS_WITHIN)
        assert first.worker == victim.label
        os.kill(victim.pid, signal.SIGKILL)
        await eventually(lambda: begun(path) == ["first"] * 2, RUNS_WITHIN, "it runs again")
        gate.touch()
        said, pid = [event.text for event in await first.whole()]
        assert [event.text for event in await second.whole()] == ["second"]
    assert (said, pid) == ("one", str(forgiving.worker_in(0).pid))
    assert [line["label"] for line in journal(path)] == ["first", "first", "first", "second", "second"]
    assert "worker died before the turn's first event; it runs again" in forgiving.log


@pytest.mark.fault("F03")
async def test_f03_an_answer_in_one_piece_comes_from_the_second_worker(
    forgiving: Instance, tmp_path: Path
) -> None:
    session = await session_in(forgiving.port, 1)
    script = [{"say": "kept back"}, dies(tmp_path / "deaths"), {"say": "well"}]
    answer = await invoke(forgiving.port, session, script, within=RUNS_WITHIN)
    assert answer.status == 200
    assert answer.headers["x-agentscope-worker"] == forgiving.worker_in(1).label
    assert b"well" in answer.body


@pytest.mark.fault("F03", "F19")
async def test_f03_f19_a_turn_that_kills_twice_is_told_so_and_not_run_again(
    forgiving: Instance, tmp_path: Path
) -> None:
    session, path = await session_in(forgiving.port, 1), tmp_path / "journal"
    deadly, noted = [dies(tmp_path / "deaths", times=3)], {"journal": str(path), "label": "x"}
    key = {"Idempotency-Key": "deadly"}
    lost = await invoke(forgiving.port, session, deadly, headers=key, metadata=noted, within=RUNS_WITHIN)
    assert (lost.status, lost.code) == (502, "WORKER_LOST")
    error = lost.json["error"]
    assert error["retryable"] is False
    assert "the retry failed too" in error["message"]
    assert len(begun(path)) == 2
    again = await invoke(forgiving.port, session, deadly, headers=key, metadata=noted)
    assert (again.status, again.headers["idempotent-replayed"]) == (502, "true"), "its key is not free"
    other = await invoke(forgiving.port, session, deadly, metadata=noted)
    assert (other.status, other.code) == (422, "POISONED"), "both deaths were put down to it"
    assert len(begun(path)) == 2
    assert await texts(forgiving.port, session, "next") == ["next"]


@pytest.mark.fault("F01")
async def test_f01_after_its_first_event_a_turn_is_lost(forgiving: Instance, tmp_path: Path) -> None:
    session, path = await session_in(forgiving.port, 0), tmp_path / "journal"
    script = [{"say": "one"}, {"sleep": 60}]
    async with Stream(forgiving.port, session, script, metadata={"journal": str(path)}) as stream:
        await stream.until(events=1)
        os.kill(forgiving.worker_in(0).pid, signal.SIGKILL)
        assert [event.text for event in await stream.whole(error="WORKER_LOST")] == ["one"]
    forgiving.wait_ready()
    assert len(begun(path)) == 1


@pytest.mark.fault("F03")
async def test_f03_a_turn_that_is_stopped_before_it_runs_again_does_not(
    start_instance: Callable[..., Instance], make_project: Callable[..., Path], tmp_path: Path
) -> None:
    project, gate, path = make_project(sessions=ALLOWED), tmp_path / "gate", tmp_path / "journal"
    instance = start_instance(project, workers=1)
    port, session = instance.port, await session_in(instance.port, 0)
    hooks(project, startup=[{"wait_for": str(gate)}])
    noted = {"journal": str(path), "label": "x"}
    asked = asyncio.create_task(
        invoke(port, session, [{"sleep": 60}], metadata=noted, within=2 * RUNS_WITHIN)
    )
    await eventually(lambda: begun(path) == ["x"], RUNS_WITHIN, "it runs")
    os.kill(instance.worker_in(0).pid, signal.SIGKILL)
    await eventually(lambda: "it runs again" in instance.log, RUNS_WITHIN, "it is to run again")
    assert await stop(port, session_id=session) == 1
    stopped = await asked
    assert (stopped.status, stopped.code) == (409, "INTERRUPTED")
    gate.touch()
    instance.wait_ready()
    assert await texts(port, session, "next") == ["next"]
    assert begun(path) == ["x"]
