"""A browser's own EventSource on the events of a run, through a network that breaks."""

import json
import random
from typing import Final

from tests.fakes.cutting_proxy import CuttingProxy
from tests.harness.browser import Chromium, Page
from tests.harness.client import Stream, new_session
from tests.harness.instance import Instance

SEED: Final = 1
CUTS: Final = 4  # after each the browser waits for three seconds
MOST: Final = 3000  # bytes to a cut: a head, and up to a dozen events
TIMES: Final = 100  # ten seconds, so that the first cuts come while the turn runs
SCRIPT: Final = [{"say": "wörd by wörd ", "times": TIMES, "every": 0.1}]

FOLLOW: Final = """
window.seen = []; window.broken = 0; window.over = false;
const source = new EventSource(%s);
source.onmessage = event => seen.push(`id: ${event.lastEventId}\\ndata: ${event.data}\\n\\n`);
source.onerror = () => { broken++; over = source.readyState === EventSource.CLOSED; };
"""


async def test_an_event_source_gets_every_event_once_however_often_it_is_cut(
    shared: Instance, chromium: Chromium
) -> None:
    chance = random.Random(SEED)
    budgets = [chance.randint(1, MOST) for _ in range(CUTS)]
    async with (
        CuttingProxy(shared.port, "/runs/", budgets) as proxy,
        Stream(shared.port, new_session(), SCRIPT) as stream,
        Page(chromium) as page,
    ):
        await stream.begun()
        await page.goto(f"http://127.0.0.1:{proxy.port}/health")
        await page.run(FOLLOW % json.dumps(f"/runs/{stream.run_id}/events"))
        events = await stream.whole(within=60)
        await page.sees("over", within=90)  # it was told 204 after the last one, and asks no more
        assert proxy.cuts == CUTS
        assert await page.run("broken") >= CUTS
        assert len(events) == TIMES
        uncut = "".join(f"{event.raw.decode()}\n\n" for event in stream.events)
        assert await page.run("seen.join('')") == uncut
