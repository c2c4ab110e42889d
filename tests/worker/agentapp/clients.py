"""A client of an AgentApp in this process: its lifespan, and requests without a port."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx

from tests.worker.agentapp.scenarios import events, request


@contextlib.asynccontextmanager
async def running(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Run the lifespan of an app, and yield a client of it, which reads whole answers."""
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a condition holds, and leave the loop a turn after each check of it."""
    async with asyncio.timeout(10):
        while True:
            if await condition():
                return
            await asyncio.sleep(0)


class Stream:
    """One POST /process, read event by event."""

    def __init__(self, app: Any, body: dict[str, Any] | None = None) -> None:
        self._events = app.process(request("Hello") if body is None else body)

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._events.aclose()

    async def next(self) -> dict[str, Any]:
        (event,) = events(await asyncio.wait_for(anext(self._events), 10))
        return event

    async def rest(self) -> list[dict[str, Any]]:
        async with asyncio.timeout(10):
            return [event async for each in self._events for event in events(each)]

    async def until(self, status: str, kind: str) -> dict[str, Any]:
        """The next event of this status and kind of object."""
        while (event := await self.next())["status"] != status or event["object"] != kind:
            pass
        return event
