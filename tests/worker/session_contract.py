"""The media for the contract tests of the session store, and direct access to them."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from contextvars import copy_context
from pathlib import Path
from typing import Any, TypeVar

import redis.asyncio

from agentscope_worker.runtime.sessions import claims as session_claims
from agentscope_worker.runtime.sessions import redis_store
from agentscope_worker.runtime.sessions.json_store import JsonSessions
from agentscope_worker.runtime.sessions.redis_store import RedisSessions
from agentscope_worker.runtime.sessions.store import SessionStore
from tests.worker.values import Value

T = TypeVar("T")


class Medium(ABC):
    """An empty store location. `kind` and `where` identify it for another process."""

    kind: str
    where: str

    def store(self, major: int = 2, member: str = "") -> SessionStore:
        """A store at this location, for the given member of an instance and major of AgentScope."""
        return make(self.kind, self.where, major, member)

    @abstractmethod
    async def contents(self) -> list[bytes]:
        """The stored forms of all sessions."""

    @abstractmethod
    async def spoil(self, content: bytes) -> None:
        """Replace the only stored session with `content`."""

    @abstractmethod
    async def aside(self) -> list[bytes]:
        """The damaged states that were moved aside."""

    @abstractmethod
    async def leftovers(self) -> list[str]:
        """Leftovers of saves, beside the sessions."""

    async def close(self) -> None:  # noqa: B027 - optional, not abstract
        """Release the location."""


class Files(Medium):
    def __init__(self, directory: Path) -> None:
        self.kind, self.where, self._directory = "json", str(directory), directory

    async def contents(self) -> list[bytes]:
        return self._read("*.json")

    async def spoil(self, content: bytes) -> None:
        (file,) = self._directory.glob("*.json")
        file.write_bytes(content)

    async def aside(self) -> list[bytes]:
        return self._read("*.corrupt")

    async def leftovers(self) -> list[str]:
        return [path.name for path in self._directory.glob(".tmp-*")]

    def _read(self, pattern: str) -> list[bytes]:
        return [path.read_bytes() for path in sorted(self._directory.glob(pattern))]


class Keys(Medium):
    def __init__(self, url: str) -> None:
        self.kind, self.where = "redis", url
        self._redis: Any = redis.asyncio.Redis.from_url(url)

    async def contents(self) -> list[bytes]:
        return [await self._redis.get(name) for name in await self._names(":corrupt:", there=False)]

    async def spoil(self, content: bytes) -> None:
        (name,) = await self._names(":corrupt:", there=False)
        await self._redis.set(name, content)

    async def aside(self) -> list[bytes]:
        return [await self._redis.get(name) for name in await self._names(":corrupt:", there=True)]

    async def leftovers(self) -> list[str]:
        return [name.decode() for name in await self._redis.keys() if redis_store.PREFIX not in name.decode()]

    async def close(self) -> None:
        await self._redis.flushall()
        await self._redis.aclose()

    async def _names(self, word: str, *, there: bool) -> list[str]:
        names = sorted(name.decode() for name in await self._redis.keys(redis_store.PREFIX + "*"))
        return [name for name in names if (word in name) == there]


def make(kind: str, where: str, major: int = 2, member: str = "") -> SessionStore:
    """The store of that kind, not opened yet."""
    if kind == "json":
        return JsonSessions(Path(where), major, member)
    return RedisSessions(where, major, member)


class OneTurn:
    """One turn of a session, as `serve` runs it; work after `end` is late work of the turn."""

    def __init__(self, store: SessionStore, session: str = "s") -> None:
        self._store, self._session = store, session
        self._stack = ExitStack()
        self._outside = copy_context()
        self._outside.run(self._stack.enter_context, session_claims.turn(session, "run"))
        self._inside = self._outside.copy()

    def end(self) -> None:
        self._outside.run(self._stack.close)

    def start(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run the coroutine in the turn."""
        return asyncio.create_task(coroutine, context=self._inside.copy())

    async def load(self) -> Any:
        """The stored value, or None."""
        value = Value()
        await self.start(self._store.load_session_state(self._session, value=value))
        return value.value

    async def save(self, value: Any) -> None:
        await self.start(self._store.save_session_state(self._session, value=Value(value)))


def slow_down(store: SessionStore, seconds: float, *steps: str) -> None:
    """Delay each write of this store, or other steps, by the given time."""

    def slowed(step: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def slow(*arguments: Any) -> Any:
            await asyncio.sleep(seconds)
            return await step(*arguments)

        return slow

    for name in steps:
        setattr(store._claims, name, slowed(getattr(store._claims, name)))
    if not steps:
        store._write = slowed(store._write)  # type: ignore[method-assign]


def refuse_writes(store: SessionStore, error: OSError) -> None:
    """Make each write of this store fail."""

    async def fail(*_: object) -> None:
        raise error

    store._write = fail  # type: ignore[method-assign]
