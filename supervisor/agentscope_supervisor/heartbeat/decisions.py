"""What the platform's answers mean for this instance, and when what they ask for may be done. Pure.

An answer to the config poll asks for a restart, a reload, or nothing. It stays as it is until the platform
changes it, so that it is acted on at its edge only: a version that was not asked for before, or, without a
version, an ask after a quiet answer. What the first answer asks for was there before this instance and is
never acted on. Between two rollouts that the platform causes lie `ROLL_EVERY` seconds: of the asks that come
earlier one is remembered, the newest, as a restart if any of them was one.

It also keeps what became of the last ask, for the next heartbeat. Nothing that a platform sends raises here
or makes this grow. Where to read next: `loop` carries it out.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import orjson

ROLL_EVERY: Final = 60.0
"""Seconds between two rollouts that the platform causes. A platform that asks with every poll would
otherwise keep all workers in their start for ever."""

MAX_VERSION: Final = (
    256  # characters; a hash, a time or a name with room to spare; it is logged and sent back
)
MAX_REASON: Final = 1000  # characters of a reason in a beat; an error with its file and line fits

MAX_BEAT: Final = 10.0  # seconds that one exchange with the platform may take
MIN_BEAT: Final = 1.0  # seconds that it may take at least, however short the interval: a TLS handshake fits
FIRST_RETRY: Final = 1.0  # seconds after the first failure; doubles with each further one
MAX_RETRY: Final = 60.0
JITTER: Final = 0.1  # of an interval: beats of instances that were started together drift apart


class Action(StrEnum):
    """What a platform can ask for."""

    RESTART = "restart"
    RELOAD = "reload"


@dataclass(frozen=True, slots=True)
class ConfigAnswer:
    """An answer to the config poll. `action` None: it asks for nothing."""

    action: Action | None
    version: str | None


@dataclass(frozen=True, slots=True)
class Garbage:
    """An answer that says nothing. `reason` holds nothing of it."""

    reason: str


def read(body: bytes) -> ConfigAnswer | Garbage:
    """The answer in the body of a response."""
    try:
        value: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Garbage("the answer is no JSON")
    if not isinstance(value, dict):
        return Garbage("the answer is no JSON object")
    version = value.get("version")
    if not (version is None or isinstance(version, str)):
        return Garbage("version is no string")
    if version and not (len(version) <= MAX_VERSION and version.isprintable()):
        return Garbage(f"version is not printable, or longer than {MAX_VERSION} characters")
    updated, action = value.get("updated"), value.get("action", "none")
    if not isinstance(updated, bool):
        return Garbage("updated is neither true nor false")
    if action not in ("none", *Action):
        return Garbage("action is none of restart, reload, none")
    asks = updated and action != "none"
    return ConfigAnswer(Action(action) if asks else None, version or None)


@dataclass(frozen=True, slots=True)
class Ask:
    """Something to do now; say what became of it with one of `began`, `unchanged`, `refused`, `leaving`."""

    action: Action
    version: str | None


class Result(StrEnum):
    """What became of an ask."""

    ROLLING = "rolling"  # workers are being replaced
    DONE = "done"
    REFUSED = "refused"  # nothing was changed
    ROLLED_BACK = "rolled_back"  # a new worker failed; the old configuration serves
    LEAVING = "leaving"  # the instance ends, for the platform to start it again


@dataclass(frozen=True, slots=True)
class LastAction:
    """The ask that was last acted on, as heartbeats tell it."""

    ask: Ask
    result: Result
    reason: str = ""

    def told(self) -> dict[str, str | None]:
        """Its form in a heartbeat."""
        return {
            "action": self.ask.action,
            "version": self.ask.version,
            "result": self.result,
            # A reason may quote what was read somewhere, and a lone surrogate has no form in JSON.
            "reason": self.reason[:MAX_REASON].encode("utf-8", "replace").decode(),
        }


@dataclass(slots=True)
class PlatformSignal:
    """The platform's side of the story: one method for each thing that happened. Times are monotonic seconds.

    `config_version`: the platform's version that serves here: that of the last ask which was carried out;
    before one, that of the first answer, because the file is read at the start.
    """

    config_version: str | None = None
    last_action: LastAction | None = None
    _begun: bool = False  # an answer has come
    _asking: bool = False  # the last answer asked for something
    _version: str | None = None  # the last that something was asked with
    _waiting: Ask | None = None
    _next_roll: float = field(default=float("-inf"))
    _edition: int | None = None  # of the rollout that the last ask began, while it goes on

    # -- what the platform says -----------------------------------------------------------------

    def answered(self, answer: ConfigAnswer, now: float) -> Ask | None:
        """An answer came; returns what is to be done now, if anything."""
        first, self._begun = not self._begun, True
        asked_before, self._asking = self._asking, answer.action is not None
        if first:
            self.config_version = answer.version
        if answer.action is not None:
            is_new = not asked_before if answer.version is None else answer.version != self._version
            self._version = answer.version or self._version
            if is_new and not first:
                self._remember(Ask(answer.action, answer.version))
        return self.tick(now)

    def tick(self, now: float) -> Ask | None:
        """The ask that has waited long enough, if there is one. To be called at `next_due`."""
        if self._waiting is None or now < self._next_roll:
            return None
        ask, self._waiting = self._waiting, None
        return ask

    @property
    def next_due(self) -> float | None:
        """When the ask that waits may be carried out; None: none waits."""
        return self._next_roll if self._waiting is not None else None

    # -- what became of an ask --------------------------------------------------------------------

    def began(self, ask: Ask, edition: int, note: str, now: float) -> None:
        """A rollout to this edition of the settings was begun. `note`: what the platform should know."""
        self._edition = edition
        self._next_roll = now + ROLL_EVERY
        self.last_action = LastAction(ask, Result.ROLLING, note)

    def unchanged(self, ask: Ask) -> None:
        """There was nothing to do."""
        self._settle(LastAction(ask, Result.DONE, "nothing has changed"))

    def refused(self, ask: Ask, reason: str) -> None:
        """The file, or the state of the instance, does not allow it."""
        self._settle(LastAction(ask, Result.REFUSED, reason))

    def leaving(self, ask: Ask) -> None:
        """The instance ends, as the platform wants it."""
        self._settle(LastAction(ask, Result.LEAVING))

    def rollout_ended(self, edition: int, failure: str) -> None:
        """A rollout ended, whoever began it. `failure` is empty if all workers are of this edition."""
        last = self.last_action
        if last is None or self._edition is None or edition < self._edition:
            return
        result = Result.ROLLED_BACK if failure else Result.DONE
        self._settle(LastAction(last.ask, result, failure or last.reason))

    # -- inside -----------------------------------------------------------------------------------

    def _remember(self, ask: Ask) -> None:
        if self._waiting is not None and self._waiting.action is Action.RESTART:
            ask = Ask(Action.RESTART, ask.version)
        self._waiting = ask

    def _settle(self, last: LastAction) -> None:
        self._edition = None
        self.last_action = last
        if last.result is Result.DONE:
            self.config_version = last.ask.version or self.config_version


@dataclass(slots=True)
class Pace:
    """How often the platform is spoken to, of one kind of exchange. `interval`: seconds between two."""

    interval: float
    failures: int = 0  # in a row

    @property
    def deadline(self) -> float:
        """Seconds for one exchange: it must not delay the next."""
        return max(MIN_BEAT, min(MAX_BEAT, self.interval))

    def succeeded(self, began: float, now: float, chance: float) -> float:
        """Seconds until the next. `began`: when this one did. `chance`: uniform in [0, 1)."""
        self.failures = 0
        return max(0.0, began + self.interval * (1 - JITTER * chance) - now)

    def failed(self, chance: float) -> float:
        """The same after a failure."""
        self.failures += 1
        # Ten doublings reach any bound; a float would overflow in a week of failures.
        delay = min(MAX_RETRY, FIRST_RETRY * 2.0 ** min(self.failures - 1, 10))
        return delay * (0.5 + chance / 2)
