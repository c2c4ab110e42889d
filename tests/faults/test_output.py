"""What an App prints: never a reason to stop, always readable, never without bound (F75, F76, F77)."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.harness.client import call, invoke, new_session, texts
from tests.harness.instance import COMMAND, Instance
from tests.harness.waiting import wait_until

LINES: Final = 200_000
LINE: Final = "x" * 99


@pytest.fixture(scope="module")
def printing(start_module_instance: Callable[..., Instance]) -> Instance:
    return start_module_instance(workers=1)


@pytest.mark.fault("F76")
async def test_f76_app_that_prints_twenty_megabytes(printing: Instance) -> None:
    assert await texts(printing.port, new_session(), [{"print": LINE, "times": LINES}, {"say": "done"}]) == [
        "done"
    ]
    assert await texts(printing.port, new_session(), "next") == ["next"]


@pytest.mark.fault("F77")
async def test_f77_output_that_is_no_text(printing: Instance) -> None:
    script = [{"write_bytes": 300}, {"print": "\x1b[31mred\x1b[0m"}, {"print": "marker"}, {"say": "done"}]
    assert await texts(printing.port, new_session(), script) == ["done"]
    wait_until(lambda: "marker" in printing.log, 5, "what follows is logged")
    assert "\ufffd" not in printing.log, "the log is UTF-8, whatever was printed"
    controls = {letter for letter in printing.log if letter < " "} - {"\n", "\t"}
    assert controls == set(), "what steers a terminal is written as an escape"


@pytest.mark.fault("F77")
async def test_f77_line_of_ten_megabytes(printing: Instance) -> None:
    assert await texts(printing.port, new_session(), [{"write_bytes": 10_000_000}, {"say": "done"}]) == [
        "done"
    ]
    longest = max(len(line) for line in printing.log.splitlines())
    assert longest < 200_000, "a line is cut, so that what reads the log lives"


@pytest.mark.fault("F75")
async def test_f75_a_log_that_nobody_reads_stops_nothing(
    make_project: Callable[..., Path], tmp_path: Path
) -> None:
    """The pipe behind stderr is full and its reader has stopped: turns run, health answers, TERM ends it."""
    read_end, write_end = os.pipe()
    command = [str(COMMAND), "start", str(make_project()), "--port", "0", "--workers", "1"]
    command += ["--runtime-dir", str(tmp_path / "run"), "--name", "mute"]
    process = subprocess.Popen(command, stdout=write_end, stderr=write_end)  # noqa: ASYNC220 - once, at the start
    os.close(write_end)
    file = tmp_path / "run" / "agentscope-supervisor" / "mute" / "instance.json"
    try:
        wait_until(file.exists, 20, "it listens")
        port = json.loads(file.read_text())["port"]
        response = await invoke(port, new_session(), [{"print": "x" * 1000, "times": 2000}, {"say": "done"}])
        assert response.status == 200
        assert (await call(port, "GET", "/health")).status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        os.close(read_end)
