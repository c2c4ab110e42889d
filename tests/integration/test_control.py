"""The operator's commands, each run as a real process against a real instance."""

import asyncio
import json
import os
import re
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.client import Stream, call, invoke, new_session, session_in, texts
from tests.harness.instance import COMMAND, Instance, environment
from tests.harness.projects import configure, hooks
from tests.harness.waiting import eventually, wait_until

Command = Callable[..., subprocess.CompletedProcess[str]]
QUICK = {"soak": 0.1}


@pytest.fixture(scope="module")
def _steered(start_module_instance: Callable[..., Instance]) -> Instance:
    return start_module_instance(supervisor=QUICK)


@pytest.fixture
def steered(_steered: Instance) -> Instance:
    """An instance with two ready slots. A test may change it if it leaves two ready slots."""
    _steered.wait_ready()
    return _steered


async def ask(instance: Instance, *arguments: str) -> Any:
    """Return the JSON output of a command."""
    ended = await run(instance, *arguments, "--json")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


async def run(instance: Instance, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end while the event loop of the test continues."""
    return await asyncio.to_thread(instance.command, *arguments)


async def deaths_of(instance: Instance, worker: str) -> list[dict[str, Any]]:
    return [death for death in await ask(instance, "deaths") if death["worker"] == worker]


# -- queries ----------------------------------------------------------------------------------------------


async def test_the_text_of_status_fits_a_terminal(steered: Instance) -> None:
    shown = (await run(steered, "status")).stdout
    lines = shown.splitlines()
    assert lines[0].startswith("test: healthy, up ")
    assert f"http://127.0.0.1:{steered.port}" in lines[0]
    assert f"pid {steered.pid}" in shown
    assert "\x1b" not in shown
    assert max(map(len, lines)) <= 80
    head = next(line for line in lines if line.startswith("SLOT"))
    assert head.split() == ["SLOT", "GEN", "PID", "STATE", "FOR", "TURNS", "MB", "RESTARTS", "NOTE"]
    for worker in steered.ready_workers():
        assert re.search(rf"^ *{worker.slot} +{worker.generation} +{worker.pid} +ready ", shown, re.MULTILINE)


async def test_status_as_json(steered: Instance) -> None:
    status = await ask(steered, "status")
    assert (status["name"], status["status"], status["unready"]) == ("test", "healthy", None)
    assert (status["pid"], status["url"]) == (steered.pid, f"http://127.0.0.1:{steered.port}")
    assert {slot["slot"] for slot in status["slots"]} == {0, 1}
    for worker in status["workers"]:
        assert worker["memory_mb"] > 10
    assert status["memory_mb"] > 10


async def test_a_session_is_shown_while_its_turn_runs(steered: Instance) -> None:
    session = await session_in(steered.port, 1)
    async with Stream(steered.port, session, [{"say": "one"}, {"sleep": 60}]) as stream:
        await stream.until(events=1)
        shown = await ask(steered, "sessions")
        assert [(s["session_id"], s["waiting"], s["events"]) for s in shown] == [(session, 0, 1)]
        assert shown[0]["worker"].startswith("1.")
        assert session in (await run(steered, "sessions")).stdout
        status = await ask(steered, "status")
        assert sum(worker["turns"] for worker in status["workers"]) == status["turns"]["open"] == 1
    await eventually(lambda: steered.health()["turns"]["open"] == 0, 30, "the turn is cancelled")
    assert (await run(steered, "sessions")).stdout == "no open turns\n"


async def test_stacks_name_the_line_that_blocks(steered: Instance) -> None:
    session = await session_in(steered.port, 0)
    async with Stream(steered.port, session, [{"say": "one"}, {"block": 4}]) as stream:
        await stream.until(events=1)
        shown = {process["worker"]: "\n".join(process["lines"]) for process in await ask(steered, "stacks")}
        (blocked,) = [lines for worker, lines in shown.items() if worker.startswith("0.")]
        assert re.search(r'app\.py", line \d+ in perform', blocked)
        assert "daemon.py" in shown["supervisor"]
        await stream.whole()


async def test_stacks_show_where_a_turn_waits(steered: Instance) -> None:
    session = await session_in(steered.port, 0)
    async with Stream(steered.port, session, [{"say": "one"}, {"sleep": 60}]) as stream:
        await stream.until(events=1)
        shown = {process["worker"]: process["lines"] for process in await ask(steered, "stacks")}
        (waiting,) = [lines for worker, lines in shown.items() if worker.startswith("0.")]
        own = [line for line in waiting if "/app.py" in line]
        assert re.search(r'app\.py", line \d+ in perform$', own[0])
        assert re.search(r'app\.py", line \d+ in App\.generator$', own[-1])


async def test_events_are_followed(steered: Instance) -> None:
    victim = steered.ready_workers()[0]
    follower = subprocess.Popen(  # noqa: ASYNC220 - once, at the start
        [str(COMMAND), "events", "-n", "0", "--follow", *steered.found_by],
        stdout=subprocess.PIPE,
        env=environment(),
    )
    try:
        assert follower.stdout is not None
        os.set_blocking(follower.stdout.fileno(), False)
        seen: list[dict[str, Any]] = []

        def died() -> bool:
            assert follower.stdout is not None
            seen.extend(json.loads(line) for line in follower.stdout.readlines())
            return any(e["message"] == "worker died" and e["worker"] == victim.label for e in seen)

        await eventually(
            lambda: "maintenance ends" in _toggled(steered, follower, seen), 20, "the command follows the log"
        )
        os.kill(victim.pid, signal.SIGKILL)
        await eventually(died, 30, "the exit is shown")
    finally:
        follower.kill()
        follower.communicate()


def _toggled(instance: Instance, follower: subprocess.Popen[bytes], seen: list[dict[str, Any]]) -> set[str]:
    """Cause two events with `maintenance`; return the messages that the follower has printed so far."""
    for state in ("on", "off"):
        assert instance.command("maintenance", state).returncode == 0
    assert follower.stdout is not None
    seen.extend(json.loads(line) for line in follower.stdout.readlines())
    return {event["message"] for event in seen}


async def test_logs_contain_the_output_of_workers_and_events_do_not(steered: Instance) -> None:
    await texts(steered.port, new_session(), [{"print": "a word of the App"}, {"say": "done"}])
    wait_until(lambda: "a word of the App" in steered.command("logs").stdout, 10, "the line is in the log")
    assert "a word of the App" not in (await run(steered, "events", "-n", "500")).stdout
    assert len((await run(steered, "logs", "-n", "2")).stdout.splitlines()) == 2


# -- exits of workers -------------------------------------------------------------------------------------


async def test_deaths_shows_the_cause_of_each_exit(start_instance: Callable[..., Instance]) -> None:
    instance = start_instance(workers=1)
    assert (await run(instance, "deaths")).stdout == "no worker has exited yet\n"
    os.kill(instance.ready_workers()[0].pid, signal.SIGKILL)
    instance.wait_generation(0, 2)
    assert (await invoke(instance.port, new_session(), [{"print": "last words"}, {"exit": 3}])).status == 502
    instance.wait_generation(0, 3)
    assert (await run(instance, "kill", "0.3")).stdout == "killed: 0.3\n"
    instance.wait_generation(0, 4)
    async with Stream(instance.port, new_session(), [{"say": "one"}, {"segfault": 1}]) as stream:
        await stream.whole(error="WORKER_LOST")
    killed, exited, by_operator, crashed = await ask(instance, "deaths")
    assert (killed["cause"], killed["detail"], killed["turns"]) == ("signal", "SIGKILL", 0)
    assert (exited["cause"], exited["detail"], exited["turns"]) == ("exit_code", "exit 3", 1)
    assert "last words" in exited["output"]
    assert (by_operator["cause"], by_operator["worker"]) == ("killed", "0.3")
    assert (crashed["cause"], crashed["detail"]) == ("signal", "SIGSEGV")
    assert any("app.py" in line for line in crashed["stacks"])
    shown = (await run(instance, "deaths", "-n", "1")).stdout
    assert "worker 0.4  signal (SIGSEGV)" in shown
    assert "0.3" not in shown
    assert (await ask(instance, "status"))["slots"][0]["restarts"] == 4


async def test_text_that_cannot_be_encoded_in_utf_8_is_escaped(
    start_instance: Callable[..., Instance],
) -> None:
    """An error that quotes a file name, and a line that an app printed with the mark of log records."""
    instance = start_instance(workers=1, supervisor=QUICK)
    script = [{"print": "\x1eforged \ud800"}, {"exit": 3}]
    assert (await invoke(instance.port, new_session(), script)).status == 502
    instance.wait_generation(0, 2)
    hooks(instance.project, startup=[{"raise": "no such file: \udcff"}])
    ended = await run(instance, "reload", "--wait")
    assert (ended.returncode, "no such file: \\udcff" in ended.stderr) == (1, True)
    assert "no such file: \\udcff" in (await ask(instance, "status"))["rollout"]["failure"]
    exited, failed = await ask(instance, "deaths")
    assert exited["output"][-1] == "\\x1eforged \\ud800"
    assert "no such file: \\udcff" in failed["detail"]


async def test_a_replaced_worker_does_not_count_as_a_failure(steered: Instance) -> None:
    before = [worker.label for worker in steered.ready_workers()]
    assert (await run(steered, "roll", "--wait")).returncode == 0
    await eventually(lambda: len(steered.workers()) == 2, 30, "the replaced workers have exited")
    for label in before:
        (death,) = await deaths_of(steered, label)
        assert (death["cause"], death["detail"]) == ("asked", "replaced")


# -- rollouts ---------------------------------------------------------------------------------------------


async def test_roll_replaces_every_worker(steered: Instance) -> None:
    before = {worker.pid for worker in steered.ready_workers()}
    ended = await run(steered, "roll", "--wait")
    assert ended.returncode == 0
    assert ended.stdout.startswith("done: all workers run revision ")
    assert not before & {worker.pid for worker in steered.ready_workers()}
    assert "last rollout: " in (await run(steered, "status")).stdout


@pytest.mark.fault("F41")
async def test_f41_reload_wait_fails_with_the_reason_if_the_app_is_broken(
    start_instance: Callable[..., Instance],
) -> None:
    instance = start_instance(workers=1, supervisor=QUICK)
    (before,) = instance.ready_workers()
    good = (instance.project / "app.py").read_text("utf-8")
    (instance.project / "app.py").write_text("raise RuntimeError('half an upload')\n", "utf-8")
    ended = await run(instance, "reload", "--wait")
    assert ended.returncode == 1
    assert "rolled back" in ended.stderr
    assert "half an upload" in ended.stderr
    assert instance.ready_workers() == [before]
    rollout = (await ask(instance, "status"))["rollout"]
    assert "half an upload" in rollout["failure"]
    (death,) = await ask(instance, "deaths")
    assert (death["cause"], death["ready"]) == ("boot_failed", None)
    (instance.project / "app.py").write_text(good, "utf-8")
    assert (await run(instance, "reload", "--wait")).returncode == 0
    assert instance.ready_workers()[0].generation == before.generation + 2


@pytest.mark.fault("F46")
async def test_f46_reload_of_an_invalid_file_is_refused_with_the_reason(steered: Instance) -> None:
    before = steered.ready_workers()
    (steered.project / "agentapp.yaml").write_text("server:\n  prot: 1\n", "utf-8")
    for arguments in (["reload"], ["reload", "--wait"]):
        ended = await run(steered, *arguments)
        assert ended.returncode == 1
        assert "agentapp.yaml:2" in ended.stderr
        assert "server.prot" in ended.stderr
    assert steered.ready_workers() == before
    configure(steered.project, supervisor=QUICK)


async def test_reload_names_keys_that_need_a_restart_and_does_not_apply_them(steered: Instance) -> None:
    configure(steered.project, supervisor=QUICK, server={"max_turns": 7, "max_body_mb": 7})
    ended = await run(steered, "reload", "--wait")
    assert ended.returncode == 0
    assert "need a restart of the instance: server.max_body_mb\n" in ended.stdout
    configure(steered.project, supervisor=QUICK)


# -- slots ------------------------------------------------------------------------------------------------


async def test_scale_up_and_down(steered: Instance) -> None:
    assert (await run(steered, "scale", "3")).returncode == 0
    await eventually(lambda: [w.slot for w in steered.ready_workers()] == [0, 1, 2], 20, "three serve")
    where = {
        (await invoke(steered.port, new_session(), "x")).headers["x-agentscope-worker"] for _ in range(40)
    }
    assert {worker.split(".")[0] for worker in where} == {"0", "1", "2"}
    assert (await run(steered, "scale", "2")).returncode == 0
    await eventually(lambda: [w.slot for w in steered.workers()] == [0, 1], 20, "two are left")
    assert await texts(steered.port, new_session(), "as before") == ["as before"]
    assert (await run(steered, "scale", "0")).returncode == 2


async def test_reset_closes_the_breaker_and_starts_the_worker_at_once(
    start_instance: Callable[..., Instance],
) -> None:
    instance = start_instance(workers=1)
    for generation in range(1, 6):
        instance.wait_generation(0, generation)
        assert (await run(instance, "kill", "0")).returncode == 0
    status = await ask(instance, "status")
    slot = status["slots"][0]
    assert slot["breaker_open"] is True
    assert slot["starts_in"] > 15
    assert "breaker open, starts in " in (await run(instance, "status")).stdout
    assert (await run(instance, "reset", "0")).returncode == 0
    instance.wait_generation(0, 6)
    slot = (await ask(instance, "status"))["slots"][0]
    assert (slot["breaker_open"], slot["starts_in"]) == (False, None)


async def test_an_unknown_worker_or_slot_is_refused_with_the_known_ones(steered: Instance) -> None:
    ended = await run(steered, "kill", "7.1")
    assert ended.returncode == 1
    assert steered.ready_workers()[0].label in ended.stderr
    ended = await run(steered, "reset", "7")
    assert (ended.returncode, "slots are 0 to 1" in ended.stderr) == (1, True)


# -- the instance -----------------------------------------------------------------------------------------


async def test_maintenance_refuses_turns_and_reports_not_ready(steered: Instance) -> None:
    assert (await run(steered, "maintenance", "on")).returncode == 0
    refused = await invoke(steered.port, new_session(), "x")
    assert (refused.status, refused.code) == (503, "DRAINING")
    assert "maintenance" in refused.json["error"]["message"]
    assert (await call(steered.port, "GET", "/health")).json["status"] == "draining"
    assert (await call(steered.port, "GET", "/readiness")).status == 503
    assert (await call(steered.port, "GET", "/liveness")).status == 200
    assert "refuses turns: the instance is in maintenance" in (await run(steered, "status")).stdout
    assert (await run(steered, "maintenance", "off")).returncode == 0
    assert await texts(steered.port, new_session(), "again") == ["again"]


def _unready(instance: Instance) -> bool:
    return json.loads(instance.command("status", "--json").stdout)["unready"] is not None


async def test_drain_returns_after_the_last_turn(steered: Instance, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with Stream(steered.port, new_session(), [{"say": "1"}, {"wait_for": str(gate)}]) as stream:
        await stream.until(events=1)
        draining = asyncio.create_task(run(steered, "drain"))
        await eventually(lambda: _unready(steered), 20, "the instance drains")
        assert (await invoke(steered.port, new_session(), "x")).code == "DRAINING"
        assert not draining.done()
        gate.touch()
        await stream.whole()
    assert (await draining).returncode == 0
    assert (await run(steered, "maintenance", "off")).returncode == 0


async def test_loglevel_changes_what_is_logged(steered: Instance) -> None:
    assert (await run(steered, "loglevel", "error")).returncode == 0
    await run(steered, "scale", "2")
    assert "number of slots changes" not in (await run(steered, "events", "-n", "1")).stdout
    assert (await run(steered, "loglevel", "info")).returncode == 0
    await run(steered, "scale", "2")
    assert "number of slots changes" in (await run(steered, "events", "-n", "1")).stdout


async def test_stop_wait_returns_when_the_instance_has_exited(
    start_instance: Callable[..., Instance],
) -> None:
    instance = start_instance(workers=1)
    async with Stream(instance.port, new_session(), [{"say": "1"}, {"sleep": 1}, {"say": "2"}]) as stream:
        await stream.until(events=1)
        stopping = asyncio.create_task(run(instance, "stop", "--wait"))
        assert [event.text for event in await stream.whole()] == ["1", "2"]
    ended = await stopping
    assert (ended.returncode, ended.stdout) == (0, "stopped\n")
    assert instance.wait_exit(5) == 0
    assert not (instance.directory / "control.sock").exists()
    ended = await run(instance, "status")
    assert (ended.returncode, "no instance is running" in ended.stderr) == (1, True)


async def test_a_stopping_instance_refuses_commands_that_change_it(
    start_instance: Callable[..., Instance],
) -> None:
    instance = start_instance(supervisor={"soak": 60, "drain_timeout": 60})
    async with Stream(instance.port, new_session(), [{"say": "1"}, {"sleep": 60}]) as stream:
        await stream.until(events=1)
        rolling = asyncio.create_task(run(instance, "roll", "--wait"))
        await eventually(lambda: len(instance.workers()) == 3, 20, "the first successor is there")
        assert (await run(instance, "stop")).returncode == 0
        ended = await rolling
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr == "Error: the rollout was interrupted: the instance is stopping\n"
        for command in (["scale", "3"], ["roll"], ["reload"]):
            ended = await run(instance, *command)
            assert (ended.returncode, ended.stdout) == (1, ""), command
            assert "the instance is stopping" in ended.stderr
        assert (await run(instance, "stop", "--now", "--wait")).returncode == 0
        await stream.whole(error="DRAINING")


async def test_stop_now_does_not_wait_for_turns(start_instance: Callable[..., Instance]) -> None:
    instance = start_instance(workers=1)
    async with Stream(instance.port, new_session(), [{"say": "1"}, {"sleep": 60}]) as stream:
        await stream.until(events=1)
        assert (await run(instance, "stop", "--now", "--wait")).returncode == 0
        await stream.whole(error="DRAINING")
    assert instance.wait_exit(5) == 0


def test_only_its_user_can_access_the_control_socket(steered: Instance) -> None:
    socket = (steered.directory / "control.sock").stat()
    assert stat.S_ISSOCK(socket.st_mode)
    assert stat.S_IMODE(socket.st_mode) == 0o600
    assert stat.S_IMODE(steered.directory.stat().st_mode) == 0o700


async def test_with_two_instances_a_command_needs_a_name(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path]
) -> None:
    instances = [new_instance(make_project(name), name=name, workers=1) for name in ("one", "two")]
    for instance in instances:
        instance.launch()
    for instance in instances:
        instance.wait_ready()
    directory = ["--runtime-dir", str(instances[0].runtime_dir)]
    ended = await asyncio.to_thread(
        subprocess.run, [COMMAND, "status", *directory], capture_output=True, text=True, env=environment()
    )
    assert (ended.returncode, "--name: one, two" in ended.stderr) == (2, True)
    assert (await ask(instances[1], "status"))["name"] == "two"
