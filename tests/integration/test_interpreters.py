"""`supervisor.python`: workers run in the project's own environment, the supervisor in another."""

import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Final

import pytest

from tests.harness.client import texts
from tests.harness.instance import COMMAND, Instance, environment
from tests.harness.projects import written

pytestmark = pytest.mark.agentscope2


TOLD_WITHIN: Final = 5.0  # seconds
CANNOT_WORK: Final = 78

APP: Final = """
    import sys

    import agentscope
    from agentscope.message import Msg
    from agentscope.runtime import AgentApp


    class App(AgentApp):
        async def __call__(self, msg, ctx):
            yield Msg(name="a", content=f"{agentscope.__version__} in {sys.executable}", role="assistant")
"""
# Without pip an environment is made in milliseconds.
WITHOUT_PIP: Final = ["-m", "venv", "--without-pip"]


@pytest.fixture(params=["start", "check"])
def command(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Path], str]:
    """Returns a function that runs `start` or `check` on a broken project and returns the message."""
    more = ["--port", "0", "--runtime-dir", tmp_path / "run"] if request.param == "start" else []

    def run(project: Path) -> str:
        began = time.monotonic()
        ended = subprocess.run(
            [COMMAND, request.param, project, *more],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
            timeout=30,
            check=False,
        )
        print(ended.stdout)
        assert ended.returncode == CANNOT_WORK
        assert time.monotonic() - began < TOLD_WITHIN
        assert "Traceback" not in ended.stdout
        messages = [
            line for line in ended.stdout.splitlines() if "supervisor.python" in line or "pip" in line
        ]
        assert len(messages) == 1, "the message is printed once"
        return messages[0]

    return run


def project(tmp_path: Path, python: str) -> Path:
    return written(tmp_path / "project", APP, f"supervisor: {{python: {python!r}, workers: 1}}")


def fake(path: Path, script: str, mode: int = 0o755) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script)
    path.chmod(mode)
    return str(path)


# -- another environment ---------------------------------------------------------------------------------


@pytest.fixture
def project_v1(tmp_path: Path, python_v1: str) -> Path:
    """A project with its own environment, on AgentScope 1.x. Its path contains a symlink, as is common."""
    folder = project(tmp_path, ".venv/bin/python")
    (folder / ".venv").symlink_to(Path(python_v1).parents[1])
    return folder


async def test_a_1x_project_runs_under_a_supervisor_with_2x(
    project_v1: Path, new_instance: Callable[..., Instance]
) -> None:
    assert metadata.version("agentscope").startswith("2.")
    instance = new_instance(project_v1, workers=1).start()
    (answer,) = await texts(instance.port, "me", "hello")
    assert answer.startswith("1.")
    assert answer.endswith(f" in {project_v1}/.venv/bin/python")


def test_check_accepts_a_1x_project_under_a_supervisor_with_2x(project_v1: Path) -> None:
    (project_v1 / "requirements.txt").write_text("agentscope<2\n")
    ended = subprocess.run([COMMAND, "check", project_v1], env=environment(), timeout=60, check=False)
    assert ended.returncode == 0


async def test_an_interpreter_is_found_on_path_by_name(
    tmp_path: Path, new_instance: Callable[..., Instance]
) -> None:
    script = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
    fake(tmp_path / "bin" / "our-python", script)
    variables = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    instance = new_instance(project(tmp_path, "our-python"), workers=1, variables=variables).start()
    assert len(await texts(instance.port, "me", "hello")) == 1


async def test_a_slow_interpreter_is_not_refused(
    tmp_path: Path, new_instance: Callable[..., Instance]
) -> None:
    script = f'#!/bin/sh\n[ "$1" = -c ] && exec sleep 20\nexec "{sys.executable}" "$@"\n'
    instance = new_instance(project(tmp_path, fake(tmp_path / "slow", script)), workers=1).start()
    assert len(await texts(instance.port, "me", "hello")) == 1


# -- errors ----------------------------------------------------------------------------------------------


@pytest.mark.timed
@pytest.mark.parametrize("python", [".venv/bin/python", "/nowhere/python", "python-of-nobody"])
def test_an_interpreter_that_does_not_exist(
    tmp_path: Path, command: Callable[[Path], str], python: str
) -> None:
    message = command(project(tmp_path, python))
    path = str(tmp_path / "project" / python) if python.startswith(".venv") else python
    assert f"supervisor.python: {path} does not exist; set it to the interpreter" in message


@pytest.mark.timed
def test_a_script_whose_interpreter_does_not_exist(tmp_path: Path, command: Callable[[Path], str]) -> None:
    python = fake(tmp_path / "python", "#!/nowhere/python\n")
    assert f"supervisor.python: {python} points to a file that does not exist" in command(
        project(tmp_path, python)
    )


@pytest.mark.timed
def test_a_dangling_link(tmp_path: Path, command: Callable[[Path], str]) -> None:
    """A virtual environment whose Python was removed, for example by a system upgrade."""
    (tmp_path / "python").symlink_to("/nowhere/python3.10")
    assert "points to a file that does not exist" in command(project(tmp_path, str(tmp_path / "python")))


@pytest.mark.timed
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_file_that_is_not_executable(tmp_path: Path, command: Callable[[Path], str], kind: str) -> None:
    python = str(tmp_path) if kind == "folder" else fake(tmp_path / "python", "", mode=0o644)
    assert f"supervisor.python: {python} is not executable" in command(project(tmp_path, python))


@pytest.mark.timed
def test_a_file_that_is_not_a_program(tmp_path: Path, command: Callable[[Path], str]) -> None:
    message = command(project(tmp_path, fake(tmp_path / "python", "\0\1\2")))
    assert "cannot be run: Exec format error" in message


@pytest.mark.timed
@pytest.mark.parametrize("python", ["/bin/true", "/bin/false", "/bin/cat"])
def test_a_program_that_is_not_python(tmp_path: Path, command: Callable[[Path], str], python: str) -> None:
    assert f"supervisor.python: {python} does not work" in command(project(tmp_path, python))


@pytest.mark.timed
def test_a_python_that_is_too_old(tmp_path: Path, command: Callable[[Path], str]) -> None:
    message = command(
        project(tmp_path, fake(tmp_path / "python", "#!/bin/sh\necho '[[3, 10, 12], [], null]'\n"))
    )
    assert "python is Python 3.10.12; workers need 3.11 or newer" in message


@pytest.mark.timed
def test_a_python_without_this_package(tmp_path: Path, command: Callable[[Path], str]) -> None:
    folder = project(tmp_path, ".venv/bin/python")
    subprocess.run([sys.executable, *WITHOUT_PIP, folder / ".venv"], check=True)
    message = command(folder)
    python = f"{folder}/.venv/bin/python"
    assert (
        f"supervisor.python: {python} does not have this package installed (cannot import agentscope_worker, "
        in message
    )
    assert message.endswith(f"To fix it: {python} -m pip install agentscope-supervisor")


@pytest.mark.timed
def test_a_python_with_agentscope_1x_without_this_package(
    tmp_path: Path, command: Callable[[Path], str]
) -> None:
    folder = project(tmp_path, ".venv/bin/python")
    packages = _empty_environment(folder / ".venv")
    (packages / "agentscope-1.0.21.dist-info").mkdir()
    (packages / "agentscope-1.0.21.dist-info" / "METADATA").write_text("Name: agentscope\nVersion: 1.0.21\n")
    assert command(folder).endswith(".venv/bin/python -m pip install 'agentscope-supervisor[v1]'")


@pytest.mark.timed
def test_a_python_without_agentscope(tmp_path: Path, command: Callable[[Path], str]) -> None:
    """The environment has everything that a worker needs to report the error, except AgentScope."""
    folder = project(tmp_path, ".venv/bin/python")
    packages = _empty_environment(folder / ".venv")
    for ours in Path(sysconfig.get_path("purelib")).iterdir():
        if ours.name != "agentscope" and not ours.name.startswith("agentscope-"):
            (packages / ours.name).symlink_to(ours)
    message = command(folder)
    assert "AgentScope is not installed in this environment" in message
    assert f"{folder}/.venv/bin/python -m pip install " in message


def _empty_environment(folder: Path) -> Path:
    """Make a virtual environment and return its site-packages."""
    subprocess.run([sys.executable, *WITHOUT_PIP, folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    return packages
