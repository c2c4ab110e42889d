"""Watches the event loops of workers: reads their pages twice per second and applies `hang_detection`.

Also checks their links for incomplete frames. Reading a page is cheap and works in any state of the worker.
The kernel is asked only about a worker whose event loop is late. A sample needs two checks, because the CPU
share is a difference.
"""

import asyncio
import logging
from typing import Final, NamedTuple

from agentscope_supervisor.system.event_queue import Post
from agentscope_supervisor.system.sweeper import Sweeper
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
from agentscope_supervisor.workers.pool import Pool
from agentscope_supervisor.workers.process import Process

log = logging.getLogger(__name__)

CHECK_EVERY: Final = 0.5  # seconds

# States of ps by the names that psutil uses.
_STATES: Final = {"running": "R", "disk-sleep": "D", "stopped": "T", "tracing-stop": "t"}


class HangWatch:
    """Checks all ready workers until `stop`. The checks run on the event queue of the instance."""

    def __init__(self, unresponsive_timeout: float, pool: Pool, post: Post) -> None:
        self._detector: Final = HangDetector(unresponsive_timeout)
        self._pool: Final = pool
        self._loop: Final = asyncio.get_running_loop()
        self._cpu: dict[int, _Use] = {}  # of processes whose event loop is late
        self._sweeper: Final = Sweeper(self._loop, CHECK_EVERY, self._check, post)
        self._sweeper.soon()

    def set_timeout(self, unresponsive_timeout: float) -> None:
        """Use this timeout from now on, in seconds."""
        self._detector.unresponsive_timeout = unresponsive_timeout

    def stop(self) -> None:
        """Stop checking."""
        self._sweeper.close()

    def _check(self) -> bool:
        now = self._loop.time()
        ready = {p.number: p for p in self._pool if p.state in (ProcessState.READY, ProcessState.DRAINING)}
        for process in ready.values():
            if process.link is not None:
                process.link.check_incomplete_frame()
        counters = {number: _counters(process) for number, process in ready.items()}
        recovered, late = self._detector.observe(counters, now, CHECK_EVERY)
        for event in recovered:
            label = ready[event.process].label
            log.warning(
                "event loop of worker runs again", extra={"worker": label, "seconds": round(event.age, 1)}
            )
        samples = {}
        for number in late:
            sample = self._sample(ready[number], now)
            if sample is not None:
                samples[number] = sample
        for number in self._cpu.keys() - set(late):
            del self._cpu[number]
        for command in self._detector.judge(samples, now):
            self._act(command, ready[command.process])
        return True

    def _act(self, command: hang_detection.Command, process: Process) -> None:
        fields = {"worker": process.label, "seconds": round(command.age, 1), "kind": command.kind}
        match command:
            case Suspect():
                log.warning("event loop of worker is blocked; its stacks follow", extra=fields)
                if process.child is not None:
                    process.child.dump_stacks()
            case RequestKill():
                log.error("event loop of worker is blocked; it is killed", extra=fields)
                self._pool.kill(process, ExitReason(Cause.UNRESPONSIVE, command.kind))

    def _sample(self, process: Process, now: float) -> ProcessSample | None:
        """Return a sample of a process, or None at the first check or if the process has just exited."""
        import psutil  # imported late: it takes 3 MB, and a healthy instance never needs it

        assert process.child is not None
        try:
            examined = psutil.Process(process.child.pid)
            times, status = examined.cpu_times(), examined.status()
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
    """CPU seconds of a process: `at_first` when its loop was first late, and `used` at the time `at`."""

    at_first: float
    used: float
    at: float


def _counters(process: Process) -> Counters:
    page = process.page
    return Counters(page.loop, page.thread) if page is not None else Counters(0, 0)
