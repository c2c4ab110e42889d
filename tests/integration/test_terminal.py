"""`status` and `top` in a real terminal."""

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.harness.client import Stream, session_in
from tests.harness.instance import COMMAND, Instance, run
from tests.harness.projects import scripted
from tests.harness.terminal import Terminal
from tests.harness.waiting import eventually, wait_until

ALTERNATE: Final = "\x1b[?1049h"


@pytest.fixture(scope="module")
def watched(start_module_instance: Callable[..., Instance]) -> Instance:
    return start_module_instance()


def top(instance: Instance, *options: str, rows: int = 24, columns: int = 80) -> Terminal:
    command = [COMMAND, "top", "--every", "0.2", *options, *instance.found_by]
    return Terminal(command, rows=rows, columns=columns)


def test_status_in_a_terminal_has_colours_and_fits(watched: Instance) -> None:
    with Terminal([COMMAND, "status", *watched.found_by], columns=60) as terminal:
        assert terminal.wait_exit() == 0
        wait_until(lambda: "zygote" in terminal.text or "SLOT" in terminal.text, 10, "the table is printed")
        assert "\x1b[32mhealthy" in terminal.said
        assert max(map(len, terminal.text.splitlines())) <= 60
        terminal.check_restored()


def test_no_color_turns_colours_off(watched: Instance) -> None:
    with Terminal([COMMAND, "status", *watched.found_by], NO_COLOR="1") as terminal:
        assert terminal.wait_exit() == 0
        wait_until(lambda: "SLOT" in terminal.text, 10, "the table is printed")
        assert "\x1b[32m" not in terminal.said


async def test_top_shows_open_sessions_and_exits(watched: Instance) -> None:
    session = await session_in(watched.port, 1)
    with top(watched) as terminal:
        await eventually(lambda: "by time" in "".join(terminal.screen), 30, "the first update")
        assert terminal.screen[0].startswith("test: healthy, up ")
        async with Stream(watched.port, session, [{"say": "one"}, {"sleep": 60}]) as stream:
            await stream.until(events=1)
            await eventually(lambda: session in "\n".join(terminal.screen), 30, "the session is shown")
        await eventually(lambda: session not in "\n".join(terminal.screen), 30, "the session is gone")
        victim = watched.ready_workers()[0]
        os.kill(victim.pid, signal.SIGKILL)
        await eventually(lambda: "last: signal" in "\n".join(terminal.screen), 30, "the exit is shown")
        terminal.press("q")
        assert terminal.wait_exit() == 0
        terminal.check_restored()
    watched.wait_ready()


def test_the_key_s_changes_the_sort_order(watched: Instance) -> None:
    with top(watched) as terminal:
        for order in ("time", "events", "worker", "session", "time"):
            terminal.wait_for(f"open sessions by {order}")
            terminal.press("\x1b[As")  # the arrow key has no effect
        terminal.press("q")
        assert terminal.wait_exit() == 0
        terminal.check_restored()


@pytest.mark.parametrize("rows, columns", [(24, 80), (6, 30)])
def test_top_fits_its_terminal(watched: Instance, rows: int, columns: int) -> None:
    with top(watched, rows=rows, columns=columns) as terminal:
        terminal.wait_for("test: healthy")
        wait_until(lambda: len(terminal.screen) == rows, 30, "the view fills the screen")
        assert max(map(len, terminal.screen)) <= columns
        terminal.press("\x03")
        assert terminal.wait_exit() == 0
        terminal.check_restored()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_top_restores_the_terminal_after_a_signal(watched: Instance, number: signal.Signals) -> None:
    with top(watched) as terminal:
        terminal.wait_for("q quit")
        assert ALTERNATE in terminal.said
        terminal.signal(number)
        assert terminal.wait_exit() == (0 if number is signal.SIGINT else 128 + number)
        terminal.check_restored()


def test_top_reports_that_the_instance_has_exited(start_instance: Callable[..., Instance]) -> None:
    instance = start_instance(workers=1)
    with top(instance) as terminal:
        terminal.wait_for("q quit")
        assert instance.stop() == 0
        assert terminal.wait_exit() == 1
        terminal.check_restored()
        wait_until(lambda: "the instance 'test' has exited" in terminal.text, 10, "the message is printed")
        assert "Traceback" not in terminal.text


def test_top_without_a_terminal_prints_the_view_once(watched: Instance) -> None:
    ended = watched.command("top")
    assert ended.returncode == 0
    assert ended.stdout.startswith("test: healthy, up ")
    assert ended.stdout.endswith("no open turns\n")
    assert "\x1b" not in ended.stdout
    update = json.loads(watched.command("top", "--json", "--once").stdout)
    assert (update["name"], update["open_sessions"]) == ("test", [])


TRICK: Final = "a\x1b]0;title\x07\x1b[2J\tb\nc"


def test_an_answer_and_an_error_cannot_control_the_terminal(watched: Instance) -> None:
    invoke = [COMMAND, "invoke", *watched.found_by, "-s", "me"]
    script = json.dumps([{"say": TRICK}, {"raise": TRICK}])
    with Terminal([*invoke, script]) as terminal:
        assert terminal.wait_exit(60) == 1
        said = terminal.said
    assert "\x1b" not in said
    assert "\x07" not in said
    answer, _, error = said.partition("Error: APP_ERROR: ")
    for text in (answer, error):
        assert text.strip().replace("\r", "").split() == ["a\\x1b]0;title\\x07\\x1b[2J", "b", "c"]
    piped = run(*invoke, json.dumps([{"say": TRICK}])).stdout
    assert piped.startswith("a\x1b]0;title\x07"), "a program gets the answer itself"


def test_a_failed_start_cannot_control_the_terminal(tmp_path: Path) -> None:
    project = scripted(tmp_path / "project")
    (project / "app.py").write_text(f"raise ValueError({TRICK!r})\n")
    start = [COMMAND, "start", project, "--port", "0", "--runtime-dir", tmp_path, "--workers", "1"]
    with Terminal(start) as terminal:
        assert terminal.wait_exit(60) == 78
        said = terminal.said
    assert "ValueError: a\\x1b]0;title\\x07" in said
    assert "\x1b" not in said


def test_the_log_is_text_on_a_terminal_and_json_in_a_pipe(watched: Instance) -> None:
    with Terminal([COMMAND, "logs", *watched.found_by], columns=80) as terminal:
        assert terminal.wait_exit() == 0
        wait_until(lambda: "instance is ready" in terminal.text, 10, "the log is printed")
        assert re.search(r"^\d\d:\d\d:\d\d\.\d{3} info    instance is ready slots=2\r?$", terminal.text, re.M)
    with Terminal([COMMAND, "events", "--json", *watched.found_by], columns=80) as terminal:
        assert terminal.wait_exit() == 0
        wait_until(lambda: '"instance is ready"' in terminal.text, 10, "the log is printed")
    lines = [json.loads(line) for line in watched.command("logs").stdout.splitlines()]
    assert "instance is ready" in [line["message"] for line in lines]


BROKEN: Final = "def broken(:\n"


def test_dev_waits_for_an_edit_and_reacts_to_keys(tmp_path: Path) -> None:
    project, opened = scripted(tmp_path / "project"), tmp_path / "opened"
    app = project / "app.py"
    works = app.read_text()
    app.write_text(BROKEN)
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {opened}\n')
    browser.chmod(0o755)
    command = [COMMAND, "dev", project, "--port", "0", "--runtime-dir", tmp_path / "run"]
    with Terminal(command, rows=50, columns=240, BROWSER=f"{browser} %s") as terminal:

        def shows(words: str, times: int = 1) -> None:
            wait_until(lambda: terminal.text.count(words) >= times, 40, f"{words!r} is printed")

        shows("the app cannot start; it waits for a change of the project")
        assert terminal.text.count("SyntaxError: invalid syntax") == 1, "the reason is printed once"
        app.write_text(works)
        shows("o open the console   r replace the worker   c clear   q quit")
        (ready,) = re.findall(
            r"  Ready in [\d.]+ s · (\S+)/console#token=(\S+) · API (\S+)/invoke", terminal.text
        )
        assert ready[0] == ready[2]
        wait_until(opened.exists, 20, "the console is opened")
        assert opened.read_text() == f"{ready[0]}/console#token={ready[1]}\n"
        terminal.press("r")
        shows("rollout done edition=3")
        terminal.press("c")
        shows("  Ready in ", 2)
        assert "\x1b[2J" in terminal.said
        terminal.press("q")
        assert terminal.wait_exit() == 0
        terminal.check_restored()
