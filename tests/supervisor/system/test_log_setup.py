"""The two forms of a log line, to the letter, and where they go."""

import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator

import pytest

from agentscope_protocol.wire.log_lines import LogLine
from agentscope_supervisor.system.log_setup import (
    MAX_WAITING,
    JsonFormatter,
    LogFormat,
    TextFormatter,
    drain,
    log_output,
    set_up,
)

AT = 1_768_473_000.25  # 2026-01-15T10:30:00.250Z


def record(message: str = "worker is ready", **fields: object) -> logging.LogRecord:
    values = {"name": "x", "msg": message, "levelno": logging.INFO, "levelname": "INFO"}
    return logging.makeLogRecord({**values, "created": AT, "msecs": 250.0, **fields})


def failed() -> logging.LogRecord:
    try:
        raise ValueError("boom")
    except ValueError:
        return record("task failed", exc_info=sys.exc_info(), levelname="ERROR", levelno=logging.ERROR)


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, empty, and as it was afterwards."""
    loggers = [logging.getLogger(name) for name in ("", "aiohttp", "asyncio")]
    before = [(logger.level, logger.handlers[:]) for logger in loggers]
    loggers[0].handlers = []
    yield loggers[0]
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers = handlers


def test_a_line_for_people() -> None:
    clock = time.strftime("%H:%M:%S", time.localtime(AT))
    line = TextFormatter().format(record(worker="0.1", seconds=0.5))
    assert line == f"{clock}.250 info    worker is ready worker=0.1 seconds=0.5"


def test_the_fields_stand_on_the_first_of_several_lines() -> None:
    lines = (
        TextFormatter().format(record("app.py, line 2: SyntaxError\n    def (", worker="0.1")).splitlines()
    )
    assert (lines[0].endswith(": SyntaxError worker=0.1"), lines[1]) == (True, "    def (")


def test_a_line_for_machines() -> None:
    entry = json.loads(JsonFormatter().format(record(worker="0.1", seconds=0.5)))
    assert entry == {
        "ts": "2026-01-15T10:30:00.250Z",
        "level": "info",
        "message": "worker is ready",
        "worker": "0.1",
        "slot": 0,
        "generation": 1,
        "seconds": 0.5,
    }


def test_a_line_for_machines_is_one_line_whatever_it_holds() -> None:
    line = JsonFormatter().format(record("a\nb", reason="c\r\nd\u2028", path=object()))
    assert len(line.splitlines()) == 1
    assert json.loads(line)["reason"] == "c\r\nd\u2028"


def test_arguments_are_put_into_the_message() -> None:
    filled = record("%s of %d", args=("two", 3))
    assert TextFormatter().format(filled).endswith(" two of 3")
    assert json.loads(JsonFormatter().format(filled))["message"] == "two of 3"


def test_a_traceback_follows_in_both_forms() -> None:
    head, *rest = TextFormatter().format(failed()).splitlines()
    assert head.endswith("error   task failed")
    assert (rest[0], rest[-1]) == ("Traceback (most recent call last):", "ValueError: boom")
    entry = json.loads(JsonFormatter().format(failed()))
    assert entry["exception"].endswith("ValueError: boom")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def written(pipe: tuple[int, int]) -> list[str]:
    """What the log has written."""
    drain()
    os.set_blocking(pipe[0], False)
    return os.read(pipe[0], 1_000_000).decode().splitlines()


@pytest.mark.parametrize("form, formatter", [("text", TextFormatter), ("json", JsonFormatter)])
def test_the_log_goes_to_a_descriptor_in_the_form_that_was_asked_for(
    form: LogFormat, formatter: type, root: logging.Logger, pipe: tuple[int, int]
) -> None:
    set_up(form, "warning", pipe[1])
    logging.getLogger("x").info("quiet")
    logging.getLogger("x").warning("loud")
    (line,) = written(pipe)
    assert "loud" in line
    (handler,) = root.handlers
    assert type(handler.formatter) is formatter


@pytest.mark.usefixtures("root")
def test_libraries_speak_only_when_something_is_wrong(pipe: tuple[int, int]) -> None:
    set_up("text", "debug", pipe[1])
    for name in ("asyncio", "aiohttp.server", "x"):
        logging.getLogger(name).info("hello")
    assert len(written(pipe)) == 1


@pytest.mark.usefixtures("root")
def test_a_log_that_nobody_reads_drops_lines_says_how_many_and_never_waits(pipe: tuple[int, int]) -> None:
    set_up("text", "info", pipe[1])
    lines = MAX_WAITING + 2_000  # the pipe itself holds some hundred of them
    for _ in range(lines):
        logging.getLogger("x").info("y" * 200)
    drain(within=0.01)
    read = os.read(pipe[0], 10_000)  # somebody reads at last
    while read.count(b"\n") < 1_000:
        read += os.read(pipe[0], 65_536)
    logging.getLogger("x").info("the last")
    while b"the last" not in read:
        read += os.read(pipe[0], 65_536)
    dropped = [int(count) for count in re.findall(rb"(\d+) log lines were dropped", read)]
    assert sum(dropped) > 0
    assert read.count(b"y" * 200) + sum(dropped) == lines


@pytest.mark.usefixtures("root")
def test_a_log_that_has_gone_away_is_not_the_end() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    set_up("text", "info", write_end)
    logging.getLogger("x").info("to nobody")
    drain()
    os.close(write_end)


def test_a_record_that_cannot_be_formatted_is_reported_and_not_raised(
    root: logging.Logger, pipe: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    set_up("text", "info", pipe[1])
    root.info("%d", "no number")
    root.info("next")
    assert [line.split()[-1] for line in written(pipe)] == ["next"]
    assert "no number" in capsys.readouterr().err


@pytest.fixture
def told(root: logging.Logger) -> list[str]:
    """What is logged, in both forms, one after the other."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.extend([TextFormatter().format(record).partition(" ")[2], JsonFormatter().format(record)])

    root.addHandler(Keep())
    root.setLevel(logging.INFO)
    return lines


def test_what_a_worker_logged_keeps_its_level_and_its_turn(told: list[str]) -> None:
    log_output("0.1", LogLine("paid", "warning", {"logger": "app", "run": "r-1", "session": "ab"}))
    assert told[0] == "warning paid worker=0.1 logger=app run=r-1 session=ab"
    entry = json.loads(told[1])
    del entry["ts"]
    assert entry == {
        **{"level": "warning", "message": "paid", "worker": "0.1", "slot": 0, "generation": 1},
        **{"logger": "app", "run": "r-1", "session": "ab"},
    }


def test_no_line_of_a_worker_looks_like_one_of_ours(told: list[str]) -> None:
    forged = "12:00:00.000 info    instance is ready"
    log_output("0.1", LogLine(f"a\n{forged}", "error", {}, f"Traceback\n{forged}"))
    assert told[0] == f"error   a worker=0.1\n    {forged}\n    Traceback\n    {forged}"
    assert json.loads(told[1])["exception"] == f"Traceback\n{forged}"


def test_what_a_worker_logs_is_held_to_the_level_too(told: list[str], root: logging.Logger) -> None:
    root.setLevel(logging.ERROR)
    log_output("zygote", LogLine("preloaded"))
    assert told == []
    log_output("zygote", LogLine("not preloaded", "error"))
    assert told[0] == "error   not preloaded worker=zygote"
