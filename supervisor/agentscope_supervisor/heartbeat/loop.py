"""The two exchanges with the platform, each on its own schedule: heartbeats and the config poll.

A platform that is down, slow or sends garbage costs a counter and an occasional log line, never a turn: every
exchange has a timeout and a size limit, and nothing in the instance waits for it. Requests of the platform go
to the daemon's queue; `decisions` decides about them, and they are carried out through `Host`. `client` sends
the HTTP requests.
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
from agentscope_supervisor.heartbeat.client import FailureKind, PlatformClient, PlatformError
from agentscope_supervisor.heartbeat.decisions import (
    Action,
    ConfigAnswer,
    InvalidAnswer,
    Pace,
    PlatformRequest,
    PlatformSignal,
    read,
)
from agentscope_supervisor.system.process_memory import MEASURE_TIMEOUT, ProcessMemory
from agentscope_supervisor.workers.revisions import ReloadRefused, Rolling, Unchanged

log = logging.getLogger(__name__)

CLOSE_WITHIN: Final = 2.0  # seconds for the last heartbeat: a stop must not wait for the platform
COMPLAIN_EVERY: Final = 60.0  # seconds between two log lines about failures of the same exchange


@dataclass(frozen=True, slots=True)
class VitalSigns:
    """The state of the instance that a heartbeat reports."""

    status: str
    metrics: Mapping[str, int]


class Host(Protocol):
    """The instance, as the platform may use it. All methods return at once.

    `reload` and `depart` may only be called from the daemon's queue.
    """

    def vital_signs(self) -> VitalSigns:
        """Return the state to report."""

    def check(self) -> ReloadRefused | None:
        """Return why a new instance could not start with the current file; None if it could."""

    def reload(self, *, even_unchanged: bool) -> Rolling | Unchanged | ReloadRefused:
        """Read the file again and replace the workers; an unchanged file only with `even_unchanged`."""

    def depart(self, reason: str) -> None:
        """Drain, and exit with status 0."""


class Heartbeat:
    """Reports to the platform from `start` to `close`.

    `leaves`: a requested restart makes the instance exit.
    """

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
        """Failed exchanges since the start, by exchange ("heartbeat", "config") and kind."""
        self.failing: Final[set[str]] = set()
        """Exchanges whose last attempt failed."""

    def start(self) -> None:
        """Start both exchanges; the first heartbeat is sent at once."""
        for name, once in (("heartbeat", self._beat), ("config", self._poll)):
            self._tasks.append(self._loop.create_task(self._repeat(name, once), name=name))

    async def close(self) -> None:
        """Stop both exchanges and send a last heartbeat, which may take `CLOSE_WITHIN`."""
        for task in self._tasks:
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        try:
            await self._client.beat(self._body("stopping"), CLOSE_WITHIN)
        except PlatformError as error:
            log.info("the last heartbeat failed", extra={"reason": str(error)})
        await self._client.close()

    def rollout_ended(self, revision: int, failure: str) -> None:
        """Record the end of any rollout. Call it from the daemon's queue."""
        self._signal.rollout_ended(revision, failure)

    # -- the exchanges ------------------------------------------------------------------------

    async def _repeat(self, name: str, once: Callable[[float], Awaitable[None]]) -> None:
        pace = Pace(self._interval)
        logged_at, recovery_logged = -COMPLAIN_EVERY, True  # the last failure; whether its end was logged
        while True:
            began = self._loop.time()
            try:
                await once(pace.deadline)
            except PlatformError as error:
                delay = pace.failed(random.random())
                self.failures[name, error.kind] += 1
                self.failing.add(name)
                if self._loop.time() - logged_at >= COMPLAIN_EVERY:
                    logged_at, recovery_logged = self._loop.time(), False
                    fields = {"exchange": name, "reason": str(error), "failures": pace.failures}
                    log.warning("platform exchange failed; turns are not affected", extra=fields)
            except Exception:  # a bug in one exchange must not end all further ones
                log.exception("unexpected error in a platform exchange", extra={"exchange": name})
                delay = pace.failed(random.random())
            else:
                self.failing.discard(name)
                if not recovery_logged:
                    recovery_logged = True
                    log.info(
                        "platform exchange recovered", extra={"exchange": name, "failures": pace.failures}
                    )
                delay = pace.succeeded(began, self._loop.time(), random.random())
            await asyncio.sleep(delay)

    async def _beat(self, within: float) -> None:
        began = self._loop.time()
        held = await self._memory.measure(min(MEASURE_TIMEOUT, within / 2))
        self._memory_mb = round(sum(held.values()))
        left = within - (self._loop.time() - began)
        await self._client.beat(self._body(), left)

    async def _poll(self, within: float) -> None:
        answer = read(await self._client.config(within))
        if isinstance(answer, InvalidAnswer):
            raise PlatformError(FailureKind.GARBAGE, answer.reason)
        self._post(partial(self._answered, answer))

    # -- the content of a heartbeat ---------------------------------------------------------------

    def _body(self, status: str | None = None) -> bytes:
        signs = self._host.vital_signs()
        last = self._signal.last_action
        metrics: dict[str, Any] = {
            **signs.metrics,
            "memory_usage_mb": self._memory_mb,
            "config_version": self._signal.config_version,
            "last_action": last.json() if last is not None else None,
        }
        return orjson.dumps(
            {
                "status": status or signs.status,
                "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "metrics": metrics,
            }
        )

    # -- requests of the platform; called on the daemon's queue -----------------------------------

    def _answered(self, answer: ConfigAnswer) -> None:
        self._do(self._signal.answered(answer, self._loop.time()))

    def _do(self, request: PlatformRequest | None) -> None:
        if request is not None:
            fields = {"action": request.action, "version": request.version}
            log.info("the platform requests an action", extra=fields)
            if request.action is Action.RESTART and self._leaves:
                self._leave(request)
            else:
                self._reload(request)
        due = self._signal.next_due
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = self._loop.call_at(
                due, self._post, lambda: self._do(self._signal.tick(self._loop.time()))
            )

    def _reload(self, request: PlatformRequest) -> None:
        match self._host.reload(even_unchanged=request.action is Action.RESTART):
            case Rolling(revision, note):
                self._signal.began(request, revision, note, self._loop.time())
            case Unchanged():
                self._signal.unchanged(request)
            case ReloadRefused(reason):
                self._signal.refused(request, reason)

    def _leave(self, request: PlatformRequest) -> None:
        refused = self._host.check()
        if refused is not None:  # the next instance could not start
            self._signal.refused(request, refused.reason)
            return
        self._signal.leaving(request)
        self._host.depart("the platform requested a restart")
