"""The watch over the memory of workers: looks from time to time, in a thread, and tells what it saw.

What is too much is decided in `wear`; how it is measured is in `memory`.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from agentscope_supervisor import memory
from agentscope_supervisor.side_thread import AllTaken, SideThreads

log = logging.getLogger(__name__)

LOOK_EVERY: Final = 5.0
"""Seconds. A look costs a few milliseconds of a thread for each worker; a leak that fills a machine within
five seconds is for the kernel."""

Workers = Callable[[], Mapping[int, int]]
"""The workers to look at: our number of each process, and its pid."""

Seen = Callable[[int, float], None]
"""Told the number of a process and the MB that it holds."""


class MemoryWatch:
    """Looks until `stop`."""

    def __init__(self, workers: Workers, seen: Seen) -> None:
        self._workers: Final = workers
        self._seen: Final = seen
        self._threads: Final = SideThreads("memory", 1)
        self._task: Final = asyncio.get_running_loop().create_task(self._look_on())

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])  # raises nothing of it

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            try:
                await self._look()
            except AllTaken:  # the look before hangs, on a worker that waits for a disk
                pass
            except Exception:  # of the next look it may be true no more
                log.exception("looking at the memory of workers failed")

    async def _look(self) -> None:
        workers = self._workers()
        for number, held in (await self._threads.run(partial(_measure, workers))).items():
            self._seen(number, held)


def _measure(workers: Mapping[int, int]) -> dict[int, float]:
    return {number: memory.used_mb([pid]) for number, pid in workers.items()}
