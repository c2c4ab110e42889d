"""Keeps the last log records in memory, and streams new ones to followers.

The buffer is a logging handler beside the one that writes the log. The code that logs never waits for a
reader: a follower that reads too slowly loses lines and receives their number, and nothing else is affected.
The handler that writes the log is in `log_setup`.
"""

import asyncio
import contextlib
import copy
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import Final

from agentscope_supervisor.system.log_setup import WORKER, JsonFormatter

KEPT: Final = 500
"""Records that are kept. Enough for the output before a crash; at most 8 MB."""

MAX_BEHIND: Final = 1_000
"""Records that may wait for one follower: about one second of an App that prints at the maximum rate."""


class LogBuffer(logging.Handler):
    """Keeps log records and passes them to followers. Add it to the root logger."""

    def __init__(self) -> None:
        super().__init__()
        self._loop: Final = asyncio.get_running_loop()
        self._kept: Final[deque[logging.LogRecord]] = deque(maxlen=KEPT)
        self.end = 0
        """Number of records since the start."""
        self._followers: Final[set[_Follower]] = set()
        self._formatter: Final = JsonFormatter()

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:  # keep the traceback as text, so that the buffer holds no reference to a frame
            text, record = self._formatter.formatException(record.exc_info), copy.copy(record)
            record.exc_info, record.exc_text = None, text
        self._kept.append(record)
        self.end += 1
        for follower in list(self._followers):
            follower.put(record)

    def last(self, most: int, *, output: bool) -> list[bytes]:
        """Return the last `most` lines as JSON, oldest first. `output` includes the output of workers."""
        records = [record for record in self._kept.copy() if output or record.name != WORKER]
        return self._lines(records[-most:] if most else ())

    def since(self, at: int) -> tuple[list[bytes], int]:
        """Return the lines after the first `at` lines as JSON, and the position for the next call.

        A line that a worker printed has `"output": true`. If lines were already dropped from the buffer, the
        first returned line is `{"lost": n}`.
        """
        with self.lock or contextlib.nullcontext():  # other threads log too
            end, kept = self.end, list(self._kept)
        new = min(end - max(at, 0), len(kept))
        lines = [self._marked(record) for record in kept[len(kept) - new :]]
        lost = end - max(at, 0) - new
        return ([_lost(lost), *lines] if lost else lines), end

    async def follow(self, *, output: bool) -> AsyncIterator[list[bytes]]:
        """Yield new lines as JSON, in batches as they arrive. Never ends by itself."""
        follower = _Follower(self._loop)
        self._followers.add(follower)
        try:
            while True:
                records, lost = await follower.take()
                lines = self._lines(r for r in records if output or r.name != WORKER)
                if lost:
                    lines.append(_lost(lost))
                if lines:
                    yield lines
        finally:
            self._followers.discard(follower)

    def _lines(self, records: Iterable[logging.LogRecord]) -> list[bytes]:
        return [self._formatter.format(record).encode() + b"\n" for record in records]

    def _marked(self, record: logging.LogRecord) -> bytes:
        line = self._formatter.format(record).encode() + b"\n"
        return b'{"output": true, ' + line.removeprefix(b"{") if record.name == WORKER else line


def _lost(lines: int) -> bytes:
    return json.dumps({"lost": lines}).encode() + b"\n"


class _Follower:
    """The records that wait for one reader. `put` may be called from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Final = loop
        self._waiting: deque[logging.LogRecord] = deque()
        self._lost = 0
        self._arrived: Final = asyncio.Event()

    def put(self, record: logging.LogRecord) -> None:
        if len(self._waiting) >= MAX_BEHIND:
            self._lost += 1
            return
        self._waiting.append(record)
        if len(self._waiting) == 1:
            self._loop.call_soon_threadsafe(self._arrived.set)

    async def take(self) -> tuple[deque[logging.LogRecord], int]:
        """Return the records since the last call, and the number of records that were lost after them."""
        await self._arrived.wait()
        self._arrived.clear()
        taken, self._waiting = self._waiting, deque()
        lost, self._lost = self._lost, 0
        return taken, lost
