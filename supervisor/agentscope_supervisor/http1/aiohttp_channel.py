"""The channel of a request that aiohttp has parsed.

The response is written to the transport directly, past aiohttp's response classes. aiohttp then gets a
`SentResponse`, and continues with the connection as after any other response.

Where to read next: `channel` has the interface, `aiohttp_connection` the connection.
"""

import asyncio
import socket
import struct
from typing import Final, cast

from aiohttp.http import HttpVersion11

from agentscope_supervisor.http1 import aiohttp_web as web
from agentscope_supervisor.http1.aiohttp_connection import AiohttpConnection, SentResponse
from agentscope_supervisor.http1.channel import Channel, Exchange
from agentscope_supervisor.http1.chunked_writer import ChunkedWriter


class AiohttpChannel(Channel):
    """The way to the client of `request`."""

    __slots__ = ("_connection", "_over", "_request")

    def __init__(self, request: web.BaseRequest) -> None:
        super().__init__(asyncio.get_running_loop(), is_http_1_0=request.version < HttpVersion11)
        self._request: Final = request
        self._connection: Final = cast(AiohttpConnection, request.protocol)
        self._over: asyncio.Future[None] = self.loop.create_future()
        self.is_closing = not request.keep_alive or self._connection.is_ending
        self.writing_paused = self._connection.is_paused

    async def finish(self, exchange: Exchange) -> web.StreamResponse:
        """Wait until the response of `exchange` is written. Raises: CancelledError: the client has left."""
        self._connection.begin(self, exchange)
        try:
            await self._over
        except BaseException:
            exchange.lost()
            raise
        finally:
            self._connection.end()
        return SentResponse(self.status, keeps_alive=not self.is_closing)

    def send(self, data: bytes) -> None:
        transport = self._connection.transport
        self._request.writer.output_size += len(data)  # tells aiohttp that a response has begun
        if transport is not None and not transport.is_closing():
            transport.write(data)

    def writer(self, head: bytes, end: bytes) -> ChunkedWriter:
        self._request.writer.output_size += len(head)
        return self._connection.writer_of(head, end)

    def close(self) -> None:
        self.is_closing = True

    def done(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def reset(self) -> None:
        """Drop the connection with a TCP reset, which no client takes for the end of a response."""
        transport = self._connection.transport
        if transport is not None:
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()

    def abort(self) -> None:
        transport = self._connection.transport
        if transport is not None:
            transport.abort()
