"""Clients without credentials: what they can make an instance hold and log."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

import psutil
import pytest

from agentscope_supervisor.http1.connection_table import MAX_HELD
from tests.harness.client import JSON, Connection, chunked, invoke, new_session, request
from tests.harness.instance import Instance

MB: Final = 1024 * 1024
TOKEN: Final = {"Authorization": "Bearer t0k3n"}
STRANGERS: Final = 400
LINE: Final = b"X-%03d: " + b"a" * 15_000 + b"\r\n"
HEAD: Final = b"GET /health HTTP/1.1\r\nHost: t\r\n"
OF_CONNECTIONS: Final = STRANGERS * 64 * 1024  # bytes of the supervisor for so many connections


@pytest.fixture(scope="module")
def guarded(start_module_instance: Callable[..., Instance]) -> Instance:
    server = {"auth_token": "t0k3n", "max_connections": 2 * STRANGERS, "header_timeout": 60}
    return start_module_instance(workers=1, server=server)


def memory(instance: Instance) -> int:
    return int(psutil.Process(instance.pid).memory_info().rss)


async def assert_served(instance: Instance) -> None:
    assert (await invoke(instance.port, new_session(), "x", headers=TOKEN)).status == 200


@pytest.mark.fault("F61")
async def test_f61_long_heads_of_many_strangers_cost_little_memory(guarded: Instance) -> None:
    """Each head has 1.9 MB: 127 headers that are within the limits of one header."""
    await assert_served(guarded)
    before, most = memory(guarded), 0
    long = HEAD + b"".join(LINE % number for number in range(127))
    async with AsyncExitStack() as stack:
        sending = []
        for _ in range(STRANGERS):
            connection = await stack.enter_async_context(Connection(guarded.port))
            sending.append(asyncio.create_task(connection.send(long)))
            await asyncio.sleep(0)
            if len(sending) % 50 == 0:
                await assert_served(guarded)
                most = max(most, memory(guarded) - before)
        await asyncio.gather(*sending)
        most = max(most, memory(guarded) - before)
    print(f"grew by {most / MB:.0f} MB")
    assert most < MAX_HELD + OF_CONNECTIONS


@pytest.mark.fault("F61")
async def test_f61_incomplete_heads_of_many_strangers_are_bounded_together(guarded: Instance) -> None:
    """Each head is within the limit; those that are incomplete longest are dropped."""
    count = MAX_HELD // len(HEAD + LINE * 2) + 50
    async with AsyncExitStack() as stack:
        strangers = []
        for _ in range(count):
            stranger = await stack.enter_async_context(Connection(guarded.port))
            await stranger.send(HEAD + LINE % 1 + LINE % 2)
            strangers.append(stranger)
        await assert_served(guarded)
        answer = await strangers[0].answer()
        assert (answer.status, answer.code) == (503, "OVERLOADED")
        assert not await strangers[-1].is_closed(within=0.1)


@pytest.mark.parametrize(
    "head, is_within",
    [
        (HEAD + LINE % 1 + LINE % 2 + b"\r\n", True),
        (HEAD + LINE % 1 + LINE % 2 + LINE % 3 + b"\r\n", False),
        (HEAD + b"X: a\r\n" * 100 + LINE % 1 + LINE % 2 + LINE % 3, False),
    ],
    ids=["within", "over", "over and without end"],
)
async def test_a_head_over_its_limit_is_refused_with_the_name_of_the_setting(
    guarded: Instance, head: bytes, is_within: bool
) -> None:
    async with Connection(guarded.port) as connection:
        await connection.send(head)
        answer = await connection.answer()
        if is_within:
            assert answer.status == 200
        else:
            assert (answer.status, answer.code) == (400, "INVALID_REQUEST")
            assert "server.max_head_kb: 32" in answer.json["error"]["message"]
            assert await connection.is_closed(within=5)


@pytest.mark.fault("F68")
async def test_f68_broken_bodies_of_strangers_write_no_tracebacks(guarded: Instance) -> None:
    """The body breaks after the response: with credentials, the parser reads it to its end."""
    for headers in ({}, TOKEN):
        for _ in range(20):
            async with Connection(guarded.port) as connection:
                fields = {**headers, "Content-Type": "text/plain", "Transfer-Encoding": "chunked"}
                await connection.send(request("POST", "/invoke", headers=fields) + b"5\r\nhello\r\n")
                assert (await connection.answer()).status == (415 if headers else 401)
                await connection.send(b"nonsense\r\n")
                assert await connection.is_closed(within=10)
    log = await asyncio.to_thread(lambda: guarded.log)
    assert "Traceback" not in log
    assert log.count("body broke off") <= 3


@pytest.mark.fault("F63")
async def test_f63_trailers_of_a_strangers_body_are_not_kept(guarded: Instance) -> None:
    before, most = memory(guarded), 0
    fields = {**JSON, "Transfer-Encoding": "chunked"}
    async with AsyncExitStack() as stack:
        sending = []
        for _ in range(STRANGERS // 4):
            connection = await stack.enter_async_context(Connection(guarded.port))
            await connection.send(request("POST", "/invoke", headers=fields) + chunked(b"x")[:-2])
            assert (await connection.answer()).status == 401
            trailers = b"".join(LINE % number for number in range(100))
            sending.append(asyncio.create_task(connection.send(trailers)))
        await asyncio.gather(*sending)
        most = memory(guarded) - before
    print(f"grew by {most / MB:.0f} MB")
    assert most < 48 * MB
