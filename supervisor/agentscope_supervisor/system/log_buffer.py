"""The last lines of the log, and those who follow it while it is written.

A handler of logging beside the one that writes: whoever logs never waits here either. A follower that reads
too slowly loses lines, and is told how many; nothing else of the instance notices.
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
"""Lines kept for those who ask later: what led to a death, and 8 MB if all are the longest."""

MAX_BEHIND: Final = 1_000
"""Lines that wait for one follower: a second of an App that prints as fast as it may."""


class LogBuffer(logging.Handler):
    """Keeps and hands on what is logged; to be added to the root logger."""

    def __init__(self) -> None:
        super().__init__()
        self._loop: Final = asyncio.get_running_loop()
        self._kept: Final[deque[logging.LogRecord]] = deque(maxlen=KEPT)
        self.end = 0  # lines so far
        self._followers: Final[set[_Follower]] = set()
        self._formatter: Final = JsonFormatter()

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:  # as text, so that no frame of it lives on here
            text, record = self._formatter.formatException(record.exc_info), copy.copy(record)
            record.exc_info, record.exc_text = None, text
        self._kept.append(record)
        self.end += 1
        for follower in list(self._followers):
            follower.put(record)

    def last(self, most: int, *, output: bool) -> list[bytes]:
        """The last lines, oldest first, as JSON. `output`: also what workers printed."""
        records = [record for record in self._kept.copy() if output or record.name != WORKER]
        return self._lines(records[-most:] if most else ())

    def since(self, at: int) -> tuple[list[bytes], int]:
        """What came after the first `at` lines, as JSON, and how many have come by now: where the next call
        goes on. What a worker printed is marked `"output": true`; what is not kept any more is told by its
        number, as `"lost"`."""
        with self.lock or contextlib.nullcontext():  # lines may come from any thread
            end, kept = self.end, list(self._kept)
        new = min(end - max(at, 0), len(kept))
        lines = [self._marked(record) for record in kept[len(kept) - new :]]
        lost = end - max(at, 0) - new
        return ([_lost(lost), *lines] if lost else lines), end

    async def follow(self, *, output: bool) -> AsyncIterator[list[bytes]]:
        """What is logged from now on, as JSON, in the pieces in which it comes; without end."""
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
    """What waits for one reader. Lines may come from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Final = loop
        self._waiting: deque[logging.LogRecord] = deque()
        self._lost = 0
        self._came: Final = asyncio.Event()

    def put(self, record: logging.LogRecord) -> None:
        if len(self._waiting) >= MAX_BEHIND:
            self._lost += 1
            return
        self._waiting.append(record)
        if len(self._waiting) == 1:
            self._loop.call_soon_threadsafe(self._came.set)

    async def take(self) -> tuple[deque[logging.LogRecord], int]:
        """What has come since the last call, and how many lines were lost after it."""
        await self._came.wait()
        self._came.clear()
        taken, self._waiting = self._waiting, deque()
        lost, self._lost = self._lost, 0
        return taken, lost
