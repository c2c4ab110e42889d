"""The exact text of both log formats, and the writing of the log."""

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
    MAX_QUEUED,
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
    """The root logger without handlers; restored after the test."""
    loggers = [logging.getLogger(name) for name in ("", "aiohttp", "asyncio")]
    before = [(logger.level, logger.handlers[:]) for logger in loggers]
    loggers[0].handlers = []
    yield loggers[0]
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers = handlers


def test_text_format_is_one_line_with_the_fields_last() -> None:
    clock = time.strftime("%H:%M:%S", time.localtime(AT))
    line = TextFormatter().format(record(worker="0.1", seconds=0.5))
    assert line == f"{clock}.250 info    worker is ready worker=0.1 seconds=0.5"


def test_fields_are_on_the_first_line_of_a_multi_line_message() -> None:
    lines = (
        TextFormatter().format(record("app.py, line 2: SyntaxError\n    def (", worker="0.1")).splitlines()
    )
    assert (lines[0].endswith(": SyntaxError worker=0.1"), lines[1]) == (True, "    def (")


def test_json_format_has_the_fields_at_the_top_level() -> None:
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


def test_json_format_is_always_one_line() -> None:
    line = JsonFormatter().format(record("a\nb", reason="c\r\nd\u2028", path=object()))
    assert len(line.splitlines()) == 1
    assert json.loads(line)["reason"] == "c\r\nd\u2028"


def test_arguments_are_formatted_into_the_message() -> None:
    filled = record("%s of %d", args=("two", 3))
    assert TextFormatter().format(filled).endswith(" two of 3")
    assert json.loads(JsonFormatter().format(filled))["message"] == "two of 3"


def test_both_formats_include_the_traceback() -> None:
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
    """The lines that the log has written."""
    drain()
    os.set_blocking(pipe[0], False)
    return os.read(pipe[0], 1_000_000).decode().splitlines()


@pytest.mark.parametrize("form, formatter", [("text", TextFormatter), ("json", JsonFormatter)])
def test_log_is_written_to_the_descriptor_in_the_chosen_format(
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
def test_libraries_log_only_warnings(pipe: tuple[int, int]) -> None:
    set_up("text", "debug", pipe[1])
    for name in ("asyncio", "aiohttp.server", "x"):
        logging.getLogger(name).info("hello")
    assert len(written(pipe)) == 1


@pytest.mark.usefixtures("root")
def test_an_unread_log_drops_and_counts_lines_without_blocking(pipe: tuple[int, int]) -> None:
    set_up("text", "info", pipe[1])
    lines = MAX_QUEUED + 2_000  # the pipe itself holds a few hundred of them
    for _ in range(lines):
        logging.getLogger("x").info("y" * 200)
    drain(within=0.01)
    read = os.read(pipe[0], 10_000)  # the log is read at last
    while read.count(b"\n") < 1_000:
        read += os.read(pipe[0], 65_536)
    logging.getLogger("x").info("the last")
    while b"the last" not in read:
        read += os.read(pipe[0], 65_536)
    dropped = [int(count) for count in re.findall(rb"(\d+) log lines were dropped", read)]
    assert sum(dropped) > 0
    assert read.count(b"y" * 200) + sum(dropped) == lines


@pytest.mark.usefixtures("root")
def test_a_closed_log_pipe_does_not_raise() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    set_up("text", "info", write_end)
    logging.getLogger("x").info("unread")
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
def logged(root: logging.Logger) -> list[str]:
    """Each record in both formats, one after the other."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.extend([TextFormatter().format(record).partition(" ")[2], JsonFormatter().format(record)])

    root.addHandler(Keep())
    root.setLevel(logging.INFO)
    return lines


def test_a_worker_record_keeps_its_level_and_its_fields(logged: list[str]) -> None:
    log_output("0.1", LogLine("paid", "warning", {"logger": "app", "run": "r-1", "session": "ab"}))
    assert logged[0] == "warning paid worker=0.1 logger=app run=r-1 session=ab"
    entry = json.loads(logged[1])
    del entry["ts"]
    assert entry == {
        **{"level": "warning", "message": "paid", "worker": "0.1", "slot": 0, "generation": 1},
        **{"logger": "app", "run": "r-1", "session": "ab"},
    }


def test_a_worker_line_cannot_look_like_a_supervisor_line(logged: list[str]) -> None:
    forged = "12:00:00.000 info    instance is ready"
    log_output("0.1", LogLine(f"a\n{forged}", "error", {}, f"Traceback\n{forged}"))
    assert logged[0] == f"error   a worker=0.1\n    {forged}\n    Traceback\n    {forged}"
    assert json.loads(logged[1])["exception"] == f"Traceback\n{forged}"


def test_worker_records_below_the_log_level_are_dropped(logged: list[str], root: logging.Logger) -> None:
    root.setLevel(logging.ERROR)
    log_output("zygote", LogLine("preloaded"))
    assert logged == []
    log_output("zygote", LogLine("not preloaded", "error"))
    assert logged[0] == "error   not preloaded worker=zygote"


def test_colours_of_a_terminal_only_repeat_the_level() -> None:
    plain = TextFormatter().format(record(worker="0.1"))
    assert TextFormatter(colours=True).format(record(worker="0.1")) == plain, "a healthy hour has no colours"
    coloured = TextFormatter(colours=True).format(failed())
    assert coloured.replace("\x1b[1;31m", "").replace("\x1b[0m", "") == TextFormatter().format(failed())
    assert "\x1b[1;31merror  \x1b[0m" in coloured
