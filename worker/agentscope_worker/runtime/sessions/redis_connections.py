"""The connections to a Redis server: how many, which are reused, and which requests are repeated.

An operation is a function that may run again from its start. `Connections.ask` runs it within
`OPERATION_TIMEOUT` and repeats it in four cases: after a connection was lost, because a server or a firewall
closes idle connections, and a failover closes all; after a connection was not ready in time, because an App
that blocks the event loop delays it; while the server answers that it is a replica, is loading or has no
primary, because a failover ends that; and after a transaction whose watched keys have changed. In the first
two cases it is repeated at most `RECONNECTS` times. After a lost connection or such an answer, no connection
that was open before is used again. The client library repeats nothing: only an operation knows what it has
sent.

Imports the package redis, so that `redis_store` imports this module only when it is needed. Works with
redis 5.0.1 and later.
"""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from redis import exceptions
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

T = TypeVar("T")

CONNECT_TIMEOUT = 2.0  # seconds; Redis is on the local network, and a turn waits
RESPONSE_TIMEOUT = 5.0  # seconds for one command; the largest state takes one or two
OPERATION_TIMEOUT = 10.0  # seconds for a complete save or load, including retries
RECONNECTS = 2  # in one operation: its connection was closed while idle, and the next one by a failover
CONNECTIONS = 32  # at once; a command takes about 1 ms, so more connections would only wait in the server

_MIN_PAUSE = 0.05  # seconds before an operation is repeated on a server that is not ready
_MAX_PAUSE = 0.5  # seconds; a failover takes a few
_MAX_CONFLICT_PAUSE = 0.02  # seconds before a transaction that conflicted with another is repeated

# Seconds, and a number. The kernel's keepalive probes keep an idle connection known to firewalls, which
# forget it after 240 s or more (Azure 240, AWS 350), and find a server that has disappeared.
_KEEPALIVE_IDLE, _KEEPALIVE_INTERVAL, _KEEPALIVE_PROBES = 60, 10, 3

_NOT_READY = (
    exceptions.ReadOnlyError,  # a replica, such as a primary after a failover
    exceptions.ClusterDownError,  # and, in newer releases of the library, MASTERDOWN
    exceptions.BusyLoadingError,
)
# The same, of errors without a class of their own: a replica without its primary, and a new primary whose
# replicas have not connected yet.
_NOT_READY_CODES = ("MASTERDOWN", "NOREPLICAS")


class _NoConnectionYet(exceptions.TimeoutError):
    """No connection was there in time, so no command was sent.

    Either the server does not respond, or the App kept the event loop busy while the connection was opened.
    """


class Connections:
    """The connections to one server."""

    def __init__(self, url: str) -> None:
        """Opens no connection. Raises: ValueError or TypeError for a URL that the library does not accept;
        the message may contain the URL."""
        self.where: Final = _without_credentials(url)
        options: dict[str, Any] = {}
        if not url.startswith("unix:"):
            options = {"socket_keepalive": True, "socket_keepalive_options": _keepalive_options()}
        self._pool: Final = _Pool.from_url(
            url,
            max_connections=CONNECTIONS,
            socket_connect_timeout=CONNECT_TIMEOUT,
            socket_timeout=RESPONSE_TIMEOUT,
            retry=Retry(NoBackoff(), 0),
            **options,
        )
        # The URL may name fewer. The library's pool of this kind raises an error when all are in use.
        self._free: Final = asyncio.Semaphore(min(CONNECTIONS, self._pool.max_connections))
        # Any: some of its methods are not annotated, and `mypy --strict` rejects calls to them.
        self.redis: Final[Any] = Redis(connection_pool=self._pool)

    async def close(self) -> None:
        await self.redis.aclose()
        await self._pool.disconnect()

    async def ask(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Run `operation`, which uses one connection at a time, and repeat it as the module describes.

        Raises: TimeoutError, ConnectionError or another OSError, and any exception of `operation` that is not
        of the library.
        """
        deadline = asyncio.get_running_loop().time() + OPERATION_TIMEOUT
        try:
            async with asyncio.timeout_at(deadline), self._free:
                return await self._repeat(operation, deadline)
        except (TimeoutError, exceptions.TimeoutError):
            self._pool.drop()
            raise TimeoutError(f"the session store {self.where} did not respond in time") from None
        except exceptions.OutOfMemoryError:
            raise OSError(errno.ENOSPC, f"the session store {self.where} is full (maxmemory)") from None
        except (exceptions.RedisError, OSError) as error:
            raise ConnectionError(
                f"the session store {self.where} is not available: {_cause(error)}"
            ) from None

    async def _repeat(self, operation: Callable[[], Awaitable[T]], deadline: float) -> T:
        loop, pause, reconnects = asyncio.get_running_loop(), _MIN_PAUSE, 0
        while True:
            try:
                return await operation()
            except exceptions.WatchError:
                await asyncio.sleep(random.random() * _MAX_CONFLICT_PAUSE)
            except _NoConnectionYet:
                if reconnects == RECONNECTS:
                    raise
                reconnects += 1
            except (exceptions.ConnectionError, exceptions.ResponseError) as error:
                if _is_not_ready(error):
                    self._pool.drop()
                    if loop.time() + pause >= deadline:
                        raise  # it says why, as a timeout would not
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _MAX_PAUSE)
                elif is_connection_lost(error) and reconnects < RECONNECTS:
                    self._pool.drop()
                    reconnects += 1
                else:
                    raise


class _Pool(ConnectionPool):
    """A pool that reopens connections, at their next use, that were open when `drop` was called."""

    def __init__(self, timeout: float | None = None, **options: Any) -> None:
        """`timeout`: for a free connection, as URLs may name it. OPERATION_TIMEOUT covers that wait."""
        self._made: Final[set[Any]] = set()  # at most CONNECTIONS; the library keeps them all
        self._dropped: set[Any] = set()
        super().__init__(**options)

    def drop(self) -> None:
        self._dropped = set(self._made)

    def make_connection(self) -> Any:
        connection = super().make_connection()  # type: ignore[no-untyped-call]
        self._made.add(connection)
        return connection

    async def get_connection(self, *arguments: Any, **options: Any) -> Any:
        """A connection that no other task uses. Raises: _NoConnectionYet."""
        try:
            return await self._get_connection(*arguments, **options)
        except exceptions.TimeoutError as error:
            raise _NoConnectionYet(str(error)) from error

    async def _get_connection(self, *arguments: Any, **options: Any) -> Any:
        connection = await super().get_connection(*arguments, **options)  # type: ignore[no-untyped-call]
        if connection in self._dropped:
            self._dropped.discard(connection)
            try:
                await connection.disconnect()
                await connection.connect()
            except BaseException:
                await self.release(connection)
                raise
        return connection


def is_connection_lost(error: BaseException | None) -> bool:
    """Whether the connection ended, or did not open, before the response was complete."""
    return isinstance(error, exceptions.ConnectionError) and not isinstance(
        error, exceptions.AuthenticationError | exceptions.AuthorizationError | exceptions.BusyLoadingError
    )


def is_unknown(error: exceptions.WatchError) -> bool:
    """Whether the server may have executed the transaction: its response was lost. Otherwise, the server has
    rejected the transaction because a watched key had changed."""
    return isinstance(error.__context__, exceptions.ConnectionError | exceptions.TimeoutError)


def _is_not_ready(error: Exception) -> bool:
    return isinstance(error, _NOT_READY) or any(code in _cause(error) for code in _NOT_READY_CODES)


def _cause(error: Exception) -> str:
    """The server's message. In a transaction, the text before it contains the command, and so the state."""
    return str(error).rpartition("of pipeline caused error: ")[2]


def _keepalive_options() -> dict[int, int]:
    if sys.platform != "linux":
        return {}
    return {
        socket.TCP_KEEPIDLE: _KEEPALIVE_IDLE,
        socket.TCP_KEEPINTVL: _KEEPALIVE_INTERVAL,
        socket.TCP_KEEPCNT: _KEEPALIVE_PROBES,
    }


def _without_credentials(url: str) -> str:
    """Scheme, host, port and path of `url`, without user, password and query."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        return "redis"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"
