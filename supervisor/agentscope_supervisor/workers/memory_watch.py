"""Measures the memory of workers periodically and reports it.

`recycling` decides how much memory is too much; `system.process_memory` measures it.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from agentscope_supervisor.system.process_memory import ProcessMemory

log = logging.getLogger(__name__)

MEASURE_EVERY: Final = 5.0
"""Seconds. A measurement takes a thread a few milliseconds for each worker. A leak that fills the memory
within 5 s is handled by the OOM killer of the kernel."""

Workers = Callable[[], Mapping[int, int]]
"""Returns the workers to measure: number and pid of each process."""

OnMemory = Callable[[int, float], None]
"""Called with the number of a process and its memory in MB."""


class MemoryWatch:
    """Measures until `stop`."""

    def __init__(self, memory: ProcessMemory, workers: Workers, on_memory: OnMemory) -> None:
        self._memory: Final = memory
        self._workers: Final = workers
        self._on_memory: Final = on_memory
        self._task: Final = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Stop measuring, and wait for the end of the task."""
        self._task.cancel()
        await asyncio.wait([self._task])  # unlike `await`, does not raise the exception of the task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(MEASURE_EVERY)
            try:
                await self._measure()
            except Exception:  # the next measurement may succeed
                log.exception("memory measurement of workers failed")

    async def _measure(self) -> None:
        workers = self._workers()
        memory = await self._memory.measure() if workers else {}
        for number, pid in workers.items():
            if pid in memory:
                self._on_memory(number, memory[pid])
