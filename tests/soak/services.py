"""The servers that the App of a soak uses, and their faults: Redis with a replica, and MCP servers.

Redis replicates without waiting: a primary that is killed at any moment loses what it has confirmed, which no
client can prevent. `fail_over` therefore ends a primary once its replica has everything, as FAILOVER does.
"""

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import redis.asyncio

from tests.harness.mcp_process import McpProcess
from tests.harness.redis_road import Road
from tests.harness.redis_server import RedisServer
from tests.harness.waiting import eventually_so

TRANSPORTS: Final = ("sse", "streamable_http")
REFUSALS: Final = (413, 429, 500)
REFUSED_TOOL: Final = "echo"
COPIES_WITHIN: Final = 30.0  # seconds in which a replica has everything
OPTIONS: Final = (
    "--timeout",
    "1",
    "--repl-diskless-sync-delay",
    "0",
)  # idle connections are closed after 1 s


class Sessions:
    """A primary with a replica; the address is that of the road to it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder: Final = folder
        self._primary = RedisServer(folder, *OPTIONS)
        self._road: Final = Road(self._primary.port)
        self._replica: RedisServer | None = None

    async def start(self) -> str:
        """Returns the URL."""
        await asyncio.to_thread(self._primary.start)
        await self._add_replica()
        await self._road.open()
        return self._road.url

    async def close(self) -> None:
        await self._road.close()
        for server in (self._primary, self._replica):
            if server is not None:
                server.kill()

    async def kill_connections(self) -> None:
        async with _client(self._primary) as admin:
            await admin.client_kill_filter(_type="normal", skipme=True)

    async def fail_over(self, seconds: float) -> None:
        """Kill the primary. For this time its replica is at the address and answers READONLY to saves."""
        assert self._replica is not None
        old, self._primary = self._primary, self._replica
        async with _client(old) as primary, _client(self._primary) as replica:
            await primary.execute_command("CLIENT", "PAUSE", 30_000, "WRITE")
            written = (await primary.info("replication"))["master_repl_offset"]

            async def has_everything() -> bool:
                return int((await replica.info("replication"))["slave_repl_offset"]) >= written

            await eventually_so(has_everything, COPIES_WITHIN, "the replica has every save")
            self._road.target = self._primary.port
            await asyncio.to_thread(old.kill)
        await asyncio.sleep(seconds)
        async with _client(self._primary) as promoted:  # the server has closed idle connections
            await promoted.replicaof("NO", "ONE")
        await self._add_replica()

    async def _add_replica(self) -> None:
        added = RedisServer(self._folder, *OPTIONS, "--replicaof", f"127.0.0.1 {self._primary.port}")
        self._replica = await asyncio.to_thread(added.start)
        async with _client(added) as replica:

            async def is_connected() -> bool:
                return (await replica.info("replication"))["master_link_status"] == "up"

            await eventually_so(is_connected, COPIES_WITHIN, "the replica is connected")


class Tools:
    """An MCP server of each transport."""

    def __init__(self) -> None:
        self._servers: Final = {name: McpProcess(name, name) for name in TRANSPORTS}
        self._stack: Final = ExitStack()

    def start(self) -> dict[str, Any]:
        """Returns the section `mcp_servers`."""
        for server in self._servers.values():
            self._stack.enter_context(server).start()
        return {name: server.settings for name, server in self._servers.items()}

    def close(self) -> None:
        self._stack.close()

    async def refuse(self, transport: str, status: int, seconds: float) -> None:
        """Refuse the calls of one tool for this time."""
        server = self._servers[transport]
        await asyncio.to_thread(server.refuse, status, REFUSED_TOOL)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(server.accept)


def _client(server: RedisServer) -> Any:
    return redis.asyncio.Redis.from_url(server.url)
