"""`new`: its templates, its questions, and the offline model, on the AgentScope that is installed."""

import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from agentscope_supervisor.project.new_project import TEMPLATES
from tests.harness.instance import COMMAND, Instance, environment, run
from tests.harness.terminal import Terminal

FILES = (
    ".env, .env.example, .gitignore, README.md, agentapp.yaml, app.py, requirements.txt, tests/test_app.py"
)

pytestmark = pytest.mark.agentscope


def test_the_tests_of_every_new_project_pass(tmp_path: Path) -> None:
    """One process runs them all, because most of the time goes into the import of AgentScope."""
    projects = {name: tmp_path / f"{name}_project" for name in TEMPLATES}
    for name, project in projects.items():
        created = run(COMMAND, "new", project, "--template", name)
        assert created.returncode == 0, created.stderr
    tests = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--import-mode=importlib",
            "-p",
            "no:cacheprovider",
            *projects.values(),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(HTTPS_PROXY="http://127.0.0.1:1"),
        timeout=110,
        check=False,
    )
    assert f"{2 * len(TEMPLATES)} passed" in tests.stdout, tests.stdout + tests.stderr


def test_a_new_project_runs_and_answers_offline(
    tmp_path: Path, new_instance: Callable[..., Instance]
) -> None:
    project = tmp_path / "fresh"
    created = run(COMMAND, "new", project, OPENAI_API_KEY="")
    assert (created.returncode, created.stderr) == (0, "")
    assert created.stdout == (
        f"created {project} from the template agent: {FILES}\n"
        f"It answers without a model; {project}/.env changes that. Next:\n\n"
        f"    agentscope-supervisor dev {project}      # reloads at each change, and opens the console\n"
        f"    agentscope-supervisor invoke {project} -s me 'What is the weather in Paris?'\n\n"
    )
    checked = run(COMMAND, "check", project)
    assert (checked.returncode, checked.stderr) == (0, "")
    instance = new_instance(project, workers=1, arguments=["--env-file", ".env"]).start()
    question = TEMPLATES["agent"].question
    answer = run(COMMAND, "invoke", project, "--runtime-dir", instance.runtime_dir, "-s", "me", question)
    assert (answer.returncode, answer.stdout) == (0, "The tool says: It is sunny in Paris.\n")
    assert re.search(
        r"warning the offline model answers instead of a provider OPENAI_BASE_URL=", instance.log
    )


def test_a_terminal_asks_for_the_template(tmp_path: Path) -> None:
    with Terminal([COMMAND, "new", tmp_path / "mine"], OPENAI_API_KEY="sk-1") as terminal:
        terminal.wait_for("Template [agent]:")
        terminal.press("tools\n")
        assert terminal.wait_exit() == 0
        assert "It needs the variables in" in terminal.text
    major = version("agentscope")[0]
    assert f"Tool{'Response' if major == '1' else 'Chunk'}" in (tmp_path / "mine" / "tools.py").read_text()
    assert not (tmp_path / "mine" / ".env").exists(), "there is a key"


def test_new_does_not_overwrite_a_folder(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("mine")
    ended = run(COMMAND, "new", tmp_path)
    assert ended.returncode == 2
    assert "not an empty folder" in ended.stderr
    assert (tmp_path / "app.py").read_text() == "mine"
