"""The stand-in for AgentScope passes the tests that the installed AgentScope passes."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.harness.instance import environment
from tests.harness.standin import STANDIN

ROOT: Final = Path(__file__).parents[2]
CONTRACT: Final = [
    "tests/contracts/test_agentscope.py",
    "tests/worker/test_host.py",
    "tests/worker/dialects/test_native.py",
    "tests/worker/test_serve.py",
]
"""What a worker does with an App and its messages, without agents and models."""


def run(*options: str, **variables: str) -> str:
    """The output of pytest, run on the contract in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *options]
    ended = subprocess.run(
        [*command, *CONTRACT],
        cwd=ROOT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_standin_keeps_the_contract() -> None:
    shown = run(PYTHONPATH=STANDIN)
    found = re.search(r"(\d+) passed", shown)
    assert found is not None
    assert int(found[1]) > 100
    assert "skipped" not in shown


def test_the_contract_runs_on_the_standin() -> None:
    """A process with this path has the stand-in, and not the installed package."""
    code = "import agentscope; print(agentscope.__file__)"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(PYTHONPATH=STANDIN),
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip().startswith(STANDIN)
