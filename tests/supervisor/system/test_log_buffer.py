"""The log buffer keeps the last records, and streams new ones from any thread to its followers in order."""

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from agentscope_supervisor.system.log_buffer import KEPT, MAX_BEHIND, WORKER, LogBuffer

events = logging.getLogger("test.log_buffer")
output = logging.getLogger(WORKER)


@pytest.fixture
async def log_buffer() -> Any:
    made = LogBuffer()
    for logger in (events, output):
        logger.addHandler(made)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    yield made
    for logger in (events, output):
        logger.removeHandler(made)
        logger.setLevel(logging.NOTSET)
        logger.propagate = True


def messages(lines: list[bytes]) -> Iterator[str]:
    for line in lines:
        entry = json.loads(line)
        yield entry["message"] if "message" in entry else f"lost {entry['lost']}"


async def taken(follower: Any, count: int) -> list[str]:
    """Return at least `count` messages from a follower."""
    found: list[str] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            found += messages(await anext(follower))
    return found


async def test_last_returns_lines_with_or_without_worker_output(log_buffer: LogBuffer) -> None:
    for number in range(3):
        events.info("event %d", number)
        output.info("line %d", number)
    assert list(messages(log_buffer.last(3, output=True))) == ["line 1", "event 2", "line 2"]
    assert list(messages(log_buffer.last(2, output=False))) == ["event 1", "event 2"]
    assert log_buffer.last(0, output=True) == []


async def test_the_number_of_kept_records_is_bounded(log_buffer: LogBuffer) -> None:
    for number in range(KEPT + 10):
        events.info("%d", number)
    kept = list(messages(log_buffer.last(10 * KEPT, output=True)))
    assert (len(kept), kept[0]) == (KEPT, "10")


async def test_since_returns_each_line_once_and_marks_worker_output(log_buffer: LogBuffer) -> None:
    events.info("one")
    output.info("two")
    lines, at = log_buffer.since(-200)
    assert list(messages(lines)) == ["one", "two"]
    assert [json.loads(line).get("output", False) for line in lines] == [False, True]
    assert log_buffer.since(at) == ([], at)
    events.info("three")
    lines, at = log_buffer.since(at)
    assert (list(messages(lines)), at) == (["three"], log_buffer.end)
    assert list(messages(log_buffer.since(1)[0])) == ["two", "three"]


async def test_since_reports_how_many_lines_were_dropped(log_buffer: LogBuffer) -> None:
    events.info("before")
    at = log_buffer.end
    for number in range(KEPT + 7):
        events.info("%d", number)
    lines, _ = log_buffer.since(at)
    found = list(messages(lines))
    assert (found[0], found[1], found[-1], len(found)) == ("lost 7", "7", str(KEPT + 6), KEPT + 1)


async def test_a_traceback_is_kept_as_text(log_buffer: LogBuffer) -> None:
    try:
        raise ValueError("here")
    except ValueError:
        events.exception("it failed")
    (line,) = log_buffer.last(1, output=False)
    assert "ValueError: here" in json.loads(line)["exception"]
    assert json.loads(line)["message"] == "it failed"


async def test_a_follower_receives_new_records_from_any_thread(log_buffer: LogBuffer) -> None:
    events.info("before")
    follower = log_buffer.follow(output=False)
    first = asyncio.create_task(taken(follower, 1))
    await asyncio.sleep(0)
    output.info("no event")
    events.info("one")
    assert await first == ["one"]
    thread = threading.Thread(target=lambda: [events.info("%d", number) for number in range(50)])
    thread.start()
    assert await taken(follower, 50) == [str(number) for number in range(50)]
    thread.join()
    await follower.aclose()


async def test_a_slow_follower_loses_lines_and_receives_their_number(log_buffer: LogBuffer) -> None:
    follower = log_buffer.follow(output=True)
    first = asyncio.create_task(taken(follower, MAX_BEHIND + 1))
    await asyncio.sleep(0)
    for number in range(MAX_BEHIND + 7):
        events.info("%d", number)
    found = await first
    assert found[0] == "0"
    assert found[-2:] == [str(MAX_BEHIND - 1), "lost 7"]
    events.info("after")
    assert await taken(follower, 1) == ["after"]
    await follower.aclose()


async def test_a_closed_follower_is_removed(log_buffer: LogBuffer) -> None:
    follower = log_buffer.follow(output=True)
    first = asyncio.create_task(taken(follower, 1))
    await asyncio.sleep(0)
    events.info("one")
    await first
    await follower.aclose()
    assert log_buffer._followers == set()
