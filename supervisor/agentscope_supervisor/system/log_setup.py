"""Log configuration of the supervisor: text or JSON lines, written to stderr.

A log record is a constant message with fields in `extra`. Prompts, answers and secrets must never appear in a
field. Lines that a worker prints are logged with the label of the worker.

A full pipe on stderr must not stop the supervisor. Lines wait in a bounded queue for a writer thread; lines
that do not fit are dropped and counted. `log_buffer` keeps the last records for the operator.
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
MAX_QUEUED: Final = 2_000
"""Lines that wait for the writer thread. Enough for a crash with its stack dump; at most 32 MB."""

LEVELS: Final = ("debug", "info", "warning", "error")

WORKER: Final = "worker"  # name of the logger for the output of workers

_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


_LABEL: Final = re.compile(r"(\d+)\.(\d+)")  # the label of a worker, "<slot>.<generation>"


def log_output(worker: str, line: LogLine) -> None:
    """Log a line that a worker logged or printed, with the label of the worker."""
    log, level = logging.getLogger(WORKER), LEVEL_NUMBERS[line.level]
    if log.isEnabledFor(level):
        about = {"worker": worker, **line.about}
        record = log.makeRecord(WORKER, level, "", 0, line.message, (), None, extra=about)
        record.exc_text = line.exception or None
        log.handle(record)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in record.__dict__.items() if key not in _STANDARD}


_COLOURS: Final = {logging.WARNING: "33", logging.ERROR: "1;31", logging.CRITICAL: "1;31", logging.DEBUG: "2"}
"""Colours of levels, as parameters of an escape sequence: yellow, bold red, dim."""


class TextFormatter(logging.Formatter):
    """Formats a record as one line with time, level, message and fields. Further lines of the message follow.

    Further lines of a worker's message are indented, so that they cannot look like lines of the supervisor.
    `colours`: for a terminal; they only repeat the level.
    """

    def __init__(self, *, colours: bool = False) -> None:
        super().__init__()
        self._colours: Final = _COLOURS if colours else {}

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        message, exception = record.getMessage(), record.exc_text
        if record.name == WORKER:
            message = message.replace("\n", "\n    ")
        first, feed, more = message.partition("\n")
        level = f"{record.levelname.lower():7}"
        if (colour := self._colours.get(record.levelno)) is not None:
            level = f"\x1b[{colour}m{level}\x1b[0m"
        line = f"{clock}.{int(record.msecs):03d} {level} {first}"
        for key, value in _fields(record).items():
            line += f" {key}={value}"
        line += feed + more
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        elif exception:
            line += "\n    " + exception.replace("\n", "\n    ")
        return line


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object: `ts` (RFC 3339, UTC), `level`, `message` and the fields.

    A record about a worker also has its `slot` and `generation` as numbers.
    """

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


class QueuedHandler(logging.Handler):
    """Writes to a file descriptor from its own thread. The code that logs never waits."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor: Final = descriptor
        self._lines: Final[queue.Queue[bytes]] = queue.Queue(MAX_QUEUED)
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
        except Exception:  # the record cannot be formatted; every handler of `logging` does the same
            self.handleError(record)
        else:
            self._dropped = 0

    def write(self, text: str) -> None:
        """Write a text between two records. It is dropped if too many lines wait."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(text.encode("utf-8", "backslashreplace"))

    def drain(self, within: float) -> None:
        """Wait until all lines are written, for at most `within` seconds."""
        until = time.monotonic() + within
        while self._lines.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.005)

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            # A closed pipe or a full disk must not end the instance.
            with contextlib.suppress(OSError):
                while line:
                    line = line[os.write(self._descriptor, line) :]
            self._lines.task_done()


def say(text: str) -> None:
    """Write a text to the log as it is, after the lines that wait to be written."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, QueuedHandler):
            handler.write(text)


def drain(within: float = 1.0) -> None:
    """Wait until the log is written, for at most `within` seconds. Call it before the process exits."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, QueuedHandler):
            handler.drain(within)


def set_up(form: LogFormat, level: str, descriptor: int = 2) -> None:
    """Configure logging to write to `descriptor`. Call it once, at startup."""
    handler = QueuedHandler(descriptor)
    colours = os.isatty(descriptor) and not os.environ.get("NO_COLOR")
    handler.setFormatter(TextFormatter(colours=colours) if form == "text" else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Requests and connections are logged by this project; from the libraries only warnings are useful.
    for name in ("aiohttp", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
