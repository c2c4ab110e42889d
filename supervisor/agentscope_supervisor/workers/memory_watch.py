"""The watch over the memory of workers: looks from time to time and tells what it saw.

What is too much is decided in `recycling`; how it is measured is in `system.process_memory`.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from agentscope_supervisor.system.process_memory import ProcessMemory

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

    def __init__(self, memory: ProcessMemory, workers: Workers, seen: Seen) -> None:
        self._memory: Final = memory
        self._workers: Final = workers
        self._seen: Final = seen
        self._task: Final = asyncio.get_running_loop().create_task(self._look_on())

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])  # raises nothing of it

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            try:
                await self._look()
            except Exception:  # of the next look it may be true no more
                log.exception("looking at the memory of workers failed")

    async def _look(self) -> None:
        workers = self._workers()
        held = await self._memory.measure() if workers else {}
        for number, pid in workers.items():
            if pid in held:
                self._seen(number, held[pid])
