"""The commands at the start of README: the demos answer, stay up, and end on SIGTERM."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from shutil import ignore_patterns

import pytest

pytestmark = pytest.mark.agentscope

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 90.0  # seconds; two cold starts of AgentScope on a busy machine


@pytest.fixture
def demo(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running demo of a copy of an example; yields the process and its output."""
    name, *more = request.param
    project = shutil.copytree(ROOT / "examples" / name, tmp_path / name, ignore=ignore_patterns("sessions"))
    arguments = [sys.executable, "examples/demo.py", "--port", "0", str(project), *more]
    output = (tmp_path / "output").open("w+")
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=output, stderr=output, text=True)
    try:
        deadline = time.monotonic() + DEADLINE
        while " status " not in (text := (tmp_path / "output").read_text()):
            assert process.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.05)
        yield process, text
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        output.close()


@pytest.mark.parametrize(
    "demo, expected",
    [
        (["echo", "--message", "one two"], r"Turn 1: one two\n"),
        (["chat", "--message", "one two", "--with-model-server"], r"Echo: one two\n"),
    ],
    indirect=["demo"],
    ids=["echo", "chat"],
)
def test_a_demo_answers_and_stays_up(demo: tuple[subprocess.Popen[str], str], expected: str) -> None:
    process, text = demo
    assert re.search(expected, text), text
    match = re.search(r"curl -N (\S+)/invoke", text)
    assert match is not None
    with urllib.request.urlopen(f"{match[1]}/health") as response:
        health = json.load(response)
    assert health["status"] == "healthy"
    command = re.search(r"\S+ status --runtime-dir \S+", text)
    assert command is not None
    subprocess.run(command[0].split(), check=True, timeout=DEADLINE)
    workers = [worker["pid"] for worker in health["workers"]]
    assert len(workers) == 2
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
