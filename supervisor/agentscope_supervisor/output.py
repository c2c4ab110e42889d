"""What a worker prints: its pipe, always drained, cut into lines that are safe to log.

A worker whose pipe is full stops in its next print, so that this reads whatever the log does with it. The
last lines are kept for the report of its death. Knows nothing of processes; `spawn` makes one for each.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import Final

MAX_LINE: Final = 16 * 1024
"""Bytes of a line of output; what is longer is cut into several. Log shippers cut near here too."""

LAST_READS: Final = 16
"""Reads of 64 KiB after the end of a worker: a full pipe, its usual size being that of one read, and more."""

KEPT_LINES: Final = 50
"""Last lines of a worker kept for the report of its death: a traceback and what led to it."""

# What a terminal would act on must not reach one through the log.
_ESCAPED: Final = {code: f"\\x{code:02x}" for code in [*range(0x20), *range(0x7F, 0xA0)] if code != 0x09}

OnLine = Callable[[str], None]


class Output:
    """What a worker prints, line by line."""

    def __init__(self, fd: int, on_line: OnLine) -> None:
        self.last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._fd = fd
        self._on_line = on_line
        self._rest = b""
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._readable)

    def close(self) -> None:
        """Read what is left, and stop. Bounded: what the worker started may go on printing into the pipe."""
        for _ in range(LAST_READS):
            if self._fd < 0 or not self._readable():
                break
        self._finish()

    def _readable(self) -> bool:
        """Read once; returns whether there may be more."""
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return False
        if not data:
            self._finish()
            return False
        *lines, rest = (self._rest + data).split(b"\n")
        while len(rest) >= MAX_LINE:
            lines.append(rest[:MAX_LINE])
            rest = rest[MAX_LINE:]
        self._rest = rest
        for line in lines:
            self._emit(line)
        return True

    def _emit(self, line: bytes) -> None:
        for at in range(0, max(len(line), 1), MAX_LINE):
            text = line[at : at + MAX_LINE].decode("utf-8", "backslashreplace").rstrip("\r")
            text = text.translate(_ESCAPED)
            self.last_lines.append(text)
            self._on_line(text)

    def _finish(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            if self._rest:
                self._emit(self._rest)
