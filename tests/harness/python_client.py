"""The Python client of the package in its two forms, behind one interface for tests."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from agentscope_supervisor.client import AsyncClient, Client, Message

KINDS: Final = ("Client", "AsyncClient")


class Both:
    """The two clients behind one interface, which runs the blocking one in a thread."""

    def __init__(self, kind: str, url: str, **options: Any) -> None:
        self._sync: Final = Client(url, **options) if kind == "Client" else None
        self._async: Final = AsyncClient(url, **options) if kind == "AsyncClient" else None
        self.last: Any = None  # the stream that was read last

    async def close(self) -> None:
        if self._async is not None:
            await self._async.close()

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        if self._async is not None:
            return getattr(self._async, name)  # type: ignore[no-any-return]
        return lambda *args, **more: asyncio.to_thread(getattr(self._sync, name), *args, **more)

    async def read(self, name: str, *args: Any, most: int | None = None, **more: Any) -> list[Message]:
        """The messages of `stream` or `resume`; `most`: leave it after so many."""
        found: list[Message] = []
        if self._async is not None:
            async with getattr(self._async, name)(*args, **more) as self.last:
                async for message in self.last:
                    found.append(message)
                    if len(found) == most:
                        break
            return found

        def collect() -> None:
            with getattr(self._sync, name)(*args, **more) as self.last:
                for message in self.last:
                    found.append(message)
                    if len(found) == most:
                        break

        await asyncio.to_thread(collect)
        return found


@asynccontextmanager
async def client_of(kind: str, port: int, **options: Any) -> AsyncIterator[Both]:
    both = Both(kind, f"http://127.0.0.1:{port}", **options)
    try:
        yield both
    finally:
        await both.close()


def script(steps: object) -> str:
    return steps if isinstance(steps, str) else json.dumps(steps)
