"""The two forms of a log line, to the letter, and where they go."""

import io
import json
import logging
import sys
import time
from collections.abc import Iterator

import pytest

from agentscope_supervisor.logs import JsonFormatter, LogFormat, TextFormatter, set_up

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


def test_a_line_for_machines() -> None:
    entry = json.loads(JsonFormatter().format(record(worker="0.1", seconds=0.5)))
    assert entry == {
        "ts": "2026-01-15T10:30:00.250Z",
        "level": "info",
        "message": "worker is ready",
        "worker": "0.1",
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


@pytest.mark.parametrize("form, formatter", [("text", TextFormatter), ("json", JsonFormatter)])
def test_the_log_goes_to_stderr_in_the_form_that_was_asked_for(
    form: LogFormat, formatter: type, root: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    set_up(form, "warning")
    logging.getLogger("x").info("quiet")
    logging.getLogger("x").warning("loud")
    assert len(stderr.getvalue().splitlines()) == 1
    assert "loud" in stderr.getvalue()
    (handler,) = root.handlers
    assert type(handler.formatter) is formatter


def test_libraries_speak_only_when_something_is_wrong(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    set_up("text", "debug")
    for name in ("asyncio", "aiohttp.server", "x"):
        logging.getLogger(name).info("hello")
    assert len(stderr.getvalue().splitlines()) == 1
