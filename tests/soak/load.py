"""The clients of a soak: many sessions, each with turns of every kind, and what each turn was told.

Each turn adds one to a count that `runtime.session` keeps, and writes its begin and its end into the journal
of its session; `checks` compares both with what is noted here. All that is random comes from the seed.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.harness.client import JSON, Connection, invoke, request, stop, turn_body
from tests.harness.events import Parser, assert_whole_stream, text_of

ANSWER_WITHIN: Final = 180.0  # seconds; a slot that rests after its deaths may keep its turns for a minute
THINK: Final = (0.5, 4.0)  # seconds between two turns of a session
IN_ORDER_AFTER: Final = 0.3  # seconds between two requests of which the first must be the first to arrive
SLOW_BUFFER: Final = 4096  # bytes that the kernel takes for a reader that is slow

WELL: Final = "well"
LEFT: Final = "left by its client"


@dataclass(slots=True)
class Tally:
    """What became of all turns of a run."""

    outcomes: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)  # turns without exactly one terminal event
    slowest: float = 0.0


@dataclass(slots=True)
class Session:
    """One conversation. A turn's label is its number in order of arrival."""

    name: str
    journal: Path
    sent: int = 0
    counts: dict[int, int] = field(default_factory=dict)  # label -> what a turn that went well was told

    def turn(self, script: list[dict[str, Any]], **fields: Any) -> tuple[int, bytes]:
        """The label and the body of the next turn."""
        self.sent += 1
        metadata = {"journal": str(self.journal), "label": self.sent}
        return self.sent, turn_body(self.name, script, metadata=metadata, **fields)


class Client:
    """One user, who has one session and does what the seed says until told to stop."""

    def __init__(self, port: int, session: Session, seed: str, tally: Tally) -> None:
        self._port: Final = port
        self._session: Final = session
        self._random: Final = random.Random(f"{seed} {session.name}")
        self._tally: Final = tally

    async def run(self, goes_on: Callable[[], bool]) -> None:
        kinds = (self.whole, self.stream, self.slow, self.leaves, self.queues, self.interrupts, self.stops)
        await asyncio.sleep(self._random.uniform(0, THINK[1]))
        while goes_on():
            (kind,) = self._random.choices(kinds, weights=(4, 4, 1, 1, 1, 1, 1))
            await kind()
            await asyncio.sleep(self._random.uniform(*THINK))

    # -- kinds of turns -----------------------------------------------------------------------

    async def whole(self) -> None:
        await self._ask([{"count": 1}], stream=False)

    async def stream(self) -> None:
        times = self._random.randint(1, 20)
        await self._ask([{"count": 1}, {"say": "on", "times": times, "every": 0.05}])

    async def slow(self) -> None:
        """A reader that takes far less than the App has to say."""
        await self._ask([{"count": 1}, {"big": 20_000, "times": 20}], pause=0.1)

    async def leaves(self) -> None:
        events = self._random.randint(0, 3)
        await self._ask([{"count": 1}, {"say": "on", "times": 40, "every": 0.05}], leave_after=events)

    async def queues(self) -> None:
        """Three turns, of which two wait."""
        scripts = [[{"count": 1}, {"say": "on", "times": 10, "every": 0.1}], [{"count": 1}], [{"count": 1}]]
        asked = []
        for script in scripts:
            asked.append(asyncio.create_task(self._ask(script)))
            await asyncio.sleep(IN_ORDER_AFTER)
        await asyncio.gather(*asked)

    async def interrupts(self) -> None:
        long = asyncio.create_task(self._ask([{"count": 1}, {"say": "on", "times": 40, "every": 0.05}]))
        await asyncio.sleep(self._random.uniform(IN_ORDER_AFTER, 1.0))
        await self._ask([{"count": 1}], on_busy="interrupt")
        await long

    async def stops(self) -> None:
        long = asyncio.create_task(self._ask([{"count": 1}, {"say": "on", "times": 40, "every": 0.05}]))
        await asyncio.sleep(self._random.uniform(IN_ORDER_AFTER, 1.0))
        await stop(self._port, session_id=self._session.name)
        await long

    # -- one turn -----------------------------------------------------------------------------

    async def _ask(self, script: list[dict[str, Any]], **options: Any) -> None:
        pause, leave_after = options.pop("pause", 0.0), options.pop("leave_after", None)
        label, body = self._session.turn(script, **options)
        began = time.monotonic()
        try:
            outcome, count = await ask(self._port, body, pause, leave_after)
        except (AssertionError, OSError, EOFError, TimeoutError, ValueError) as error:
            outcome, count = "broken", None
            self._tally.broken.append(f"{self._session.name} turn {label}: {error!r}")
        self._tally.outcomes[outcome] += 1
        self._tally.slowest = max(self._tally.slowest, time.monotonic() - began)
        if outcome == WELL:
            assert count is not None
            self._session.counts[label] = count


async def ask(
    port: int, body: bytes, pause: float = 0.0, leave_after: int | None = None
) -> tuple[str, int | None]:
    """One turn; its outcome, and the count that it was told. `pause`: seconds between two reads.

    Raises: AssertionError, OSError, EOFError, TimeoutError: it had no end, or one that is not whole.
    """
    buffer = SLOW_BUFFER if pause else None
    async with asyncio.timeout(ANSWER_WITHIN), Connection(port, receive_buffer=buffer) as connection:
        await connection.send(request("POST", "/invoke", body, JSON))
        if leave_after == 0:
            return LEFT, None
        head = await connection.head()
        pieces, parser, whole = connection.body(head), Parser(), b""
        streams = head.headers["content-type"].startswith("text/event-stream")
        async for piece in pieces:
            if streams:
                parser.feed(piece, time.monotonic())
            else:
                whole += piece
            if leave_after is not None and len(parser.events) >= leave_after:
                return LEFT, None
            if pause:
                await asyncio.sleep(pause)
    if not streams:
        answer = json.loads(whole)
        if head.status != 200:
            return answer["error"]["code"], None
        return WELL, int(text_of(answer["messages"][0]))
    parser.finish()
    error = next((event.error["code"] for event in parser.events if event.error), None)
    assert_whole_stream(parser.events, head.headers["x-run-id"], error)
    return error or WELL, int(parser.events[0].text) if error is None else None


async def last_count(port: int, session: Session) -> tuple[str, int]:
    """The outcome of one turn more when all is over, and what the store holds before it."""
    session.sent += 1
    answer = await invoke(port, session.name, [{"count": 1}], within=ANSWER_WITHIN)
    if answer.status != 200:
        return answer.code, -1
    return WELL, int(text_of(answer.json["messages"][0])) - 1
