"""The commands as a user types them: their output and their exit status."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import psutil
import pytest
from click.testing import CliRunner

from agentscope_supervisor.cli.main import main
from tests.harness.client import call, new_session, texts
from tests.harness.instance import COMMAND, Instance, environment, free_port, run
from tests.harness.projects import written
from tests.harness.waiting import wait_until

AGENTSCOPE: Final = COMMAND.with_name("agentscope")
WRONG_USAGE: Final = 2


# -- usage ---------------------------------------------------------------------------------------------


def test_help_names_every_command() -> None:
    shown = run(COMMAND, "--help")
    assert shown.returncode == 0
    for name in ("start", "run", "check", "new", "schema", "invoke"):
        assert re.search(rf"^  {name}\b", shown.stdout, re.MULTILINE), name


def test_help_describes_every_command_and_option_in_80_columns() -> None:
    shown = run(COMMAND, "--help").stdout
    commands = re.findall(r"^  (\w+) ", shown.partition("Commands:\n")[2], re.MULTILINE)
    assert re.search(r"\.\.\.$", shown.partition("Commands:\n")[2], re.MULTILINE) is None
    assert len(commands) > 20
    for name in commands:
        # Not a process for each, which take 10 s of CPU. Click keeps two columns of the terminal free.
        text = CliRunner().invoke(main, [name, "--help"], terminal_width=78).output
        assert max(map(len, text.splitlines())) <= 80, name
        options = re.split(r"\n  (?=-)", text.partition("Options:")[2])[1:]
        assert [each for each in options if not re.search(r"\w\.(\s|$)", each)] == [], name


def test_help_names_every_option_of_start() -> None:
    shown = run(COMMAND, "start", "--help")
    assert shown.returncode == 0
    for option in (
        *("--port", "--config", "--no-platform", "--log-level", "--host", "--workers"),
        *("--log-format", "--runtime-dir", "--name"),
    ):
        assert option in shown.stdout
    shown = run(AGENTSCOPE, "run", "--help")
    assert shown.returncode == 0
    assert re.findall(r"--[\w-]+", shown.stdout) == re.findall(
        r"--[\w-]+", run(COMMAND, "run", "--help").stdout
    )
    assert "--workers" in shown.stdout


def test_version() -> None:
    shown = run(COMMAND, "--version")
    assert shown.returncode == 0
    assert re.search(r"\d+\.\d+.* \((plain Python|compiled)\)$", shown.stdout.strip())


@pytest.mark.parametrize(
    "arguments",
    [
        ["strat"],
        ["start", "--prot", "1"],
        ["start", "--port", "many"],
        ["start", "--port", "70000"],
        ["start", "--workers", "0"],
        ["start", "--workers", "some"],
        ["start", "--log-level", "loud"],
        ["start", "--log-format", "xml"],
        ["start", "a", "b"],
        ["start", "--name", "../x"],
        ["new"],
        ["invoke", "text"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_status_2(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "agentapp.yaml").touch()
    ended = run(COMMAND, *arguments, cwd=tmp_path)
    assert ended.returncode == WRONG_USAGE, ended.stderr
    assert "Traceback" not in ended.stderr


# -- check, schema ---------------------------------------------------------------------------------


def test_check_accepts_a_valid_project(make_project: Callable[..., Path]) -> None:
    ended = run(COMMAND, "check", make_project())
    assert ended.returncode == 0, ended.stderr


def test_check_reports_requirements_that_are_not_met(make_project: Callable[..., Path]) -> None:
    project = make_project()
    (project / "requirements.txt").write_text("# ours\npytest>=1\nno-such-package-here==1.0\naiohttp<1\n")
    ended = run(COMMAND, "check", project)
    printed = ended.stdout + ended.stderr
    assert ended.returncode == 78
    assert "no-such-package-here" in printed
    assert "aiohttp<1" in printed
    assert "pip install" in printed
    assert "pytest" not in printed.replace("pytest-of", ""), "an installed requirement is not mentioned"


def test_check_starts_nothing(tmp_path: Path) -> None:
    app = """
        from agentscope.runtime import AgentApp

        class App(AgentApp):
            async def on_startup(self):
                open("started", "w").close()

            async def __call__(self, msg, ctx):
                yield msg
    """
    project = written(tmp_path / "project", app)
    assert run(COMMAND, "check", project).returncode == 0
    assert not (project / "started").exists()


def test_schema_is_json() -> None:
    shown = run(COMMAND, "schema")
    assert shown.returncode == 0
    schema = json.loads(shown.stdout)
    assert {"models", "server", "sessions", "supervisor"} <= set(schema["properties"])


# -- invoke -----------------------------------------------------------------------------------------------


def test_invoke_streams_the_answer(shared: Instance) -> None:
    reach = ("--runtime-dir", shared.runtime_dir, "--name", shared.name)
    answer = run(COMMAND, "invoke", *reach, "-s", "shell", "good morning")
    assert (answer.returncode, answer.stdout.strip()) == (0, "good morning")
    # The name is not needed if one instance is running; the project folder identifies it too.
    answer = run(
        COMMAND, "invoke", shared.project, "--runtime-dir", shared.runtime_dir, "-s", "shell", "again"
    )
    assert (answer.returncode, answer.stdout.strip()) == (0, "again")


def test_invoke_prints_the_error_of_a_turn(shared: Instance) -> None:
    reach = ("--runtime-dir", shared.runtime_dir, "--name", shared.name)
    for script in ('[{"raise": "out of luck"}]', '[{"say": "x"}, {"raise": "out of luck"}]'):
        answer = run(COMMAND, "invoke", *reach, "-s", "shell", script)
        assert answer.returncode == 1
        assert "out of luck" in answer.stderr
        assert "Traceback" not in answer.stderr


def test_invoke_fails_without_an_instance(tmp_path: Path) -> None:
    (tmp_path / "agentapp.yaml").touch()
    ended = run(COMMAND, "invoke", "--runtime-dir", tmp_path, "-s", "x", "hello", cwd=tmp_path)
    assert ended.returncode == 1
    assert "no instance" in ended.stderr


# -- agentscope run ------------------------------------------------------------------------------------------


@pytest.fixture
def developer(make_project: Callable[..., Path], tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """`agentscope run` in a project folder; yields its port and its log file."""
    project, port, log = make_project(supervisor={"workers": 2}), free_port(), tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [AGENTSCOPE, "run", "--port", str(port), "--log-level", "debug"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=project,
            env=environment(XDG_RUNTIME_DIR=str(tmp_path)),
        )
    try:
        wait_until(
            lambda: process.poll() is not None or "is ready" in log.read_text(), 30, "the instance is ready"
        )
        yield port, log
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()


async def test_agentscope_run_has_one_worker_and_the_console(developer: tuple[int, Path]) -> None:
    port, log = developer
    assert (await call(port, "GET", "/console")).status == 200
    assert "/console" in log.read_text()
    assert await texts(port, "me", "hello") == ["hello"]
    assert str(port) in log.read_text()
    assert "worker=1." not in log.read_text(), "one worker, although the file sets two"


IN_A_WINDOW: Final = "import pty, sys; pty.spawn(sys.argv[1:])"
"""Runs a command in a new terminal and prints what it writes; its end closes the terminal."""


def test_closing_the_terminal_ends_agentscope_run(make_project: Callable[..., Path], tmp_path: Path) -> None:
    project, port, log = make_project(), free_port(), tmp_path / "log"
    shell = ["sh", "-c", '"$0" run --port "$1"; exit', AGENTSCOPE, str(port)]
    with log.open("wb") as output:
        window = subprocess.Popen(
            [sys.executable, "-c", IN_A_WINDOW, *shell],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=project,
            env=environment(XDG_RUNTIME_DIR=str(tmp_path)),
        )
    supervisor = None
    try:
        wait_until(lambda: "is ready" in log.read_text(), 30, "the instance is ready")
        (pid,) = re.findall(r"listening .* pid=(\d+)", log.read_text())
        supervisor = psutil.Process(int(pid))
        supervisor.send_signal(signal.SIGHUP)
        wait_until(lambda: "rollout done" in log.read_text(), 30, "a HUP with the terminal open reloads")
        window.kill()  # as a user closes a window: the kernel hangs the terminal up
        wait_until(lambda: not is_alive(supervisor), 15, "the instance has ended")
        with socket.socket() as freed:
            freed.bind(("127.0.0.1", port))
    finally:
        window.kill()
        window.wait()
        if supervisor is not None and is_alive(supervisor):
            supervisor.kill()


def is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


# -- logs ---------------------------------------------------------------------------------------------------


async def test_json_logs_are_one_object_per_line(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path]
) -> None:
    project = make_project()
    arguments = ("--log-format", "json", "--log-level", "debug")
    instance = new_instance(project, workers=1, arguments=arguments).start()
    assert await texts(instance.port, "me", [{"print": 'a "quoted" line'}, {"say": "secret words"}]) == [
        "secret words"
    ]
    assert instance.stop() == 0
    lines = [json.loads(line) for line in instance.log.splitlines()]
    assert len(lines) > 3
    assert all(isinstance(line, dict) for line in lines)
    assert any('a "quoted" line' in str(line.values()) for line in lines)
    assert "secret words" not in instance.log, "messages are never logged"


async def test_an_instance_serves_although_its_standard_streams_are_closed(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path]
) -> None:
    """As by a program that closes all files before it starts another one. Only the log on stderr is lost."""
    under = ["/bin/sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh"]
    instance = new_instance(make_project(), workers=1, under=under).start()
    assert await texts(instance.port, new_session(), [{"print": "seen"}, {"say": "done"}]) == ["done"]
    assert standard_streams_of(instance.pid) == ["/dev/null"] * 3, "no other file has their numbers"
    assert "seen" in instance.command("logs").stdout


def standard_streams_of(pid: int) -> list[str]:
    return [str(Path(f"/proc/{pid}/fd/{number}").readlink()) for number in range(3)]


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
def test_a_start_that_cannot_print_its_error_has_the_status_of_it(tmp_path: Path, stderr: str) -> None:
    line = f'exec "$@" {stderr}'
    assert run("/bin/sh", "-c", line, "sh", COMMAND, "start", tmp_path / "nothing").returncode == 78
