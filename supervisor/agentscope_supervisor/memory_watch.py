"""The watch over the memory of workers: looks from time to time, in a thread, and tells what it saw.

What is too much is decided in `wear`; how it is measured is in `memory`.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from agentscope_supervisor import memory
from agentscope_supervisor.side_thread import AllTaken, SideThreads

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
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            workers = self._workers()
            with contextlib.suppress(AllTaken):  # the look before hangs, on a worker that waits for a disk
                for number, held in (await self._threads.run(partial(_measure, workers))).items():
                    self._seen(number, held)


def _measure(workers: Mapping[int, int]) -> dict[int, float]:
    return {number: memory.used_mb([pid]) for number, pid in workers.items()}
