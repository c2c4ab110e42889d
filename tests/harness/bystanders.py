"""Clients that a fault must not affect: they send requests while it lasts, and every one must be answered.

Use `async with unharmed(port, session):` around a fault. Pin the session to a slot that the fault does not
touch; /health is requested too.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from tests.harness.client import call, invoke

ANSWER_WITHIN: Final = 10.0  # seconds; a few ms on an idle machine, and shorter than any fault
PAUSE: Final = 0.02  # seconds between two requests: a client, not a load test


@dataclass(slots=True)
class Seen:
    """The number of answers and the longest wait in seconds."""

    turns: int = 0
    looks: int = 0
    slowest: float = 0.0


@asynccontextmanager
async def unharmed(port: int, session: str) -> AsyncIterator[Seen]:
    """Run turns of `session` and requests of /health while the block runs.

    Raises: AssertionError at the end if one failed or if there was none.
    """
    seen, over = Seen(), asyncio.Event()

    async def turns() -> None:
        while not over.is_set():
            text = f"bystander {seen.turns}"
            answer = await invoke(port, session, text, within=ANSWER_WITHIN)
            assert answer.status == 200, f"a turn: {answer.status} {answer.body!r}"
            assert text in answer.body.decode(), f"a turn: {answer.body!r}"
            seen.turns += 1
            seen.slowest = max(seen.slowest, answer.seconds)
            await asyncio.sleep(PAUSE)

    async def looks() -> None:
        while not over.is_set():
            answer = await call(port, "GET", "/health", within=ANSWER_WITHIN)
            assert answer.status == 200, f"/health: {answer.status} {answer.body!r}"
            seen.looks += 1
            seen.slowest = max(seen.slowest, answer.seconds)
            await asyncio.sleep(PAUSE)

    asking = [asyncio.create_task(turns()), asyncio.create_task(looks())]
    try:
        yield seen
    finally:
        over.set()
        results = await asyncio.gather(*asking, return_exceptions=True)
    for failure in results:
        if failure is not None:
            raise AssertionError(f"a bystander was harmed: {failure!r}") from failure
    assert seen.turns > 0, "no turn was answered during the block"
    assert seen.looks > 0, "/health was not answered during the block"
