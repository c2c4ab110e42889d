"""Time that is not what it seems: suspended processes, a starved machine, wall clocks that jump.

None of it is a reason to think a worker dead, to give up a turn, or to hurry or hold back a start.
"""

import asyncio
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from agentscope_supervisor.workers.hang_detection import SUSPECT_AFTER
from tests.harness.bystanders import unharmed
from tests.harness.client import Stream, call, invoke, new_session, session_in, texts
from tests.harness.instance import Instance
from tests.harness.waiting import eventually

TICK: Final = 0.02  # seconds between the events of a steady stream
LONG: Final = SUSPECT_AFTER + 2.0  # seconds that a fault must last for a worker to be suspected
QUICK_TO_KILL: Final = {
    "unresponsive_timeout": SUSPECT_AFTER + 0.5
}  # if anybody were judged, he would be dead
SKEW: Final = 0.7  # seconds between two processes that are suspended together: more than between two looks
HOGS: Final = 8  # processes that compute; the machine has two CPUs or a few

DAY: Final = 86_400.0
# Runs in every process of the instance before anything else: its wall clock is as wrong as the file says.
WRONG_CLOCK: Final = """
import os, time

real = time.time

def wrong():
    try:
        with open(os.environ["TEST_CLOCK"]) as file:
            return real() + float(file.read() or 0)
    except OSError:
        return real()

time.time = wrong
"""


def steady(seconds: float) -> list[dict[str, object]]:
    """A script that says something all the time."""
    return [{"say": "tick", "times": int(seconds / TICK), "every": TICK}]


@pytest.mark.slow
@pytest.mark.fault("F13", "F83")
@pytest.mark.parametrize("who", ["supervisor", "all"])
async def test_f13_f83_a_long_suspension(start_instance: Callable[..., Instance], who: str) -> None:
    """What did not tick then could not: nobody is killed for it, no event is lost, all goes on."""
    instance = start_instance(supervisor=QUICK_TO_KILL)
    before = instance.ready_workers()
    # The supervisor sleeps last and wakes first, so that it sees workers that do not tick.
    order = [*(worker.pid for worker in before if who == "all"), instance.pid]
    async with Stream(instance.port, new_session(), steady(4)) as stream:
        await stream.until(events=5)
        for pid in order:
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(SKEW)
        await asyncio.sleep(LONG)  # the fault itself
        for pid in reversed(order):
            os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(SKEW)
        assert len(await stream.whole()) == 4 / TICK
    assert await texts(instance.port, new_session(), "as before") == ["as before"]
    assert instance.ready_workers() == before
    assert "event loop of worker is blocked" not in instance.log


@pytest.fixture
def hogs() -> Iterator[None]:
    """Everybody else on this machine computes."""
    command = [sys.executable, "-c", "while True: pass"]
    running = [subprocess.Popen(command) for _ in range(HOGS)]
    yield
    for process in running:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.fault("F11")
async def test_f11_a_starved_machine(
    start_instance: Callable[..., Instance], request: pytest.FixtureRequest
) -> None:
    instance = start_instance(supervisor=QUICK_TO_KILL)
    before = instance.ready_workers()
    async with unharmed(instance.port, new_session()) as seen:
        request.getfixturevalue("hogs")
        await asyncio.sleep(2 * LONG)  # the fault itself
    print(f"slowest answer of {seen.turns} turns and {seen.looks} looks: {seen.slowest:.2f} s")
    assert instance.ready_workers() == before
    assert "event loop of worker is blocked" not in instance.log


@pytest.mark.slow
@pytest.mark.fault("F12")
async def test_f12_an_import_that_keeps_the_interpreter_busy(
    start_instance: Callable[..., Instance], make_project: Callable[..., Path]
) -> None:
    """Only start_timeout counts before a worker is ready, at the start and in a rollout."""
    project = make_project(supervisor={**QUICK_TO_KILL, "soak": 0})
    busy = (
        f"import time\nuntil = time.monotonic() + {LONG}\nwhile time.monotonic() < until: sum(range(10**7))\n"
    )
    app = project / "app.py"
    app.write_text(app.read_text() + busy)
    instance = start_instance(project, workers=1)
    async with unharmed(instance.port, new_session()):
        instance.signal(signal.SIGHUP)
        await eventually(lambda: [w.generation for w in instance.ready_workers()] == [2], 60, "rolled")
    assert "event loop of worker is blocked" not in instance.log
    assert "worker died" not in instance.log


@pytest.mark.slow
@pytest.mark.fault("F82")
async def test_f82_the_wall_clock_jumps(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path], tmp_path: Path
) -> None:
    """No time-out comes early or never, no start is held back; what is logged has the new time."""
    folder, clock = tmp_path / "clock", tmp_path / "offset"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WRONG_CLOCK)
    variables = {"PYTHONPATH": str(folder), "TEST_CLOCK": str(clock)}
    project = make_project(server={"request_timeout": 20}, supervisor=QUICK_TO_KILL)
    arguments = ["--log-format", "json"]
    instance = new_instance(project, variables=variables, arguments=arguments).start()
    port, session = instance.port, await session_in(instance.port, 0)
    uptime, began = instance.health()["uptime"], time.monotonic()
    async with unharmed(port, await session_in(port, 1)), Stream(port, session, steady(4)) as stream:
        waiting = asyncio.create_task(invoke(port, session, [{"count": 1}]))
        for jump in (3600, -3600, DAY, -DAY, 0.5, 3 * DAY):
            clock.write_text(str(jump))
            await asyncio.sleep(0.6)  # the fault itself: a look at the workers, and two at the turns
        assert len(await stream.whole()) == 4 / TICK
        assert (await waiting).status == 200
        grown = instance.health()["uptime"] - uptime
        assert grown == pytest.approx(time.monotonic() - began, abs=1)
        # A death at the new time: the next start comes as soon as it would have come at the old one.
        (victim,) = (worker for worker in instance.ready_workers() if worker.slot == 0)
        clock.write_text(str(-DAY))
        os.kill(victim.pid, signal.SIGKILL)
        assert await texts(port, session, [{"count": 1}]) == ["2"]
    lines = [json.loads(line) for line in instance.log.splitlines() if line.startswith("{")]
    (died,) = (line["ts"] for line in lines if line["message"] == "worker died")
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    assert abs(datetime.datetime.fromisoformat(died) - yesterday) < datetime.timedelta(hours=1)
    messages = [line["message"] for line in lines]
    assert not [
        message
        for message in messages
        if "event loop of worker is blocked" in message or "deadline" in message
    ]
    assert (await call(port, "GET", "/readiness")).status == 200
