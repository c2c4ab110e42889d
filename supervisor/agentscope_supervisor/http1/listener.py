"""The listening socket: who is let in, who is told that there is no place, and who waits.

It accepts by itself, because the event loop would not leave that to us: at the limit of descriptors asyncio
logs without end and uvloop accepts and closes, so that waiting clients see an end they have not earned. Here
nobody beyond `connection_limits` is served, and when no descriptor is left, clients wait in the kernel's
queue. Accepted sockets inherit the options of this one.
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
from agentscope_supervisor.http1.responses import error_bytes

log = logging.getLogger(__name__)

BACKLOG: Final = 4096  # connections the kernel may hold for us; a burst must not meet a refusal
LEAVES_WITHIN: Final = 1.0
"""Seconds that a refused connection stays open after its answer: closing at once, with a request unread,
would reset the connection and may destroy the answer."""
WAIT_FOR_DESCRIPTORS: Final = 0.5  # seconds until accepting is tried again
LOG_EVERY: Final = 10.0  # seconds between two lines on the same trouble
MAX_LIMIT: Final = 1 << 20  # descriptors to ask for; a limit may be infinite, which not every kernel takes

NO_PLACE: Final = refusal(ErrorCode.OVERLOADED, "there are too many connections (server.max_connections)")
_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_OPTIONS: Final = (
    # A peer that has vanished is noticed by what it does not acknowledge, or in silence by probes. Linux
    # counts the time too in which a peer that is there takes nothing, so that this is also how long a client
    # may stop reading when all buffers are full: a minute.
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 60_000),  # milliseconds
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 15),  # seconds
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 5),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
    # Else the kernel takes some megabytes for each client that does not read.
    (socket.SOL_SOCKET, "SO_SNDBUF", 256 * 1024),
)

OnLost = Callable[[], None]
Make = Callable[[bool, OnLost], asyncio.BaseProtocol]
"""Makes the protocol of a connection. First argument: its place is of the reserve; the second one is to be
called once, when it is lost."""


class Listener:
    """Accepts on a bound socket, which it owns from now on, until `close`."""

    def __init__(self, sock: socket.socket, max_connections: int, make: Make) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._sock: Final = sock
        self._make: Final = make
        self._places: Final = _places(max_connections, sock)
        self._taken: Final = {Place.SERVED: 0, Place.RESERVED: 0}
        self._joining: Final[set[asyncio.Task[None]]] = set()
        self._leaving: Final[deque[tuple[float, socket.socket]]] = deque()
        self._waking: asyncio.TimerHandle | None = None  # while no descriptor is free
        self._refused = 0  # since that was last logged
        self._logged: Final[dict[str, float]] = {}
        for level, name, value in _OPTIONS:
            if hasattr(socket, name):
                with contextlib.suppress(OSError):  # a socket that was passed to us may be no TCP socket
                    sock.setsockopt(level, getattr(socket, name), value)
        sock.setblocking(False)
        sock.listen(BACKLOG)
        self._loop.add_reader(sock, self._accept)

    def close(self) -> None:
        """Stop listening. What was accepted goes on."""
        if self._waking is not None:
            self._waking.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()
        for _, connection in self._leaving:
            connection.close()

    def _accept(self) -> None:
        """Let one in; while more wait the loop calls again, and those that are in have their turn between."""
        try:
            connection, _ = self._sock.accept()
        except OSError as error:  # else it was gone before we came to it
            if error.errno in _EXHAUSTED:
                self._wait(error)
            return
        connection.setblocking(False)
        served, reserved = self._taken[Place.SERVED], self._taken[Place.RESERVED]
        place = self._places.place(served, reserved, connection.fileno())
        if place is Place.NONE:
            self._refuse(connection)
            return
        self._taken[place] += 1
        task = self._loop.create_task(self._join(connection, place))
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)

    async def _join(self, connection: socket.socket, place: Place) -> None:
        def lost() -> None:
            self._taken[place] -= 1

        def make() -> asyncio.BaseProtocol:
            return self._make(place is Place.RESERVED, lost)

        try:
            await self._loop.connect_accepted_socket(make, connection)
        except OSError:  # gone already
            connection.close()
            lost()

    # -- no place ---------------------------------------------------------------------------

    def _refuse(self, connection: socket.socket) -> None:
        self._refused += 1
        if self._may_log("refused"):
            log.warning(
                "connections are refused: there are too many",
                extra={"refused": self._refused, "served": self._taken[Place.SERVED]},
            )
            self._refused = 0
        with contextlib.suppress(OSError):  # gone already; else so little always fits
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

    # -- no descriptor ------------------------------------------------------------------------

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


def _places(max_connections: int, sock: socket.socket) -> ConnectionLimits:
    """The bounds of this process, its limit of descriptors being raised as far as it may be. Workers inherit
    the limit: an App needs a descriptor for each model that it talks to."""
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_LIMIT if hard == resource.RLIM_INFINITY else min(hard, MAX_LIMIT)
    if limit != resource.RLIM_INFINITY and limit < most:
        with contextlib.suppress(ValueError, OSError):  # a kernel with a lower limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            limit = most
    in_use = os.dup(sock.fileno())  # the lowest number that was free
    os.close(in_use)
    bounds = places(max_connections, MAX_LIMIT if limit == resource.RLIM_INFINITY else limit, in_use)
    if bounds.served < max_connections:
        log.warning(
            "server.max_connections is more than the limit of descriptors allows",
            extra={"max_connections": max_connections, "allowed": bounds.served, "descriptors": limit},
        )
    return bounds
