"""How much memory processes use together: PSS, in which a page that n processes share counts as 1/n to each.

So that workers which are copies of one process are not counted as if each had its own. A look blocks, a
millisecond or more for each process, and for as long as one that waits for a disk does: all who want to know
ask the one `ProcessMemory` of the instance, which makes it in a thread of its own.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Final

from agentscope_supervisor.system.blocking_calls import AllTaken, BlockingCalls

log = logging.getLogger(__name__)

MB: Final = 1024 * 1024
LOOK_EVERY: Final = 5.0  # seconds for which a look holds, however often and by whomever it is asked for
LOOK_WITHIN: Final = 1.0  # seconds; who has waited that long gets what was seen last

Held = Mapping[int, float]
"""MB by pid. One that has ended holds nothing; one that was not there yet at the look is missing."""


class ProcessMemory:
    """What the processes of one instance hold. `pids`: all of them, now. To be made on the event loop."""

    def __init__(self, pids: Callable[[], Collection[int]]) -> None:
        self._pids: Final = pids
        self._loop: Final = asyncio.get_running_loop()
        self._threads: Final = BlockingCalls("memory", 1)
        self._looking: asyncio.Task[Held] | None = None
        self._held: Held = {}
        self._seen_at = float("-inf")

    async def look(self, within: float = LOOK_WITHIN) -> Held:
        """What each of them holds; what was seen last if that takes longer than `within` seconds."""
        if self._looking is None and self._is_stale():
            self._looking = self._loop.create_task(self._threads.run(partial(_held, self._pids())))
            self._looking.add_done_callback(self._looked)
        if self._looking is not None:
            await asyncio.wait([self._looking], timeout=within)
        return self._held

    def _is_stale(self) -> bool:
        return self._loop.time() - self._seen_at >= LOOK_EVERY or not self._held.keys() >= set(self._pids())

    def _looked(self, looking: asyncio.Task[Held]) -> None:
        self._looking = None
        if looking.cancelled():  # the end of the loop
            return
        match looking.exception():
            case None:
                self._held, self._seen_at = looking.result(), self._loop.time()
            case AllTaken():
                log.debug("there is no thread to look at the memory")
            case error:
                log.error("the memory cannot be looked at", exc_info=error)


def _held(pids: Collection[int]) -> Held:
    return {pid: _used(pid) / MB for pid in pids}


def _used(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:
            for line in rollup:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:  # it has ended, or this is no Linux, or a sandbox without the file
        pass
    return _used_elsewhere(pid)


def _used_elsewhere(pid: int) -> int:
    import psutil  # 3 MB that are not needed on Linux

    try:
        process = psutil.Process(pid)
        try:
            # What no other process has; macOS knows no shares.
            return int(process.memory_full_info().uss)
        except psutil.AccessDenied:
            return int(process.memory_info().rss)
    except psutil.Error:
        return 0
