"""The memory watch continues after a failed measurement."""

import logging
import os

import pytest

from agentscope_supervisor.system.process_memory import ProcessMemory
from agentscope_supervisor.workers import memory_watch
from agentscope_supervisor.workers.memory_watch import MemoryWatch
from tests.harness.waiting import eventually


async def test_a_failed_measurement_is_logged_and_does_not_end_the_watch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory_watch, "MEASURE_EVERY", 0.01)
    caplog.set_level(logging.ERROR)
    fails, seen = [True], dict[int, float]()

    def workers() -> dict[int, int]:
        if fails[0]:
            raise ZeroDivisionError
        return {7: os.getpid()}

    watch = MemoryWatch(ProcessMemory(lambda: [os.getpid()]), workers, seen.__setitem__)
    await eventually(lambda: caplog.records, 30, "the failure is logged")
    fails[0] = False
    await eventually(lambda: seen, 30, "the next measurement succeeds")
    assert seen.keys() == {7}
    assert seen[7] > 10
    await watch.stop()
