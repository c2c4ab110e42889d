"""When memory is measured, and what callers get while a measurement hangs or fails."""

import asyncio
import os
import threading
import time
from collections import Counter

import pytest

from agentscope_supervisor.system import process_memory
from agentscope_supervisor.system.process_memory import ProcessMemory
from tests.harness.waiting import eventually


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each process was measured; it reports the same number of MB."""
    counts = Counter[int]()

    def used(pid: int) -> int:
        counts[pid] += 1
        return counts[pid] * process_memory.MB

    monkeypatch.setattr(process_memory, "_used", used)
    return counts


async def test_a_process_that_does_not_exist_has_no_memory() -> None:
    held = await ProcessMemory(lambda: [os.getpid(), 2**22 + 1]).measure()
    assert held[os.getpid()] > 10
    assert held[2**22 + 1] == 0


async def test_concurrent_and_later_callers_share_one_measurement(
    measured: Counter[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ProcessMemory(lambda: [1, 2])
    results = [*await asyncio.gather(*(made.measure() for _ in range(9))), await made.measure()]
    assert results == [{1: 1.0, 2: 1.0}] * 10
    monkeypatch.setattr(process_memory, "MAX_AGE", 0.0)
    assert await made.measure() == {1: 2.0, 2: 2.0}


async def test_a_new_process_is_measured_at_once(measured: Counter[int]) -> None:
    pids = [1]
    made = ProcessMemory(lambda: pids)
    assert await made.measure() == {1: 1.0}
    pids[:] = [2]
    assert await made.measure() == {2: 1.0}


async def test_a_hanging_measurement_returns_the_previous_one_in_time(
    measured: Counter[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_memory, "MAX_AGE", 0.0)
    made = ProcessMemory(lambda: [1])
    assert await made.measure() == {1: 1.0}
    free, hanging = threading.Event(), Counter[str]()

    def hang(pid: int) -> int:
        hanging["calls"] += 1
        free.wait(60)
        return 7 * process_memory.MB

    monkeypatch.setattr(process_memory, "_used", hang)
    began = time.monotonic()
    assert [await made.measure(0.05) for _ in range(3)] == [{1: 1.0}] * 3
    assert time.monotonic() - began < 30
    assert hanging["calls"] == 1
    free.set()
    await eventually(lambda: made._memory == {1: 7.0}, 30, "the measurement ends")


async def test_a_failed_measurement_is_logged_and_repeated(
    measured: Counter[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made, works = ProcessMemory(lambda: [1]), process_memory._used

    def broken(pid: int) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(process_memory, "_used", broken)
    assert await made.measure() == {}
    assert "memory measurement failed" in caplog.text
    monkeypatch.setattr(process_memory, "_used", works)
    assert await made.measure() == {1: 1.0}
