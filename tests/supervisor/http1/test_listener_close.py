"""The listening socket at its end."""

import asyncio
import socket
from collections.abc import Callable

from agentscope_supervisor.http1.listener import Listener
from tests.harness.waiting import eventually


async def test_a_connection_that_waits_when_the_listener_closes_is_served() -> None:
    served: asyncio.Queue[asyncio.BaseTransport] = asyncio.Queue()

    class Protocol(asyncio.Protocol):
        def __init__(self, lost: Callable[[], None]) -> None:
            self._lost = lost

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            served.put_nowait(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            self._lost()

    sock = socket.create_server(("127.0.0.1", 0))
    address = sock.getsockname()
    listener = Listener(sock, 10, lambda reserved, lost, entry: Protocol(lost))
    assert not listener.has_connections
    clients = [socket.create_connection(address) for _ in range(3)]  # the event loop has not run since
    listener.close()
    assert listener.has_connections, "they may still send a request"
    for client in clients:
        transport = await asyncio.wait_for(served.get(), 10)
        client.close()
        transport.close()  # type: ignore[attr-defined]  # an asyncio.Transport
    await eventually(lambda: not listener.has_connections, 10, "all connections are lost")
    listener.close()
