"""Session state in Redis: one key per session, replaced as a whole.

Guarantees. A value is never torn: one SET in a transaction writes it. In this process, saves of a session are
ordered (`store`). Between processes the last save wins, and no save is applied late: each save watches the
key (WATCH) from before it sends its value until the server has stored it. A save that was given up, because
its server stalled or its process was killed, therefore cannot arrive after a later save and undo it. If the
response to a transaction is lost, the stamp of the stored value tells whether the server has executed it; it
is not sent again without that. The durability of a stored value is the server's configuration (`appendonly`,
`maxmemory`, replication): with `noeviction`, a full server rejects a save, and the stored state is kept.

Lost connections and failovers are handled by `redis_connections`: each operation here can run again. An
unreachable Redis does not prevent a worker from starting: it is logged, and each save and load raises
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
import logging
import time
from collections.abc import Callable
from typing import Any

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


class RedisSessions(SessionStore):
    """The keys of one database. When a save returns, the state is in the server's memory."""

    def __init__(self, url: str, major: int, member: str = "") -> None:
        """Opens no connection. Raises: BootError if the client library is missing or rejects `url`."""
        super().__init__(major, member)
        self._held: dict[str, str] = {}  # key of each held claim -> token
        self._renewing: asyncio.Task[None] | None = None
        try:
            from redis import exceptions

            from agentscope_worker.runtime.sessions.redis_connections import Connections, is_unknown
        except ImportError as error:
            is_ours = (error.name or "").partition(".")[0] == "redis"  # it is missing, or too old
            fix = f". To install it, run: {pip_install('redis>=5.0.1')}" if is_ours else ""
            raise BootError(
                f"session.backend: redis needs the package redis, which cannot be imported: {error}{fix}",
                permanent=True,
            ) from error
        self._errors, self._is_unknown = exceptions, is_unknown
        try:
            self._connections = Connections(url)
        except (ValueError, TypeError):  # their messages may contain the URL
            raise BootError(
                "session.redis_url: the redis client cannot use this URL; expected "
                "redis://[user:password@]host[:port][/database], rediss:// or unix://",
                permanent=True,
            ) from None
        self._redis = self._connections.redis
        self._ask = self._connections.ask

    async def open(self) -> None:
        """Check whether the server is reachable; if not, this is logged and not raised."""
        try:
            await self._ask(self._redis.ping)
        except OSError as error:
            log.error("sessions cannot be saved or loaded at the moment: %s", error)

    async def close(self) -> None:
        """Wait for unfinished saves, and close the connections."""
        await super().close()
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        await self._connections.close()

    async def _claim(self, session: str, token: str) -> bool:
        name = CLAIM_PREFIX + session

        async def claim() -> bool:
            claimed = await self._redis.set(name, token, nx=True, px=_milliseconds(LEASE))
            return bool(claimed) or await self._take_over(name, token)

        if not await self._ask(claim):
            return False
        self._held[name] = token
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew())
        return True

    async def _release(self, session: str, token: str) -> None:
        name = CLAIM_PREFIX + session
        self._held.pop(name, None)

        async def release() -> None:
            async with self._redis.pipeline() as transaction:
                await transaction.watch(name)
                if await self._get(transaction, name) == token.encode():
                    transaction.multi()
                    transaction.delete(name)
                    await transaction.execute()

        await self._ask(release)

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
            if self._held:
                # Claims that cannot be renewed now are renewed at the next attempt, or are found lost.
                with contextlib.suppress(OSError):
                    await self._ask(self._renew_once)

    async def _renew_once(self) -> None:
        claims = list(self._held.items())
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
        # The stamps of transactions whose result was lost, and the stamp that they would have replaced.
        lost: set[Stamp] = set()
        base: Stamp | None = None

        async def write() -> int:
            nonlocal base
            async with self._redis.pipeline() as transaction:
                await transaction.watch(*watched)
                stored = stamp_of(await self._head(transaction, name))
                if stored in lost:
                    return stored.number  # the server has executed it
                if token is not None and await self._get(transaction, claim) != token.encode():
                    raise ClaimLostError
                if not may_replace(stored) or (lost and stored != base):
                    raise OvertakenError(stored)
                stamp, base = next_stamp(stored, by), stored
                lost.add(stamp)
                transaction.multi()
                transaction.set(name, stamped(data, stamp))
                try:
                    await transaction.execute()
                except self._errors.WatchError as error:
                    if not self._is_unknown(error):
                        lost.discard(stamp)
                    raise
                except self._errors.ResponseError:  # refused, for example by a replica or a full server
                    lost.discard(stamp)
                    raise
                return stamp.number

        return await self._ask(write)

    async def _read(self, key: Key) -> bytes | None:
        return await self._ask(lambda: self._get(self._redis, PREFIX + key.name))

    async def _remove(self, key: Key) -> bool:
        removed = False

        async def remove() -> None:
            nonlocal removed  # by a DELETE whose response was lost, too
            removed = bool(await self._redis.exists(PREFIX + key.name)) or removed
            await self._redis.delete(PREFIX + key.name)

        await self._ask(remove)
        return removed

    async def _set_aside(self, key: Key, damaged: bytes) -> str | None:
        name = PREFIX + key.name
        aside = f"{name}:corrupt:{time.time_ns()}"

        async def set_aside() -> str | None:
            async with self._redis.pipeline() as transaction:
                await transaction.watch(name, aside)
                if await self._get(transaction, name) == damaged:
                    transaction.multi()
                    transaction.rename(name, aside)
                    await transaction.execute()
                    return aside
                return aside if await transaction.exists(aside) else None

        return await self._ask(set_aside)

    def _place(self, key: Key) -> str:
        return f"{PREFIX}{key.name} in {self._connections.where}"

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


def _member(token: str) -> tuple[str, int]:
    """(instance, process number) of a token."""
    instance, _, number = token.partition("/")[0].partition(".")
    return instance, int(number or 0)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
