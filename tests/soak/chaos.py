"""What is done to an instance under load: its workers are killed, stopped, blocked, rolled and scaled, its
platform lies, its Redis drops connections and fails over, and its MCP servers refuse calls. One thing after
the other, each drawn from the seed; `calm` undoes what can be undone.
"""

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from reference_platform.lies import LIES
from tests.harness.client import stop, turn_body
from tests.harness.instance import Instance, Worker
from tests.harness.platform_process import PlatformProcess
from tests.soak.load import Tally, ask
from tests.soak.services import REFUSALS, TRANSPORTS, Sessions, Tools

PAUSE: Final = (0.5, 4.0)  # seconds between two blows
STOPPED: Final = (0.2, 12.0)  # seconds of a SIGSTOP; some are longer than supervisor.unresponsive_timeout
BLOCKED: Final = (0.2, 12.0)  # the same of a blocked loop
LIED: Final = (1.0, 6.0)  # seconds of each lie
REFUSED: Final = (0.5, 5.0)  # seconds in which an MCP server refuses calls
READ_ONLY: Final = (0.0, 4.0)  # seconds of a failover; a store waits for 10 s in all
SLOTS: Final = (1, 5)  # fewest and most


class Chaos:
    """Hits `instance` while `goes_on`. `done`: how often what was done."""

    def __init__(
        self,
        instance: Instance,
        platform: PlatformProcess,
        sessions: Sessions | None,
        tools: Tools,
        seed: str,
        tally: Tally,
    ) -> None:
        """`sessions`: None if the instance keeps them in files."""
        self._instance: Final = instance
        self._platform: Final = platform
        self._sessions: Final = sessions
        self._tools: Final = tools
        self._slots = instance.workers_asked
        self._home: Final = instance.workers_asked
        self._random: Final = random.Random(f"{seed} chaos")
        self._tally: Final = tally
        self._turns = 0
        self._aside: Final[set[asyncio.Task[Any]]] = set()
        self.done: Final[Counter[str]] = Counter()

    async def run(self, goes_on: Callable[[], bool]) -> None:
        blows: Sequence[tuple[Callable[[], Awaitable[None]], int]] = (
            (self.kill, 3),
            (self.stop_and_continue, 2),
            (self.block, 2),
            (self.exit, 1),
            (self.deaf, 1),
            (self.roll, 2),
            (self.scale, 3),
            (self.lie, 3),
            (self.kill_zygote, 1),
            (self.refuse, 3),
            *(((self.kill_connections, 2), (self.fail_over, 2)) if self._sessions is not None else ()),
        )
        while goes_on():
            ((blow, _),) = self._random.choices(blows, weights=[weight for _, weight in blows])
            self.done[blow.__name__] += 1
            await blow()
            await asyncio.sleep(self._random.uniform(*PAUSE))

    async def calm(self) -> None:
        """Let things go well again, with as many slots as at the beginning."""
        if self._aside:
            await asyncio.wait(self._aside)
        await asyncio.to_thread(self._platform.lie, None)
        while self._slots != self._home:
            await self._scale_by(1 if self._slots < self._home else -1)

    # -- blows --------------------------------------------------------------------------------

    async def _worker(self) -> Worker | None:
        workers = await asyncio.to_thread(self._instance.ready_workers)
        return self._random.choice(workers) if workers else None

    async def kill(self) -> None:
        if worker := await self._worker():
            _signal(worker.pid, signal.SIGKILL)

    async def stop_and_continue(self) -> None:
        if worker := await self._worker():
            _signal(worker.pid, signal.SIGSTOP)
            self._later(_continue(worker.pid, self._random.uniform(*STOPPED)))

    async def block(self) -> None:
        seconds = self._random.uniform(*BLOCKED)
        self._later(self._turn([{"block": seconds}]))

    async def exit(self) -> None:
        self._later(self._turn([{"say": "before"}, {"exit": 1}]))

    async def deaf(self) -> None:
        """A turn that ignores its cancellation for longer than it is waited for."""
        session = self._later(self._turn([{"say": "before"}, {"deaf": 15}]))
        await asyncio.sleep(0.5)
        await stop(self._instance.port, session_id=session)

    async def roll(self) -> None:
        self._instance.signal(signal.SIGHUP)

    async def scale(self) -> None:
        step = self._random.choice((-1, 1))
        if SLOTS[0] <= self._slots + step <= SLOTS[1]:
            await self._scale_by(step)

    async def _scale_by(self, step: int) -> None:
        self._slots += step
        self._instance.signal(signal.SIGTTIN if step > 0 else signal.SIGTTOU)
        # Two of the same signal that come at once are one.
        await asyncio.sleep(0.2)

    async def lie(self) -> None:
        name = self._random.choice(sorted(LIES))
        await asyncio.to_thread(self._platform.lie, name)
        await asyncio.sleep(self._random.uniform(*LIED))
        await asyncio.to_thread(self._platform.lie, None)

    async def kill_zygote(self) -> None:
        for zygote in await asyncio.to_thread(self._instance.zygotes):
            _signal(zygote.pid, signal.SIGKILL)

    async def refuse(self) -> None:
        transport, status = self._random.choice(TRANSPORTS), self._random.choice(REFUSALS)
        self._later(self._tools.refuse(transport, status, self._random.uniform(*REFUSED)))

    async def kill_connections(self) -> None:
        assert self._sessions is not None
        await self._sessions.kill_connections()

    async def fail_over(self) -> None:
        assert self._sessions is not None
        await self._sessions.fail_over(self._random.uniform(*READ_ONLY))

    # -- aside --------------------------------------------------------------------------------

    def _later(self, work: Any) -> str:
        """Have it go on beside what comes next; the name of the session of the last turn."""
        task = asyncio.create_task(work)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)
        return f"chaos-{self._turns}"

    def _turn(self, script: list[dict[str, Any]]) -> Awaitable[None]:
        self._turns += 1
        return self._ask(f"chaos-{self._turns}", script)

    async def _ask(self, session: str, script: list[dict[str, Any]]) -> None:
        body = turn_body(session, [{"say": "0"}, *script])
        try:
            outcome, _ = await ask(self._instance.port, body)
        except (AssertionError, OSError, EOFError, TimeoutError, ValueError) as error:
            outcome = "broken"
            self._tally.broken.append(f"{session}: {error!r}")
        self._tally.outcomes[outcome] += 1


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


async def _continue(pid: int, seconds: float) -> None:
    await asyncio.sleep(seconds)
    _signal(pid, signal.SIGCONT)
