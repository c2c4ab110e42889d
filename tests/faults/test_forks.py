"""Processes that an App forks without executing a program, and workers that end although nobody asked.

A forked child inherits everything from its worker. What it does, and what is done to it, must concern the
child alone.
"""

import json
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.harness.client import Stream, call, new_session, texts
from tests.harness.instance import Instance
from tests.harness.projects import written
from tests.harness.waiting import eventually, wait_until

APP = """
    import asyncio, atexit, multiprocessing, os, subprocess, sys, time
    from agentscope.message import Msg
    from agentscope.runtime import AgentApp

    fork = multiprocessing.get_context("fork")

    class App(AgentApp):
        async def __call__(self, msg, ctx):
            match msg.get_text_content():
                case "terminate":
                    child = fork.Process(target=time.sleep, args=[600])
                    child.start()
                    child.terminate()
                    await asyncio.to_thread(child.join, 10)
                    yield self.said(child.exitcode)
                case "pool":
                    with fork.Pool(2) as pool:
                        results = await asyncio.to_thread(pool.map, abs, [1, -2])
                    yield self.said(results)
                case "child":
                    self.child = await asyncio.to_thread(self.started)
                    yield self.said(self.child.pid)
                    yield self.said(sys.argv[2])
                case "fall through":
                    child = os.fork()
                    if child == 0:
                        raise RuntimeError("a child that goes on with the code of its worker")
                    _, status = await asyncio.to_thread(os.waitpid, child, 0)
                    yield self.said(os.waitstatus_to_exitcode(status))
                case "programs":
                    sleep = subprocess.Popen(["sleep", "600"], close_fds=False)
                    other = await asyncio.create_subprocess_exec("sleep", "600")
                    yield self.said(sleep.pid)
                    yield self.said(other.pid)
                case "file":
                    with open("file", "w") as file:
                        file.write(str(os.getpid()))
                    yield self.said("written")
                case "wait":
                    yield self.said("waits")
                    await asyncio.sleep(600)
                case text:
                    yield self.said(text)

        def said(self, what):
            return Msg(name="a", content=str(what), role="assistant")

        def started(self):
            child = fork.Process(target=time.sleep, args=[600])
            child.start()
            return child

        async def on_startup(self):
            atexit.register(self.note, "exit ")

        async def on_shutdown(self):
            self.note("shutdown ")

        def note(self, word):
            with open("notes", "a") as file:
                file.write(word)
"""


@pytest.fixture(scope="module")
def _forking(
    tmp_path_factory: pytest.TempPathFactory, start_module_instance: Callable[..., Instance]
) -> Instance:
    folder = tmp_path_factory.mktemp("forking")
    config = "supervisor: {soak: 0, stop_timeout: 5, umask: '0027'}\n"
    return start_module_instance(written(folder / "project", APP, config), workers=1)


@pytest.fixture
def forking(_forking: Instance) -> Instance:
    """An instance of one worker, which the App forks."""
    _forking.wait_ready()
    return _forking


@pytest.mark.parametrize("how", ["terminate", "pool", "fall through"])
async def test_a_forked_child_ends_alone(forking: Instance, how: str) -> None:
    """Its SIGTERM, from `Process.terminate` or at the end of `with Pool()`, does not reach the worker."""
    (worker,) = forking.ready_workers()
    async with Stream(forking.port, new_session(), "wait") as bystander:
        await bystander.until(events=1)
        (said,) = await texts(forking.port, new_session(), how)
        expected = {"terminate": str(-signal.SIGTERM), "pool": "[1, 2]", "fall through": str(-signal.SIGABRT)}
        assert said == expected[how]
        assert await texts(forking.port, new_session(), "goes on") == ["goes on"]
        assert not bystander.has_arrived(), "the turn beside it goes on"
    assert forking.ready_workers() == [worker]


async def test_a_forked_child_holds_no_channel_of_its_worker(forking: Instance) -> None:
    (worker,) = forking.ready_workers()
    pid, link = await texts(forking.port, new_session(), "child")
    child = psutil.Process(int(pid))
    wait_until(lambda: not maps_page(child.pid), 10, "the child has begun: its parent may report it earlier")
    of_worker, of_child = opened(worker.pid), opened(child.pid)
    assert of_worker[link].startswith("socket:")
    assert of_worker[link] not in of_child.values(), "its copy would hide the death of the worker"
    assert "eventpoll" in str(of_worker)
    assert "eventpoll" not in str(of_child), "its connections would be removed from the worker's loop"
    assert "agentscope-shared" not in str(of_child)
    assert maps_page(worker.pid)
    child.terminate()
    wait_until(lambda: child.status() == psutil.STATUS_ZOMBIE, 5, "SIGTERM ends it")
    assert forking.ready_workers() == [worker]


async def test_a_program_that_a_tool_starts_can_be_interrupted(forking: Instance) -> None:
    (worker,) = forking.ready_workers()
    link = opened(worker.pid)[(await texts(forking.port, new_session(), "child"))[1]]
    for pid in map(int, await texts(forking.port, new_session(), "programs")):
        assert not ignores_interrupts(pid)
        assert link not in opened(pid).values()
    os.kill(worker.pid, signal.SIGINT)
    assert await texts(forking.port, new_session(), "goes on") == ["goes on"]
    assert forking.ready_workers() == [worker]


async def test_files_of_an_app_have_the_umask_of_the_configuration(forking: Instance) -> None:
    await texts(forking.port, new_session(), "file")
    assert stat.S_IMODE((forking.project / "file").stat().st_mode) == 0o640


async def test_files_of_an_app_have_the_umask_of_the_operator(shared: Instance, tmp_path: Path) -> None:
    await texts(shared.port, new_session(), [{"note": str(tmp_path / "by-an-app")}, {"say": "written"}])
    (tmp_path / "by-the-operator").touch()
    modes = [(tmp_path / name).stat().st_mode for name in ("by-an-app", "by-the-operator")]
    assert modes[0] == modes[1]


def ignores_interrupts(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigIgn"))
    return bool(int(mask, 16) & 1 << signal.SIGINT - 1)


def maps_page(pid: int) -> bool:
    return "agentscope-shared" in Path(f"/proc/{pid}/maps").read_text()


def opened(pid: int) -> dict[str, str]:
    """What each descriptor of a process refers to."""
    return {entry.name: os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}


async def test_a_worker_that_gets_sigterm_from_somebody_loses_its_turns(forking: Instance) -> None:
    """The stream, the answer without a stream, the record of the run, `deaths` and the metrics agree."""
    (worker,) = forking.ready_workers()
    notes = forking.project / "notes"
    notes.unlink(missing_ok=True)
    async with Stream(forking.port, new_session(), "wait") as stream:
        await stream.until(events=1)
        os.kill(worker.pid, signal.SIGTERM)
        await stream.whole(error="WORKER_LOST")
        run = (await call(forking.port, "GET", f"/runs/{stream.run_id}")).json
    assert run["error"]["code"] == "WORKER_LOST"
    await eventually(
        lambda: [each.generation for each in forking.ready_workers()] == [worker.generation + 1],
        20,
        "the slot is back",
    )
    assert notes.read_text() == "shutdown exit ", "App.on_shutdown and functions of atexit have run"
    death = json.loads(forking.command("deaths", "--json").stdout)[-1]
    assert (death["cause"], death["detail"], death["turns"]) == ("signal", "SIGTERM", 1)
    metrics = (await call(forking.port, "GET", "/metrics")).body.decode()
    assert 'turns_total{dialect="native",outcome="WORKER_LOST"} 1' in metrics
    assert 'cause="signal"' in metrics


async def test_a_worker_that_is_replaced_exits_as_a_python_program_does(forking: Instance) -> None:
    (worker,) = forking.ready_workers()
    notes = forking.project / "notes"
    notes.unlink(missing_ok=True)
    child, _ = await texts(forking.port, new_session(), "child")  # which never ends by itself
    forking.signal(signal.SIGHUP)
    await eventually(lambda: not psutil.pid_exists(worker.pid), 20, "the worker has exited")
    assert notes.read_text() == "shutdown exit "
    death = json.loads(forking.command("deaths", "--json").stdout)[-1]
    assert (death["worker"], death["cause"], death["ended"]) == (worker.label, "asked", "exit 0")
    assert not psutil.pid_exists(int(child))
