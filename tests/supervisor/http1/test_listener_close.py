"""The listening socket at its end."""

import asyncio
import errno
import select
import socket
import sys
from collections.abc import Callable

import pytest

from agentscope_supervisor.http1.listener import Listener


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
    await asyncio.wait_for(listener.last_requests(), 10)
    clients = [socket.create_connection(address) for _ in range(3)]  # the event loop has not run since
    listener.close()
    waiting = asyncio.create_task(listener.last_requests())
    for client in clients:
        transport = await asyncio.wait_for(served.get(), 10)
        assert not waiting.done(), "a client has not sent its request"
        client.close()
        transport.close()  # type: ignore[attr-defined]  # an asyncio.Transport
    await asyncio.wait_for(waiting, 10)
    listener.close()


class LateClient(socket.socket):
    """A listening socket to which a client connects in the moment in which it is closed."""

    client: socket.socket

    def close(self) -> None:
        if self.fileno() >= 0:
            self.client = socket.socket(self.family)
            self.client.setblocking(False)
            self.client.connect_ex(self.getsockname())
        super().close()


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels have no filters for sockets")
async def test_a_client_that_connects_while_the_socket_closes_is_refused_and_not_reset() -> None:
    """A reset connection may have carried a request; a refused one has not."""
    sock = LateClient()
    sock.bind(("127.0.0.1", 0))
    Listener(sock, 10, lambda *_: asyncio.Protocol()).close()
    try:
        outcome = select.poll()
        outcome.register(sock.client, select.POLLOUT)
        assert await asyncio.to_thread(outcome.poll, 20_000)
        assert sock.client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
    finally:
        sock.client.close()


async def test_a_socket_that_another_process_has_too_still_takes_connections() -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    other = sock.dup()
    Listener(sock, 10, lambda *_: asyncio.Protocol(), is_shared=True).close()
    with socket.create_connection(other.getsockname(), timeout=20), other:
        other.setblocking(True)
        other.accept()[0].close()
