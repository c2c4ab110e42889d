"""The instances as the platform knows them: their heartbeats, and the actions it requests.

Each request gets a version that is never used again. It is part of every answer to the config poll until a
heartbeat reports its result. An instance that starts has read the current configuration, so its start ends
the request.
"""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

MAX_INSTANCES: Final = 1000  # more are refused
HISTORY: Final = 240  # heartbeats that are kept for each instance: two hours at 30 s
EVENTS: Final = 50  # events that are kept for each instance
MAX_TEXT: Final = 2000  # characters that are kept of a text from an instance


@dataclass(frozen=True)
class Beat:
    """One heartbeat. `at`: seconds since 1970 when it arrived."""

    at: float
    status: str
    metrics: Mapping[str, Any]


@dataclass(frozen=True)
class Ask:
    """An action that the platform requests. `action`: restart or reload."""

    action: str
    version: str


@dataclass
class Instance:
    """One instance, as its heartbeats describe it."""

    instance_id: str
    beats: deque[Beat] = field(default_factory=lambda: deque(maxlen=HISTORY))
    events: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=EVENTS))
    ask: Ask | None = None
    total_beats: int = 0
    polls: int = 0

    def add_beat(self, beat: Beat) -> None:
        """Record a heartbeat."""
        before = self.beats[-1] if self.beats else None
        self.beats.append(beat)
        self.total_beats += 1
        if before is None or before.status != beat.status:
            self.events.append((beat.at, beat.status))
        last = beat.metrics.get("last_action")
        if isinstance(last, dict) and (before is None or before.metrics.get("last_action") != last):
            text = " ".join(str(last.get(key) or "") for key in ("action", "version", "result", "reason"))
            self.events.append((beat.at, text.strip()[:MAX_TEXT]))
        if self.ask is not None and (beat.status == "starting" or self._is_over(self.ask, last)):
            self.ask = None

    @staticmethod
    def _is_over(ask: Ask, last: object) -> bool:
        return (
            isinstance(last, dict)
            and last.get("version") == ask.version
            and last.get("result") not in ("rolling", "leaving")
        )

    def config(self) -> dict[str, Any]:
        """Return the answer to a config poll of this instance."""
        self.polls += 1
        if self.ask is None:
            return {"updated": False, "action": "none"}
        return {"updated": True, "action": self.ask.action, "version": self.ask.version}

    def shown(self) -> dict[str, Any]:
        """Return the JSON object that the page shows."""
        last = self.beats[-1] if self.beats else None
        return {
            "id": self.instance_id,
            "status": last.status if last is not None else "unknown",
            "at": last.at if last is not None else None,
            "metrics": last.metrics if last is not None else {},
            "beats": self.total_beats,
            "polls": self.polls,
            "ask": {"action": self.ask.action, "version": self.ask.version} if self.ask else None,
            "events": [{"at": at, "what": what} for at, what in reversed(self.events)],
            "history": [
                {"at": beat.at, **{key: beat.metrics.get(key) for key in ("in_flight", "memory_usage_mb")}}
                for beat in self.beats
            ],
        }


class Registry:
    """All instances, in order of their first request."""

    def __init__(self) -> None:
        self.instances: Final[dict[str, Instance]] = {}
        self._asked = 0

    def instance(self, instance_id: str) -> Instance | None:
        """Return the instance with this id, and add it if it is new; None if there are too many."""
        if instance_id not in self.instances and len(self.instances) >= MAX_INSTANCES:
            return None
        return self.instances.setdefault(instance_id, Instance(instance_id))

    def ask(self, instance_id: str, action: str) -> Ask:
        """Request an action of an instance. Raises: KeyError, ValueError."""
        if action not in ("restart", "reload"):
            raise ValueError("action must be restart or reload")
        instance = self.instances[instance_id]
        self._asked += 1
        # The time keeps versions unique after a restart of the platform.
        instance.ask = Ask(action, f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{self._asked}")
        instance.events.append((time.time(), f"asked to {action}: {instance.ask.version}"))
        return instance.ask
