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
from tests.soak.services import REFUSALS, REFUSED_TOOL, TRANSPORTS

ANSWER_WITHIN: Final = 180.0  # seconds; a slot that rests after its deaths may keep its turns for a minute
THINK: Final = (0.5, 4.0)  # seconds between two turns of a session
IN_ORDER_AFTER: Final = 0.3  # seconds between two requests of which the first must be the first to arrive
SLOW_BUFFER: Final = 4096  # bytes that the kernel takes for a reader that is slow

WELL: Final = "well"
CHILDREN: Final = {"terminate": "-15", "pool": "[1, 2]", "fork": "0"}
"""Ways in which a turn forks its worker, and what it says then."""

LEFT: Final = "left by its client"
INTERRUPTED: Final = "INTERRUPTED"


@dataclass(slots=True)
class Tally:
    """What became of all turns of a run."""

    outcomes: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)  # turns without exactly one terminal event
    uninvited: list[str] = field(default_factory=list)  # turns that nobody interrupted, INTERRUPTED
    failed: list[str] = field(default_factory=list)  # turns with an error of the App, of which none is meant
    wrong: list[str] = field(default_factory=list)  # turns whose child or tool did something else
    refused: int = 0  # calls of tools that a server has refused, as it was told to
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
        kinds += (self.forks, self.uses_tool, self.uses_refused_tool)
        await asyncio.sleep(self._random.uniform(0, THINK[1]))
        while goes_on():
            (kind,) = self._random.choices(kinds, weights=(4, 4, 1, 1, 1, 1, 1, 1, 2, 1))
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
        long = asyncio.create_task(self._long())
        await asyncio.sleep(self._random.uniform(IN_ORDER_AFTER, 1.0))
        await self._ask([{"count": 1}], on_busy="interrupt")
        await long

    async def stops(self) -> None:
        long = asyncio.create_task(self._long())
        await asyncio.sleep(self._random.uniform(IN_ORDER_AFTER, 1.0))
        await stop(self._port, session_id=self._session.name)
        await long

    async def forks(self) -> None:
        """A child of the worker that executes no program; most end by a signal."""
        how = self._random.choice(sorted(CHILDREN))
        await self._ask([{"count": 1}, {"fork": how}], expected=CHILDREN[how])

    async def uses_tool(self) -> None:
        """A tool that no server refuses."""
        server, seconds = self._random.choice(TRANSPORTS), self._random.choice((0, 0.5, 2))
        step = {"tool": f"{server}__slow", "arguments": {"seconds": seconds}}
        await self._ask([{"count": 1}, step], expected=f"slept {seconds:g} s")

    async def uses_refused_tool(self) -> None:
        """A tool that a server refuses at times."""
        step = {"tool": f"{self._random.choice(TRANSPORTS)}__{REFUSED_TOOL}", "arguments": {"text": "here"}}
        await self._ask([{"count": 1}, step], expected="here", may_be_refused=True)

    async def _long(self) -> None:
        script = [{"count": 1}, {"say": "on", "times": 40, "every": 0.05}]
        await self._ask(script, is_interrupted=True)

    # -- one turn -----------------------------------------------------------------------------

    async def _ask(
        self,
        script: list[dict[str, Any]],
        *,
        pause: float = 0.0,
        leave_after: int | None = None,
        expected: str | None = None,
        may_be_refused: bool = False,
        is_interrupted: bool = False,
        **options: Any,
    ) -> None:
        """`expected`: the last text of the turn, if all goes well."""
        label, body = self._session.turn(script, **options)
        turn, began = f"{self._session.name} turn {label}", time.monotonic()
        try:
            outcome, said = await ask(self._port, body, pause, leave_after)
        except (AssertionError, OSError, EOFError, TimeoutError, ValueError) as error:
            outcome, said = "broken", [repr(error)]
            self._tally.broken.append(f"{turn}: {error!r}")
        self._tally.outcomes[outcome] += 1
        self._tally.slowest = max(self._tally.slowest, time.monotonic() - began)
        if outcome == WELL:
            self._session.counts[label] = int(said[0])
            if expected is not None and said[-1] != expected:
                if may_be_refused and any(f" HTTP {status} " in said[-1] for status in REFUSALS):
                    self._tally.refused += 1
                else:
                    self._tally.wrong.append(f"{turn}: {said[-1]}")
        elif outcome == INTERRUPTED and not is_interrupted:
            self._tally.uninvited.append(f"{turn}: {said[-1]}")
        elif outcome == "APP_ERROR":
            self._tally.failed.append(f"{turn}: {said[-1]}")


async def ask(
    port: int, body: bytes, pause: float = 0.0, leave_after: int | None = None
) -> tuple[str, list[str]]:
    """One turn; its outcome, and the texts that it was told, or of an error the message. `pause`: seconds
    between two reads.

    Raises: AssertionError, OSError, EOFError, TimeoutError: it had no end, or one that is not whole.
    """
    buffer = SLOW_BUFFER if pause else None
    async with asyncio.timeout(ANSWER_WITHIN), Connection(port, receive_buffer=buffer) as connection:
        await connection.send(request("POST", "/invoke", body, JSON))
        if leave_after == 0:
            return LEFT, []
        head = await connection.head()
        pieces, parser, whole = connection.body(head), Parser(), b""
        streams = head.headers["content-type"].startswith("text/event-stream")
        async for piece in pieces:
            if streams:
                parser.feed(piece, time.monotonic())
            else:
                whole += piece
            if leave_after is not None and len(parser.events) >= leave_after:
                return LEFT, []
            if pause:
                await asyncio.sleep(pause)
    if not streams:
        answer = json.loads(whole)
        if head.status != 200:
            return answer["error"]["code"], [answer["error"]["message"]]
        return WELL, [text_of(message) for message in answer["messages"]]
    parser.finish()
    error = next((event.error for event in parser.events if event.error), None)
    assert_whole_stream(parser.events, head.headers["x-run-id"], error["code"] if error else None)
    if error is not None:
        return error["code"], [error["message"]]
    return WELL, [event.text for event in parser.events if not event.is_done]


async def last_count(port: int, session: Session) -> tuple[str, int]:
    """The outcome of one turn more when all is over, and what the store holds before it."""
    session.sent += 1
    answer = await invoke(port, session.name, [{"count": 1}], within=ANSWER_WITHIN)
    if answer.status != 200:
        return answer.code, -1
    return WELL, int(text_of(answer.json["messages"][0])) - 1
