"""Projects that cannot start: exit status 78 within 5 s, one message that names the place, and no retry.

Also failures that may pass: on_startup is retried until `start_deadline`.
"""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.harness.instance import COMMAND, Instance, environment
from tests.harness.projects import hooks, written

REPORTED_WITHIN: Final = 15.0  # seconds; 1.5 s on two idle cores
CANNOT_WORK: Final = 78
TRY_LATER: Final = 75

GOOD_APP: Final = """
    from agentscope.runtime import AgentApp

    class App(AgentApp):
        async def __call__(self, msg, ctx):
            yield msg
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has exited: its status, its output and its duration."""

    status: int
    output: str
    seconds: float


def command(*arguments: str | Path, **variables: str) -> Ended:
    """Run a command of the product to its end."""
    began = time.monotonic()
    ran = subprocess.run(
        [COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(**variables),
        timeout=30,
        check=False,
    )
    return Ended(ran.returncode, ran.stdout.decode(), time.monotonic() - began)


def start(project: Path, tmp_path: Path, **variables: str) -> Ended:
    ended = command("start", project, "--port", "0", "--runtime-dir", tmp_path / "run", **variables)
    print(f"ended with {ended.status} after {ended.seconds:.1f} s\n{ended.output}")
    return ended


def counting_python(tmp_path: Path) -> tuple[Path, Callable[[], int]]:
    """Return an interpreter for workers, and a function that counts the workers started with it."""
    interpreter, count = tmp_path / "python", tmp_path / "starts"
    # A worker is started with -P; the command that only queries the version is not.
    script = f'#!/bin/sh\n[ "$1" = -P ] && echo start >> "{count}"\nexec "{sys.executable}" "$@"\n'
    interpreter.write_text(script, "utf-8")
    interpreter.chmod(0o755)
    return interpreter, lambda: len(count.read_text("utf-8").splitlines()) if count.exists() else 0


# -- the app ---------------------------------------------------------------------------------------

BROKEN_APPS: Final[dict[str, tuple[str | None, list[str]]]] = {
    "missing": (None, ["app.py", "App"]),
    "without App": ("x = 1\n", ["app.py", "App"]),
    "App of another base": ("class App:\n    pass\n", ["app.py", "line 1", "AgentApp"]),
    "App is a function": ("x = 1\ndef App(msg, ctx):\n    pass\n", ["app.py", "line 2", "AgentApp"]),
    "syntax error": ("x = 1\ny = 2\ndef broken(:\n    pass\n", ["app.py", "line 3", "SyntaxError"]),
    "raises on import": (
        'import os\n\n\nraise RuntimeError("no such luck")\n',
        ["app.py", "line 4", "no such luck"],
    ),
    "imports what is missing": (
        "import os\nimport no_such_module_at_all\n",
        ["app.py", "line 2", "no_such_module_at_all"],
    ),
    "exits on import": ("import sys\nsys.exit(0)\n", ["app.py", "line 2", "SystemExit"]),
}


@pytest.mark.parametrize("name", BROKEN_APPS)
@pytest.mark.fault("F20")
def test_f20_an_app_that_cannot_be_loaded_ends_the_start(tmp_path: Path, name: str) -> None:
    source, words = BROKEN_APPS[name]
    interpreter, starts = counting_python(tmp_path)
    project = written(tmp_path / "project", source, f"supervisor: {{python: {interpreter}, workers: 2}}")
    ended = start(project, tmp_path)
    assert ended.status == CANNOT_WORK
    assert ended.seconds < REPORTED_WITHIN
    for word in words:
        assert word in ended.output
    # The only interpreter that starts is the zygote.
    assert (starts(), ended.output.count("worker starts")) == (1, 1), "no start is retried, in any slot"
    assert ended.output.count("Traceback") <= 1
    assert "agentscope_worker" not in ended.output.lower(), "the traceback contains only frames of the app"
    assert ended.output.count("the app cannot start") <= 1


@pytest.mark.parametrize("name", ["missing", "syntax error", "raises on import"])
def test_check_reports_the_same_errors_of_the_app(tmp_path: Path, name: str) -> None:
    source, words = BROKEN_APPS[name]
    ended = command("check", written(tmp_path / "project", source))
    assert ended.status == CANNOT_WORK
    for word in words:
        assert word in ended.output


def test_an_error_is_printed_once(tmp_path: Path) -> None:
    project = written(tmp_path / "project", 'raise RuntimeError("a" + "b" + "c")\n')
    ended = start(project, tmp_path)
    said = [line for line in ended.output.splitlines() if "app.py, line 1" in line and "abc" in line]
    assert len(said) == 1, said


# -- agentapp.yaml -----------------------------------------------------------------------------------

BROKEN_CONFIGS: Final[dict[str, tuple[str, list[str]]]] = {
    "unknown key": ("server:\n  prot: 8080\n", ["agentapp.yaml:2", "server.prot", "did you mean", "port"]),
    "unknown section": ("\n\nservers: {}\n", ["agentapp.yaml:3", "servers", "did you mean", "server"]),
    "unset variable": (
        "models:\n  main:\n    provider: openai\n    model: x\n    api_key: ${NO_SUCH_VARIABLE}\n",
        ["agentapp.yaml:5", "models.main.api_key", "NO_SUCH_VARIABLE"],
    ),
    "unset variable in a header": (
        "mcp_servers:\n  a:\n    url: http://localhost\n    transport: sse\n"
        "    headers:\n      X-Key: ${NO_SUCH_VARIABLE}\n",
        ["agentapp.yaml:6", "mcp_servers.a.headers.X-Key", "NO_SUCH_VARIABLE"],
    ),
    "wrong type": ("server:\n  port: many\n", ["agentapp.yaml:2", "server.port", "many"]),
    "below its bound": ("server:\n  port: -1\n", ["agentapp.yaml:2", "server.port", "-1"]),
    "negative duration": ("sessions:\n  cancel_grace: -5\n", ["agentapp.yaml:2", "sessions.cancel_grace"]),
    "no worker": ("supervisor: {workers: 0}\n", ["agentapp.yaml:1", "supervisor.workers"]),
    "not among the choices": (
        "sessions:\n  on_busy: maybe\n",
        ["agentapp.yaml:2", "sessions.on_busy", "maybe", "queue", "reject"],
    ),
    "unknown provider": (
        "models:\n  main: {provider: nobody, model: x}\n",
        ["agentapp.yaml:2", "models.main.provider", "nobody", "openai"],
    ),
    "missing key": ("models:\n  main:\n    provider: openai\n", ["agentapp.yaml", "models.main.model"]),
    "no YAML": ("server: {port: 1\n", ["agentapp.yaml"]),
    "tab": ("server:\n\tport: 1\n", ["agentapp.yaml:2"]),
    "a list": ("- server\n", ["agentapp.yaml"]),
    "a word": ("hello\n", ["agentapp.yaml"]),
    "duplicate key": ("server: {port: 1}\nserver: {port: 2}\n", ["agentapp.yaml:2", "server"]),
}


@pytest.mark.parametrize("name", BROKEN_CONFIGS)
def test_an_invalid_configuration_ends_the_start(tmp_path: Path, name: str) -> None:
    text, words = BROKEN_CONFIGS[name]
    interpreter, starts = counting_python(tmp_path)
    project = written(tmp_path / "project", GOOD_APP)
    (project / "agentapp.yaml").write_text(text, "utf-8")
    ended = start(project, tmp_path, PATH=f"{interpreter.parent}:/usr/bin:/bin")
    assert ended.status == CANNOT_WORK
    assert ended.seconds < REPORTED_WITHIN
    for word in words:
        assert word in ended.output, word
    assert "Traceback" not in ended.output
    assert starts() == 0
    assert not list((tmp_path).glob("run/*/*/instance.json")), "the instance never listened"
    checked = command("check", project)
    assert checked.status == CANNOT_WORK
    for word in words:
        assert word in checked.output, word


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    text = """
        server:
          prot: 1
          port: -1
        sessions:
          on_busy: maybe
        models:
          main:
            provider: openai
            model: x
            api_key: ${NO_SUCH_VARIABLE}
    """
    ended = start(written(tmp_path / "project", GOOD_APP, text), tmp_path)
    assert ended.status == CANNOT_WORK
    for word in ("server.prot", "server.port", "sessions.on_busy", "NO_SUCH_VARIABLE"):
        assert word in ended.output


def test_errors_contain_no_secrets(tmp_path: Path) -> None:
    text = "models: {main: {provider: nobody, model: x, api_key: '${KEY}'}}\nserver: {auth_token: ['${KEY}']}"
    ended = start(written(tmp_path / "project", GOOD_APP, text), tmp_path, KEY="hush-hush")
    assert ended.status == CANNOT_WORK
    assert "hush-hush" not in ended.output


@pytest.mark.parametrize("project", ["nowhere", "a-file", "empty-folder"])
def test_a_path_that_is_not_a_project_is_refused(tmp_path: Path, project: str) -> None:
    (tmp_path / "a-file").touch()
    (tmp_path / "empty-folder").mkdir()
    ended = start(tmp_path / project, tmp_path)
    assert ended.status in (2, CANNOT_WORK)
    assert project in ended.output
    assert "Traceback" not in ended.output


def test_the_option_config_selects_another_file(tmp_path: Path) -> None:
    project = written(tmp_path / "project", GOOD_APP, "nonsense: 1")
    (project / "other.yaml").write_text("", "utf-8")
    assert command("check", project, "--config", "other.yaml").status == 0
    ended = command("check", project, "--config", "missing.yaml")
    assert ended.status == CANNOT_WORK
    assert "missing.yaml" in ended.output


# -- on_startup --------------------------------------------------------------------------------------


@pytest.mark.fault("F23")
def test_f23_on_startup_is_retried_until_it_succeeds(
    start_instance: Callable[..., Instance], make_project: Callable[..., Path], tmp_path: Path
) -> None:
    project, tries = make_project(), tmp_path / "tries"
    raises: dict[str, Any] = {"raise": "database is away", "only_first": 2, "counted_in": str(tries)}
    hooks(project, startup=[raises])
    instance = start_instance(project, workers=1)
    assert len(tries.read_text("utf-8").splitlines()) == 3
    assert "database is away" in instance.log
    assert instance.log.count("Traceback") == 1, "the traceback is logged once"
    limit = "supervisor.start_deadline: 300 s after the start of the instance"
    tries_again = re.findall(
        rf"next try of the worker slot=0 seconds=\d+\.\d limit={limit}$", instance.log, re.M
    )
    assert len(tries_again) == 2


@pytest.mark.timed
@pytest.mark.fault("F23")
def test_f23_on_startup_that_always_raises_fails_at_the_start_deadline(
    make_project: Callable[..., Path], tmp_path: Path
) -> None:
    project, tries = make_project(supervisor={"start_deadline": 6, "workers": 2}), tmp_path / "tries"
    hooks(project, startup=[{"note": str(tries)}, {"raise": "database is away"}])
    ended = start(project, tmp_path)
    assert ended.status == TRY_LATER
    assert "database is away" in ended.output
    assert len(tries.read_text("utf-8").splitlines()) >= 2, "on_startup was retried"
    assert ended.output.count("Traceback") == 1, "the traceback is printed once"
    _, _, last_words = ended.output.partition("agentscope-supervisor: the app cannot start\n\n")
    assert last_words.endswith("App.on_startup() raised RuntimeError: database is away\n")
    assert ended.seconds < 30


@pytest.mark.fault("F22")
def test_f22_a_hanging_on_startup_is_ended_by_start_timeout(
    make_project: Callable[..., Path], tmp_path: Path
) -> None:
    # Long enough to reach on_startup on a busy machine.
    project = make_project(supervisor={"start_timeout": 12, "start_deadline": 12})
    hooks(project, startup=[{"block": 600}])
    ended = start(project, tmp_path)
    assert ended.status == TRY_LATER
    assert ended.seconds < 60
    assert "not ready within supervisor.start_timeout: 12 s" in ended.output
    assert re.search(r'app\.py", line \d+ in perform', ended.output), "the stacks show where it hangs"
