"""Reads the output of a worker from its pipes and splits it into lines that are safe to log.

A worker has two pipes: one for what it prints, and one for its log records. Only the second one is parsed, so
that nothing that an App prints is taken for a record, or tears one. Lines of one pipe keep their order; the
order of a print and a record is not exact.

The pipes are always drained, because a worker with a full pipe blocks in its next print. Output that exceeds
the rate limit of the log is counted and dropped, without parsing it where possible. The last output is kept
for the exit record, and separately the last stack dump, which may be much older. This module knows nothing
about processes; `spawn` creates one `ProcessOutput` for each process.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from agentscope_protocol.wire import log_lines
from agentscope_protocol.wire.log_lines import LogLine
from agentscope_supervisor.processes.kept_output import KEPT_LINES, KEPT_STACK_LINES, is_stack_line
from agentscope_supervisor.processes.token_bucket import TokenBucket
from agentscope_supervisor.system import kernel

MAX_LINE: Final = 16 * 1024
"""Maximum bytes of a line; a longer line is split. Log shippers use similar limits."""

RATE: Final = 1_000_000  # bytes per second of one pipe that reach the log, at most 86 GB a day
BURST: Final = 1_000_000  # bytes after a quiet time: enough for two stack dumps of a hundred threads
LINE_COST: Final = 500
"""Bytes that each line costs in addition to its length.

Decoding and formatting a line takes 20 µs. With this cost at most 2,000 lines per second pass, which take 4 %
of a CPU, and a burst fits into the queue of the log."""

READ: Final = 64 * 1024  # bytes per read
PIPE: Final = 16 * READ  # capacity of the pipe in bytes: the maximum on Linux without privileges
PAUSE: Final = 0.01
"""Seconds between two reads while output is dropped.

In this time a pipe of this size fills only at 100 MB/s, which no print loop reaches. A flood of output wakes
the supervisor a hundred times per second instead of once for each print."""

REPORT_EVERY: Final = 1.0  # seconds between two log lines with the number of dropped lines

KEPT: Final = READ  # bytes that are kept for `last_lines`

_MARK: Final = log_lines.MARK.encode()

# Control characters must not reach a terminal through the log.
_ESCAPED: Final = {code: f"\\x{code:02x}" for code in [*range(0x20), *range(0x7F, 0xA0)] if code != 0x09}
_ESCAPED_LINES: Final = {code: text for code, text in _ESCAPED.items() if code != 0x0A}

OnLine = Callable[[LogLine], None]


class ProcessOutput:
    """The output of one process, line by line. Calls `on_line` for each line that passes the rate limit.

    `stacks` holds the lines of the last stack dump.
    """

    def __init__(self, printed: int, on_line: OnLine, records: int | None = None) -> None:
        """`printed`, `records`: the read ends of the pipes, which are closed when the process is gone."""
        self.stacks: Final[deque[str]] = deque(maxlen=KEPT_STACK_LINES)
        self._kept: Final = bytearray()
        self._on_line: Final = on_line
        self._pipes: Final = [_Pipe(printed, self._emit, self._keep, has_records=False)]
        if records is not None:
            # First at the end: the last that a process prints is the traceback of its crash.
            self._pipes.insert(0, _Pipe(records, self._emit, self._keep, has_records=True))

    @property
    def last_lines(self) -> list[str]:
        """The last lines of output, including lines that were dropped from the log."""
        data = bytes(self._kept) + b"\n".join(pipe.rest for pipe in self._pipes if pipe.rest)
        lines = data[-KEPT:].removesuffix(b"\n").split(b"\n")[-KEPT_LINES:]
        return [part for line in lines for part in _shown(line[-MAX_LINE:])] if data else []

    def close(self) -> None:
        """Read the remaining output and close the pipes.

        Reads at most the capacity of a pipe: a process that the worker started may still write to it.
        """
        for pipe in self._pipes:
            pipe.close()

    def _keep(self, data: bytes) -> None:
        self._kept.extend(data)
        if len(self._kept) > 2 * KEPT:
            del self._kept[:-KEPT]

    def _emit(self, line: LogLine) -> None:
        if is_stack_line(line.message):
            self.stacks.append(line.message)
        self._on_line(line)


class _Pipe:
    """One pipe of a process. Calls `emit` for each line that passes the rate limit, `keep` for all bytes.

    `has_records`: whether its lines may be log records. Bytes for `keep` are whole lines, in which only a
    record has the mark of one.
    """

    def __init__(self, fd: int, emit: OnLine, keep: Callable[[bytes], None], *, has_records: bool) -> None:
        self.rest = b""  # start of an incomplete line
        self._fd = fd
        self._on_line: Final = emit
        self._keep: Final = keep
        self._has_records: Final = has_records
        self._bucket: Final = TokenBucket(RATE, BURST)
        self._dropped = 0  # lines since the last report
        self._loop = asyncio.get_running_loop()
        kernel.widen_pipe(fd, PIPE)
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._readable)

    def close(self) -> None:
        """Read the remaining output and close the pipe."""
        self._drain()
        self._finish()

    def _readable(self) -> None:
        self._read()
        if self._dropped and self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._loop.call_later(PAUSE, self._resume)

    def _resume(self) -> None:
        if self._fd >= 0:
            self._drain()
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._readable)

    def _drain(self) -> None:
        """Read as much as a full pipe holds."""
        for _ in range(PIPE // READ):
            if self._fd < 0 or not self._read():
                break

    def _read(self) -> bool:
        """Read once and return whether there may be more."""
        try:
            data = os.read(self._fd, READ)
        except BlockingIOError:
            return False
        if not data:
            self._finish()
            return False
        if not self._has_records:
            data = data.replace(_MARK, b"\\x1e")
        data = self.rest + data
        self._keep(data[: data.rfind(b"\n") + 1])
        # Split off only as many lines as can pass; `rest` is everything after them.
        passing = max(0, int(self._bucket.available(self._loop.time())) // LINE_COST + 1)
        *lines, rest = data.split(b"\n", passing)
        for line in lines:
            self._emit(line)
        if dropped := rest.count(b"\n"):
            self._drop(dropped)
            rest = rest[rest.rindex(b"\n") + 1 :]
        while len(rest) >= MAX_LINE:
            self._keep(rest[:MAX_LINE] + b"\n")
            self._emit(rest[:MAX_LINE])
            rest = rest[MAX_LINE:]
        self.rest = rest
        return True

    def _emit(self, line: bytes) -> None:
        for at in range(0, max(len(line), 1), MAX_LINE):
            if self._bucket.available(self._loop.time()) > 0:
                piece = line[at : at + MAX_LINE]
                self._bucket.take(len(piece) + LINE_COST)
                self._on_line(_read(piece))
            else:
                self._drop(1)

    def _drop(self, lines: int) -> None:
        if not self._dropped:
            self._loop.call_later(REPORT_EVERY, self._report)
        self._dropped += lines

    def _report(self) -> None:
        if self._dropped:
            limits = f"over {RATE} bytes or {RATE // LINE_COST} lines a second"
            self._on_line(LogLine(f"... {self._dropped} lines of output dropped: {limits}"))
            self._dropped = 0

    def _finish(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            if self.rest:
                self._keep(self.rest + b"\n")
                self._emit(self.rest)
                self.rest = b""
            self._report()


def _read(line: bytes) -> LogLine:
    """Parse a line: a log record of the worker, or any other output. Control characters are escaped."""
    text = line.decode("utf-8", "backslashreplace").rstrip("\r")
    logged = log_lines.read(text)
    if logged is None:
        return LogLine(text.translate(_ESCAPED))
    about = {name: _escaped(value, _ESCAPED) for name, value in logged.about.items()}
    message, exception = (_escaped(part, _ESCAPED_LINES) for part in (logged.message, logged.exception))
    return LogLine(message, logged.level, about, exception)


def _escaped(text: str, escaped: Mapping[int, str]) -> str:
    """Escape a string from JSON. A lone surrogate, which UTF-8 cannot represent, becomes an escape too."""
    return text.encode("utf-8", "backslashreplace").decode().translate(escaped)


def _shown(line: bytes) -> list[str]:
    """Return a line as text lines; a log record may have several."""
    read = _read(line)
    return read.text.split("\n") if read.about else [read.message]
