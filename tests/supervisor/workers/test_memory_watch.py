"""The watch over the memory of workers: what goes wrong in one look, the next one makes good."""

import logging
import os

import pytest

from agentscope_supervisor.system.process_memory import ProcessMemory
from agentscope_supervisor.workers import memory_watch
from agentscope_supervisor.workers.memory_watch import MemoryWatch
from tests.harness.waiting import eventually


async def test_a_look_that_fails_is_told_and_ends_neither_the_watch_nor_its_stop(
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
    await eventually(lambda: caplog.records, 10, "the failure is told")
    fails[0] = False
    await eventually(lambda: seen, 10, "it looks again")
    assert seen.keys() == {7}
    assert seen[7] > 10
    await watch.stop()
