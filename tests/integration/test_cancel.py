"""The ways in which a turn ends before its App has finished: /stop, a client that leaves, a time limit."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.harness.client import Stream, invoke, new_session, stop, texts
from tests.harness.instance import Instance
from tests.harness.projects import journal
from tests.harness.waiting import eventually, wait_until

SILENT: Final = [{"say": "x"}, {"sleep": 60}]
TALKING: Final = [{"say": "x", "times": 6000, "every": 0.01}]
ENDLESS: Final = [{"say": "x" * 1000, "times": 10_000_000}]

NOTICED_WITHIN: Final = 1.0  # seconds, CONTRACT and F64


def noted(path: Path) -> dict[str, Any]:
    """A field of a turn whose begin and end are written to `path`."""
    return {"metadata": {"journal": str(path)}}


def words(path: Path) -> list[str]:
    return [line["word"] for line in journal(path)]


# -- POST /stop -------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [SILENT, TALKING], ids=["silent", "talking"])
async def test_stop_by_session(shared: Instance, tmp_path: Path, script: list[Any]) -> None:
    session, path = new_session(), tmp_path / "journal"
    async with Stream(shared.port, session, script, **noted(path)) as stream:
        await stream.until(events=1)
        assert await stop(shared.port, session_id=session) == 1
        assert await stream.whole(error="INTERRUPTED")
    assert words(path) == ["begin", "cancelled"]
    assert await texts(shared.port, session, "next") == ["next"]


async def test_stop_by_run(shared: Instance) -> None:
    session = new_session()
    async with Stream(shared.port, session, SILENT) as stream:
        await stream.until(events=1)
        async with Stream(shared.port, session, "second") as second:
            await second.until(comments=1)
            assert await stop(shared.port, run_id=stream.run_id) == 1
            await stream.whole(error="INTERRUPTED")
            assert [event.text for event in await second.whole()] == ["second"]


async def test_stop_by_session_ends_those_that_wait_too(shared: Instance, tmp_path: Path) -> None:
    session, path = new_session(), tmp_path / "journal"
    async with Stream(shared.port, session, SILENT) as first:
        await first.until(events=1)
        async with Stream(shared.port, session, "second", **noted(path)) as second:
            await second.until(comments=1)
            assert await stop(shared.port, session_id=session) == 2
            await first.whole(error="INTERRUPTED")
            assert await second.whole(error="INTERRUPTED") == []
    assert words(path) == [], "the App has never heard of it"


async def test_stop_of_nothing(shared: Instance) -> None:
    assert await stop(shared.port, session_id="nobody") == 0
    assert await stop(shared.port, run_id="no-such-run") == 0


async def test_stop_of_a_turn_that_has_ended(shared: Instance) -> None:
    session = new_session()
    async with Stream(shared.port, session, "x") as stream:
        await stream.whole()
        assert await stop(shared.port, run_id=stream.run_id) == 0
        assert await stop(shared.port, session_id=session) == 0


async def test_stop_of_a_turn_that_is_not_streamed(shared: Instance, tmp_path: Path) -> None:
    """No byte is out, so that it ends with an error in place of an answer."""
    session, path = new_session(), tmp_path / "journal"
    turn = asyncio.create_task(invoke(shared.port, session, SILENT, **noted(path)))
    await eventually(lambda: words(path) == ["begin"], 30, "the turn runs")
    assert await stop(shared.port, session_id=session) == 1
    response = await turn
    assert response.status >= 400
    assert response.code == "INTERRUPTED"
    assert words(path) == ["begin", "cancelled"]


async def test_an_app_that_goes_on_after_its_cancellation_is_not_heard(shared: Instance) -> None:
    """It swallows CancelledError for a while and then talks on: none of that reaches the client."""
    session = new_session()
    script = [{"say": "before"}, {"deaf": 0.5}, {"say": "after", "times": 3}]
    async with Stream(shared.port, session, script) as stream:
        await stream.until(events=1)
        await stop(shared.port, session_id=session)
        assert [event.text for event in await stream.whole(error="INTERRUPTED")] == ["before"]
    assert await texts(shared.port, session, "next") == ["next"]


# -- the client leaves --------------------------------------------------------------------------------


@pytest.mark.timed
@pytest.mark.parametrize("script", [SILENT, TALKING, ENDLESS], ids=["silent", "talking", "endless"])
@pytest.mark.fault("F64")
async def test_f64_client_that_leaves_cancels_its_turn(
    shared: Instance, tmp_path: Path, script: list[Any]
) -> None:
    path = tmp_path / "journal"
    async with Stream(shared.port, new_session(), script, **noted(path)) as stream:
        await stream.until(events=1)
    left = time.monotonic()
    await eventually(lambda: words(path) == ["begin", "cancelled"], 30, "the App's finally has run")
    took = journal(path)[-1]["at"] - left
    print(f"cancelled {took * 1000:.0f} ms after the client left")
    assert took < NOTICED_WITHIN


@pytest.mark.fault("F64")
async def test_f64_client_that_leaves_before_the_first_event(shared: Instance, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with Stream(shared.port, new_session(), [{"sleep": 60}], **noted(path)):
        await eventually(lambda: words(path) == ["begin"], 30, "the turn runs")
    await eventually(lambda: words(path) == ["begin", "cancelled"], NOTICED_WITHIN, "it is cancelled")


async def test_client_that_leaves_while_it_waits_for_json(shared: Instance, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    turn = asyncio.create_task(invoke(shared.port, new_session(), SILENT, **noted(path)))
    await eventually(lambda: words(path) == ["begin"], 30, "the turn runs")
    turn.cancel()
    await asyncio.wait([turn])
    await eventually(lambda: words(path) == ["begin", "cancelled"], NOTICED_WITHIN, "it is cancelled")


async def test_client_that_leaves_while_its_turn_waits(shared: Instance, tmp_path: Path) -> None:
    session, path, gate = new_session(), tmp_path / "journal", tmp_path / "gate"
    async with Stream(shared.port, session, [{"say": "x"}, {"wait_for": str(gate)}]) as first:
        await first.until(events=1)
        async with Stream(shared.port, session, "second", **noted(path)) as second:
            await second.until(comments=1)
        await eventually(lambda: shared.health()["turns"]["open"] == 1, NOTICED_WITHIN, "it has left")
        gate.touch()
        await first.whole()
    assert await texts(shared.port, session, "third") == ["third"]
    assert words(path) == [], "the App has never heard of it"


async def test_on_disconnect_continue_lets_the_turn_end(
    start_instance: Callable[..., Instance], tmp_path: Path
) -> None:
    instance = start_instance(workers=1, sessions={"on_disconnect": "continue"})
    path, gate = tmp_path / "journal", tmp_path / "gate"
    script = [{"say": "x"}, {"wait_for": str(gate)}, *[{"say": "y" * 1000, "times": 5000}]]
    async with Stream(instance.port, new_session(), script, **noted(path)) as stream:
        await stream.until(events=1)
    assert await texts(instance.port, new_session(), "another") == ["another"]
    assert words(path) == ["begin"]
    gate.touch()  # what follows is five megabytes for nobody: it must not be held back for want of a reader
    await eventually(lambda: words(path) == ["begin", "end"], 30, "the turn has ended well")


# -- time limits --------------------------------------------------------------------------------------


@pytest.mark.timed
async def test_time_limits(start_instance: Callable[..., Instance], tmp_path: Path) -> None:
    """`request_timeout` of two seconds, for each form and state of a turn."""
    port = start_instance(workers=1, server={"request_timeout": 2}).port
    path, session = tmp_path / "journal", new_session()
    async with (
        Stream(port, session, SILENT, **noted(path)) as running,
        Stream(port, session, SILENT) as waiting,
        Stream(port, new_session(), TALKING) as talking,
    ):
        began = time.monotonic()
        whole = asyncio.create_task(invoke(port, new_session(), SILENT))
        await waiting.until(comments=1)
        await asyncio.gather(*(each.whole(error="TIMEOUT") for each in (running, talking, waiting)))
        took = time.monotonic() - began
        response = await whole
    assert (response.status, response.code) == (504, "TIMEOUT")
    assert 1.9 < took < 5, f"the limit of 2 s was noticed after {took:.1f} s"
    assert words(path) == ["begin", "cancelled"]


async def test_a_turn_that_ignores_its_cancellation_loses_its_worker(
    start_instance: Callable[..., Instance],
) -> None:
    """`cancel_grace`: the client is not kept waiting for ever, the worker is replaced, sessions go on."""
    instance = start_instance(
        workers=1, sessions={"cancel_grace": 1}, supervisor={"soak": 0.1, "drain_timeout": 5}
    )
    session, other = new_session(), new_session()
    (old,) = instance.ready_workers()
    async with Stream(instance.port, session, [{"say": "x"}, {"deaf": 6}]) as stream:
        await stream.until(events=1)
        await stop(instance.port, session_id=session)
        await eventually(
            lambda: [worker.generation for worker in instance.ready_workers()] == [old.generation + 1],
            15,
            "the worker is replaced",
        )
        async with Stream(instance.port, other, [{"pid": 1}]) as later:
            await later.whole()
            assert later.worker == f"0.{old.generation + 1}"
        assert [event.text for event in await stream.whole(error="INTERRUPTED")] == ["x"]
    assert await texts(instance.port, session, "goes on") == ["goes on"]
    wait_until(
        lambda: [w.generation for w in instance.workers()] == [old.generation + 1], 10, "the old one ends"
    )
    assert stream.run_id in instance.log, "an operator is told which turn it was"
