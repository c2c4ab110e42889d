"""Session state in Redis: one key per session, replaced as a whole.

Guarantees. A value is never torn: one SET in a transaction writes it. In this process, saves of a session are
ordered (`store`). Between processes the last save wins, and no save is applied late: each save watches the
key (WATCH) from before it sends its value until the server has stored it. A save that was given up, because
its server stalled or its process was killed, therefore cannot arrive after a later save and undo it. A save
whose watched key has changed is retried for up to `OPERATION_TIMEOUT`. The durability of a stored value is
the server's configuration (`appendonly`, `maxmemory`, replication): with `noeviction`, a full server rejects
a save, and the stored state is kept.

An unreachable Redis does not prevent a worker from starting: it is logged, and each save and load raises
ConnectionError or TimeoutError (both are OSError, as for a disk) until it is back.

A claim (`claims`) is a key of its own that expires after `LEASE` and is renewed while it is held, because a
server does not notice the death of a process. Among the workers of one instance, whose supervisor knows that
the previous turn has ended, the claim of a process that started later replaces an older claim at once; so a
crash makes only other instances wait. A save also watches its claim, and is applied only under that claim.

The keys have a fixed prefix and do not contain the project's name: projects that share a server need a
database each (`redis://host:6379/1`). No error message or log line may contain the URL, which holds the
password.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

from agentscope_worker.runtime.boot_error import BootError, pip_install
from agentscope_worker.runtime.sessions.keys import Key
from agentscope_worker.runtime.sessions.store import (
    ClaimLostError,
    OvertakenError,
    SessionStore,
    next_stamp,
)
from agentscope_worker.runtime.sessions.stored_form import HEAD, Stamp, stamp_of, stamped

log = logging.getLogger(__name__)

PREFIX = "agentscope-supervisor:session:"
CLAIM_PREFIX = "agentscope-supervisor:turn:"

LEASE = 15.0  # seconds; an event loop that is blocked for longer fails its clients anyway
_RENEWALS = 3  # per LEASE, so that one lost renewal has no effect

CONNECT_TIMEOUT = 2.0  # seconds; Redis is on the local network, and a turn waits
RESPONSE_TIMEOUT = 5.0  # seconds for one command; the largest state takes one or two
OPERATION_TIMEOUT = 10.0  # seconds for a complete save or load, including retries
_CONNECTIONS = 32  # at once; a command takes about 1 ms, so more connections would only wait in the server
_MAX_RETRY_PAUSE = 0.02  # seconds before a save that conflicted with another is retried


class RedisSessions(SessionStore):
    """The keys of one database. When a save returns, the state is in the server's memory."""

    def __init__(self, url: str, major: int, member: str = "") -> None:
        """Opens no connection. Raises: BootError if the client library is missing or rejects `url`."""
        super().__init__(major, member)
        self._held: dict[str, str] = {}  # key of each held claim -> token
        self._renewing: asyncio.Task[None] | None = None
        try:
            import redis.asyncio
            from redis import exceptions
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError as error:
            raise BootError(
                f"session.backend: redis needs the package redis, which cannot be imported: {error}. "
                f"To install it, run: {pip_install('redis>=5.0.1')}",
                permanent=True,
            ) from error
        self._errors = exceptions
        self._where = _without_credentials(url)
        try:
            self._pool = redis.asyncio.BlockingConnectionPool.from_url(
                url,
                max_connections=_CONNECTIONS,
                timeout=RESPONSE_TIMEOUT,  # to wait for a free connection
                socket_connect_timeout=CONNECT_TIMEOUT,
                socket_timeout=RESPONSE_TIMEOUT,
                # Retries are decided here, where the time limit of the whole operation is known.
                retry=Retry(NoBackoff(), 0),
            )
        except (ValueError, TypeError):  # their messages may contain the URL
            raise BootError(
                "session.redis_url: the redis client cannot use this URL; expected "
                "redis://[user:password@]host[:port][/database], rediss:// or unix://",
                permanent=True,
            ) from None
        # Any: some of its methods are not annotated, and `mypy --strict` rejects calls to them.
        self._redis: Any = redis.asyncio.Redis(connection_pool=self._pool)

    async def open(self) -> None:
        """Check whether the server is reachable; if not, this is logged and not raised."""
        try:
            async with self._bounded():
                await self._redis.ping()
        except OSError as error:
            log.error("sessions cannot be saved or loaded at the moment: %s", error)

    async def close(self) -> None:
        """Wait for unfinished saves, and close the connections."""
        await super().close()
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        await self._redis.aclose()
        await self._pool.disconnect()

    async def _claim(self, session: str, token: str) -> bool:
        name = CLAIM_PREFIX + session
        async with self._bounded():
            claimed = await self._redis.set(name, token, nx=True, px=_milliseconds(LEASE))
            if not claimed and not await self._take_over(name, token):
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
        """Replace a claim of this process or of an earlier one of its instance, whose turn has ended."""
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
        """Renew the held claims until there are none. A claim that another process has taken is left
        alone."""
        while self._held:
            await asyncio.sleep(LEASE / _RENEWALS)
            claims = list(self._held.items())
            if claims:
                # Claims that cannot be renewed now are renewed at the next attempt, or are found lost.
                with contextlib.suppress(OSError):
                    async with self._bounded():
                        holders = await self._redis.mget([name for name, _ in claims])
                        async with self._redis.pipeline(transaction=False) as batch:
                            for (name, token), holder in zip(claims, holders, strict=True):
                                if holder == token.encode():
                                    batch.pexpire(name, _milliseconds(LEASE))
                            await batch.execute()

    async def _write(
        self, key: Key, data: bytes, by: str, may_replace: Callable[[Stamp], bool], token: str | None = None
    ) -> int:
        name, claim = PREFIX + key.name, CLAIM_PREFIX + key.session
        watched = [name] if token is None else [name, claim]
        async with self._bounded():
            while True:
                try:
                    async with self._redis.pipeline() as transaction:
                        await transaction.watch(*watched)
                        if token is not None and await self._get(transaction, claim) != token.encode():
                            raise ClaimLostError
                        stored = stamp_of(await self._head(transaction, name))
                        if not may_replace(stored):
                            raise OvertakenError(stored)
                        stamp = next_stamp(stored, by)
                        transaction.multi()
                        transaction.set(name, stamped(data, stamp))
                        await transaction.execute()
                        return stamp.number
                except self._errors.WatchError:  # another process's save, or a connection failure
                    await asyncio.sleep(random.random() * _MAX_RETRY_PAUSE)

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
                return b""  # a list or a hash: written by another program, and not a session
            raise
        return data

    @contextlib.asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        """Convert the client's errors to OSError, and stop after `OPERATION_TIMEOUT`."""
        errors = self._errors
        try:
            async with asyncio.timeout(OPERATION_TIMEOUT):
                yield
        except (TimeoutError, errors.TimeoutError):
            raise TimeoutError(f"the session store {self._where} did not respond in time") from None
        except errors.OutOfMemoryError:
            raise OSError(errno.ENOSPC, f"the session store {self._where} is full (maxmemory)") from None
        except (errors.RedisError, OSError) as error:
            # In a transaction, the message begins with the command, which contains the state.
            cause = str(error).rpartition("of pipeline caused error: ")[2]
            raise ConnectionError(f"the session store {self._where} is not available: {cause}") from None


def _without_credentials(url: str) -> str:
    """Scheme, host, port and path of `url`, without user, password and query."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        return "redis"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def _member(token: str) -> tuple[str, int]:
    """(instance, process number) of a token."""
    instance, _, number = token.partition("/")[0].partition(".")
    return instance, int(number or 0)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
