"""What the embedded store costs a turn: with an idempotency key, with events that are written, without.

    python -m tests.benchmarks.store_cost [--rounds 20] [--turns 100]      (make bench-store)

Each case is one real instance with one worker, all up at the same time. A round asks each of them, one after
the other in an order that changes, for the same number of streamed turns, one at a time on a connection that
is kept; so what else the machine does meets all alike. A turn is timed from its request to the last byte, and
to its first event. Prints a table in Markdown: of each case the median turn, and how it compares with the one
that keeps nothing, in the same round: median, and the least and the most of all rounds. To be run on a quiet
machine; the state directory is in the temporary one, or where `--directory` says.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.harness import projects
from tests.harness.client import JSON, Connection, request, turn_body
from tests.harness.instance import Instance

SCRIPT: Final = [{"say": "a word or two ", "times": 50}]
WARM_UP: Final = 20  # turns of each case before the first round

NOTHING: Final[dict[str, Any]] = {"replay_max_mb": 0}
CONTINUES: Final[dict[str, Any]] = {"on_disconnect": "continue"}


@dataclass(slots=True)
class Case:
    """What is asked of one instance. Times in seconds, one list of turns for each round."""

    name: str
    sessions: dict[str, Any]
    keyed: bool = False
    port: int = 0
    turns: list[list[float]] = field(default_factory=list)
    firsts: list[list[float]] = field(default_factory=list)


def cases() -> list[Case]:
    """The first one is what the others are compared with."""
    return [
        Case("nothing kept", NOTHING),
        Case("kept in memory", {}),
        Case("`Idempotency-Key`, nothing else kept", NOTHING, keyed=True),
        Case("`Idempotency-Key`", {}, keyed=True),
        Case("`on_disconnect: continue`", CONTINUES),
        Case("both", CONTINUES, keyed=True),
    ]


async def ask(case: Case, turns: int) -> None:
    """One round of one case."""
    whole, first = [], []
    body = turn_body(f"bench-{uuid.uuid4().hex}", SCRIPT)
    async with Connection(case.port) as connection:
        for _ in range(turns):
            key = {"Idempotency-Key": uuid.uuid4().hex} if case.keyed else {}
            began = time.perf_counter()
            await connection.send(request("POST", "/invoke", body, {**JSON, **key}))
            head = await connection.head()
            assert head.status == 200, f"{case.name}: status {head.status}"
            pieces = connection.body(head)
            await anext(pieces)
            first.append(time.perf_counter() - began)
            async for _ in pieces:
                pass
            whole.append(time.perf_counter() - began)
    case.turns.append(whole)
    case.firsts.append(first)


async def rounds(asked: Sequence[Case], count: int, turns: int) -> None:
    for case in asked:
        await ask(case, WARM_UP)
        case.turns.clear()
        case.firsts.clear()
    for number in range(count):
        start = number % len(asked)
        for case in [*asked[start:], *asked[:start]]:
            await ask(case, turns)


def compared(ours: list[list[float]], others: list[list[float]]) -> str:
    """The ratio of the medians of each round: median (least to most)."""
    ratios = [statistics.median(a) / statistics.median(b) for a, b in zip(ours, others, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def milliseconds(rounds_of: list[list[float]], share: int = 50) -> str:
    """A percentile of all turns."""
    every = [seconds for each in rounds_of for seconds in each]
    return f"{statistics.quantiles(every, n=100, method='inclusive')[share - 1] * 1000:.2f}"


def report(asked: Sequence[Case]) -> None:
    print("| case | turn, ms | p99, ms | ratio | first event, ms | ratio |")
    print("|---|---|---|---|---|---|")
    base = asked[0]
    for case in asked:
        cells = [
            case.name,
            milliseconds(case.turns),
            milliseconds(case.turns, 99),
            compared(case.turns, base.turns),
            milliseconds(case.firsts),
            compared(case.firsts, base.firsts),
        ]
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--turns", type=int, default=100, help="of each case in each round")
    parser.add_argument("--directory", type=Path, help="for the stores; on the disk that is of interest")
    options = parser.parse_args()
    asked = cases()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.directory)))
        for number, case in enumerate(asked):
            project = projects.scripted(folder / f"project{number}", sessions=case.sessions)
            instance = Instance(project, folder, name=f"case{number}", workers=1)
            case.port = stack.enter_context(instance).start().port
        asyncio.run(rounds(asked, options.rounds, options.turns))
    report(asked)


if __name__ == "__main__":
    main()
