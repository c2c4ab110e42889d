"""What an App prints: never a reason to stop, always readable, never without bound (F75, F76, F77)."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil
import pytest

from agentscope_supervisor.processes.output_pipe import BURST, LINE_COST, RATE
from tests.harness.client import call, invoke, new_session, texts
from tests.harness.instance import COMMAND, Instance
from tests.harness.projects import hooks
from tests.harness.waiting import wait_until

NOISE: Final = 3  # factor that a busy machine is allowed
LINES: Final = 1_000_000
LINE: Final = "x" * 99


@pytest.fixture(scope="module")
def printing(start_module_instance: Callable[..., Instance]) -> Instance:
    return start_module_instance(workers=1)


@pytest.mark.timed
@pytest.mark.fault("F76")
async def test_f76_app_that_floods_its_output(printing: Instance) -> None:
    """A hundred megabytes, as fast as print can: all is read, little is logged, no line is uncounted."""
    supervisor, session = psutil.Process(printing.pid), new_session()
    busy, began = sum(supervisor.cpu_times()[:2]), time.monotonic()
    script = [{"print": LINE, "times": LINES}, {"say": "done"}]
    assert await texts(printing.port, session, script) == ["done"]
    took = time.monotonic() - began
    used = sum(supervisor.cpu_times()[:2]) - busy
    print(f"{LINES * (len(LINE) + 1) / took / 1e6:.0f} MB/s, supervisor at {used / took:.0%} of a CPU")
    assert used / took < 0.2 * NOISE
    assert await texts(printing.port, session, "next") == ["next"]
    wait_until(lambda: logged(printing) + dropped(printing) == LINES, 5, "each line is logged or counted")
    assert logged(printing) < (BURST + took * RATE) / LINE_COST * 1.5
    assert 1 <= printing.log.count("lines of output dropped") <= took + 2, "one line a second says so"


def logged(instance: Instance) -> int:
    return instance.log.count(LINE)


def dropped(instance: Instance) -> int:
    return sum(int(number) for number in re.findall(r"(\d+) lines of output dropped", instance.log))


@pytest.mark.fault("F76")
def test_f76_the_last_lines_of_a_flood_are_in_the_report_of_a_death(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path]
) -> None:
    project = make_project(supervisor={"start_deadline": 1})
    flood = [{"print": LINE, "times": 50_000}, {"print": "my last words"}, {"exit": 3}]
    hooks(project, startup=flood)
    instance = new_instance(project, workers=1).launch()
    assert instance.wait_exit(30) == 75
    assert "exited during its start with exit 3" in instance.log
    assert "my last words" in instance.log


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
@pytest.mark.parametrize("how", ["nobody reads it", "no space left"])
async def test_f75_a_log_that_takes_nothing_stops_nothing(
    make_project: Callable[..., Path], tmp_path: Path, how: str
) -> None:
    """The pipe behind stderr is full and its reader has stopped, or each write fails: turns run, health
    answers, TERM ends it."""
    if how == "nobody reads it":
        read_end, write_end = os.pipe()
    else:
        read_end, write_end = os.open("/dev/null", os.O_RDONLY), os.open("/dev/full", os.O_WRONLY)
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
