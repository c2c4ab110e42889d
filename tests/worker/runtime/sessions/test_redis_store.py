"""The Redis store: a server that is down, killed, slow or full, and late transactions."""

import asyncio
import errno
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from agentscope_worker.runtime import runtime
from agentscope_worker.runtime.boot_error import BootError
from agentscope_worker.runtime.sessions import redis_connections
from agentscope_worker.runtime.sessions.redis_store import PREFIX, RedisSessions
from agentscope_worker.runtime.sessions.store import SessionStateError
from tests.harness.instance import free_port
from tests.harness.redis_server import RedisServer
from tests.worker.values import Value

_NULLS = {b"_\r\n", b"*-1\r\n"}  # the null reply of RESP3 and RESP2: nothing was executed

StartRedis = Callable[..., RedisServer]


@asynccontextmanager
async def store(url: str) -> AsyncIterator[RedisSessions]:
    sessions = RedisSessions(url, 2)
    await sessions.open()
    try:
        yield sessions
    finally:
        await sessions.close()


@asynccontextmanager
async def slow_road(server_port: int) -> AsyncIterator[tuple[int, Callable[[], Any]]]:
    """A proxy port in front of the server. It holds back the end of each transaction until the test releases
    it; the release returns the server's response, even if the client is gone."""
    held: list[tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]] = []
    writers: list[asyncio.StreamWriter] = []

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", server_port)
        writers.extend((writer, to_server))
        while data := await reader.read(1 << 20):
            if b"EXEC" in data:
                held.append((data, from_server, to_server))
                return
            to_server.write(data)
            writer.write(await from_server.read(1 << 20))

    async def go_on() -> list[bytes]:
        answers = []
        for data, from_server, to_server in held:
            to_server.write(data)
            answer = await from_server.read(1 << 20)
            while answer.count(b"\r\n") < 3:  # MULTI, SET, EXEC
                answer += await from_server.read(1 << 20)
            answers.append(answer.removeprefix(b"+OK\r\n+QUEUED\r\n"))
        return answers

    road = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    try:
        yield road.sockets[0].getsockname()[1], go_on
    finally:
        road.close()
        for each in writers:
            each.close()
            with suppress(ConnectionError):
                await each.wait_closed()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens the store's timeouts."""
    monkeypatch.setattr(redis_connections, "RESPONSE_TIMEOUT", 0.3)
    monkeypatch.setattr(redis_connections, "OPERATION_TIMEOUT", 0.6)


@pytest.mark.timed
async def test_an_unreachable_server_is_logged_at_startup_and_raises_in_the_app(
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = f"redis://ann:s3cret@127.0.0.1:{free_port()}/0"
    began = time.monotonic()
    async with store(url) as sessions:
        assert "sessions cannot be saved or loaded at the moment" in caplog.text
        with pytest.raises(
            ConnectionError, match=r"session store redis://127\.0\.0\.1:\d+/0 is not available"
        ) as save:
            await sessions.save_session_state("s", value=Value(1))
        with pytest.raises(ConnectionError, match="is not available") as load:
            await sessions.load_session_state("s")
    assert time.monotonic() - began < redis_connections.OPERATION_TIMEOUT
    assert not [text for text in (caplog.text, str(save.value), str(load.value)) if "s3cret" in text]


async def test_a_wrong_password_is_not_logged_or_raised(own_redis_server: StartRedis) -> None:
    server = own_redis_server("--requirepass", "right")
    async with store(f"redis://:s3cret@127.0.0.1:{server.port}/0") as sessions:
        with pytest.raises(ConnectionError, match=r"is not available: .*password") as load:
            await sessions.load_session_state("s")
    assert "s3cret" not in str(load.value)


async def test_the_store_recovers_after_a_restart_of_the_server(own_redis_server: StartRedis) -> None:
    server = own_redis_server()
    async with store(server.url) as sessions:
        await sessions.save_session_state("s", value=Value(1))
        server.kill()
        with pytest.raises(ConnectionError):
            await sessions.save_session_state("s", value=Value(2))
        server.start()
        assert await sessions.load_session_state("s") is None  # the server stores nothing on disk
        await sessions.save_session_state("s", value=Value(3))
        assert await sessions.load_session_state("s") == {"value": {"value": 3}}


@pytest.mark.timed
@pytest.mark.usefixtures("impatient")
async def test_a_server_that_does_not_respond_causes_a_timeout(own_redis_server: StartRedis) -> None:
    server = own_redis_server()
    async with store(server.url) as sessions:
        await sessions.save_session_state("s", value=Value(1))
        server.pause()
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="did not respond in time"):
            await sessions.save_session_state("s", value=Value(2))
        with pytest.raises(TimeoutError, match="did not respond in time"):
            await sessions.load_session_state("s")
        assert time.monotonic() - began < 2.0
        server.resume()
        assert await sessions.load_session_state("s") in ({"value": {"value": 1}}, {"value": {"value": 2}})


@pytest.mark.parametrize("steps", range(1, 4))
async def test_an_app_that_keeps_the_loop_busy_while_connections_open_fails_no_load(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """When the loop runs again, the time for a connection is over, although the server has responded."""
    monkeypatch.setattr(redis_connections, "CONNECT_TIMEOUT", 0.1)
    async with store(redis_server.url) as sessions:
        await sessions.save_session_state("s", value=Value(1))
        loads = [asyncio.create_task(sessions.load_session_state("s")) for _ in range(8)]
        for _ in range(steps):
            await asyncio.sleep(0)
        time.sleep(0.2)  # noqa: ASYNC251 - the App's fault
        assert await asyncio.gather(*loads) == [{"value": {"value": 1}}] * 8


@pytest.mark.usefixtures("impatient")
async def test_an_abandoned_save_never_undoes_a_later_one(redis_server: RedisServer) -> None:
    async with (
        slow_road(redis_server.port) as (port, go_on),
        store(redis_server.url) as new,
        store(f"redis://127.0.0.1:{port}/0") as old,
    ):
        await new.save_session_state("s", value=Value("first"))
        with pytest.raises(TimeoutError):
            await old.save_session_state("s", value=Value("late"))
        await new.save_session_state("s", value=Value("second"))
        answers = await go_on()
        assert answers
        assert set(answers) <= _NULLS, "the server must reject the transaction"
        assert await new.load_session_state("s") == {"value": {"value": "second"}}
        await new._redis.flushall()


async def test_a_full_server_rejects_a_save_and_keeps_the_stored_state(own_redis_server: StartRedis) -> None:
    server = own_redis_server("--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    async with store(server.url) as sessions:
        await sessions.save_session_state("s", value=Value(1))
        with pytest.raises(OSError, match=r"is full") as full:
            await sessions.save_session_state("s", value=Value("secret words" * 500_000))
        assert full.value.errno == errno.ENOSPC
        assert "secret words" not in str(full.value)
        assert await sessions.load_session_state("s") == {"value": {"value": 1}}


async def test_a_key_of_another_type_is_moved_aside(redis_server: RedisServer) -> None:
    async with store(redis_server.url) as sessions:
        await sessions.save_session_state("s", value=Value(1))
        (name,) = await sessions._redis.keys(PREFIX + "*")
        await sessions._redis.delete(name)
        await sessions._redis.rpush(name, "a list")
        with pytest.raises(SessionStateError, match="is damaged"):
            await sessions.load_session_state("s")
        assert await sessions.load_session_state("s") is None
        await sessions._redis.flushall()


async def test_cancelled_loads_never_return_each_others_data(redis_server: RedisServer) -> None:
    """A connection with an unread response must not return it for the next command."""
    async with store(redis_server.url) as sessions:
        for name in "ab":
            await sessions.save_session_state(name, value=Value(name * 50_000))
        for number in range(100):
            load = asyncio.create_task(sessions.load_session_state("a"))
            await asyncio.sleep(0.0001 * (number % 10))
            load.cancel()
            stored = await sessions.load_session_state("b")
            assert stored is not None
            assert stored["value"]["value"][0] == "b"
            await asyncio.wait([load])
        await sessions._redis.flushall()


@pytest.mark.timed
@pytest.mark.parametrize(
    ("query", "limit"), [("", redis_connections.CONNECTIONS), ("?max_connections=2&timeout=1", 2)]
)
async def test_concurrent_saves_share_a_limited_number_of_connections(
    redis_server: RedisServer, query: str, limit: int
) -> None:
    async with store(redis_server.url + query) as sessions:
        await asyncio.gather(
            *(sessions.save_session_state(f"s{number}", value=Value(number)) for number in range(300))
        )
        clients = await sessions._redis.client_list()
        assert len(clients) <= limit + 1  # the fixture's connection
        await sessions._redis.flushall()


def test_a_missing_redis_client_is_reported_with_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    monkeypatch.delitem(sys.modules, redis_connections.__name__)
    with pytest.raises(BootError, match=r"needs the package redis.*-m pip install .redis>=5") as error:
        RedisSessions("redis://localhost", 2)
    assert error.value.permanent


@pytest.mark.parametrize("url", ["redis://u:s3cret@host:port", "redis://u:s3cret@host/0?max_connections=x"])
def test_an_invalid_url_is_not_repeated_in_the_error(url: str) -> None:
    with pytest.raises(BootError, match=r"session.redis_url: .*expected redis://") as error:
        RedisSessions(url, 2)
    assert error.value.permanent
    assert "s3cret" not in error.value.message


@pytest.mark.agentscope
async def test_the_runtime_uses_the_configured_store(
    start: Callable[..., Any], redis_server: RedisServer
) -> None:
    await start(session={"backend": "redis", "redis_url": redis_server.url})
    await runtime.session.save_session_state("s", value=Value(1))
    assert await runtime.session.load_session_state("s") == {"value": {"value": 1}}
    await runtime.session._redis.flushall()  # type: ignore[attr-defined]


@pytest.mark.agentscope
async def test_a_worker_starts_while_redis_is_unreachable(start: Callable[..., Any]) -> None:
    await start(session={"backend": "redis", "redis_url": f"redis://127.0.0.1:{free_port()}"})
    with pytest.raises(ConnectionError, match="is not available"):
        await runtime.session.load_session_state("s")
