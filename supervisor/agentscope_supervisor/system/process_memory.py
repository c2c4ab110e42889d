"""Measures the memory of processes as PSS (proportional set size).

In PSS, a page that n processes share counts as 1/n for each process. Workers that were forked from one zygote
share most of their pages, and RSS would count these pages once for each worker.

A measurement blocks for a millisecond or more for each process, and longer if a process waits for a disk. It
therefore runs in a thread, and every caller uses the one `ProcessMemory` of the instance.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Final

from agentscope_supervisor.system.blocking_calls import BlockingCalls, NoThreadAvailable

log = logging.getLogger(__name__)

MB: Final = 1024 * 1024
MAX_AGE: Final = 5.0  # seconds for which a measurement is reused
MEASURE_TIMEOUT: Final = 1.0  # seconds; after this time the caller gets the previous measurement

MemoryByPid = Mapping[int, float]
"""MB by pid. A process that has exited has 0; a process that started after the measurement is missing."""


class ProcessMemory:
    """Measures the processes of one instance. `pids` returns their pids. Create it on the event loop."""

    def __init__(self, pids: Callable[[], Collection[int]]) -> None:
        self._pids: Final = pids
        self._loop: Final = asyncio.get_running_loop()
        self._threads: Final = BlockingCalls("memory", 1)
        self._measuring: asyncio.Task[MemoryByPid] | None = None
        self._memory: MemoryByPid = {}
        self._measured_at = float("-inf")

    async def measure(self, within: float = MEASURE_TIMEOUT) -> MemoryByPid:
        """Return the memory of each process, at most `MAX_AGE` seconds old.

        If the measurement takes longer than `within` seconds, return the previous one.
        """
        if self._measuring is None and self._is_stale():
            self._measuring = self._loop.create_task(self._threads.run(partial(_measure, self._pids())))
            self._measuring.add_done_callback(self._measured)
        if self._measuring is not None:
            await asyncio.wait([self._measuring], timeout=within)
        return self._memory

    def _is_stale(self) -> bool:
        is_old = self._loop.time() - self._measured_at >= MAX_AGE
        return is_old or not self._memory.keys() >= set(self._pids())

    def _measured(self, measuring: asyncio.Task[MemoryByPid]) -> None:
        self._measuring = None
        if measuring.cancelled():  # the loop is closing
            return
        match measuring.exception():
            case None:
                self._memory, self._measured_at = measuring.result(), self._loop.time()
            case NoThreadAvailable():
                log.debug("no thread available to measure memory")
            case error:
                log.error("memory measurement failed", exc_info=error)


def _measure(pids: Collection[int]) -> MemoryByPid:
    return {pid: _used(pid) / MB for pid in pids}


def _used(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:
            for line in rollup:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:  # the process has exited, or this is not Linux, or a sandbox hides the file
        pass
    return _used_elsewhere(pid)


def _used_elsewhere(pid: int) -> int:
    import psutil  # imported late: it takes 3 MB and Linux does not need it

    try:
        process = psutil.Process(pid)
        try:
            # USS counts only unshared pages; macOS does not report PSS.
            return int(process.memory_full_info().uss)
        except psutil.AccessDenied:
            return int(process.memory_info().rss)
    except psutil.Error:
        return 0
