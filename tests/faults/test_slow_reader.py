"""A client that does not read: it stops its own stream, nobody else's, and costs no memory (F57, F60)."""

import asyncio
import itertools
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from agentscope_supervisor.http1.output_limits import MAX_OUTPUT
from tests.harness.client import (
    JSON,
    Connection,
    Stream,
    invoke,
    new_session,
    request,
    session_in,
    texts,
    turn_body,
)
from tests.harness.instance import Instance
from tests.harness.projects import journal
from tests.harness.waiting import eventually

MESSAGE: Final = 10_000  # characters
MESSAGES: Final = 3000  # thirty megabytes: far more than the sockets on the way can hold
RECEIVE_BUFFER: Final = 16 * 1024  # bytes, of a client that reads slowly
PER_STREAM: Final = 1.5 * 2**20  # bytes that the supervisor may hold for one, F57 and the allocator's slack

FLOOD: Final = [{"big": MESSAGE, "times": MESSAGES}]


@pytest.fixture(scope="module")
def flooded(start_module_instance: Callable[..., Instance]) -> Instance:
    """Without events kept for those who come back: these are bounded too, for all runs together."""
    return start_module_instance(sessions={"replay_max_mb": 0})


def memory(instance: Instance) -> int:
    """Bytes of the supervisor's own memory."""
    used: int = psutil.Process(instance.pid).memory_full_info().uss
    return used


async def has_settled(read: Callable[[], Any], still_for: float = 0.7) -> None:
    """Wait until a value has not changed for so many seconds."""
    value, since = read(), time.monotonic()

    def still() -> bool:
        nonlocal value, since
        now = read()
        if now != value:
            value, since = now, time.monotonic()
        return time.monotonic() - since > still_for

    await eventually(still, 20, "it has come to rest")


@pytest.mark.timed
@pytest.mark.fault("F57", "F60")
async def test_f57_f60_one_that_does_not_read_harms_nobody(flooded: Instance, tmp_path: Path) -> None:
    port, path = flooded.port, tmp_path / "journal"
    slow, same_worker, other = [await session_in(port, slot) for slot in (0, 0, 1)]
    noted = {"journal": str(path)}
    await texts(
        port, same_worker, [{"big": MESSAGE, "times": 300}]
    )  # what the first big answer takes for good
    before = memory(flooded)
    async with Stream(port, slow, FLOOD, receive_buffer=RECEIVE_BUFFER, metadata=noted) as stream:
        await stream.begun()
        await has_settled(lambda: psutil.Process(flooded.ready_workers()[0].pid).cpu_times()[:2])
        assert [line["word"] for line in journal(path)] == ["begin"], "the App is held back"
        grown = memory(flooded) - before
        print(f"supervisor grew by {grown / 1024:.0f} KB for a client that does not read")
        assert grown < PER_STREAM

        for session in (same_worker, other):
            began = time.monotonic()
            assert len(await texts(port, session, [{"big": MESSAGE, "times": 300}])) == 300
            assert time.monotonic() - began < 5

        # Then it reads on, and all is there.
        events = await stream.whole(within=60)
        assert len(events) == MESSAGES
        assert {len(event.text) for event in events} == {MESSAGE}
    assert [line["word"] for line in journal(path)] == ["begin", "end"]


@pytest.mark.fault("F57")
async def test_f57_many_that_do_not_read(flooded: Instance) -> None:
    """Thirty of them: the memory is bounded for each, so that it is bounded."""
    count, before = 30, memory(flooded)
    async with AsyncExitStack() as stack:
        for number in range(count):
            session = await session_in(flooded.port, number % 2)
            stream = Stream(flooded.port, session, FLOOD, receive_buffer=RECEIVE_BUFFER)
            await (await stack.enter_async_context(stream)).begun()
        await has_settled(lambda: [psutil.Process(w.pid).cpu_times()[:2] for w in flooded.ready_workers()])
        grown = memory(flooded) - before
        print(f"supervisor grew by {grown / count / 1024:.0f} KB for each of {count}")
        assert grown < count * PER_STREAM
        assert await texts(flooded.port, "quick", "hello") == ["hello"]
    await eventually(lambda: flooded.health()["turns"]["open"] == 0, 30, "all turns have ended")


@pytest.mark.fault("F64")
async def test_f64_client_that_leaves_without_having_read(flooded: Instance, tmp_path: Path) -> None:
    """The App waits for credit that will never come: it must be cancelled, not forgotten."""
    path = tmp_path / "journal"
    noted = {"journal": str(path)}
    session = await session_in(flooded.port, 0)
    async with Stream(flooded.port, session, FLOOD, receive_buffer=RECEIVE_BUFFER, metadata=noted) as stream:
        await stream.begun()
        await has_settled(lambda: psutil.Process(flooded.ready_workers()[0].pid).cpu_times()[:2], 0.3)
    await eventually(
        lambda: [line["word"] for line in journal(path)] == ["begin", "cancelled"], 2, "cancelled"
    )
    assert await texts(flooded.port, session, "next") == ["next"]


@pytest.mark.fault("F57")
async def test_f57_answer_in_one_json_object_is_bounded(flooded: Instance) -> None:
    """Nobody can hold back an answer that is collected first; it has a limit instead."""
    before = memory(flooded)
    refused = await invoke(flooded.port, "collected", [{"big": 1_000_000, "times": 200}])
    assert (refused.status, refused.code) == (500, "APP_ERROR")
    assert "stream" in refused.json["error"]["message"], "it says what to do about it"
    assert memory(flooded) - before < 100 * 2**20


ANSWER: Final = 15_000_000  # bytes of one that is not streamed
UNREAD: Final = 2 * MAX_OUTPUT + 150 * 2**20
"""Bytes: as output, as results of runs, what is on its way from the worker, and the allocator's slack."""


@pytest.mark.fault("F57", "F60")
async def test_f57_f60_whole_answers_that_nobody_reads_are_bounded_together(flooded: Instance) -> None:
    """Half of them on each way; those without progress for the longest time are cut. Others are served."""
    before, most, count = memory(flooded), 0, 40
    body = turn_body(new_session(), [{"big": ANSWER}], stream=False)
    async with AsyncExitStack() as stack:
        connections = []
        for number in range(count):
            headers = {**JSON, "X-Session-Id": new_session()}
            if number % 2:
                headers["Connection"] = "close"  # the plain way
            connection = Connection(flooded.port, receive_buffer=RECEIVE_BUFFER)
            connections.append(await stack.enter_async_context(connection))
            asked = body.replace(b'"session_id"', b'"other"')
            await connection.send(request("POST", "/invoke", asked, headers))
            assert (await connection.head()).status == 200
            most = max(most, memory(flooded) - before)
        print(f"grew by {most / 2**20:.0f} MB")
        assert most < UNREAD < count * ANSWER
        assert await texts(flooded.port, "quick", "hello") == ["hello"]
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):  # the first were cut
            await connections[0].reader.readexactly(ANSWER)
        assert len(await connections[-1].reader.readexactly(ANSWER)) == ANSWER


async def test_streams_side_by_side_are_served_fairly(flooded: Instance) -> None:
    """A flood to a client that does read does not starve another stream of the same worker."""
    flood, steady = [await session_in(flooded.port, 0) for _ in range(2)]
    async with Stream(flooded.port, flood, FLOOD) as flooding:
        reading = asyncio.create_task(flooding.whole(within=60))
        async with Stream(flooded.port, steady, [{"say": "tick", "times": 20, "every": 0.02}]) as stream:
            events = await stream.whole()
        await reading
    gaps = [later.at - earlier.at for earlier, later in itertools.pairwise(events)]
    print(f"longest gap beside a flood: {max(gaps) * 1000:.0f} ms")
    assert max(gaps) < 1
