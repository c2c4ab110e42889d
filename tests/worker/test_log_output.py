"""The output of a worker's logging: one line for each record, with its turn."""

import asyncio
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from agentscope_protocol.wire.log_lines import MAX_BYTES, LogLine, read
from agentscope_worker.log_output import LineFormatter, RecordPipe, about, current_turn, in_turn

TURN = about("run-1", "user_1", "req-1")


def record(message: str, level: int = logging.INFO, **fields: object) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "app", "msg": message, "levelno": level, **fields})


def formatted(entry: logging.LogRecord) -> LogLine:
    line = read(LineFormatter().format(entry))
    assert line is not None
    return line


def test_a_record_outside_of_turns_names_only_its_logger() -> None:
    assert formatted(record("%d of %d", args=(1, 2))) == LogLine("1 of 2", "info", {"logger": "app"})


async def test_records_of_a_turn_name_it_in_all_tasks_and_threads() -> None:
    async def in_task() -> list[LogLine]:
        lines = [formatted(record("here"))]
        lines += await asyncio.gather(asyncio.to_thread(formatted, record("there")), child())
        return lines

    async def child() -> LogLine:
        return formatted(record("in a task of its own"))

    lines = await asyncio.get_running_loop().create_task(in_task(), context=in_turn(lambda: TURN))
    assert [dict(line.about) for line in lines] == [{"logger": "app", **TURN}] * 3
    assert current_turn() == {}
    assert current_turn(in_turn(lambda: TURN)) == TURN


def test_a_record_can_name_a_turn_explicitly() -> None:
    assert formatted(record("over", about=TURN)).about == {"logger": "app", **TURN}


def test_a_session_is_named_by_its_digest() -> None:
    assert "user_1" not in TURN.values()
    assert about("run-1", "user_1", None).keys() == {"run", "session"}


def test_a_custom_level_becomes_the_next_lower_level() -> None:
    assert [formatted(record("x", level)).level for level in (5, 10, 25, 45, 99)] == [
        *("debug", "debug", "info", "error", "critical")
    ]


def test_a_record_includes_its_traceback() -> None:
    try:
        raise ValueError("boom")
    except ValueError:
        line = formatted(record("failed", logging.ERROR, exc_info=sys.exc_info()))
    assert (line.message, line.level) == ("failed", "error")
    assert line.exception.startswith("Traceback")
    assert line.exception.endswith("ValueError: boom")


def test_a_record_over_the_limit_keeps_its_level() -> None:
    lines = [
        read(line) for line in LineFormatter().format(record("x" * MAX_BYTES, logging.ERROR)).split("\n")
    ]
    assert {(line.level, line.about["logger"]) for line in lines if line is not None} == {("error", "app")}
    assert "".join(line.message for line in lines if line is not None) == "x" * MAX_BYTES


TWO_LOGGERS = """
import logging, sys, threading
from agentscope_worker import log_output
ours = log_output.set_up(int(sys.argv[1]))
theirs = logging.getLogger(log_output.AGENTSCOPE)
theirs.addHandler(logging.StreamHandler(sys.stderr))
theirs.propagate = False
log_output.adopt_agentscope(ours)
threads = [threading.Thread(target=lambda logger=logger: [logger.warning("x" * 9000) for _ in range(50)])
           for logger in (theirs, logging.getLogger("app"))]
for each in threads: each.start()
for each in threads: each.join()
"""


def test_long_records_of_two_loggers_do_not_mix_in_a_full_pipe() -> None:
    read_end, write_end = os.pipe()
    with subprocess.Popen([sys.executable, "-c", TWO_LOGGERS, str(write_end)], pass_fds=[write_end]):
        os.close(write_end)
        with os.fdopen(read_end, "r", encoding="utf-8") as reader:
            lines = [read(line) for line in reader]
    found = [(line.about["logger"], len(line.message)) for line in lines if line is not None]
    assert sorted(found) == [("app", 9000)] * 50 + [("as", 9000)] * 50
    assert len(lines) == len(found)


def test_a_record_is_written_completely_and_at_once() -> None:
    """A pipe takes a part of a long record only, until its reader has taken the rest."""
    read_end, write_end = os.pipe()
    text = "\U0001f389\ud83d" * 100_000
    with os.fdopen(read_end, "rb") as reader, ThreadPoolExecutor(1) as pool:
        reading = pool.submit(reader.read)
        RecordPipe(write_end).write(text)
        os.close(write_end)
        assert reading.result() == text.encode("utf-8", "backslashreplace")
