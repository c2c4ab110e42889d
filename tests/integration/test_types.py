"""`agentscope-supervisor types`, checked with mypy and pyright as an author runs them, on each AgentScope."""

import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from agentscope_supervisor.project.stubs import CLASSES
from tests.harness.instance import COMMAND, environment
from tests.harness.projects import written

pytestmark = pytest.mark.agentscope2


CONFIG: Final = """
    models:
      main: {provider: openai, model: m, api_key: "${NO_SUCH_VARIABLE}"}
      small: {provider: openai, model: m}
      judge: {provider: anthropic, model: m}
      property: {provider: ollama, model: m}
    server: {port: "${NO_SUCH_PORT}"}
"""
GOOD_APP: Final = """
    from agentscope.message import Msg, TextBlock
    from agentscope.model import ChatModelBase
    from agentscope.runtime import AgentApp, SessionContext, runtime
    from agentscope.tool import Toolkit


    class App(AgentApp):
        async def on_startup(self) -> None:
            self.model: ChatModelBase = runtime.models.judge
            self.tools: Toolkit = runtime.tools
            self.named = {name: runtime.models[name] for name in runtime.models}
            assert "main" in runtime.models and len(runtime.models) == 4 and runtime.is_initialized

        async def on_session_stale(self, ctx: SessionContext) -> None:
            print(ctx.session_id, ctx.metadata.get("user_id"), ctx.run_id)

        async def __call__(self, msg: Msg, ctx: SessionContext):
            state: dict[str, object] | None = await runtime.session.load_session_state(ctx.session_id)
            user: str = ctx.metadata["user_id"] + ctx.run_id + ctx.trace.get("traceparent", "")
            await runtime.models["small"]([msg])
            await runtime.models.property([msg])
            async for chunk in runtime.models.main.stream([msg]):
                text: str = chunk.text
                yield Msg(name=user, content=[TextBlock(type="text", text=text)], role="assistant")
            await runtime.session.save_session_state(ctx.session_id, user_id=user, state=state)
"""
BAD_APP: Final = """
    from agentscope.runtime import AgentApp, SessionContext, runtime


    class App(AgentApp):
        async def __call__(self, msg, ctx: SessionContext):
            runtime.models.mian                                     # flagged
            runtime.models["mian"]                                  # flagged
            runtime.models.main.strem([msg])                        # flagged
            runtime.models.main.stream([msg]).text                  # flagged
            runtime.modles                                          # flagged
            ctx.sesion_id                                           # flagged
            ctx.metadata.user                                       # flagged
            ctx.run_id + 1                                          # flagged
            SessionContext()                                        # flagged
            await runtime.session.save_session_state(1)             # flagged
            yield msg
"""
# The tests need no types of these packages, which are most of what mypy would read for AgentScope.
_NOT_READ: Final = """
[[tool.mypy.overrides]]
module = ["anthropic.*", "dashscope.*", "google.*", "mcp.*", "numpy.*", "openai.*", "sqlalchemy.*"]
follow_imports = "skip"
follow_imports_for_stubs = true
"""
FLAGGED: Final = {number for number, line in enumerate(BAD_APP.splitlines(), 1) if "# flagged" in line}


def types(project: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "types", project],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=30,
        check=False,
    )


def pyright(project: Path, python: str) -> set[tuple[str, int]]:
    """Return file and line of each error that pyright finds, without configuration."""
    return _errors(project, ["pyright", "--pythonpath", python])


def mypy(project: Path, python: str) -> set[tuple[str, int]]:
    """Return file and line of each error that mypy finds, with the configuration that the command prints."""
    line = re.search(r"^ *(mypy_path = .*)$", types(project).stdout, re.MULTILINE)
    assert line is not None
    (project / "pyproject.toml").write_text(f"[tool.mypy]\n{line[1]}\n{_NOT_READ}")
    return _errors(project, ["mypy", "--check-untyped-defs", "--python-executable", python])


def _errors(project: Path, command: list[str]) -> set[tuple[str, int]]:
    ran = subprocess.run(
        [Path(sys.executable).with_name(command[0]), *command[1:], "app.py", "bad.py"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=project,
        timeout=110,
        check=False,
    )
    print(ran.stdout)
    found = re.findall(r"(\w+\.py):(\d+)(?::\d+)?(?: -|:) error", ran.stdout)
    assert ran.returncode == (1 if found else 0), "the checker has run to its end"
    return {(file, int(line)) for file, line in found}


@pytest.mark.parametrize("checker", [pyright, mypy])
def test_a_correct_app_passes_and_each_mistake_is_flagged(
    tmp_path: Path, checker: Callable[[Path, str], set[tuple[str, int]]], python_of_each_major: str
) -> None:
    project = written(tmp_path / "project", GOOD_APP, CONFIG)
    (project / "bad.py").write_text(textwrap.dedent(BAD_APP))
    assert types(project).returncode == 0
    assert checker(project, python_of_each_major) == {("bad.py", line) for line in FLAGGED}


def test_types_prints_its_files_and_the_setting_for_mypy(tmp_path: Path) -> None:
    project = written(tmp_path / "project", None, CONFIG)
    ended = types(project)
    assert ended.returncode == 0, ended.stderr
    assert "created typings/agentscope/runtime.pyi" in ended.stdout
    assert 'mypy_path = "$MYPY_CONFIG_FILE_DIR/typings"' in ended.stdout
    (project / "mypy.ini").write_text("[mypy]\nmypy_path = typings\n")
    assert "mypy" not in types(project).stdout


def test_types_does_not_overwrite_a_file_of_the_author(tmp_path: Path) -> None:
    project = written(tmp_path / "project", None, CONFIG)
    stub = project / "typings" / "agentscope" / "runtime.pyi"
    stub.parent.mkdir(parents=True)
    stub.write_text("mine: int\n")
    ended = types(project)
    assert ended.returncode == 1
    assert "was not made by this command" in ended.stderr
    assert stub.read_text() == "mine: int\n"


@pytest.mark.parametrize(
    "config, expected",
    [
        ("models: {main: {provider: opnai, model: m}}", "agentapp.yaml:1: models.main.provider: 'opnai'"),
        ("models: {_main: {provider: openai, model: m}}", "models._main: "),
        ("models: [", "agentapp.yaml:1"),
    ],
)
def test_invalid_slots_are_reported(tmp_path: Path, config: str, expected: str) -> None:
    ended = types(written(tmp_path / "project", None, config))
    assert ended.returncode == 78
    assert expected in ended.stderr


def test_the_classes_exist_in_agentscope(python_of_each_major: str) -> None:
    code = f"import agentscope.model as m; print(all(hasattr(m, each) for each in {list(CLASSES.values())}))"
    ran = subprocess.run([python_of_each_major, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "True"
