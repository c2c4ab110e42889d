"""The way to a Redis server, which a test can redirect to another server, and cut at a transaction."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

AN_EXECUTION: Final = b"EXEC\r\n"


class Road:
    """A proxy in front of the server at `target`, for connections from now on."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.command = AN_EXECUTION
        self.at_exec: Callable[[Callable[[], Awaitable[bytes]]], Awaitable[None]] | None = None
        """Called once instead of sending the next `command`, with a function that sends it and returns the
        response. The client receives none: its connection is cut."""
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def close(self) -> None:
        self._server.close()
        for each in self._writers:
            each.close()
            with suppress(OSError):
                await each.wait_closed()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
        self._writers += [writer, to_server]
        back = asyncio.create_task(self._pass_back(from_server, writer))
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if self.command in data and self.at_exec is not None:
                    at_exec, self.at_exec = self.at_exec, None
                    back.cancel()
                    await asyncio.wait([back])

                    async def send(data: bytes = data) -> bytes:
                        to_server.write(data)
                        return await from_server.read(1 << 16)

                    await at_exec(send)
                    break
                to_server.write(data)
        back.cancel()
        writer.close()
        to_server.close()

    async def _pass_back(self, from_server: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await from_server.read(1 << 16):
                writer.write(data)
        writer.close()
