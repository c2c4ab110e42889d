"""The two conversations with the platform: heartbeats, and the poll for what it asks. Each goes on by itself.

A platform that is down, slow or lying costs a counter and now and then a log line, never a turn: everything
here has a deadline and a bound, and nothing of the instance waits for it. What the platform asks is put into
the daemon's queue, decided by `decisions` and done through `Host`. `client` has the requests.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import orjson

from agentscope_protocol.config.settings import PlatformSettings
from agentscope_supervisor.heartbeat.client import PlatformClient, PlatformError, Trouble
from agentscope_supervisor.heartbeat.decisions import (
    Action,
    Ask,
    ConfigAnswer,
    Garbage,
    Pace,
    PlatformSignal,
    read,
)
from agentscope_supervisor.system.process_memory import LOOK_WITHIN, ProcessMemory
from agentscope_supervisor.workers.revisions import ReloadRefused, Rolling, Unchanged

log = logging.getLogger(__name__)

CLOSE_WITHIN: Final = 2.0  # seconds for the last beat: who stops an instance must not wait for its platform
COMPLAIN_EVERY: Final = 60.0  # seconds between two log lines about the failures of one conversation


@dataclass(frozen=True, slots=True)
class VitalSigns:
    """The instance now."""

    status: str
    metrics: Mapping[str, int]


class Host(Protocol):
    """What the platform may ask of the instance. All return at once; the last two only from the queue."""

    def vital_signs(self) -> VitalSigns:
        """What heartbeats tell."""

    def check(self) -> ReloadRefused | None:
        """Whether a new start would find a file that can serve."""

    def reload(self, *, even_unchanged: bool) -> Rolling | Unchanged | ReloadRefused:
        """Read the file again and replace the workers; if nothing has changed, only with `even_unchanged`."""

    def depart(self, reason: str) -> None:
        """Drain, and end with status 0."""


class Heartbeat:
    """Speaks to the platform from `start` to `close`. `leaves`: a restart ends the instance."""

    def __init__(
        self,
        settings: PlatformSettings,
        host: Host,
        memory: ProcessMemory,
        post: Callable[[Callable[[], None]], None],
        *,
        leaves: bool,
    ) -> None:
        self._host: Final = host
        self._memory: Final = memory
        self._post: Final = post
        self._leaves: Final = leaves
        self._loop: Final = asyncio.get_running_loop()
        self._client: Final = PlatformClient(settings)
        self._interval: Final = settings.heartbeat_interval
        self._signal: Final = PlatformSignal()
        self._memory_mb = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self.failures: Final[Counter[tuple[str, str]]] = Counter()
        """Failed exchanges since the start, by conversation ("heartbeat", "config") and kind."""
        self.failing: Final[set[str]] = set()
        """Conversations whose last exchange failed."""

    def start(self) -> None:
        """The first beat leaves at once."""
        for name, once in (("heartbeat", self._beat), ("config", self._poll)):
            self._tasks.append(self._loop.create_task(self._converse(name, once), name=name))

    async def close(self) -> None:
        """One last beat, which may take `CLOSE_WITHIN`."""
        for task in self._tasks:
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        try:
            await self._client.beat(self._body("stopping"), CLOSE_WITHIN)
        except PlatformError as error:
            log.info("the platform did not hear of the end", extra={"reason": str(error)})
        await self._client.close()

    def rollout_ended(self, edition: int, failure: str) -> None:
        """A rollout ended, whoever began it; to be called from the queue."""
        self._signal.rollout_ended(edition, failure)

    # -- the conversations --------------------------------------------------------------------

    async def _converse(self, name: str, once: Callable[[float], Awaitable[None]]) -> None:
        pace = Pace(self._interval)
        complained, all_is_told = -COMPLAIN_EVERY, True  # when; and that it works again
        while True:
            began = self._loop.time()
            try:
                await once(pace.deadline)
            except PlatformError as error:
                delay = pace.failed(random.random())
                self.failures[name, error.kind] += 1
                self.failing.add(name)
                if self._loop.time() - complained >= COMPLAIN_EVERY:
                    complained, all_is_told = self._loop.time(), False
                    told = {"exchange": name, "reason": str(error), "failures": pace.failures}
                    log.warning("the platform fails; serving goes on", extra=told)
            except Exception:  # a bug of ours in one exchange must not be the end of all others
                log.exception("an exchange with the platform failed", extra={"exchange": name})
                delay = pace.failed(random.random())
            else:
                self.failing.discard(name)
                if not all_is_told:
                    all_is_told = True
                    log.info("the platform is back", extra={"exchange": name, "failures": pace.failures})
                delay = pace.succeeded(began, self._loop.time(), random.random())
            await asyncio.sleep(delay)

    async def _beat(self, within: float) -> None:
        began = self._loop.time()
        held = await self._memory.look(min(LOOK_WITHIN, within / 2))
        self._memory_mb = round(sum(held.values()))
        left = within - (self._loop.time() - began)
        await self._client.beat(self._body(), left)

    async def _poll(self, within: float) -> None:
        answer = read(await self._client.config(within))
        if isinstance(answer, Garbage):
            raise PlatformError(Trouble.GARBAGE, answer.reason)
        self._post(partial(self._answered, answer))

    # -- what a beat says -----------------------------------------------------------------------

    def _body(self, status: str | None = None) -> bytes:
        signs = self._host.vital_signs()
        last = self._signal.last_action
        metrics: dict[str, Any] = {
            **signs.metrics,
            "memory_usage_mb": self._memory_mb,
            "config_version": self._signal.config_version,
            "last_action": last.told() if last is not None else None,
        }
        return orjson.dumps(
            {
                "status": status or signs.status,
                "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "metrics": metrics,
            }
        )

    # -- what the platform asks; on the daemon's queue ------------------------------------------

    def _answered(self, answer: ConfigAnswer) -> None:
        self._do(self._signal.answered(answer, self._loop.time()))

    def _do(self, ask: Ask | None) -> None:
        if ask is not None:
            log.info("the platform asks", extra={"action": ask.action, "version": ask.version})
            if ask.action is Action.RESTART and self._leaves:
                self._leave(ask)
            else:
                self._reload(ask)
        due = self._signal.next_due
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = self._loop.call_at(
                due, self._post, lambda: self._do(self._signal.tick(self._loop.time()))
            )

    def _reload(self, ask: Ask) -> None:
        match self._host.reload(even_unchanged=ask.action is Action.RESTART):
            case Rolling(edition, note):
                self._signal.began(ask, edition, note, self._loop.time())
            case Unchanged():
                self._signal.unchanged(ask)
            case ReloadRefused(reason):
                self._signal.refused(ask, reason)

    def _leave(self, ask: Ask) -> None:
        refused = self._host.check()
        if refused is not None:  # the instance that would follow could not start
            self._signal.refused(ask, refused.reason)
            return
        self._signal.leaving(ask)
        self._host.depart("the platform asked for a restart")
