"""Clients that are slow to say what they want (F61, F62): given up in time, whatever drips.

Nobody else is kept waiting meanwhile. Slow readers: test_slow_reader.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

import pytest
from aiohttp import web

from agentscope_supervisor.http1 import aiohttp_connection
from tests.harness.client import (
    JSON,
    Connection,
    call,
    chunked,
    invoke,
    new_session,
    request,
    turn_body,
)
from tests.harness.instance import Instance

HEAD: Final = 0.6  # seconds, header_timeout of the instance
BODY: Final = 1.0  # body_timeout
LATE: Final = 4.0  # what a time limit may take more on a busy machine
DRIP: Final = 0.1


@pytest.fixture(scope="module")
def strict(start_module_instance: Callable[..., Instance]) -> Instance:
    server = {"header_timeout": HEAD, "body_timeout": BODY, "keepalive_interval": 0.2}
    return start_module_instance(workers=1, server=server)


@pytest.fixture(autouse=True)
async def _others_are_served(strict: Instance) -> AsyncIterator[None]:
    """While each test attacks, the probes on other connections answer."""
    done = asyncio.Event()

    async def probe() -> int:
        count = 0
        while not done.is_set() or not count:
            async with asyncio.timeout(30):
                assert (await call(strict.port, "GET", "/health")).status == 200
            count += 1
            await asyncio.wait([asyncio.ensure_future(done.wait())], timeout=0.1)
        return count

    probing = asyncio.create_task(probe())
    yield
    done.set()
    assert await probing > 0


@asynccontextmanager
async def dripping(connection: Connection, data: Sequence[bytes] | bytes) -> AsyncIterator[None]:
    """Send byte by byte, one each DRIP seconds, while the block runs."""

    async def drip() -> None:
        for byte in data:
            await connection.send(bytes([byte]) if isinstance(byte, int) else byte)
            await asyncio.sleep(DRIP)

    task = asyncio.create_task(drip())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def assert_given_up(connection: Connection, began: float, limit: float) -> None:
    answer = await connection.answer()
    took = time.monotonic() - began
    assert (answer.status, answer.code) == (408, "REQUEST_TIMEOUT")
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-request-id"]
    assert limit * 0.9 < took < limit + LATE
    assert await connection.is_closed(within=5)


# -- heads ---------------------------------------------------------------------------------------


@pytest.mark.timed
@pytest.mark.fault("F61")
async def test_f61_client_that_says_nothing_is_408(strict: Instance) -> None:
    began = time.monotonic()
    async with Connection(strict.port) as connection:
        await assert_given_up(connection, began, HEAD)


@pytest.mark.timed
@pytest.mark.parametrize(
    "head",
    [
        b"GET /liveness" + b"x" * 200,
        b"GET /liveness HTTP/1.1\r\nHost: t\r\n" + b"X-A: a\r\n" * 50,
        b"\r\n" * 200,
        b"GET /liveness\r\n",  # HTTP/0.9, that waits for its page
    ],
    ids=["line", "headers", "empty lines", "0.9"],
)
@pytest.mark.fault("F61")
async def test_f61_head_that_drips_is_408(strict: Instance, head: bytes) -> None:
    began = time.monotonic()
    async with Connection(strict.port) as connection, dripping(connection, head):
        await assert_given_up(connection, began, HEAD)


@pytest.mark.timed
@pytest.mark.fault("F61")
async def test_f61_later_head_that_drips_is_408(strict: Instance) -> None:
    """Between requests a connection may be silent for longer; then its first byte starts the time limit."""
    async with Connection(strict.port) as connection:
        body = turn_body(new_session(), "x", stream=False)
        await connection.send(request("POST", "/invoke", body, JSON))
        assert (await connection.answer()).status == 200
        assert not await connection.is_closed(within=2 * HEAD)
        await connection.send(request("GET", "/liveness"))
        assert (await connection.answer()).status == 200
        began = time.monotonic()
        async with dripping(connection, b"GET /liveness" + b"x" * 200):
            await assert_given_up(connection, began, HEAD)


@pytest.mark.fault("F61")
async def test_f61_head_behind_a_turn_is_no_reason_to_cut_the_turn(strict: Instance) -> None:
    first = turn_body(new_session(), [{"say": "x"}, {"sleep": 3 * HEAD}, {"say": "y"}])
    second = request("GET", "/liveness")
    async with Connection(strict.port) as connection:
        await connection.send(request("POST", "/invoke", first, JSON))
        head = await connection.head()
        await connection.send(second[:10])
        assert b'"y"' in b"".join([piece async for piece in connection.body(head)])
        await connection.send(second[10:])
        assert (await connection.answer()).status == 200


@pytest.mark.fault("F61")
async def test_f61_silent_turn_is_not_cut(strict: Instance) -> None:
    answer = await invoke(strict.port, new_session(), [{"sleep": 2 * HEAD}, {"say": "x"}])
    assert answer.status == 200


@pytest.mark.timed
@pytest.mark.fault("F61")
async def test_f61_two_hundred_that_drip(strict: Instance) -> None:
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(Connection(strict.port)) for _ in range(200)]
        began = time.monotonic()
        for connection in connections:
            await stack.enter_async_context(dripping(connection, b"GET /" + b"x" * 100))
        assert (await invoke(strict.port, new_session(), "me first")).status == 200
        await asyncio.gather(*(assert_given_up(each, began, 0) for each in connections))


@pytest.mark.fault("F70")
async def test_f70_idle_connection_is_closed() -> None:
    """The limit is fixed, and far too long to wait for; so this asks the protocol alone, with a short one."""

    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response()

    server = aiohttp_connection.Server(handler, aiohttp_connection.HttpLimits(5, 1024, idle_timeout=0.3))
    lost = asyncio.Event()
    make = partial(server.connect, False, lost.set)
    listening = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    async with listening, Connection(listening.sockets[0].getsockname()[1]) as connection:
        for _ in range(2):
            await connection.send(request("GET", "/"))
            assert (await connection.answer()).status == 200
        assert await connection.is_closed(within=5)
        await lost.wait()


# -- bodies --------------------------------------------------------------------------------------


@pytest.mark.timed
@pytest.mark.fault("F62")
async def test_f62_body_that_drips_or_never_comes_is_408(strict: Instance) -> None:
    body = turn_body(new_session(), "never complete")
    drops = [bytes([byte]) for byte in body]
    length = {**JSON, "Content-Length": str(len(body))}
    bodies = (
        (length, drops),
        (length, []),
        ({**JSON, "Transfer-Encoding": "chunked"}, [chunked(drop)[:-5] for drop in drops]),
    )

    async def one(headers: dict[str, str], pieces: list[bytes]) -> None:
        async with Connection(strict.port) as connection:
            await connection.send(request("POST", "/invoke", headers=headers))
            began = time.monotonic()
            async with dripping(connection, pieces):
                await assert_given_up(connection, began, BODY)

    await asyncio.gather(*(one(headers, pieces) for headers, pieces in bodies))
