"""The listening socket: accepts connections, refuses those above the limits, and waits for descriptors.

The listener calls `accept` itself instead of using the event loop's server, because at the limit of
descriptors asyncio logs without end, and uvloop accepts and closes, so that clients see a connection that
ends without a reason. Here, connections above `connection_limits` are refused with an error response, and
when no descriptor is left, clients wait in the kernel's queue. Accepted sockets inherit the options of the
listening socket.

Where to read next: `fast_connection` is the protocol of a new connection.
"""

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from agentscope_supervisor.domain.errors import ErrorCode, refusal
from agentscope_supervisor.http1.connection_limits import ConnectionLimits, Place, places
from agentscope_supervisor.http1.connection_table import ConnectionTable, Entry
from agentscope_supervisor.http1.responses import error_bytes
from agentscope_supervisor.system.kernel import drop_handshakes

log = logging.getLogger(__name__)

BACKLOG: Final = 4096  # connections in the kernel's queue, so that it refuses none in a burst
LEAVES_WITHIN: Final = 1.0
"""Seconds that a refused connection stays open after the response. Closing it at once, with an unread
request, would reset the connection, and the client could lose the response."""
WAIT_FOR_DESCRIPTORS: Final = 0.5  # seconds until `accept` is tried again
LOG_EVERY: Final = 10.0  # seconds between two log lines about the same problem
LIMIT_SHARE: Final = 2  # descriptors to request for each connection of server.max_connections
LIMIT_AT_LEAST: Final = 16_384
"""Descriptors to request in any case, also for the workers, which inherit the limit.

Far more are never requested: a program that a tool starts inherits the limit too, and some programs close
every number below it, which takes seconds under the 1,048,576 of a container."""

NO_PLACE: Final = refusal(ErrorCode.OVERLOADED, "there are too many connections (server.max_connections)")
LOOK_EVERY: Final = 0.02  # seconds
_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_IPV4_IN_IPV6: Final = bytes(10) + b"\xff\xff"

_OPTIONS: Final = (
    # A peer that has vanished is noticed by missing acknowledgements, or by keep-alive probes on an idle
    # connection. Linux counts the time in which a present peer reads nothing too. So TCP_USER_TIMEOUT also
    # limits how long a client may stop reading when all buffers are full: 60 seconds.
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 60_000),  # milliseconds
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 15),  # seconds
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 5),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
    # Otherwise the kernel buffers several megabytes for each client that does not read.
    (socket.SOL_SOCKET, "SO_SNDBUF", 256 * 1024),
)

OnLost = Callable[[], None]
Make = Callable[[bool, OnLost, Entry], asyncio.BaseProtocol]
"""Creates the protocol of a connection. Arguments: whether the connection has a reserved place; a function
that the protocol must call once, when the connection is lost; its place."""


class Listener:
    """Accepts connections on a bound socket, which it closes.

    `is_shared`: another process has the socket too, and clients may connect to it later."""

    def __init__(
        self, sock: socket.socket, max_connections: int, make: Make, *, is_shared: bool = False
    ) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._sock: Final = sock
        self._is_shared: Final = is_shared
        self._make: Final = make
        self._places: Final = _places(max_connections, sock)
        self._table: Final = ConnectionTable(self._places.served)
        self._reserved = 0  # reserved places that are taken
        self._joining: Final[set[asyncio.Task[None]]] = set()
        self._leaving: Final[deque[tuple[float, socket.socket]]] = deque()
        self._waking: asyncio.TimerHandle | None = None  # while no descriptor is free
        self._refused = 0  # since that was last logged
        self._logged: Final[dict[str, float]] = {}
        for level, name, value in _OPTIONS:
            if hasattr(socket, name):
                with contextlib.suppress(OSError):  # a socket that systemd passes may be a Unix socket
                    sock.setsockopt(level, getattr(socket, name), value)
        sock.setblocking(False)
        sock.listen(BACKLOG)
        self._loop.add_reader(sock, self._accept)

    def close(self) -> None:
        """Stop listening. Accepted connections stay open.

        Connections that wait in the kernel's queue are accepted first: closing the socket would reset them.
        A client that connects between the two would be reset too, so the kernel drops its SYN.
        A second call does nothing.
        """
        if self._sock.fileno() < 0:
            return
        if not self._is_shared:
            drop_handshakes(self._sock)
        if self._waking is None:
            for _ in range(BACKLOG):
                if not self._accept():
                    break
        if self._waking is not None:
            self._waking.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()
        for _, connection in self._leaving:
            connection.close()

    async def last_requests(self) -> None:
        """Wait while a client may still send a request because it has just connected or received a response.

        A balancer whose connection ends without a response may not send the request to another instance.
        """
        while self._table.awaits_requests(self._loop.time()):  # noqa: ASYNC110 - time alone may end it
            await asyncio.sleep(LOOK_EVERY)

    def _accept(self) -> bool:
        """Accept one connection; returns whether there was one. While more wait, the loop calls this again,
        after other ready callbacks."""
        try:
            connection, peer = self._sock.accept()
        except OSError as error:  # any other error: the client left before it was accepted
            if error.errno in _EXHAUSTED:
                self._wait(error)
            return False
        connection.setblocking(False)
        entry = Entry()
        place = self._place(connection, address := _address(peer))
        if place is Place.NONE:
            self._refuse(connection)
            return True
        if place is Place.SERVED:
            entry = self._table.enter(address, self._loop.time())
        else:
            self._reserved += 1
        task = self._loop.create_task(self._join(connection, place, entry))
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)
        return True

    def _place(self, connection: socket.socket, address: str) -> Place:
        """The place of a new connection; an earlier connection may have to make room for it."""
        now, table, descriptor = self._loop.time(), self._table, connection.fileno()
        if table.is_full_of(address):
            served = len(table) if table.make_room(now, address) else self._places.served
        else:
            served = len(table)
            if served >= self._places.served and table.make_room(now):
                served = len(table)
        return self._places.place(served, self._reserved, descriptor)

    async def _join(self, connection: socket.socket, place: Place, entry: Entry) -> None:
        def lost() -> None:
            entry.leave()
            if place is Place.RESERVED:
                self._reserved -= 1

        def make() -> asyncio.BaseProtocol:
            return self._make(place is Place.RESERVED, lost, entry)

        try:
            await self._loop.connect_accepted_socket(make, connection)
        except OSError:  # the client has left
            connection.close()
            lost()

    # -- refused connections ----------------------------------------------------------------

    def _refuse(self, connection: socket.socket) -> None:
        self._refused += 1
        if self._may_log("refused"):
            log.warning(
                "connections are refused: there are too many",
                extra={"refused": self._refused, "served": len(self._table)},
            )
            self._refused = 0
        with contextlib.suppress(OSError):  # the client has left; an empty send buffer takes the response
            connection.send(error_bytes(NO_PLACE))
            connection.shutdown(socket.SHUT_WR)
        if not self._leaving:
            self._loop.call_later(LEAVES_WITHIN, self._close_left)
        self._leaving.append((self._loop.time() + LEAVES_WITHIN, connection))
        if len(self._leaving) > self._places.leaving:
            self._leaving.popleft()[1].close()

    def _close_left(self) -> None:
        now = self._loop.time()
        while self._leaving and self._leaving[0][0] <= now:
            self._leaving.popleft()[1].close()
        if self._leaving:
            self._loop.call_at(self._leaving[0][0], self._close_left)

    # -- no free descriptor -------------------------------------------------------------------

    def _wait(self, error: OSError) -> None:
        if self._may_log("wait"):
            log.error("connections wait to be accepted: %s", error.strerror)
        self._loop.remove_reader(self._sock)
        self._waking = self._loop.call_later(WAIT_FOR_DESCRIPTORS, self._wake)

    def _wake(self) -> None:
        self._waking = None
        self._loop.add_reader(self._sock, self._accept)

    def _may_log(self, what: str) -> bool:
        now = self._loop.time()
        if now - self._logged.get(what, -LOG_EVERY) < LOG_EVERY:
            return False
        self._logged[what] = now
        return True


def _address(peer: object) -> str:
    """The address of a client, as limits count it: of IPv6 the network, in which a client has 2^64 addresses.
    Empty: it has none, as on a Unix socket."""
    match peer:
        case (str(host), _):
            return host
        case (str(host), _, _, _):
            packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
            return packed.hex() if packed.startswith(_IPV4_IN_IPV6) else packed[:8].hex()
    return ""


def _places(max_connections: int, sock: socket.socket) -> ConnectionLimits:
    """Raise this process's limit of descriptors as far as needed, and return the connection limits. Workers
    inherit the raised limit: an App needs a descriptor for each connection to a model."""
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(LIMIT_AT_LEAST, LIMIT_SHARE * max_connections)
    if hard != resource.RLIM_INFINITY:
        most = min(hard, most)
    if limit != resource.RLIM_INFINITY and limit < most:
        with contextlib.suppress(ValueError, OSError):  # the kernel may have a lower maximum
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            limit = most
    in_use = os.dup(sock.fileno())  # the lowest free number: about as many descriptors are open
    os.close(in_use)
    bounds = places(max_connections, most if limit == resource.RLIM_INFINITY else limit, in_use)
    if bounds.served < max_connections:
        log.warning(
            "server.max_connections is more than the limit of descriptors allows",
            extra={"max_connections": max_connections, "allowed": bounds.served, "descriptors": limit},
        )
    return bounds
