"""The memory of an instance: who looks, how often, and what is told while a look hangs."""

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
def looks(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each process was looked at; each holds as many MB as that."""
    counts = Counter[int]()

    def used(pid: int) -> int:
        counts[pid] += 1
        return counts[pid] * process_memory.MB

    monkeypatch.setattr(process_memory, "_used", used)
    return counts


async def test_it_is_that_of_the_processes_and_nothing_of_one_that_has_ended() -> None:
    held = await ProcessMemory(lambda: [os.getpid(), 2**22 + 1]).look()
    assert held[os.getpid()] > 10
    assert held[2**22 + 1] == 0


async def test_a_look_serves_all_who_ask_at_once_and_for_a_while(
    looks: Counter[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ProcessMemory(lambda: [1, 2])
    told = [*await asyncio.gather(*(made.look() for _ in range(9))), await made.look()]
    assert told == [{1: 1.0, 2: 1.0}] * 10
    monkeypatch.setattr(process_memory, "LOOK_EVERY", 0.0)
    assert await made.look() == {1: 2.0, 2: 2.0}


async def test_a_process_that_is_new_is_looked_at_at_once(looks: Counter[int]) -> None:
    pids = [1]
    made = ProcessMemory(lambda: pids)
    assert await made.look() == {1: 1.0}
    pids[:] = [2]
    assert await made.look() == {2: 1.0}


async def test_while_a_look_hangs_what_was_seen_last_is_told_in_time(
    looks: Counter[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_memory, "LOOK_EVERY", 0.0)
    made = ProcessMemory(lambda: [1])
    assert await made.look() == {1: 1.0}
    free, hanging = threading.Event(), Counter[str]()

    def hang(pid: int) -> int:
        hanging["looks"] += 1
        free.wait(60)
        return 7 * process_memory.MB

    monkeypatch.setattr(process_memory, "_used", hang)
    began = time.monotonic()
    assert [await made.look(0.05) for _ in range(3)] == [{1: 1.0}] * 3
    assert time.monotonic() - began < 30
    assert hanging["looks"] == 1
    free.set()
    await eventually(lambda: made._held == {1: 7.0}, 10, "the look comes to its end")


async def test_a_look_that_fails_is_told_and_the_next_one_is_made(
    looks: Counter[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made, works = ProcessMemory(lambda: [1]), process_memory._used

    def broken(pid: int) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(process_memory, "_used", broken)
    assert await made.look() == {}
    assert "the memory cannot be looked at" in caplog.text
    monkeypatch.setattr(process_memory, "_used", works)
    assert await made.look() == {1: 1.0}
