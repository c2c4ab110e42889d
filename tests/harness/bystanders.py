"""Those whom a fault does not concern: they ask, all the time that it lasts, and must be answered.

`async with unharmed(port, session):` around a fault. The session should be pinned to a slot that the fault
leaves alone; the health of the instance is asked too.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from tests.harness.client import call, invoke

ANSWER_WITHIN: Final = 10.0  # seconds; milliseconds on an idle machine, and never a fault's whole length
PAUSE: Final = 0.02  # seconds between two questions: a client, not a load


@dataclass(slots=True)
class Seen:
    """How often they were answered, and the longest that they waited, in seconds."""

    turns: int = 0
    looks: int = 0
    slowest: float = 0.0


@asynccontextmanager
async def unharmed(port: int, session: str) -> AsyncIterator[Seen]:
    """Turns of `session` and looks at /health go on without a failure while the block runs.

    Raises: AssertionError at its end if one failed, or if there was none.
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
    assert seen.turns > 0, "no bystander had a turn in this time"
    assert seen.looks > 0, "nobody looked at /health in this time"
