"""Lost connections and failovers of Redis, with the oldest and the newest release of its client library.

The store runs in a process of its own. A `Road` is its way to the server.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
import redis.asyncio
from redis import exceptions

from agentscope_worker.runtime.sessions import redis_connections
from agentscope_worker.runtime.sessions.redis_store import CLAIM_PREFIX, PREFIX, RedisSessions
from tests.harness.instance import free_port
from tests.harness.redis_clients import RELEASES, folder
from tests.harness.redis_road import Road
from tests.harness.redis_server import RedisServer
from tests.harness.waiting import eventually_so
from tests.worker.session_contract import Keys
from tests.worker.session_turn import Peer
from tests.worker.values import Value

WITHIN: Final = 30.0  # seconds

StartRedis = Callable[..., RedisServer]


@pytest.fixture
async def server(own_redis_server: StartRedis) -> RedisServer:
    return own_redis_server("--timeout", "1", "--repl-diskless-sync-delay", "0")


@pytest.fixture
async def admin(server: RedisServer) -> AsyncIterator[Any]:
    client: Any = redis.asyncio.Redis.from_url(server.url)
    yield client
    await client.aclose()


@pytest.fixture
async def road(server: RedisServer) -> AsyncIterator[Road]:
    made = Road(server.port)
    await made.open()
    yield made
    await made.close()


@pytest.fixture(params=RELEASES)
async def worker(request: pytest.FixtureRequest, road: Road) -> AsyncIterator[Peer]:
    """A process with the store, in a turn of the session "s"."""
    made = Peer(Keys(road.url), "ours.1", libraries=folder(request.param))
    try:
        assert await made.do("client") == request.param
        await made.do("begin")
        assert await made.do("save first") is None
        yield made
    finally:
        made.close()


async def stored(admin: Any) -> Any:
    """The value of the only session."""
    (name,) = await admin.keys(PREFIX + "*")
    return json.loads(await admin.get(name))["state"]["value"]["value"]


async def executions(admin: Any) -> int:
    """How many transactions the server has executed."""
    return int((await admin.info("commandstats")).get("cmdstat_exec", {"calls": 0})["calls"])


async def test_connections_that_were_closed_while_idle_cost_no_turn(worker: Peer, admin: Any) -> None:
    async def all_closed() -> bool:
        return len(await admin.client_list()) == 1  # the connection of this test

    await eventually_so(all_closed, WITHIN, "the server has closed the idle connections (`timeout 1`)")
    assert await worker.do("load") == "first"
    for value in ("second", "third"):
        await admin.client_kill_filter(_type="normal", skipme=True)
        assert await worker.do(f"save {value}") is None
    await admin.client_kill_filter(_type="normal", skipme=True)
    assert await worker.do("end") is None, "the claim is released"
    assert not await admin.keys(CLAIM_PREFIX + "*")
    await admin.client_kill_filter(_type="normal", skipme=True)
    assert await worker.do("delete") is True


async def test_a_load_survives_the_loss_of_its_connection_and_of_the_next_one(
    worker: Peer, road: Road
) -> None:
    """The first is closed while the App blocks its event loop, and the next by a failover."""
    lost = []

    async def lose(send: Callable[[], Awaitable[bytes]]) -> None:
        lost.append(await send())
        road.at_exec = lose if len(lost) < 2 else None

    road.command, road.at_exec = b"GET\r\n", lose
    assert await worker.do("load") == "first"
    assert len(lost) == 2


async def test_a_turn_survives_a_failover(
    worker: Peer, admin: Any, server: RedisServer, road: Road, own_redis_server: StartRedis
) -> None:
    """The address leads to the promoted replica; connections that are open lead to the old primary."""
    replica = own_redis_server("--replicaof", f"127.0.0.1 {server.port}")
    promoted: Any = redis.asyncio.Redis.from_url(replica.url)
    try:

        async def has_copied() -> bool:
            return bool(await promoted.exists(*await admin.keys(PREFIX + "*")))

        await eventually_so(has_copied, WITHIN, "the replica has the session")
        await promoted.replicaof("NO", "ONE")
        await admin.replicaof("127.0.0.1", replica.port)
        road.target = replica.port
        assert await worker.do("save second") is None
        assert await stored(promoted) == "second"
        assert await worker.do("load") == "second"
    finally:
        await promoted.aclose()


async def test_a_turn_waits_for_a_server_that_is_about_to_be_the_primary(worker: Peer, admin: Any) -> None:
    """Until then it answers READONLY to a save, and MASTERDOWN to a load."""
    await admin.config_set("replica-serve-stale-data", "no")
    for command, answer in (("save second", None), ("load", "second")):
        await admin.config_resetstat()
        await admin.replicaof("127.0.0.1", free_port())
        waiting = asyncio.create_task(worker.do(command))

        async def refused_twice() -> bool:
            errors = await admin.info("errorstats")
            return sum(each["count"] for each in errors.values()) >= 2

        await eventually_so(refused_twice, WITHIN, "the command was refused and repeated")
        assert not waiting.done()
        await admin.replicaof("NO", "ONE")
        assert await waiting == answer


async def test_a_lost_response_neither_repeats_a_save_nor_undoes_a_later_one(
    worker: Peer, admin: Any, road: Road, server: RedisServer
) -> None:
    before = await executions(admin)
    responses = []

    async def execute(send: Callable[[], Awaitable[bytes]]) -> None:
        responses.append(await send())

    road.at_exec = execute
    assert await worker.do("save second") is None
    assert b"+OK" in responses[0]
    assert await stored(admin) == "second"
    assert await executions(admin) == before + 1

    async def do_nothing(send: Callable[[], Awaitable[bytes]]) -> None:
        pass

    road.at_exec = do_nothing
    assert await worker.do("save third") is None
    assert await stored(admin) == "third"
    assert await executions(admin) == before + 2

    other = RedisSessions(server.url, 2)

    async def execute_and_be_overtaken(send: Callable[[], Awaitable[bytes]]) -> None:
        await send()
        await other.save_session_state("s", value=Value("newer"))

    road.at_exec = execute_and_be_overtaken
    refused = await worker.do("save fourth")
    assert refused is not None
    assert "another process has saved it" in refused
    assert await stored(admin) == "newer"
    await other.close()


async def test_the_loss_of_all_connections_costs_none_of_many_turns(server: RedisServer, admin: Any) -> None:
    store = RedisSessions(server.url, 2)
    names = [f"s{number}" for number in range(2 * redis_connections.CONNECTIONS)]
    try:
        for number in range(3):
            await asyncio.gather(*(store.save_session_state(name, value=Value(number)) for name in names))
            await admin.client_kill_filter(_type="normal", skipme=True)
            loaded = await asyncio.gather(*(store.load_session_state(name) for name in names))
            assert loaded == [{"value": {"value": number}}] * len(names)
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (exceptions.BusyLoadingError("Redis is loading the dataset in memory"), 3),
        (exceptions.ResponseError("NOREPLICAS Not enough good replicas to write."), 3),
        (exceptions.ReadOnlyError("You can't write against a read only replica."), 3),
        (exceptions.ConnectionError("Connection closed by server."), 3),
        (exceptions.AuthenticationError("invalid password"), 1),
        (exceptions.OutOfMemoryError("command not allowed"), 1),
        (exceptions.ResponseError("ERR NOAUTOSAVE"), 1),
        (exceptions.TimeoutError("Timeout reading"), 1),
    ],
)
async def test_an_operation_is_repeated_only_after_errors_that_end(error: Exception, calls: int) -> None:
    connections = redis_connections.Connections("redis://127.0.0.1:1")
    made = 0

    async def operation() -> str:
        nonlocal made
        made += 1
        if made < 3:
            raise error
        return "done"

    if calls == 3:
        assert await connections.ask(operation) == "done"
    else:
        with pytest.raises(OSError, match="the session store"):
            await connections.ask(operation)
    assert made == calls
    await connections.close()


async def test_a_server_that_closes_every_connection_fails_a_turn_at_once() -> None:
    connections = redis_connections.Connections("redis://127.0.0.1:1")
    made = 0

    async def operation() -> None:
        nonlocal made
        made += 1
        raise exceptions.ConnectionError("Connection closed by server.")

    with pytest.raises(ConnectionError, match="is not available: Connection closed by server"):
        await connections.ask(operation)
    assert made == 1 + redis_connections.RECONNECTS
    await connections.close()


async def test_a_server_that_stays_a_replica_is_named_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_connections, "OPERATION_TIMEOUT", 0.2)
    connections = redis_connections.Connections("redis://127.0.0.1:1")

    async def operation() -> None:
        raise exceptions.ReadOnlyError("You can't write against a read only replica.")

    with pytest.raises(
        ConnectionError, match="is not available: You can't write against a read only replica"
    ):
        await connections.ask(operation)
    await connections.close()


async def test_idle_connections_are_kept_alive_over_tcp_and_need_it_not_over_unix_sockets(
    own_redis_server: StartRedis, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    server = own_redis_server("--unixsocket", str(path))
    for url, keeps_alive in ((server.url, 1), (f"unix://{path}", 0)):
        store = RedisSessions(url, 2)
        await store.save_session_state("s", value=Value(url))
        (connection,) = store._connections._pool._made
        sock = connection._writer.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == keeps_alive
        assert await store.load_session_state("s") == {"value": {"value": url}}
        await store.close()
