"""Workers that die: what their turns' clients see, what the other turns see, and how the slot comes back.

Most tests share one instance, whose slots take turns in dying: a slot that dies too often in a minute is
given a rest, which is right, and not what is tested here.
"""

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.harness.client import Response, Stream, call, invoke, session_in, texts
from tests.harness.events import text_of
from tests.harness.instance import Instance
from tests.harness.projects import hooks, journal
from tests.harness.waiting import eventually, eventually_so, wait_until

TOLD_WITHIN: Final = 0.1  # seconds from the death to the end of the stream
BACK_WITHIN: Final = 3.0  # seconds from the death to a ready slot
NOISE: Final = 5  # factor that a busy machine is allowed
WATCHED: Final = 40.0  # seconds of a crash loop, of which the last ones are the breaker's rest
MOST_STARTS: Final = 8  # of one slot in a minute
TICK: Final = 0.02  # seconds between the events of a steady stream


@pytest.fixture(scope="module")
def _mortal(start_module_instance: Callable[..., Instance]) -> Instance:
    return start_module_instance()


@pytest.fixture
def mortal(_mortal: Instance) -> Instance:
    """An instance whose workers may be killed; all are ready."""
    _mortal.wait_ready()
    return _mortal


def steady(seconds: float) -> list[dict[str, object]]:
    """A script that says something all the time."""
    return [{"say": "tick", "times": int(seconds / TICK), "every": TICK}]


@pytest.mark.fault("F01", "F02")
async def test_f01_f02_kill_in_the_middle_of_a_stream(mortal: Instance) -> None:
    """The whole story of one death, as six clients see it."""
    port, victim = mortal.port, mortal.worker_in(0)
    session, newcomer = await session_in(port, 0), await session_in(port, 0)
    other = await session_in(port, 1)
    async with (
        Stream(port, session, steady(60)) as dying,
        Stream(port, other, steady(6)) as living,
        Stream(port, session, [{"say": "second"}, {"pid": 1}]) as second,
        Stream(port, session, "third") as third,
    ):
        await dying.until(events=5)
        await living.until(events=5)
        steadily = asyncio.create_task(living.whole())
        killed_at = time.monotonic()
        os.kill(victim.pid, signal.SIGKILL)

        events = await dying.whole(error="WORKER_LOST")
        told = dying.events[-1].at - killed_at
        print(f"told {told * 1000:.1f} ms after the kill")
        assert told < TOLD_WITHIN * NOISE
        assert len(events) >= 5
        assert dying.events[-2].data["error"]["retryable"] is False, "the App had seen the turn"

        # Who comes now finds the slot empty, and waits.
        unborn = asyncio.create_task(texts(port, newcomer, "a newcomer"))
        await eventually(lambda: len(mortal.ready_workers()) == 2, 15, "the slot is back")
        back = time.monotonic() - killed_at
        print(f"slot ready again {back:.1f} s after the kill")
        assert back < 10
        replacement = mortal.worker_in(0)
        assert replacement.generation == victim.generation + 1

        said, pid = [event.text for event in await second.whole()]
        assert (said, pid) == ("second", str(replacement.pid))
        assert second.events[-1].at < (await third.to_end()).events[0].at, "in order of arrival"
        assert [event.text for event in await third.whole()] == ["third"]
        assert await unborn == ["a newcomer"]

        gaps = [b.at - a.at for a, b in itertools.pairwise(await steadily)]
        print(f"longest gap in the other worker's stream: {max(gaps) * 1000:.0f} ms")
        assert len(gaps) == 6 / TICK - 1
        # A new interpreter takes a CPU for a second, of the two that all of this has.
        assert max(gaps) < TICK + 0.5


@pytest.mark.fault("F03")
async def test_f03_kill_before_the_first_event(mortal: Instance, tmp_path: Path) -> None:
    """Nothing was sent, so that the answer is a status; the App has begun, so that nothing is repeated."""
    session, path = await session_in(mortal.port, 1), tmp_path / "journal"
    noted = {"journal": str(path)}
    async with Stream(mortal.port, session, [{"sleep": 60}], metadata=noted) as stream:
        await eventually(lambda: journal(path), 30, "the turn runs")
        os.kill(mortal.worker_in(1).pid, signal.SIGKILL)
        response = await stream.refused(within=TOLD_WITHIN * NOISE)
    assert (response.status, response.code) == (502, "WORKER_LOST")
    assert response.json["error"]["retryable"] is False
    assert await texts(mortal.port, session, "next") == ["next"]
    assert len(journal(path)) == 1, "a turn that has begun is never run again"


@pytest.mark.fault("F04")
async def test_f04_segmentation_fault(mortal: Instance) -> None:
    session = await session_in(mortal.port, 0)
    async with Stream(mortal.port, session, [{"say": "one"}, {"sleep": 0.01}, {"segfault": 1}]) as stream:
        assert [event.text for event in await stream.whole(error="WORKER_LOST")] == ["one"]
    assert await texts(mortal.port, session, "next") == ["next"]
    assert "SIGSEGV" in mortal.log
    assert "Fatal Python error: Segmentation fault" in mortal.log, "the stack of a native crash is kept"


@pytest.mark.parametrize("status", [0, 78])
@pytest.mark.fault("F05")
async def test_f05_app_that_exits(mortal: Instance, status: int) -> None:
    """Also with the status that means at a start that nothing can help: the instance was ready before."""
    slot = 1 if status == 0 else 0
    session = await session_in(mortal.port, slot)
    response = await invoke(mortal.port, session, [{"exit": status}])
    assert (response.status, response.code) == (502, "WORKER_LOST")
    assert await texts(mortal.port, session, "next") == ["next"]


@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt"])
@pytest.mark.fault("F05")
async def test_f05_app_that_raises_what_ends_a_program(mortal: Instance, kind: str) -> None:
    session = await session_in(mortal.port, 1)
    async with Stream(
        mortal.port, session, [{"say": "one"}, {"sleep": 0.01}, {"raise": "now", "kind": kind}]
    ) as stream:
        await stream.to_end()
        error = stream.events[-2].error
        assert error is not None
        assert error["code"] in ("APP_ERROR", "WORKER_LOST")
        await stream.whole(error=error["code"])
    assert await texts(mortal.port, session, "next") == ["next"]


@pytest.mark.fault("F33")
async def test_f33_no_acknowledged_save_is_lost(start_instance: Callable[..., Instance]) -> None:
    """The worker is killed while it saves, more than once; what a client was told stays true."""
    instance = start_instance(workers=1)
    acknowledged = attempted = 0
    for delay in (0.001, 0.003, 0.005):  # seconds into a burst of turns that each take about two
        timer = asyncio.get_running_loop().call_later(
            delay, os.kill, instance.worker_in(0).pid, signal.SIGKILL
        )
        lost = False
        while not lost:
            attempted += 1
            # No message twice: one that was lost with two workers in a row would be refused.
            response = await invoke(instance.port, "counted", [{"count": attempted}])
            if response.status == 200:
                count = int(text_of(response.json["messages"][0]))
                assert acknowledged < count <= attempted, "a save was lost, or a turn ran twice"
                acknowledged = count
            else:
                assert (response.status, response.code) == (502, "WORKER_LOST")
                lost = True
            lost = lost or timer.when() + 1 < asyncio.get_running_loop().time()
        instance.wait_ready()


@pytest.mark.fault("F13")
async def test_f13_supervisor_that_was_suspended(mortal: Instance) -> None:
    """Stopped for two seconds: no worker is thought dead, and no event is lost."""
    before = mortal.ready_workers()
    async with Stream(mortal.port, await session_in(mortal.port, 1), steady(3)) as stream:
        await stream.until(events=5)
        mortal.signal(signal.SIGSTOP)
        await asyncio.sleep(2)  # the fault itself
        mortal.signal(signal.SIGCONT)
        assert len(await stream.whole()) == 3 / TICK
    assert mortal.ready_workers() == before


@pytest.mark.fault("F21")
async def test_f21_app_that_breaks_later(
    start_instance: Callable[..., Instance], make_project: Callable[..., Path]
) -> None:
    """One slot cannot come back, because its files are broken now: the other serves, and mending helps."""
    project = make_project(supervisor={"start_timeout": 6})
    instance = start_instance(project)
    port, app = instance.port, project / "app.py"
    there, lost = await session_in(port, 0), await session_in(port, 1)
    good = app.read_text("utf-8")
    app.write_text("raise RuntimeError('half an upload')\n", "utf-8")
    os.kill(instance.worker_in(1).pid, signal.SIGKILL)
    await eventually(lambda: "half an upload" in instance.log, 15, "the replacement has failed")
    assert instance.running, "once it was ready, an instance does not end because of its workers"
    assert (await call(port, "GET", "/readiness")).status == 200
    assert instance.health()["status"] == "degraded"
    assert await texts(port, there, "as before") == ["as before"]
    refused = await invoke(port, lost, "is anybody there?")
    assert (refused.status, refused.code) == (503, "NOT_READY")
    assert int(refused.headers["retry-after"]) > 0
    app.write_text(good, "utf-8")
    # What fails in a tenth of a second may have failed five times by now; then the slot rests for 30 s.
    await eventually(lambda: len(instance.ready_workers()) == 2, 60, "the slot is back")
    assert instance.health()["status"] == "healthy"
    assert await texts(port, lost, "yes") == ["yes"]


@pytest.mark.timed
@pytest.mark.fault("F26", "F27")
async def test_f26_f27_workers_that_always_die_after_they_were_ready(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path], tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    project = make_project(supervisor={"start_timeout": 5})
    hooks(project, startup=[{"note": str(starts)}, {"exit_later": 0.3}])
    instance = new_instance(project, workers=1).launch()
    wait_until(lambda: len(journal(starts)) >= 3, 40, "it is tried again")
    times = [line["at"] for line in journal(starts)]
    assert instance.running
    assert (await call(instance.port, "GET", "/liveness")).status == 200

    async def refused() -> tuple[Response, Response] | None:
        """What both routes say between two deaths; the next worker may be ready just then."""
        unready = await call(instance.port, "GET", "/readiness")
        health = await call(instance.port, "GET", "/health")
        return (unready, health) if {unready.status, health.status} == {503} else None

    unready, health = await eventually_so(refused, 30, "it has died again")
    assert unready.code == "NOT_READY"
    assert int(unready.headers["retry-after"]) > 0
    assert health.json["status"] == "unhealthy"
    assert times[2] - times[1] > times[1] - times[0] - 0.5, "the pauses do not get shorter"
    stopping = time.monotonic()
    assert instance.stop() == 0
    assert time.monotonic() - stopping < 5, "a pause between two starts does not hold up the end"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.fault("F26", "F27")
async def test_f26_f27_a_crash_loop_is_slowed_down_then_given_a_rest(
    start_instance: Callable[..., Instance], make_project: Callable[..., Path]
) -> None:
    """All slots die soon after they were ready, having been well before: few starts; the instance stays up
    and says that it serves nobody; once the App is mended, it serves again."""
    project = make_project()
    instance = start_instance(project)
    hooks(project, startup=[{"exit_later": 0.6}])
    began, well = time.monotonic(), instance.log.count("worker starts")
    for worker in instance.ready_workers():
        os.kill(worker.pid, signal.SIGKILL)
    while time.monotonic() - began < WATCHED:
        assert (await call(instance.port, "GET", "/liveness")).status == 200
        await asyncio.sleep(0.2)
    starts = instance.log.count("worker starts") - well
    assert 2 * 2 <= starts <= 2 * MOST_STARTS, f"{starts} starts of two slots"
    assert instance.running
    await eventually(lambda: instance.health()["status"] == "unhealthy", 30, "nobody is served")
    unready = await call(instance.port, "GET", "/readiness")
    assert (unready.status, unready.code) == (503, "NOT_READY")
    assert int(unready.headers["retry-after"]) > 0
    hooks(project, startup=[])
    await eventually(lambda: len(instance.ready_workers()) == 2, 150, "the probes find it mended")
    assert await texts(instance.port, "anybody", "yes") == ["yes"]


async def test_children_of_a_dead_worker_are_reaped(mortal: Instance) -> None:
    """After all those deaths: no zombie, and exactly the workers that should be there."""
    children = psutil.Process(mortal.pid).children(recursive=True)
    assert [child for child in children if child.status() == psutil.STATUS_ZOMBIE] == []
    expected = {worker.pid for worker in mortal.workers()} | {zygote.pid for zygote in mortal.zygotes()}
    assert {child.pid for child in children} == expected
