"""An ASGI app of a project, with its lifespan: once in each worker, between `on_startup` and `on_shutdown`.

Owns the lifespan protocol, in its two variants: an app that supports it, and one that raises because it does
not. `agentscope_worker.asgi` passes requests to the app. https://asgi.readthedocs.io/en/latest/specs/lifespan.html
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
AsgiCallable = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]

SLOT: Final = "worker_slot"
"""The key of `scope["state"]` with the number of the worker's slot, from 0."""

REASON_TIMEOUT: Final = 1.0
"""Seconds for an app that has reported a failure to raise its reason, as frameworks do at once."""


class AsgiApp:
    """An ASGI app.

    `name`: its place in the project. `kind`: "asgi", or "agentapp" for an AgentApp of agentscope-runtime.
    `state`: passed to the app with each request.
    """

    def __init__(self, app: AsgiCallable, name: str, kind: str = "asgi") -> None:
        self.app: Final = app
        self.name: Final = name
        self.kind: Final = kind
        self.state: Final[dict[str, Any]] = {}
        self._phases: Final[asyncio.Queue[Message]] = asyncio.Queue()
        self._answer: asyncio.Future[Message]
        self._lifespan: asyncio.Task[None] | None = None

    async def on_startup(self) -> None:
        """Run the app's startup. An app without lifespan has none.

        Raises: what the app raised, or RuntimeError with the message with which it reported a failure.
        """
        self._lifespan = asyncio.create_task(self._run(), name="lifespan")
        answer = await self._begin("lifespan.startup")
        if answer is None:
            if error := _error_of(self._lifespan):
                log.info("the app does not support ASGI lifespan: %s: %s", type(error).__name__, error)
            self._lifespan = None
        elif answer["type"] == "lifespan.startup.failed":
            await self._fail(answer)

    async def on_shutdown(self) -> None:
        """Run the app's shutdown. Raises: as `on_startup`."""
        if self._lifespan is None:
            return
        answer = await self._begin("lifespan.shutdown")
        if answer is None and (error := _error_of(self._lifespan)):
            raise error
        if answer is not None and answer["type"] == "lifespan.shutdown.failed":
            await self._fail(answer)

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self.app(scope, self._phases.get, self._send)
        except (SystemExit, KeyboardInterrupt) as error:  # asyncio would end the worker without a report
            raise RuntimeError(f"the app raised {type(error).__name__}({error})") from error

    async def _begin(self, phase: str) -> Message | None:
        """Begin a phase, and wait for its answer; None if the app ended without one."""
        assert self._lifespan is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._phases.put_nowait({"type": phase})
        either: set[asyncio.Future[Any]] = {self._answer, self._lifespan}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return self._answer.result() if self._answer.done() else None

    async def _send(self, message: Message) -> None:
        if not self._answer.done():
            self._answer.set_result(message)

    async def _fail(self, answer: Message) -> None:
        """Raise the reason why the app reported a failure: frameworks raise it after the report."""
        assert self._lifespan is not None
        await asyncio.wait({self._lifespan}, timeout=REASON_TIMEOUT)
        raise _error_of(self._lifespan) or RuntimeError(answer.get("message") or "the app gives no reason")


def _error_of(task: asyncio.Task[None]) -> BaseException | None:
    """The error with which a task has ended, if it has."""
    if not task.done():
        return None
    return asyncio.CancelledError() if task.cancelled() else task.exception()
