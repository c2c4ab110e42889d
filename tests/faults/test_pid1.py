"""Zombies and processes that outlive their worker, with the supervisor as a service and as PID 1."""

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from tests.harness.client import invoke, new_session, session_in, texts
from tests.harness.instance import Instance
from tests.harness.waiting import eventually, wait_until

REAPED_WITHIN: Final = 1.0  # seconds
NOISE: Final = 3  # factor for a busy machine
ENDED_WITHIN: Final = 6.0  # seconds from the exit of a worker
KILLED_WITHIN: Final = 5.0 + 6.0  # the same for a process that ignores SIGTERM

# Each subshell exits at once; its child becomes an orphan and then a zombie.
FIFTY: Final = "for i in $(seq 50); do (sleep 0.1 &); done"

Start = Callable[..., Instance]


@pytest.fixture(params=["as a service", "as PID 1", "as PID 1, portable"])
def adopting(
    request: pytest.FixtureRequest, new_instance: Start, make_project: Callable[..., Path]
) -> Instance:
    """A running instance that becomes the parent of orphans of its workers."""
    variables = {"AGENTSCOPE_SUPERVISOR_PORTABLE": "1"} if "portable" in request.param else {}
    as_pid_one = "PID 1" in request.param
    return new_instance(make_project(), variables=variables, as_pid_one=as_pid_one).start()


def zombies(instance: Instance) -> list[int]:
    children = psutil.Process(instance.pid).children(recursive=True)
    return [child.pid for child in children if attribute(child, "status") == psutil.STATUS_ZOMBIE]


def the(instance: Instance, word: str) -> list[psutil.Process]:
    """Return the living processes of the instance with this word among their arguments."""
    return [each for each in instance.processes() if word in (attribute(each, "cmdline") or ())]


def attribute(process: psutil.Process, name: str) -> Any:
    """Return an attribute of a process; None if the process has just exited."""
    try:
        return getattr(process, name)()
    except psutil.NoSuchProcess:
        return None


@pytest.mark.fault("F37")
async def test_f37_zombies_are_reaped_and_workers_keep_their_exit_status(adopting: Instance) -> None:
    port = adopting.port
    for slot in (0, 1):
        assert (await invoke(port, await session_in(port, slot), [{"shell": FIFTY}])).status == 200
    left = time.monotonic()
    # The last of the hundred exits in 0.1 s.
    await eventually(
        lambda: adopting.health()["orphans"]["reaped"] == 100, 0.1 + REAPED_WITHIN * NOISE, "all are reaped"
    )
    assert zombies(adopting) == []
    print(f"no zombie {time.monotonic() - left - 0.1:.2f} s after the end of the last")

    before = adopting.ready_workers()
    # Workers that exit among the zombies are reported with their own status.
    session = await session_in(port, 0)
    lost = await invoke(port, session, [{"shell": FIFTY}, {"exit": 7}])
    assert (lost.status, lost.code) == (502, "WORKER_LOST")
    lost = await invoke(port, await session_in(port, 1), [{"shell": FIFTY}, {"segfault": 1}])
    assert (lost.status, lost.code) == (502, "WORKER_LOST")
    await eventually(lambda: len(adopting.ready_workers()) == 2, 30, "both workers are ready again")
    assert [w.generation for w in adopting.ready_workers()] == [w.generation + 1 for w in before]
    log = adopting.log
    assert "worker died worker=0.1 status=exit 7" in log
    assert "worker died worker=1.1 status=SIGSEGV" in log
    await eventually(lambda: adopting.health()["orphans"]["reaped"] == 200, REAPED_WITHIN * NOISE, "all")
    assert zombies(adopting) == []
    assert await texts(port, session, "on it goes") == ["on it goes"]


@pytest.mark.fault("F38")
async def test_f38_processes_that_outlive_their_worker_are_terminated(adopting: Instance) -> None:
    """Three processes in their own sessions: one ignores SIGTERM, and the worker of one lives on."""
    port = adopting.port
    mine, other = await session_in(port, 0), await session_in(port, 1)
    deaf = "trap '' TERM; setsid sleep 1002 &"
    for session, command in ((mine, "setsid sleep 1001 &"), (mine, deaf), (other, "(setsid sleep 1003 &)")):
        assert (await invoke(port, session, [{"shell": command}])).status == 200
    assert (await invoke(port, mine, [{"exit": 1}])).code == "WORKER_LOST"
    died = time.monotonic()
    await eventually(lambda: not the(adopting, "1001"), ENDED_WITHIN, "the first process has exited")
    print(f"ended {time.monotonic() - died:.2f} s after its worker")
    assert the(adopting, "1002"), "SIGTERM comes first"
    await eventually(
        lambda: not the(adopting, "1002"), KILLED_WITHIN, "the process that ignores SIGTERM has exited"
    )
    took = time.monotonic() - died
    print(f"the one that ignores SIGTERM {took:.2f} s after its worker")
    assert took > 4.5
    orphans = adopting.health()["orphans"]
    assert (orphans["terminated"], orphans["killed"]) == (2, 1)
    assert "orphan process is killed" in adopting.log
    assert "command=sleep" in adopting.log
    assert the(adopting, "1003"), "the process of a living worker is kept"

    assert adopting.stop() == 0
    assert not the(adopting, "1003"), "it ends with the instance"


@pytest.mark.timed
@pytest.mark.fault("F30")
async def test_f30_a_second_sigterm_does_not_wait_for_orphans_that_ignore_sigterm(
    start_instance: Start,
) -> None:
    instance = start_instance(workers=1)
    session = new_session()
    await invoke(instance.port, session, [{"shell": "trap '' TERM; setsid sleep 1004 &"}])
    instance.signal(signal.SIGTERM)
    wait_until(lambda: "orphan process is terminated" in instance.log, 10, "the orphan gets SIGTERM")
    assert instance.running
    asked = time.monotonic()
    assert instance.stop(within=5) == 0
    print(f"ended {time.monotonic() - asked:.2f} s after the second SIGTERM")
    assert time.monotonic() - asked < 3
    assert not the(instance, "1004")


async def test_pid_1_does_not_terminate_processes_of_other_origin(
    new_instance: Start, make_project: Callable[..., Path]
) -> None:
    """A process that is started beside the supervisor in its container is reaped, and never terminated."""
    instance = new_instance(make_project(), workers=1, as_pid_one=True).start()
    beside = "(setsid sleep 1005 &); (setsid sleep 0.1 &)"  # as `docker exec` would
    inside = ["nsenter", "-U", "-p", "-m", "--preserve-credentials", "-t", str(instance.pid)]
    await asyncio.to_thread(subprocess.run, [*inside, "sh", "-c", beside], check=True, timeout=20)
    children = psutil.Process(instance.pid).children()
    (stranger,) = [child for child in children if "1005" in (attribute(child, "cmdline") or ())]
    await invoke(instance.port, new_session(), [{"exit": 1}])
    await eventually(
        lambda: instance.health()["orphans"]["reaped"] == 1,
        REAPED_WITHIN * NOISE,
        "the exited process is reaped",
    )
    instance.wait_ready()
    assert stranger.is_running()
    stranger.terminate()
    await eventually(
        lambda: not stranger.is_running(), REAPED_WITHIN * NOISE, "the terminated process is reaped"
    )
    assert instance.health()["orphans"] == {"reaped": 2, "terminated": 0, "killed": 0}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_pid_1_stops_on_a_signal(
    new_instance: Start, make_project: Callable[..., Path], number: signal.Signals
) -> None:
    instance = new_instance(make_project(), workers=1, as_pid_one=True).start()
    instance.signal(number)
    assert instance.wait_exit(10) == 0
