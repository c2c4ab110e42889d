"""How the instance is: its status, whether it takes turns, and its figures. Reads everything, changes
nothing.

One source for the health routes, the heartbeat, the service manager, the metrics and the operator's `status`.
The event loop never waits here.
"""

import asyncio
from collections import Counter
from collections.abc import Collection
from typing import Any, Final

from agentscope_protocol.config.settings import Settings
from agentscope_supervisor import __version__
from agentscope_supervisor.domain.errors import ErrorCode, Failure, refusal
from agentscope_supervisor.processes.reaper import Reaper
from agentscope_supervisor.runs.store import Store
from agentscope_supervisor.telemetry.metrics import Gauges
from agentscope_supervisor.turns.service import MAINTENANCE, TurnService
from agentscope_supervisor.workers.controller import Controller

_STOPPING: Final = refusal(ErrorCode.DRAINING, "the instance is stopping")
_NO_WORKER: Final = refusal(ErrorCode.NOT_READY, "no worker is ready")


class Condition:
    """The state of one instance, now. `trouble`: why the last reload failed; empty: it did not."""

    def __init__(
        self, settings: Settings, turns: TurnService, controller: Controller, reaper: Reaper, store: Store
    ) -> None:
        self._settings: Final = settings
        self._turns: Final = turns
        self._controller: Final = controller
        self._reaper: Final = reaper
        self._store: Final = store
        self._loop: Final = asyncio.get_running_loop()
        self._started_at: Final = self._loop.time()
        self.platform_failures: Counter[tuple[str, str]] = Counter()  # by exchange and kind; the heartbeat's
        self.platform_failing: Collection[str] = ()  # exchanges; the heartbeat's
        self.trouble = ""

    def status(self) -> str:
        """starting, healthy, degraded, unhealthy or draining."""
        fleet = self._controller.fleet
        if fleet.stopping or self._turns.maintenance:
            return "draining"
        if not fleet.ever_ready:
            return "starting"
        serving = fleet.serving()
        if serving == 0:
            return "unhealthy"
        return "healthy" if serving == fleet.size else "degraded"

    def unready(self) -> Failure | None:
        """Why a turn would not be accepted now; None: it would."""
        if self._controller.fleet.stopping:
            return _STOPPING
        if self._turns.maintenance:
            return MAINTENANCE
        if self._controller.fleet.serving() == 0:
            return _NO_WORKER
        return self._turns.ledger.full()

    def health(self) -> dict[str, Any]:
        """The body of `GET /health`."""
        platform, ledger = self._settings.platform, self._turns.ledger
        return {
            "status": self.status(),
            "instance_id": platform.instance_id if platform is not None else None,
            "uptime": round(self._loop.time() - self._started_at, 3),
            "version": __version__,
            "workers": [
                {
                    "slot": process.slot,
                    "generation": process.generation,
                    "pid": process.child.pid if process.child is not None else None,
                    "state": process.state.name.lower(),
                    "turns": ledger.on_process(process.number),
                }
                for process in self._controller.pool
            ],
            "turns": {"open": len(ledger), "accepted": ledger.total},
            "orphans": self._reaper.counts(),
            "store": {
                "status": "degraded" if self._store.failure else "ok",
                "reason": self._store.failure or None,
            },
        }

    def outlook(self) -> dict[str, Any]:
        """The details of turns, platform and last reload that only the operator sees."""
        ledger, platform = self._turns.ledger, self._settings.platform
        running = ledger.running()
        return {
            "turns": {"running": running, "waiting": len(ledger) - running},
            "sessions": self._turns.active_sessions(),
            "latency": self._turns.latencies.percentiles(),
            "platform": {
                "instance_id": platform.instance_id,
                "failing": sorted(self.platform_failing),
                "failures": self.platform_failures.total(),
            }
            if platform is not None
            else None,
            "trouble": self.trouble or None,
        }

    def summary(self) -> str:
        """The instance in one line, for the service manager."""
        fleet, open_turns = self._controller.fleet, len(self._turns.ledger)
        turns = "1 turn" if open_turns == 1 else f"{open_turns} turns"
        text = f"{fleet.serving()} of {fleet.size} workers, {turns}"
        if self.status() in ("starting", "draining"):
            text = f"{self.status()}: {text}"
        if self.trouble:
            text += f"; the last reload failed: {self.trouble}"
        failure = self._controller.failure
        return f"{text}; the app cannot start: {failure}" if failure else text

    def gauges(self) -> Gauges:
        """The gauges of the metrics, now."""
        ledger = self._turns.ledger
        running = ledger.running()
        return Gauges(
            running=running,
            waiting=len(ledger) - running,
            active_sessions=self._turns.active_sessions(),
            workers=Counter(process.state.name.lower() for process in self._controller.pool),
            rolling=self._controller.fleet.rolling,
            platform_failures=self.platform_failures,
        )

    def figures(self) -> dict[str, int]:
        """The figures of a heartbeat."""
        ledger, fleet = self._turns.ledger, self._controller.fleet
        return {
            "active_sessions": self._turns.active_sessions(),
            "total_requests": ledger.total,
            "in_flight": len(ledger),
            "workers": fleet.serving(),
            "restarts": self._controller.restarts,
            "generation": max(slot.generation for slot in fleet.slots),
        }
