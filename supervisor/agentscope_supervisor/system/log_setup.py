"""The form of the supervisor's log: text for people, JSON lines for machines, both on stderr.

A record is a constant message with fields given as `extra`. Nothing of prompts, answers or secrets is ever
among them; what a worker prints is passed on with its slot and generation.

A log that nobody reads, a full pipe, must not stop the supervisor: lines wait in a bounded queue for a
thread that writes them, and what does not fit is dropped and counted.
"""

import contextlib
import json
import logging
import os
import queue
import re
import threading
import time
from typing import Final, Literal

from agentscope_protocol.wire.log_lines import LEVELS as LEVEL_NUMBERS
from agentscope_protocol.wire.log_lines import LogLine

LogFormat = Literal["text", "json"]
MAX_WAITING: Final = 2_000
"""Lines that wait for the reader of the log: a death with its stacks; 32 MB if all are the longest."""

LEVELS: Final = ("debug", "info", "warning", "error")

WORKER: Final = "worker"  # the logger of what workers log and print

_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


_LABEL: Final = re.compile(r"(\d+)\.(\d+)")  # of a worker, "<slot>.<generation>"


def log_output(worker: str, line: LogLine) -> None:
    """Log a line of a worker's log, or one that it printed, under the worker's label."""
    log, level = logging.getLogger(WORKER), LEVEL_NUMBERS[line.level]
    if log.isEnabledFor(level):
        about = {"worker": worker, **line.about}
        record = log.makeRecord(WORKER, level, "", 0, line.message, (), None, extra=about)
        record.exc_text = line.exception or None
        log.handle(record)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in record.__dict__.items() if key not in _STANDARD}


class TextFormatter(logging.Formatter):
    """One line: time, level, message, fields; further lines of the message follow. Those that a worker logged
    are indented, so that none of them looks like a line of the supervisor."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        message, exception = record.getMessage(), record.exc_text
        if record.name == WORKER:
            message = message.replace("\n", "\n    ")
        first, feed, more = message.partition("\n")
        line = f"{clock}.{int(record.msecs):03d} {record.levelname.lower():7} {first}"
        for key, value in _fields(record).items():
            line += f" {key}={value}"
        line += feed + more
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        elif exception:
            line += "\n    " + exception.replace("\n", "\n    ")
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object: ts (RFC 3339, UTC), level, message, and the fields; a worker's slot and generation as
    numbers too."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, object] = {
            "ts": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **_fields(record),
        }
        if named := _LABEL.fullmatch(str(entry.get("worker", ""))):
            entry["slot"], entry["generation"] = map(int, named.groups())
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            entry["exception"] = record.exc_text
        return json.dumps(entry, default=str)


class WaitingHandler(logging.Handler):
    """Writes to a descriptor from a thread of its own; whoever logs never waits."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor: Final = descriptor
        self._lines: Final[queue.Queue[bytes]] = queue.Queue(MAX_WAITING)
        self._dropped = 0
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
            if self._dropped:
                line = b"... %d log lines were dropped: the log is not read\n" % self._dropped + line
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1
        except Exception:  # a record that cannot be formatted: as all of logging's handlers do
            self.handleError(record)
        else:
            self._dropped = 0

    def drain(self, within: float) -> None:
        """Wait until all lines are written, for at most so many seconds."""
        until = time.monotonic() + within
        while self._lines.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.005)

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            # A log that has gone away, or is full, is not the instance's end.
            with contextlib.suppress(OSError):
                while line:
                    line = line[os.write(self._descriptor, line) :]
            self._lines.task_done()


def drain(within: float = 1.0) -> None:
    """Before the process ends: wait, for at most so many seconds, until the log is written."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, WaitingHandler):
            handler.drain(within)


def set_up(form: LogFormat, level: str, descriptor: int = 2) -> None:
    """Send the log of this process to a descriptor, stderr. Called once, at the start."""
    handler = WaitingHandler(descriptor)
    handler.setFormatter(TextFormatter() if form == "text" else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Our handlers log what matters; aiohttp and asyncio speak only when something is wrong.
    for name in ("aiohttp", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
