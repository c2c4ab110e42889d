"""A proxy between a client and an instance that cuts connections, like an unreliable network or proxy.

It forwards bytes and parses HTTP only to recognize the requests whose connection it cuts. A cut is a TCP
reset, so that no client mistakes half a response head for a complete one.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Final, Self

READ: Final = 4096  # bytes per read


class CuttingProxy:
    """Forwards connections to a local port. Use as an async context manager."""

    def __init__(
        self, target: int, prefix: str, budgets: Iterable[int], methods: Sequence[str] = ("GET",)
    ) -> None:
        """Cut the responses to the first requests with one of `methods` for paths that begin with `prefix`:
        one response for each of `budgets`, after that number of bytes."""
        self._target: Final = target
        self._wanted: Final = tuple(f"{method} {prefix}".encode() for method in methods)
        self._budgets: Final = list(budgets)
        self._connections: Final[set[asyncio.Task[None]]] = set()
        self.cuts = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for each in self._connections:
            each.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        writers = [writer]
        try:
            theirs, ours = await asyncio.open_connection("127.0.0.1", self._target)
            writers.append(ours)
            await _Passage(self, reader, writer, theirs, ours).run()
        finally:
            self._connections.discard(task)
            for each in writers:
                each.transport.abort()
                with contextlib.suppress(ConnectionError):
                    await each.wait_closed()

    def budget(self, asked: bytes) -> int | None:
        """Number of bytes after which the response to this request is cut; None for never."""
        return self._budgets.pop(0) if asked.startswith(self._wanted) and self._budgets else None


class _Passage:
    """One client connection and its upstream connection."""

    def __init__(
        self,
        proxy: CuttingProxy,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        self._proxy, self._client, self._to_client = proxy, client, to_client
        self._server, self._to_server = server, to_server
        self._left: int | None = None  # bytes left before the cut

    async def run(self) -> None:
        """Copy until one of the sides ends, or until the cut."""
        ways = [asyncio.ensure_future(self._asked()), asyncio.ensure_future(self._answered())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _asked(self) -> None:
        while data := await self._client.read(READ):
            budget = self._proxy.budget(data)
            if budget is not None:
                self._left = budget
            self._to_server.write(data)
            await self._to_server.drain()

    async def _answered(self) -> None:
        while data := await self._server.read(READ):
            self._to_client.write(data[: self._left])
            await self._to_client.drain()
            if self._left is not None:
                self._left -= len(data)
                if self._left <= 0:
                    self._proxy.cuts += 1
                    sock = self._to_client.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
