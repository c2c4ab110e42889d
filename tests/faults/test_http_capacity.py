"""More connections than there are places, and no descriptors left (F69, F70): told so, or kept waiting.

Nobody sees a connection end without an answer, the probes are answered, workers can start, and when there are
places again all is as before.
"""

import asyncio
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from agentscope_supervisor.http1.connection_limits import MAX_RESERVE
from agentscope_supervisor.http1.connection_table import GRACE
from agentscope_supervisor.http1.listener import BACKLOG, Listener
from tests.conftest import StartInstance
from tests.harness.client import JSON, Connection, Response, call, invoke, new_session, request, turn_body
from tests.harness.instance import Instance
from tests.harness.waiting import eventually

CONNECTIONS: Final = 30
DESCRIPTORS: Final = 72  # of an instance that has few


@pytest.fixture(scope="module")
def small(start_module_instance: Callable[..., Instance]) -> Instance:
    return start_module_instance(workers=1, server={"max_connections": CONNECTIONS})


@asynccontextmanager
async def held(port: int, count: int) -> AsyncIterator[list[Connection]]:
    """So many connections, which say nothing."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Connection(port)) for _ in range(count)]


@asynccontextmanager
async def full(instance: Instance, go: Path) -> AsyncIterator[list[Connection]]:
    """All places taken by connections with a turn in progress, which ends when `go` exists."""
    script = [{"say": "x"}, {"wait_for": str(go)}, {"say": "y"}]
    async with AsyncExitStack() as stack:
        connections = []
        for _ in range(CONNECTIONS):  # more strangers at a time than one address may have places
            connection = await stack.enter_async_context(Connection(instance.port))
            await connection.send(request("POST", "/invoke", turn_body(new_session(), script), JSON))
            await connection.reader.readuntil(b'"x"')
            connections.append(connection)
        yield connections


def assert_overloaded(answer: Response) -> None:
    assert (answer.status, answer.code) == (503, "OVERLOADED")
    assert answer.json["error"]["retryable"]
    assert 0 < int(answer.headers["retry-after"]) < 120
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-request-id"]


@pytest.mark.fault("F70")
async def test_f70_one_more_than_allowed_is_503(small: Instance, tmp_path: Path) -> None:
    async with full(small, tmp_path / "go") as connections:
        assert_overloaded(await invoke(small.port, new_session(), "one more"))
        assert_overloaded(await call(small.port, "GET", "/nothing"))
        (tmp_path / "go").touch()
        for connection in connections:  # who is in stays in
            await connection.reader.readuntil(b'"y"')
    await eventually_served(small)


@pytest.mark.fault("F70")
async def test_f70_probes_are_answered_when_all_places_are_taken(small: Instance, tmp_path: Path) -> None:
    async with full(small, tmp_path / "go"):
        for path in ("/health", "/readiness", "/liveness", "/livez", "/healthz") * 20:
            async with Connection(small.port) as connection:
                await connection.send(request("GET", path))
                assert (await connection.answer()).status == 200
                assert await connection.is_closed(within=5), "the place is for the next probe"
    await eventually_served(small)


@pytest.mark.fault("F70")
async def test_f70_with_the_reserve_taken_too_it_is_503_unread(small: Instance, tmp_path: Path) -> None:
    async with full(small, tmp_path / "go"), held(small.port, MAX_RESERVE) as silent:
        async with Connection(small.port) as connection:
            assert_overloaded(await connection.answer())
            assert await connection.is_closed(within=5)
        assert_overloaded(await call(small.port, "GET", "/health"))
        for connection in silent:  # they had two seconds to say that they are probes
            assert_overloaded(await connection.answer())
        assert (await call(small.port, "GET", "/health")).status == 200
    await eventually_served(small)
    assert small.log.count("connections are refused") < 4


@pytest.mark.fault("F70")
async def test_f70_idle_strangers_make_room_for_a_client(small: Instance) -> None:
    """Silent ones, one that drips, and those that only asked for a probe: the oldest goes first."""
    async with held(small.port, CONNECTIONS) as strangers:
        await strangers[1].send(b"POST /invoke HT")
        await strangers[2].send(request("GET", "/liveness"))
        assert (await strangers[2].answer()).status == 200
        await asyncio.sleep(GRACE)  # as an attacker does
        async with held(small.port, 3):
            assert (await invoke(small.port, new_session(), "x")).status == 200
            for stranger in strangers[:2]:
                assert_overloaded(await stranger.answer())
            assert await strangers[2].is_closed(within=5)
            assert_overloaded(await strangers[3].answer())
            assert not await strangers[4].is_closed(within=0.1)
    await eventually_served(small)


@pytest.mark.fault("F70")
async def test_f70_a_client_that_is_idle_makes_room_when_nobody_is_a_stranger(
    small: Instance, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    async with full(small, go) as connections:
        go.touch()
        for connection in connections:
            await connection.reader.readuntil(b"0\r\n\r\n")
        await asyncio.sleep(GRACE)
        assert (await invoke(small.port, new_session(), "one more")).status == 200
        closed = [await connection.is_closed(within=0.1) for connection in connections]
        assert closed.count(True) == 1
    await eventually_served(small)


@pytest.mark.fault("F70")
async def test_f70_storm_of_connections_is_answered_one_by_one(small: Instance) -> None:
    async def one() -> int:
        return (await call(small.port, "GET", "/liveness")).status

    statuses = await asyncio.gather(*(one() for _ in range(400)))
    assert set(statuses) <= {200, 503}
    assert 200 in statuses
    await eventually_served(small)


async def eventually_served(instance: Instance) -> None:
    """The places of those who have left are free again."""
    async with asyncio.timeout(30):
        while (await invoke(instance.port, new_session(), "next")).status == 503:
            pass


# -- descriptors ---------------------------------------------------------------------------------


@pytest.mark.fault("F69")
async def test_f69_few_descriptors_are_not_all_given_away(
    new_instance: StartInstance, make_project: Callable[..., Path]
) -> None:
    """A hundred clients, and descriptors for half of them: each is answered, and a worker can be replaced."""
    few = f"--nofile={DESCRIPTORS}:{DESCRIPTORS}"
    instance = new_instance(make_project(), under=["prlimit", few]).start()
    victim = instance.ready_workers()[0]
    async with held(instance.port, 100) as connections:
        async with asyncio.timeout(10):
            for connection in connections:
                await connection.send(request("GET", "/liveness"))
            statuses = [(await connection.answer()).status for connection in connections]
        assert set(statuses) == {200, 503}
        os.kill(victim.pid, signal.SIGKILL)
        await eventually(lambda: is_replaced(instance, victim.pid), 20, "the worker is replaced")
    await eventually_served(instance)
    log = instance.log
    assert "server.max_connections is more than the limit of descriptors allows" in log
    assert log.count("connections are refused") < 3
    assert "Traceback" not in log


def is_replaced(instance: Instance, pid: int) -> bool:
    workers = instance.health().get("workers", [])  # none: the request is refused, all places are taken
    ready = [worker["pid"] for worker in workers if worker["state"] == "ready"]
    return len(ready) == 2 and pid not in ready


@pytest.mark.fault("F69")
async def test_f69_without_descriptors_clients_wait(start_instance: StartInstance) -> None:
    """They are all taken, by whatever: who comes then is not sent away with nothing, and is served later."""
    instance = start_instance(workers=1)
    port = instance.port
    limits = resource.prlimit(instance.pid, resource.RLIMIT_NOFILE)
    used = len(os.listdir(f"/proc/{instance.pid}/fd"))
    resource.prlimit(instance.pid, resource.RLIMIT_NOFILE, (used + 5, limits[1]))
    async with held(port, 5) as first:
        for connection in first:
            await connection.send(request("GET", "/liveness"))
            assert (await connection.answer()).status == 200
        async with held(port, 50) as waiting:
            for connection in waiting:
                await connection.send(request("GET", "/liveness"))
            assert not await waiting[-1].is_closed(within=1.5)
            assert not any(connection.reader.at_eof() for connection in waiting)
            # A connection that was still being closed when we counted may have made room for one or two.
            assert sum(connection.has_arrived() for connection in waiting) < 5
            await first[0].send(request("GET", "/liveness"))
            assert (await first[0].answer()).status == 200, "who is in is served"
            resource.prlimit(instance.pid, resource.RLIMIT_NOFILE, limits)
            for connection in waiting:
                assert (await connection.answer()).status == 200
    assert instance.log.count("connections wait to be accepted") == 1
    assert len(instance.log.splitlines()) < 20


@pytest.mark.fault("F66")
async def test_f66_accepted_connections_notice_a_peer_that_vanished() -> None:
    """The options are set once, on the listening socket: this is to see that the accepted ones have them."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    made: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()

    class Accepted(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            made.set_result(transport)

    listener = Listener(sock, BACKLOG, lambda *_: Accepted())
    try:
        async with Connection(sock.getsockname()[1]):
            transport = await made
            accepted = transport.get_extra_info("socket")
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                timeout = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                assert timeout == 60_000, "milliseconds"
            transport.abort()
    finally:
        listener.close()
