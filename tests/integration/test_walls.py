"""The walls between the packages: each case plants an import that breaks one, in a copy of the sources."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
HOUSES: Final = ("protocol", "supervisor", "worker")

VIOLATIONS: Final = {
    "Supervisor and worker know the protocol, and not each other": (
        "supervisor/agentscope_supervisor/web/health.py",
        "import agentscope_worker.watchdog",
    ),
    "Supervisor and protocol never import AgentScope, nor the SDK of OpenTelemetry": (
        "supervisor/agentscope_supervisor/web/tracing.py",
        "import opentelemetry.sdk",
    ),
    "The rooms of the supervisor": (
        "supervisor/agentscope_supervisor/turns/service.py",
        "import agentscope_supervisor.web.app",
    ),
    "The two halves of the protocol know nothing of each other": (
        "protocol/agentscope_protocol/config/settings.py",
        "import agentscope_protocol.wire.frames",
    ),
    "The link, bottom up": (
        "protocol/agentscope_protocol/wire/frames.py",
        "import agentscope_protocol.wire.codec",
    ),
    "The worker": ("worker/agentscope_worker/sessions.py", "import agentscope_worker.serve"),
    "The rooms of the runtime": (
        "worker/agentscope_worker/runtime/mcp/links.py",
        "import agentscope_worker.runtime.models.slots",
    ),
    "The two majors of AgentScope know nothing of each other": (
        "worker/agentscope_worker/runtime/compat/agentscope1.py",
        "import agentscope_worker.runtime.compat.agentscope2",
    ),
    "Pure modules: no I/O, no clock, no chance": (
        "supervisor/agentscope_supervisor/turns/ledger.py",
        "import time",
    ),
}
"""For each contract of .importlinter: a file, and an import that the contract forbids there."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of everything that import-linter reads."""
    copy = tmp_path_factory.mktemp("sources")
    for folder in (*HOUSES, "tools"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".importlinter", copy)
    return copy


def broken(sources: Path) -> list[str]:
    """The contracts that are broken in a copy of the sources."""
    ran = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=sources,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(str(sources / house) for house in HOUSES)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Contracts:" in ran.stdout, ran.stdout + ran.stderr
    return [line.removesuffix(" BROKEN") for line in ran.stdout.splitlines() if line.endswith(" BROKEN")]


def test_each_wall_has_a_violation_here() -> None:
    text = (ROOT / ".importlinter").read_text("utf-8")
    assert sorted(VIOLATIONS) == sorted(
        line.removeprefix("name = ") for line in text.splitlines() if line.startswith("name = ")
    )


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_a_planted_violation_is_found(sources: Path, contract: str) -> None:
    file, statement = VIOLATIONS[contract]
    path = sources / file
    text = path.read_text("utf-8")
    path.write_text(f"{text}\n{statement}\n", "utf-8")
    try:
        assert contract in broken(sources)
    finally:
        path.write_text(text, "utf-8")


def test_a_module_without_a_room_is_found(sources: Path) -> None:
    path = sources / "supervisor" / "agentscope_supervisor" / "stray.py"
    path.write_text('"""A module outside of the rooms."""\n', "utf-8")
    try:
        assert "The rooms of the supervisor" in broken(sources)
    finally:
        path.unlink()
