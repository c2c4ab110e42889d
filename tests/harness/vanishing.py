"""Clients in a network that disappears: `unshare -Urn python -m tests.harness.vanishing`.

Needs its own network namespace, because it takes the loopback interface down. The timeouts of the listening
socket are shortened; everything else is unchanged. Prints, as JSON, after how many seconds the request of
each client was cancelled.
"""

import asyncio
import json
import socket
import subprocess
from collections.abc import Iterator
from typing import Final

import uvloop
from aiohttp import web

from agentscope_supervisor.http1 import listener
from agentscope_supervisor.http1.aiohttp_connection import HttpLimits, Server
from tests.harness.client import Connection, request

SHORTER: Final = {"TCP_USER_TIMEOUT": 1500, "TCP_KEEPIDLE": 1, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 1}
PATHS: Final = ("/silent", "/talking")
NOTICED_WITHIN: Final = 15.0  # seconds


def shortened() -> Iterator[tuple[int, str, int]]:
    for level, name, value in listener._OPTIONS:
        yield level, name, SHORTER.get(name, value)


def loopback(state: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", state], check=True)


async def main() -> None:
    loop = asyncio.get_running_loop()
    began = {path: asyncio.Event() for path in PATHS}
    cancelled: dict[str, asyncio.Future[float]] = {path: loop.create_future() for path in PATHS}

    async def handler(asked: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(asked)
        began[asked.path].set()
        try:
            while True:
                if asked.path == "/talking":
                    await response.write(b": keep-alive\n\n")
                await asyncio.sleep(0.2)
        except BaseException:
            cancelled[asked.path].set_result(loop.time())
            raise

    listener._OPTIONS = tuple(shortened())  # type: ignore[misc]
    loopback("up")
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    door = listener.Listener(sock, 100, Server(handler, HttpLimits(5, 1024)).connect)
    connections = [Connection(sock.getsockname()[1]) for _ in PATHS]
    for connection, path in zip(connections, PATHS, strict=True):
        await connection.__aenter__()
        await connection.send(request("GET", path))
        await began[path].wait()
    loopback("down")
    down = loop.time()
    async with asyncio.timeout(NOTICED_WITHIN):
        print(json.dumps({path: await cancelled[path] - down for path in PATHS}))
    door.close()


if __name__ == "__main__":
    uvloop.run(main())
