"""Logs code that blocks the event loop, for development: file, line, function, duration and turn.

A thread schedules a callback on the loop a hundred times a second and samples the stack of the loop's thread
while the callback does not run. Off in production, where it has no cost; there, `watchdog` and the supervisor
detect loops that are blocked for seconds.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Final
from weakref import WeakKeyDictionary

from agentscope_worker import log_output

log = logging.getLogger(__name__)

BLOCK_THRESHOLD: Final = 0.1  # seconds a loop may be blocked: a user starts to notice such a gap in a stream
CHECK_INTERVAL: Final = 0.01  # seconds; a block lasts up to this much longer than measured
SAMPLE_INTERVAL: Final = 0.02  # seconds between two stack samples of a blocked loop


class LoopWatch:
    """Watches the loop on which it is created, for the life of the loop. `project`: the App's folder."""

    def __init__(self, project: Path) -> None:
        self._project: Final = f"{project}/"
        self._loop: Final = asyncio.get_running_loop()
        self._thread: Final = threading.get_ident()
        self._responded: Final = threading.Event()
        # A task that an App's task creates belongs to the same turn.
        self._turns: Final[WeakKeyDictionary[asyncio.Task[Any], Mapping[str, str]]] = WeakKeyDictionary()
        factory: Any = self._make_task  # typeshed wants a coroutine or a generator
        self._loop.set_task_factory(factory)
        threading.Thread(target=self._watch, name="loop-watch", daemon=True).start()

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(work, loop=loop, **options)
        self._turns[task] = log_output.current_turn(options.get("context"))
        return task

    def _watch(self) -> None:
        while True:
            samples: Counter[str] = Counter()
            about: Mapping[str, str] = {}
            began = time.monotonic()
            time.sleep(CHECK_INTERVAL)
            if time.monotonic() - began >= BLOCK_THRESHOLD:
                # C code held the GIL and has only just released it.
                about = self._sample(samples)
            self._responded.clear()
            try:
                self._loop.call_soon_threadsafe(self._responded.set)
            except RuntimeError:  # the loop is closed
                return
            timeout = max(0.0, began + BLOCK_THRESHOLD - time.monotonic())
            while not self._responded.wait(timeout):
                about = self._sample(samples) or about
                timeout = SAMPLE_INTERVAL
            self._log_block(time.monotonic() - began, samples, about)

    def _sample(self, samples: Counter[str]) -> Mapping[str, str]:
        """Count the current location of the loop's thread; returns the context fields of the running turn."""
        location = self._location(sys._current_frames().get(self._thread))
        if location:
            samples[location] += 1
        task = asyncio.current_task(self._loop)
        return self._turns.get(task, {}) if task is not None else {}

    def _location(self, innermost: FrameType | None) -> str:
        """The innermost line of the App's own code, else the innermost line; "" if the loop only waits."""
        frames = list(_outward(innermost))
        if not frames or frames[0].f_code.co_filename == asyncio.runners.__file__:
            return ""  # on a machine that is too busy for this process, an idle loop looks blocked
        own = (frame for frame in frames if self._is_own(frame.f_code.co_filename))
        frame = next(own, frames[0])
        inner = f", in {frames[0].f_code.co_qualname}" if frame is not frames[0] else ""
        return f"{frame.f_code.co_filename}, line {frame.f_lineno}, in {frame.f_code.co_qualname}{inner}"

    def _is_own(self, file: str) -> bool:
        return file.startswith(self._project) and "/site-packages/" not in file

    def _log_block(self, seconds: float, samples: Counter[str], about: Mapping[str, str]) -> None:
        if samples:
            ((location, _),) = samples.most_common(1)
            log.warning(
                "the event loop was blocked for %d ms: %s", seconds * 1000, location, extra={"about": about}
            )


def _outward(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
