"""Names what blocks the event loop, while somebody develops: file, line, function, how long, in which turn.

A thread asks the loop for an answer a hundred times a second, and looks at what the loop's thread is doing
while none comes. Off in service, where it costs nothing at all; there `watchdog` and the supervisor see to
loops that do not turn for seconds.
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

LIMIT: Final = 0.1  # seconds that a loop may be blocked: what a person begins to notice in a stream
ASK_EVERY: Final = 0.01  # seconds; by so much a block is longer than it is seen to be
LOOK_EVERY: Final = 0.02  # seconds between two looks at a loop that is blocked


class LoopWatch:
    """Watches the loop on which it is made, for as long as that lives. `project`: of the App's own code."""

    def __init__(self, project: Path) -> None:
        self._project: Final = f"{project}/"
        self._loop: Final = asyncio.get_running_loop()
        self._thread: Final = threading.get_ident()
        self._turned: Final = threading.Event()
        # A task made by an App's task belongs to the same turn.
        self._about: Final[WeakKeyDictionary[asyncio.Task[Any], Mapping[str, str]]] = WeakKeyDictionary()
        factory: Any = self._make_task  # typeshed wants a coroutine or a generator
        self._loop.set_task_factory(factory)
        threading.Thread(target=self._watch, name="loop-watch", daemon=True).start()

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(work, loop=loop, **options)
        self._about[task] = log_output.current_turn(options.get("context"))
        return task

    def _watch(self) -> None:
        while True:
            seen: Counter[str] = Counter()
            about: Mapping[str, str] = {}
            began = time.monotonic()
            time.sleep(ASK_EVERY)
            if time.monotonic() - began >= LIMIT:
                # C code has held the interpreter's lock, and has only just given it back.
                about = self._look(seen)
            self._turned.clear()
            try:
                self._loop.call_soon_threadsafe(self._turned.set)
            except RuntimeError:  # the loop is closed
                return
            patience = max(0.0, began + LIMIT - time.monotonic())
            while not self._turned.wait(patience):
                about = self._look(seen) or about
                patience = LOOK_EVERY
            self._tell(time.monotonic() - began, seen, about)

    def _look(self, seen: Counter[str]) -> Mapping[str, str]:
        """Count where the loop's thread is; returns the turn whose code it runs."""
        place = self._place(sys._current_frames().get(self._thread))
        if place:
            seen[place] += 1
        task = asyncio.current_task(self._loop)
        return self._about.get(task, {}) if task is not None else {}

    def _place(self, innermost: FrameType | None) -> str:
        """The App's own line that runs, or else the innermost of all; "" while the loop only waits."""
        frames = list(_outward(innermost))
        if not frames or frames[0].f_code.co_filename == asyncio.runners.__file__:
            return ""  # a machine that is too busy for this process looks like a loop that does not answer
        own = (frame for frame in frames if self._is_own(frame.f_code.co_filename))
        frame = next(own, frames[0])
        inner = f", in {frames[0].f_code.co_qualname}" if frame is not frames[0] else ""
        return f"{frame.f_code.co_filename}, line {frame.f_lineno}, in {frame.f_code.co_qualname}{inner}"

    def _is_own(self, file: str) -> bool:
        return file.startswith(self._project) and "/site-packages/" not in file

    def _tell(self, seconds: float, seen: Counter[str], about: Mapping[str, str]) -> None:
        if seen:
            ((place, _),) = seen.most_common(1)
            log.warning(
                "the event loop was blocked for %d ms: %s", seconds * 1000, place, extra={"about": about}
            )


def _outward(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
