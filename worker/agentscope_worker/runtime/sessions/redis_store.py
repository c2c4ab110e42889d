"""Session state in a Redis: one key per session, replaced as a whole.

What it guarantees. A value is never torn: it is written by one SET in a transaction. In this process
the saves of a session follow each other (`store`). Between processes the last save wins, and
none is applied late: each watches the key (WATCH) from before it sends its value until the server
has stored it, so that a save which was given up, because its server stalled or its process was
killed, cannot arrive after a later one and undo it. A watched key that changed is tried again, up to
`WITHIN`. How long a stored value lasts is the server's configuration (`appendonly`, `maxmemory`,
replication): with `noeviction` a full server refuses a save, and what was stored stays.

A Redis that cannot be reached does not keep a worker from starting: it is logged, and each save and
load raises ConnectionError or TimeoutError (both OSError, as those of a disk are) until it is back.
A claim (`claims`) is a key of its own that lasts `LEASE` and is renewed while it is held, because no
server sees a process die. Among the workers of one instance, whose supervisor knows that the turn before has
ended, the claim of a process that was started later replaces an older one at once; so a crash makes only
other instances wait. A save watches the claim as well, and is made only under its own.

The keys have one prefix and hold nothing of a project's name: projects that share a server need a
database each (`redis://host:6379/1`). No message here may hold the URL, which has the password.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import random
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from agentscope_worker.runtime.boot_error import BootError, pip_install
from agentscope_worker.runtime.sessions.store import (
    HEAD,
    ClaimLostError,
    Key,
    OvertakenError,
    SessionStore,
    number_of,
    numbered,
)

log = logging.getLogger(__name__)

PREFIX = "agentscope-supervisor:session:"
CLAIM_PREFIX = "agentscope-supervisor:turn:"

LEASE = 15.0  # seconds; an event loop that is blocked for as long fails its clients anyway
_RENEWALS = 3  # in that time, so that one that is lost costs nothing

CONNECT_WITHIN = 2.0  # seconds; a Redis is near, and an App's turn waits
ANSWER_WITHIN = 5.0  # seconds for one command; the largest state takes one or two
WITHIN = 10.0  # seconds for a whole save or load, with what is tried again
_CONNECTIONS = 32  # at once; a command takes a millisecond, so that more would only wait in the server
_PAUSE = 0.02  # seconds, at most, before a save that met another is tried again


class RedisSessions(SessionStore):
    """The keys of one database. A state is in the server's memory when a save returns."""

    def __init__(self, url: str, major: int, member: str = "") -> None:
        """Opens no connection. Raises: BootError, if the client library is missing or refuses `url`."""
        super().__init__(major, member)
        self._held: dict[str, str] = {}  # tokens of the claims that are held, by name of the key
        self._renewing: asyncio.Task[None] | None = None
        try:
            import redis.asyncio
            from redis import exceptions
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError as error:
            raise BootError(
                f"session.backend: redis needs the package redis, which cannot be imported: {error}. "
                f"To install it: {pip_install('redis>=5.0.1')}",
                permanent=True,
            ) from error
        self._errors = exceptions
        self._where = _without_credentials(url)
        try:
            self._pool = redis.asyncio.BlockingConnectionPool.from_url(
                url,
                max_connections=_CONNECTIONS,
                timeout=ANSWER_WITHIN,  # for a free connection
                socket_connect_timeout=CONNECT_WITHIN,
                socket_timeout=ANSWER_WITHIN,
                # Trying again is decided here, where the time for a whole save is known.
                retry=Retry(NoBackoff(), 0),
            )
        except (ValueError, TypeError):  # their texts may repeat the URL
            raise BootError(
                "session.redis_url: the redis client cannot use it; expected "
                "redis://[user:password@]host[:port][/database], rediss:// or unix://",
                permanent=True,
            ) from None
        # Any: some of its methods have no annotations, and `mypy --strict` refuses to call them.
        self._redis: Any = redis.asyncio.Redis(connection_pool=self._pool)

    async def open(self) -> None:
        """Look whether the server is there; if not, that is logged, not raised."""
        try:
            async with self._bounded():
                await self._redis.ping()
        except OSError as error:
            log.error("sessions cannot be saved or loaded until this is mended: %s", error)

    async def close(self) -> None:
        """Wait for the saves that are still being written, and close the connections."""
        await super().close()
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        await self._redis.aclose()
        await self._pool.disconnect()

    async def _claim(self, session: str, token: str) -> bool:
        name = CLAIM_PREFIX + session
        async with self._bounded():
            taken = await self._redis.set(name, token, nx=True, px=_milliseconds(LEASE))
            if not taken and not await self._take_over(name, token):
                return False
        self._held[name] = token
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew())
        return True

    async def _release(self, session: str, token: str) -> None:
        name = CLAIM_PREFIX + session
        self._held.pop(name, None)
        async with self._bounded():
            with contextlib.suppress(self._errors.WatchError):
                async with self._redis.pipeline() as transaction:
                    await transaction.watch(name)
                    if await self._get(transaction, name) == token.encode():
                        transaction.multi()
                        transaction.delete(name)
                        await transaction.execute()

    async def _take_over(self, name: str, token: str) -> bool:
        """Replace a claim of this process or an earlier one of its instance: its turn has ended."""
        instance, number = _member(token)
        with contextlib.suppress(self._errors.WatchError):
            async with self._redis.pipeline() as transaction:
                await transaction.watch(name)
                holder = _member((await self._get(transaction, name) or b"").decode())
                if holder[0] == instance and holder[1] <= number:
                    transaction.multi()
                    transaction.set(name, token, px=_milliseconds(LEASE))
                    await transaction.execute()
                    return True
        return False

    async def _renew(self) -> None:
        """Prolong the claims that are held, until none is. One that another has taken is left to him."""
        while self._held:
            await asyncio.sleep(LEASE / _RENEWALS)
            claims = list(self._held.items())
            if claims:
                # Those that cannot be prolonged now are still there at the next look, or are found lost.
                with contextlib.suppress(OSError):
                    async with self._bounded():
                        holders = await self._redis.mget([name for name, _ in claims])
                        async with self._redis.pipeline(transaction=False) as batch:
                            for (name, token), holder in zip(claims, holders, strict=True):
                                if holder == token.encode():
                                    batch.pexpire(name, _milliseconds(LEASE))
                            await batch.execute()

    async def _write(self, key: Key, data: bytes, token: str | None = None, over: range | None = None) -> int:
        name, claim = PREFIX + key.name, CLAIM_PREFIX + key.session
        watched = [name] if token is None else [name, claim]
        async with self._bounded():
            while True:
                try:
                    async with self._redis.pipeline() as transaction:
                        await transaction.watch(*watched)
                        if token is not None and await self._get(transaction, claim) != token.encode():
                            raise ClaimLostError
                        number = number_of(await self._head(transaction, name))
                        if over is not None and number not in over:
                            raise OvertakenError
                        transaction.multi()
                        transaction.set(name, numbered(data, number + 1))
                        await transaction.execute()
                        return number + 1
                except self._errors.WatchError:  # another process's save, or a connection that broke
                    await asyncio.sleep(random.random() * _PAUSE)

    async def _read(self, key: Key) -> bytes | None:
        async with self._bounded():
            return await self._get(self._redis, PREFIX + key.name)

    async def _remove(self, key: Key) -> bool:
        async with self._bounded():
            return bool(await self._redis.delete(PREFIX + key.name))

    async def _set_aside(self, key: Key, damaged: bytes) -> str | None:
        name = PREFIX + key.name
        aside = f"{name}:corrupt:{time.time_ns()}"
        async with self._bounded():
            with contextlib.suppress(self._errors.WatchError):
                async with self._redis.pipeline() as transaction:
                    await transaction.watch(name)
                    if await self._get(transaction, name) == damaged:
                        transaction.multi()
                        transaction.rename(name, aside)
                        await transaction.execute()
                        return aside
        return None

    def _place(self, key: Key) -> str:
        return f"{PREFIX}{key.name} in {self._where}"

    async def _head(self, client: Any, name: str) -> bytes:
        try:
            head: bytes = await client.getrange(name, 0, HEAD - 1)
        except self._errors.ResponseError as error:
            if str(error).startswith("WRONGTYPE"):
                return b""
            raise
        return head

    async def _get(self, client: Any, name: str) -> bytes | None:
        try:
            data: bytes | None = await client.get(name)
        except self._errors.ResponseError as error:
            if str(error).startswith("WRONGTYPE"):
                return b""  # a list or a hash: somebody else's, and no session
            raise
        return data

    @contextlib.asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        """Turn the client's errors into OSError, and end after `WITHIN`."""
        errors = self._errors
        try:
            async with asyncio.timeout(WITHIN):
                yield
        except (TimeoutError, errors.TimeoutError):
            raise TimeoutError(f"the session store {self._where} did not answer in time") from None
        except errors.OutOfMemoryError:
            raise OSError(errno.ENOSPC, f"the session store {self._where} is full (maxmemory)") from None
        except (errors.RedisError, OSError) as error:
            # In a transaction the text begins with the command, and that has the state in it.
            cause = str(error).rpartition("of pipeline caused error: ")[2]
            raise ConnectionError(f"the session store {self._where} cannot be used: {cause}") from None


def _without_credentials(url: str) -> str:
    """Scheme, host, port and path of `url`: neither user nor password, and no query."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        return "redis"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def _member(token: str) -> tuple[str, int]:
    """The instance of a token, and the number of the process in it."""
    instance, _, number = token.partition("/")[0].partition(".")
    return instance, int(number or 0)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
