"""Starting and ending an instance: signals at every moment, kills, and the places that are taken already."""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.harness.client import (
    JSON,
    Connection,
    Stream,
    call,
    invoke,
    new_session,
    request,
    texts,
    turn_body,
)
from tests.harness.events import text_of
from tests.harness.instance import Instance
from tests.harness.projects import hooks, journal
from tests.harness.waiting import eventually, wait_until

TRY_LATER: Final = 75
SILENT: Final = [{"say": "x"}, {"sleep": 600}]
# The events of one turn of the loop leave together, at its end: the pause lets the first one out.
BLOCKED: Final = [{"say": "x"}, {"sleep": 0.01}, {"block": 600}]
DEAF: Final = [{"say": "x"}, {"deaf": 600}]


def assert_none_left(instance: Instance) -> None:
    wait_until(lambda: not instance.processes(), 1.0, "no worker is left")


# -- SIGTERM while it starts -----------------------------------------------------------------------


@pytest.mark.timed
@pytest.mark.parametrize("how", ["sleep", "block"])
@pytest.mark.fault("F28")
def test_f28_sigterm_during_start(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path], tmp_path: Path, how: str
) -> None:
    project, begun = make_project(), tmp_path / "begun"
    hooks(project, startup=[{"note": str(begun)}, {how: 60}])
    instance = new_instance(project).launch()
    wait_until(begun.exists, 20, "on_startup has begun")
    asked = time.monotonic()
    assert instance.stop() == 0
    took = time.monotonic() - asked
    print(f"ended {took:.2f} s after SIGTERM")
    # A worker that blocks cannot say goodbye: what it gets is stop_timeout, 2 s here.
    assert took < (2.0 if how == "sleep" else 4.0)
    assert_none_left(instance)


@pytest.mark.fault("F39")
def test_f39_sigterm_as_soon_as_it_listens(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path]
) -> None:
    instance = new_instance(make_project()).launch()
    instance.wait_listening()
    assert instance.stop(within=15) == 0
    assert_none_left(instance)


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.2, 0.4, 0.7])
@pytest.mark.fault("F39")
def test_f39_sigterm_at_any_time(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path], delay: float
) -> None:
    """Before the handlers are there, the signal ends the process by itself; nothing may be left then."""
    instance = new_instance(make_project()).launch()
    time.sleep(delay)  # the fault itself
    assert instance.stop(within=15) in (0, -signal.SIGTERM)
    assert_none_left(instance)


@pytest.mark.fault("F39")
def test_f39_sighup_during_start_is_no_end(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path]
) -> None:
    instance = new_instance(make_project(), workers=1).launch()
    # From its first line of code on: the interpreter itself takes a few dozen milliseconds to get there.
    wait_until(lambda: "SigIgn" in status_of(instance.pid) and ignores_hup(instance.pid), 5, "it has begun")
    for _ in range(5):
        instance.signal(signal.SIGHUP)
        time.sleep(0.05)  # the fault itself: several signals, at several stages
    instance.wait_ready()
    assert len(instance.ready_workers()) == 1


def status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text("utf-8")


def ignores_hup(pid: int) -> bool:
    (mask,) = (line.split()[1] for line in status_of(pid).splitlines() if line.startswith("SigIgn"))
    return bool(int(mask, 16) & 1 << signal.SIGHUP - 1)


# -- SIGTERM while it serves ------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
@pytest.mark.fault("F29")
async def test_f29_running_turn_finishes(
    start_instance: Callable[..., Instance], make_project: Callable[..., Path], tmp_path: Path, number: int
) -> None:
    project, gate, ended = make_project(), tmp_path / "gate", tmp_path / "ended"
    hooks(project, shutdown=[{"note": str(ended)}])
    instance = start_instance(project)
    port, session = instance.port, new_session()
    script = [{"say": "one"}, {"wait_for": str(gate)}, {"say": "two"}]
    async with (
        Stream(port, session, script) as running,
        Stream(port, session, "waiting") as waiting,
        Connection(port) as kept,
    ):
        await running.until(events=1)
        await waiting.until(comments=1)
        await kept.send(request("GET", "/readiness"))
        assert (await kept.answer()).status == 200

        instance.signal(signal.Signals(number))
        # What waits has not begun, and will not.
        assert await waiting.whole(error="DRAINING") == []
        # A connection that was there before is answered: not any more, and not again.
        await kept.send(request("POST", "/invoke", turn_body(new_session(), "late"), JSON))
        late = await kept.answer()
        assert (late.status, late.code) == (503, "DRAINING")
        assert int(late.headers["retry-after"]) > 0
        assert late.headers["connection"] == "close"
        assert await kept.is_closed()
        await assert_refuses(port)
        assert instance.running, "the turn may finish"
        gate.touch()
        assert [event.text for event in await running.whole()] == ["one", "two"]
    assert instance.wait_exit(10) == 0
    assert len(journal(ended)) == 2, "on_shutdown has run in each worker"
    assert_none_left(instance)


async def assert_refuses(port: int) -> None:
    """A new connection is not taken, or is told that the instance is going."""
    try:
        answers = [await call(port, "GET", path) for path in ("/readiness", "/health")]
        late = await invoke(port, new_session(), "late")
    except ConnectionError:
        return
    assert [answer.status for answer in answers] == [503, 503]
    assert answers[1].json["status"] == "draining"
    assert (late.status, late.code) == (503, "DRAINING")


@pytest.mark.timed
@pytest.mark.parametrize("script", [SILENT, DEAF, BLOCKED], ids=["silent", "deaf", "blocked"])
@pytest.mark.fault("F29")
async def test_f29_turn_that_does_not_finish_is_cut_at_the_deadline(
    start_instance: Callable[..., Instance], script: list[object]
) -> None:
    instance = start_instance(workers=1, supervisor={"drain_timeout": 1, "stop_timeout": 1})
    async with Stream(instance.port, new_session(), script) as stream:
        await stream.until(events=1)
        asked = time.monotonic()
        instance.signal(signal.SIGTERM)
        await stream.to_end(within=10)
        error = stream.events[-2].error
        assert error is not None
        assert error["code"] in ("DRAINING", "WORKER_LOST"), error
        assert [event.text for event in await stream.whole(error=error["code"])] == ["x"]
    assert instance.wait_exit(10) == 0
    took = time.monotonic() - asked
    assert 0.9 < took < 6, f"drain_timeout and stop_timeout are 1 s each, and it took {took:.1f} s"
    assert_none_left(instance)


@pytest.mark.timed
@pytest.mark.fault("F30")
async def test_f30_second_sigterm_ends_at_once(start_instance: Callable[..., Instance]) -> None:
    instance = start_instance(supervisor={"drain_timeout": 60, "stop_timeout": 60})
    async with (
        Stream(instance.port, new_session(), SILENT) as silent,
        Stream(instance.port, new_session(), BLOCKED) as blocked,
    ):
        await silent.until(events=1)
        await blocked.until(events=1)
        instance.signal(signal.SIGTERM)
        await eventually(lambda: instance.health()["status"] == "draining", 30, "it drains")
        asked = time.monotonic()
        instance.signal(signal.SIGTERM)
        for stream in (silent, blocked):
            await stream.to_end(within=5)
            error = stream.events[-2].error
            assert error is not None
            await stream.whole(error=error["code"])
        assert await asyncio.to_thread(instance.wait_exit, 5) == 0
    took = time.monotonic() - asked
    print(f"ended {took:.2f} s after the second SIGTERM")
    assert took < 2
    assert_none_left(instance)


@pytest.mark.timed
@pytest.mark.parametrize(
    "steps",
    [
        [{"sleep": 600}],
        [{"block": 600}],
        [{"raise": "cannot close"}],
        [{"raise": "cannot close", "kind": "TimeoutError"}],
    ],
)
@pytest.mark.fault("F24", "F25")
def test_f24_f25_on_shutdown_that_hangs_or_raises(
    start_instance: Callable[..., Instance], make_project: Callable[..., Path], steps: list[dict[str, object]]
) -> None:
    project = make_project(supervisor={"stop_timeout": 1, "drain_timeout": 30})
    hooks(project, shutdown=steps)
    instance = start_instance(project, workers=1)
    asked = time.monotonic()
    assert instance.stop() == 0
    assert time.monotonic() - asked < 4, "stop_timeout is 1 s"
    assert "raise" not in steps[0] or "cannot close" in instance.log
    assert_none_left(instance)


# -- SIGQUIT ------------------------------------------------------------------------------------------


@pytest.mark.fault("F31")
async def test_f31_sigquit_shows_stacks_and_goes_on(
    start_instance: Callable[..., Instance], tmp_path: Path
) -> None:
    instance = start_instance()
    before = instance.ready_workers()
    begun = tmp_path / "begun"
    script = [{"say": "x"}, {"sleep": 0.01}, {"note": str(begun)}, {"block": 1.5}, {"say": "y"}]
    async with Stream(instance.port, new_session(), script) as stream:
        await eventually(begun.exists, 30, "it is about to block")
        instance.signal(signal.SIGQUIT)
        await eventually(lambda: instance.log.count("(most recent call first)") >= 3, 30, "three stacks")
        log = instance.log
        assert "app.py" in log, "the line that blocks is named"
        assert "in perform" in log
        assert [event.text for event in await stream.whole()] == ["x", "y"]
    assert instance.ready_workers() == before
    assert await texts(instance.port, new_session(), "on it goes") == ["on it goes"]


# -- SIGKILL of the supervisor ---------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["idle", "blocked", "stopped", "streaming"])
@pytest.mark.fault("F32")
async def test_f32_no_worker_outlives_its_supervisor(
    start_instance: Callable[..., Instance], state: str
) -> None:
    instance = start_instance(workers=1)
    (worker,) = instance.ready_workers()
    assert worker.pid in {process.pid for process in instance.processes()}
    script = BLOCKED if state == "blocked" else [{"say": "x", "times": 9999, "every": 0.001}]
    async with Stream(instance.port, new_session(), script) as stream:
        await stream.until(events=1)
        if state == "idle":
            stream.leave()
        if state == "stopped":
            os.kill(worker.pid, signal.SIGSTOP)
        instance.signal(signal.SIGKILL)
        killed = time.monotonic()
        wait_until(lambda: not instance.processes(), 1.0, "no worker is left")
        print(f"no worker left {(time.monotonic() - killed) * 1000:.0f} ms after the kill ({state})")
    assert instance.wait_exit(5) == -signal.SIGKILL


@pytest.mark.fault("F32")
def test_f32_after_a_kill_the_same_place_is_free(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path]
) -> None:
    project = make_project()
    first = new_instance(project, workers=1).start()
    port = first.port
    first.signal(signal.SIGKILL)
    first.wait_exit(5)
    second = new_instance(project, workers=1, port=port).start()
    assert second.port == port


@pytest.mark.slow
@pytest.mark.fault("F32", "F33")
async def test_f32_f33_everything_dies_while_sessions_are_saved(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path]
) -> None:
    """The supervisor is killed at odd moments, and its workers with it: what a client was told is stored."""
    project, sessions = make_project(), [new_session() for _ in range(6)]
    told, asked = dict.fromkeys(sessions, 0), dict.fromkeys(sessions, 0)
    for delay in (0.2, 0.31, 0.43, 0.57):
        instance = new_instance(project).start()

        async def save(session: str, port: int) -> None:
            while True:
                asked[session] += 1
                response = await invoke(port, session, [{"count": 1}])
                assert response.status == 200, response.body
                count = int(text_of(response.json["messages"][0]))
                assert told[session] < count <= asked[session], "a save was lost, or a turn ran twice"
                told[session] = count

        saving = [asyncio.create_task(save(session, instance.port)) for session in sessions]
        await asyncio.sleep(delay)
        instance.signal(signal.SIGKILL)
        for failure in await asyncio.gather(*saving, return_exceptions=True):
            assert isinstance(failure, (ConnectionError, asyncio.IncompleteReadError)), failure
        instance.wait_exit(5)
    assert min(told.values()) > 4
    assert not list((project / "sessions").glob("*.corrupt"))


# -- places that are taken ----------------------------------------------------------------------------------


@pytest.mark.fault("F36")
def test_f36_port_in_use(new_instance: Callable[..., Instance], make_project: Callable[..., Path]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        began = time.monotonic()
        instance = new_instance(make_project(), port=port).launch()
        assert instance.wait_exit(5) == TRY_LATER
        took = time.monotonic() - began
    print(f"ended {took:.2f} s after its start")
    assert str(port) in instance.log
    assert "worker" not in instance.log, "no worker was started"
    assert "Traceback" not in instance.log


@pytest.mark.fault("F35")
async def test_f35_second_instance_of_one_name(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path]
) -> None:
    project = make_project()
    first = new_instance(project, workers=1).start()
    address, workers = first.address, first.ready_workers()
    second = new_instance(project).launch()
    assert second.wait_exit(5) == TRY_LATER
    assert str(first.pid) in second.log, "who has the name is told"
    assert "Traceback" not in second.log
    assert not second.processes()
    assert (first.address, first.ready_workers()) == (address, workers)
    assert await texts(first.port, new_session(), "untouched") == ["untouched"]
    third = new_instance(project, name="another", workers=1).start()
    assert third.port != first.port


@pytest.mark.fault("F34")
def test_f34_what_an_earlier_instance_left(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path]
) -> None:
    """Its address with the pid of somebody else who lives, its lock, half a file: all of no account."""
    instance = new_instance(make_project(), workers=1)
    instance.directory.mkdir(parents=True)
    stale = {
        "pid": os.getpid(),
        "host": "127.0.0.1",
        "port": 1,
        "name": "test",
        "project": "/",
        "version": "0",
    }
    (instance.directory / "instance.json").write_text(json.dumps(stale))
    (instance.directory / ".instance.json").write_text('{"pid":')
    (instance.directory / "lock").write_text(str(os.getpid()))
    instance.start()
    assert instance.address["project"] == str(instance.project)


@pytest.mark.parametrize("what", ["a file", "no directory to write in"])
def test_runtime_directory_that_cannot_be_written(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path], what: str
) -> None:
    instance = new_instance(make_project())
    if what == "a file":
        instance.runtime_dir.mkdir()
        (instance.runtime_dir / "agentscope-supervisor").touch()
    else:
        instance.runtime_dir.symlink_to("/proc/self/nothing")
    instance.launch()
    assert instance.wait_exit(5) == TRY_LATER
    assert "Traceback" not in instance.log
