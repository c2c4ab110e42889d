"""Workers that are forked from a zygote: as good as those that start by themselves, whoever dies.

Most tests share one instance. What is forked is told from what is not by its command line, which is that of
the zygote.
"""

import itertools
import json
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.harness.client import Stream, invoke, new_session, session_in, texts
from tests.harness.instance import FORKS, Instance, Worker
from tests.harness.projects import hooks, written
from tests.harness.waiting import eventually, wait_until

BACK_WITHIN: Final = 20.0  # seconds; a tenth on an idle machine, ten times that without a zygote
GONE_WITHIN: Final = 5.0

APP: Final = """
    import os, random, sys, uuid

    import numpy
    from agentscope.message import Msg
    from agentscope.runtime import AgentApp


    class App(AgentApp):
        async def __call__(self, msg, ctx):
            for content in ("{word}", random.random(), numpy.random.random(), uuid.uuid4().hex, sys.argv[1]):
                yield Msg(name="a", content=str(content), role="assistant")
"""


def is_forked(worker: Worker) -> bool:
    return FORKS in psutil.Process(worker.pid).cmdline()


async def successor(instance: Instance, victim: Worker) -> Worker:
    """The next process of a slot, once it is ready."""
    await eventually(
        lambda: any(
            worker.slot == victim.slot and worker.generation > victim.generation
            for worker in instance.ready_workers()
        ),
        BACK_WITHIN,
        "the slot is back",
    )
    return instance.worker_in(victim.slot)


@pytest.fixture(scope="module")
def _preloaded(start_module_instance: Callable[..., Instance]) -> Instance:
    return start_module_instance(supervisor={"preload": True})


@pytest.fixture
def preloaded(_preloaded: Instance) -> Instance:
    """An instance with its zygote and two workers, all of which may be killed."""
    _preloaded.wait_ready()
    wait_until(lambda: len(_preloaded.zygotes()) == 1, BACK_WITHIN, "there is one zygote")
    return _preloaded


# -- as good as others -------------------------------------------------------------------------------


@pytest.mark.agentscope
def test_the_zygote_has_a_row_of_its_own(preloaded: Instance) -> None:
    (zygote,) = preloaded.zygotes()
    (told,) = json.loads(preloaded.command("status", "--json").stdout)["zygotes"]
    assert told["pid"] == zygote.pid
    assert told["memory_mb"] > 10
    shown = preloaded.command("status").stdout.splitlines()[-1].split()
    assert [*shown[:6], shown[-1]] == ["-", "-", str(zygote.pid), "zygote", "-", "-", "-"]


@pytest.mark.agentscope
async def test_forked_workers_are_children_of_the_supervisor(preloaded: Instance) -> None:
    (zygote,) = preloaded.zygotes()
    for worker in preloaded.ready_workers():
        assert is_forked(worker)
        assert psutil.Process(worker.pid).ppid() == preloaded.pid
        assert os.getsid(worker.pid) == os.getpgid(worker.pid) == worker.pid
    assert zygote.num_threads() == 1
    assert "AgentScope is preloaded" in preloaded.log
    assert "not preloaded" not in preloaded.log


@pytest.mark.agentscope
async def test_forked_workers_answer_as_others_do(
    preloaded: Instance, start_instance: Callable[..., Instance]
) -> None:
    fresh = start_instance(workers=1, supervisor={"preload": False})
    script = [{"say": "one", "times": 3}, {"context": 1}, {"count": 1}, {"count": 1}]
    for instance in (preloaded, fresh):
        session = new_session("compared")
        said = await texts(instance.port, session, script)
        assert said[:3] == ["one"] * 3
        assert f'"cwd": "{instance.project}"' in said[3]
        assert f'"path": "{instance.project}"' in said[3]
        assert said[4:] == ["1", "2"]
    for worker in preloaded.ready_workers():
        session = await session_in(preloaded.port, worker.slot)
        assert await texts(preloaded.port, session, [{"pid": 1}]) == [str(worker.pid)]


@pytest.mark.agentscope
async def test_no_descriptor_is_anothers(preloaded: Instance) -> None:
    """Links, pages and pipes: were one held by two, a death would not be seen at the other end."""
    (zygote,) = preloaded.zygotes()
    pids = [preloaded.pid, zygote.pid, *(worker.pid for worker in preloaded.ready_workers())]
    for one, other in itertools.combinations(pids[1:], 2):
        assert not descriptors(one) & descriptors(other)
    for pid in pids[1:]:
        shared_with_supervisor = descriptors(pid) & descriptors(pids[0])
        assert all(stat.S_ISREG(mode) or stat.S_ISFIFO(mode) for mode, _, _ in shared_with_supervisor)


def descriptors(pid: int) -> set[tuple[int, int, int]]:
    """What a process holds open that could tie it to another."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            status = entry.stat()
            if os.readlink(entry).endswith("/sessions/.turns"):  # that each has opened for itself
                continue
        except FileNotFoundError:  # closed meanwhile, so it ties nothing
            continue
        if stat.S_ISSOCK(status.st_mode) or stat.S_ISFIFO(status.st_mode) or stat.S_ISREG(status.st_mode):
            found.add((status.st_mode, status.st_dev, status.st_ino))
    return found


@pytest.mark.agentscope
async def test_output_bears_the_name_of_its_worker(preloaded: Instance) -> None:
    for worker in preloaded.ready_workers():
        session = await session_in(preloaded.port, worker.slot)
        await texts(preloaded.port, session, [{"print": f"printed by {worker.pid}"}, {"say": "done"}])
    for worker in preloaded.ready_workers():
        assert f"printed by {worker.pid} worker={worker.label}" in preloaded.log


@pytest.mark.agentscope
async def test_chance_differs_between_forked_workers(
    tmp_path: Path, new_instance: Callable[..., Instance]
) -> None:
    instance = new_instance(written(tmp_path / "project", APP), workers=2).start()
    assert all(is_forked(worker) for worker in instance.ready_workers())
    said = [await texts(instance.port, await session_in(instance.port, slot), "?") for slot in (0, 1)]
    for ours, theirs in zip(*(each[1:4] for each in said), strict=True):
        assert ours != theirs
    assert said[0][4] == str(instance.pid), "the arguments are those of a worker"


# -- deaths ------------------------------------------------------------------------------------------


@pytest.mark.agentscope
async def test_a_forked_worker_that_is_killed(preloaded: Instance) -> None:
    victim = preloaded.worker_in(0)
    async with Stream(
        preloaded.port, await session_in(preloaded.port, 0), [{"say": "x"}, {"sleep": 60}]
    ) as s:
        await s.until(events=1)
        os.kill(victim.pid, signal.SIGKILL)
        await s.whole(error="WORKER_LOST")
    replacement = await successor(preloaded, victim)
    assert replacement.generation == victim.generation + 1
    assert is_forked(replacement)
    assert f"worker died worker={victim.label} status=SIGKILL" in preloaded.log


@pytest.mark.agentscope
async def test_the_exit_status_of_a_forked_worker(preloaded: Instance) -> None:
    victim = preloaded.worker_in(1)
    response = await invoke(preloaded.port, await session_in(preloaded.port, 1), [{"exit": 7}])
    assert (response.status, response.code) == (502, "WORKER_LOST")
    await successor(preloaded, victim)
    assert f"worker died worker={victim.label} status=exit 7" in preloaded.log


@pytest.mark.agentscope
async def test_the_stacks_of_a_forked_worker(preloaded: Instance) -> None:
    victim = preloaded.worker_in(0)
    response = await invoke(preloaded.port, await session_in(preloaded.port, 0), [{"segfault": 1}])
    assert response.code == "WORKER_LOST"
    await successor(preloaded, victim)
    assert f"Fatal Python error: Segmentation fault worker={victim.label}" in preloaded.log


@pytest.mark.agentscope
async def test_workers_outlive_their_zygote_and_the_next_start_does_not_wait(preloaded: Instance) -> None:
    (zygote,) = preloaded.zygotes()
    victim, gate = preloaded.worker_in(0), preloaded.project / "gate"
    loaded = preloaded.log.count("AgentScope is preloaded")
    async with Stream(
        preloaded.port,
        await session_in(preloaded.port, 1),
        [{"say": "x"}, {"wait_for": str(gate)}, {"say": "y"}],
    ) as stream:
        await stream.until(events=1)
        zygote.kill()
        os.kill(victim.pid, signal.SIGKILL)
        replacement = await successor(preloaded, victim)
        assert not is_forked(replacement), "there is no zygote to fork it"
        gate.touch()
        assert [event.text for event in await stream.whole()] == ["x", "y"]
    assert "zygote died; its workers keep running" in preloaded.log

    await eventually(
        lambda: preloaded.log.count("AgentScope is preloaded") > loaded, BACK_WITHIN, "there is a new zygote"
    )
    os.kill(replacement.pid, signal.SIGKILL)
    assert is_forked(await successor(preloaded, replacement))


async def test_a_zygote_that_is_stopped_holds_nobody_up(start_instance: Callable[..., Instance]) -> None:
    instance = start_instance(workers=1)
    (zygote,) = instance.zygotes()
    (victim,) = instance.ready_workers()
    zygote.suspend()
    os.kill(victim.pid, signal.SIGKILL)
    assert not is_forked(await successor(instance, victim))
    assert "worker cannot be forked reason=no answer in time" in instance.log
    wait_until(lambda: not zygote.is_running(), GONE_WITHIN, "it is replaced")


@pytest.mark.agentscope
async def test_all_die_with_the_supervisor(start_instance: Callable[..., Instance]) -> None:
    """Also a worker that holds the interpreter's lock in C, and can notice nothing."""
    instance = start_instance()
    assert len(instance.zygotes()) == 1
    assert all(is_forked(worker) for worker in instance.ready_workers())
    async with Stream(
        instance.port, await session_in(instance.port, 0), [{"say": "x"}, {"sleep": 0.01}, {"hold": 1}]
    ) as stream:
        await stream.until(events=1)
        instance.signal(signal.SIGKILL)
        instance.wait_exit(5)
        wait_until(lambda: not instance.processes(), 1.0, "nothing is left")


# -- new code ----------------------------------------------------------------------------------------


@pytest.mark.agentscope
async def test_reload_brings_new_code_from_a_new_zygote(
    tmp_path: Path, new_instance: Callable[..., Instance]
) -> None:
    project = written(tmp_path / "project", APP.replace("{word}", "old"), "supervisor: {soak: 0}")
    instance = new_instance(project, workers=2).start()
    (before,) = instance.zygotes()
    assert (await texts(instance.port, new_session(), "?"))[0] == "old"
    (project / "app.py").write_text(
        (project / "app.py").read_text("utf-8").replace('"old"', '"new"'), "utf-8"
    )
    instance.signal(signal.SIGHUP)
    await eventually(
        lambda: [worker.generation for worker in instance.ready_workers()] == [2, 2],
        BACK_WITHIN,
        "both are replaced",
    )
    assert all(is_forked(worker) for worker in instance.ready_workers())
    assert (await texts(instance.port, new_session(), "?"))[0] == "new"
    (after,) = instance.zygotes()
    assert after.pid != before.pid


# -- where it is off ---------------------------------------------------------------------------------

STARTS_A_THREAD: Final = (
    "import threading, time; "
    "threading.Thread(target=time.sleep, args=[600], daemon=True, name='busy').start()"
)
HANGS: Final = "import time; time.sleep(600)"


@pytest.fixture
def zygote_does(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """The variables of an instance whose zygote runs this line of Python as it starts."""

    def variables(line: str) -> dict[str, str]:
        folder = tmp_path / "site"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(f"import sys\nif {FORKS!r} in sys.orig_argv:\n    {line}\n")
        return {"PYTHONPATH": str(folder)}

    return variables


@pytest.mark.agentscope
@pytest.mark.parametrize("preload, level", [("auto", "info"), (True, "warning")])
async def test_a_zygote_with_a_thread_is_not_forked(
    new_instance: Callable[..., Instance],
    make_project: Callable[..., Path],
    zygote_does: Callable[[str], dict[str, str]],
    preload: object,
    level: str,
) -> None:
    project = make_project(supervisor={"preload": preload})
    instance = new_instance(project, workers=2, variables=zygote_does(STARTS_A_THREAD)).start()
    assert not any(is_forked(worker) for worker in instance.ready_workers())
    assert instance.zygotes() == []
    (line,) = [line for line in instance.log.splitlines() if "not preloaded" in line]
    assert f" {level} " in line
    assert "have started threads: busy" in line


async def test_a_zygote_that_hangs_holds_the_first_worker_up_for_a_while_only(
    new_instance: Callable[..., Instance],
    make_project: Callable[..., Path],
    zygote_does: Callable[[str], dict[str, str]],
) -> None:
    project = make_project(supervisor={"start_timeout": 20})
    instance = new_instance(project, workers=1, variables=zygote_does(HANGS)).start()
    assert not any(is_forked(worker) for worker in instance.ready_workers())
    assert await texts(instance.port, new_session(), "hello") == ["hello"]


def test_sigterm_while_the_first_worker_waits(
    new_instance: Callable[..., Instance],
    make_project: Callable[..., Path],
    zygote_does: Callable[[str], dict[str, str]],
) -> None:
    instance = new_instance(make_project(), variables=zygote_does(HANGS)).launch()
    instance.wait_listening()
    wait_until(instance.zygotes, BACK_WITHIN, "the zygote is there")
    assert instance.stop(within=15) == 0
    wait_until(lambda: not instance.processes(), 1.0, "nothing is left")


def test_the_zygote_of_an_instance_without_workers_is_no_orphan_at_the_end(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path]
) -> None:
    project = make_project()
    hooks(project, startup=[{"raise": "database is away"}])
    instance = new_instance(project, workers=1).launch()
    wait_until(lambda: "database is away" in instance.log, 60, "the first worker is gone, the next to come")
    assert instance.stop() == 0
    assert "orphan process" not in instance.log


def test_preload_false_starts_no_zygote(start_instance: Callable[..., Instance]) -> None:
    instance = start_instance(supervisor={"preload": False})
    assert not any(is_forked(worker) for worker in instance.ready_workers())
    assert len(instance.processes()) == 2
    assert "preloaded" not in instance.log


def test_preload_where_the_kernel_cannot(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path]
) -> None:
    portable = {"AGENTSCOPE_SUPERVISOR_PORTABLE": "1"}
    project = make_project(supervisor={"preload": True})
    instance = new_instance(project, workers=1, variables=portable).start()
    assert not any(is_forked(worker) for worker in instance.ready_workers())
    (line,) = [line for line in instance.log.splitlines() if "not preloaded" in line]
    assert " warning " in line
