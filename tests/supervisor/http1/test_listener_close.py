"""The listening socket at its end."""

import asyncio
import socket

from agentscope_supervisor.http1.listener import Listener


async def test_a_connection_that_waits_when_the_listener_closes_is_served() -> None:
    served: asyncio.Queue[asyncio.BaseTransport] = asyncio.Queue()

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            served.put_nowait(transport)

    sock = socket.create_server(("127.0.0.1", 0))
    address = sock.getsockname()
    listener = Listener(sock, 10, lambda *_: Protocol())
    clients = [socket.create_connection(address) for _ in range(3)]  # the event loop has not run since
    listener.close()
    for client in clients:
        transport = await asyncio.wait_for(served.get(), 10)
        client.close()
        transport.close()  # type: ignore[attr-defined]  # an asyncio.Transport
