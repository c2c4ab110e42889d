"""What a worker prints: its pipe, always drained, cut into lines that are safe to log.

A worker whose pipe is full stops in its next print, so that this reads whatever the log does with it. What
comes too fast for the log is counted and dropped, unread as far as possible; the last of it is kept, for
the record of a death, and apart from it the last dump of stacks, which may have come long before. Knows
nothing of processes; `spawn` makes one for each.
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
"""Bytes of a line of output; what is longer is cut into several. Log shippers cut near here too."""

RATE: Final = 1_000_000  # bytes a second that reach the log, of one worker; 86 GB a day are plenty
BURST: Final = 1_000_000  # bytes after a quiet time: the stacks of a hundred threads, and the next
LINE_COST: Final = 500
"""Bytes that a line costs beside its own: to decode and format one takes 20 µs, so that 2,000 a second, all
that pass, are 4 % of a CPU, and a burst of them fits into the log's queue."""

READ: Final = 64 * 1024  # bytes at a time
PIPE: Final = 16 * READ  # what the pipe should hold: the most that Linux gives without privileges
PAUSE: Final = 0.01
"""Seconds between two reads of what is dropped. A pipe that large is full after that at 100 MB/s, which no
print reaches; and a flood wakes the supervisor a hundred times a second in place of once for each print."""

REPORT_EVERY: Final = 1.0  # seconds between two lines that say how much was dropped

KEPT: Final = READ  # bytes in which the last lines of a worker are looked for

# What a terminal would act on must not reach one through the log.
_ESCAPED: Final = {code: f"\\x{code:02x}" for code in [*range(0x20), *range(0x7F, 0xA0)] if code != 0x09}
_ESCAPED_LINES: Final = {code: text for code, text in _ESCAPED.items() if code != 0x0A}

OnLine = Callable[[LogLine], None]


class OutputPipe:
    """What a worker prints, line by line."""

    def __init__(self, fd: int, on_line: OnLine) -> None:
        self.stacks: deque[str] = deque(maxlen=KEPT_STACK_LINES)
        self._fd = fd
        self._on_line = on_line
        self._rest = b""  # the line that is not complete yet
        self._kept = bytearray()
        self._bucket: Final = TokenBucket(RATE, BURST)
        self._dropped = 0  # lines since the last report
        self._loop = asyncio.get_running_loop()
        kernel.widen_pipe(fd, PIPE)
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._readable)

    @property
    def last_lines(self) -> list[str]:
        """The last lines that were printed, whether they have reached the log or not."""
        lines = bytes(self._kept[-KEPT:]).removesuffix(b"\n").split(b"\n")[-KEPT_LINES:]
        return [part for line in lines for part in _shown(line[-MAX_LINE:])] if self._kept else []

    def close(self) -> None:
        """Read what is available, and stop. Bounded: what the worker started may go on printing into the
        pipe."""
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
        """Read what a full pipe holds."""
        for _ in range(PIPE // READ):
            if self._fd < 0 or not self._read():
                break

    def _read(self) -> bool:
        """Read once; returns whether there may be more."""
        try:
            data = os.read(self._fd, READ)
        except BlockingIOError:
            return False
        if not data:
            self._finish()
            return False
        self._kept += data
        if len(self._kept) > 2 * KEPT:
            del self._kept[:-KEPT]
        # No more lines are looked at than can pass: `rest` is all that follows them.
        passing = max(0, int(self._bucket.available(self._loop.time())) // LINE_COST + 1)
        *lines, rest = (self._rest + data).split(b"\n", passing)
        for line in lines:
            self._emit(line)
        if dropped := rest.count(b"\n"):
            self._drop(dropped)
            rest = rest[rest.rindex(b"\n") + 1 :]
        while len(rest) >= MAX_LINE:
            self._emit(rest[:MAX_LINE])
            rest = rest[MAX_LINE:]
        self._rest = rest
        return True

    def _emit(self, line: bytes) -> None:
        for at in range(0, max(len(line), 1), MAX_LINE):
            if self._bucket.available(self._loop.time()) > 0:
                piece = line[at : at + MAX_LINE]
                self._bucket.take(len(piece) + LINE_COST)
                read = _read(piece)
                if is_stack_line(read.message):
                    self.stacks.append(read.message)
                self._on_line(read)
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
            if self._rest:
                self._emit(self._rest)
            self._report()


def _read(line: bytes) -> LogLine:
    """A line as it may be shown: what a worker's logging printed, or what anybody else did."""
    text = line.decode("utf-8", "backslashreplace").rstrip("\r")
    logged = log_lines.read(text)
    if logged is None:
        return LogLine(text.translate(_ESCAPED))
    about = {name: _escaped(value, _ESCAPED) for name, value in logged.about.items()}
    message, exception = (_escaped(part, _ESCAPED_LINES) for part in (logged.message, logged.exception))
    return LogLine(message, logged.level, about, exception)


def _escaped(text: str, escaped: Mapping[int, str]) -> str:
    """What JSON has held; a lone surrogate in it has no form in UTF-8, whoever asks for the line."""
    return text.encode("utf-8", "backslashreplace").decode().translate(escaped)


def _shown(line: bytes) -> list[str]:
    """A line as text: several, if it is a record with more than one."""
    read = _read(line)
    return read.text.split("\n") if read.about else [read.message]
