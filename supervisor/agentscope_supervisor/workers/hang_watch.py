"""The watch over the event loops of workers: reads their pages twice a second, asks `hang_detection`.
It has their links looked at too, for a frame that does not come to its end.

Reading a page costs nothing and works whatever state the worker is in; the kernel is asked only about a
worker whose loop is late. Its answer needs two looks, because a share of the CPU is a difference.
"""

import asyncio
import logging
from typing import Final, NamedTuple

from agentscope_supervisor.system.event_queue import Post
from agentscope_supervisor.workers import hang_detection
from agentscope_supervisor.workers.exit_reasons import Cause, ExitReason
from agentscope_supervisor.workers.hang_detection import (
    Counters,
    HangDetector,
    ProcessSample,
    RequestKill,
    Suspect,
)
from agentscope_supervisor.workers.lifecycle import ProcessState
from agentscope_supervisor.workers.pool import Pool, Process

log = logging.getLogger(__name__)

LOOK_EVERY: Final = 0.5  # seconds

# psutil's words for the states of ps.
_STATES: Final = {"running": "R", "disk-sleep": "D", "stopped": "T", "tracing-stop": "t"}


class HangWatch:
    """Looks until `stop`; everything it does happens on the daemon's queue."""

    def __init__(self, unresponsive_timeout: float, pool: Pool, post: Post) -> None:
        self._detector: Final = HangDetector(unresponsive_timeout)
        self._pool: Final = pool
        self._post: Final = post
        self._loop: Final = asyncio.get_running_loop()
        self._cpu: dict[int, _Use] = {}  # of late processes
        self._timer = self._arm()

    def set_timeout(self, unresponsive_timeout: float) -> None:
        """This holds from now on."""
        self._detector.unresponsive_timeout = unresponsive_timeout

    def stop(self) -> None:
        self._timer.cancel()

    def _arm(self) -> asyncio.TimerHandle:
        return self._loop.call_later(LOOK_EVERY, self._post, self._look)

    def _look(self) -> None:
        self._timer = self._arm()
        now = self._loop.time()
        ready = {p.number: p for p in self._pool if p.state in (ProcessState.READY, ProcessState.DRAINING)}
        for process in ready.values():
            if process.link is not None:
                process.link.look()
        pages = {number: _counters(process) for number, process in ready.items()}
        recovered, late = self._detector.look(pages, now, LOOK_EVERY)
        for event in recovered:
            label = ready[event.process].label
            log.warning("worker's loop turns again", extra={"worker": label, "seconds": round(event.age, 1)})
        samples = {}
        for number in late:
            sample = self._sample(ready[number], now)
            if sample is not None:
                samples[number] = sample
        for gone in self._cpu.keys() - set(late):
            del self._cpu[gone]
        for command in self._detector.judge(samples, now):
            self._act(command, ready[command.process])

    def _act(self, command: hang_detection.Command, process: Process) -> None:
        told = {"worker": process.label, "seconds": round(command.age, 1), "kind": command.kind}
        match command:
            case Suspect():
                log.warning("worker's loop does not turn; its stacks follow", extra=told)
                if process.child is not None:
                    process.child.dump_stacks()
            case RequestKill():
                log.error("worker's loop does not turn; it is killed", extra=told)
                self._pool.kill(process, ExitReason(Cause.UNRESPONSIVE, command.kind))

    def _sample(self, process: Process, now: float) -> ProcessSample | None:
        """What the kernel says of a process; None at the first look, or if it has just ended."""
        import psutil  # 3 MB that a healthy instance never needs

        assert process.child is not None
        try:
            seen = psutil.Process(process.child.pid)
            times, status = seen.cpu_times(), seen.status()
        except psutil.Error:
            return None
        used = times.user + times.system
        before = self._cpu.get(process.number)
        if before is None:
            self._cpu[process.number] = _Use(used, used, now)
            return None
        self._cpu[process.number] = _Use(before.at_first, used, now)
        share = (used - before.used) / (now - before.at)
        return ProcessSample(_STATES.get(status, "S"), share, used - before.at_first)


class _Use(NamedTuple):
    """CPU seconds that a process had used when it was first seen late, and at `at`."""

    at_first: float
    used: float
    at: float


def _counters(process: Process) -> Counters:
    page = process.page
    return Counters(page.loop, page.thread) if page is not None else Counters(0, 0)
