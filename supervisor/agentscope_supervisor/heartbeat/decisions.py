"""The meaning of the platform's answers, and when a requested action may be carried out. Pure.

An answer to the config poll requests a restart, a reload, or nothing. The platform repeats an answer until it
has a new one, so only a change counts: a version that has not been requested before or, without a version, a
request that follows an answer without one. A request in the first answer is older than this instance and is
never carried out. At least `ROLL_EVERY` seconds pass between two rollouts that the platform causes. When
several requests arrive earlier, only the newest is kept; it becomes a restart if one of the others was a
restart.

The result of the last request is kept for the next heartbeat. No input from the platform can raise an
exception here or let this state grow. `loop` carries the actions out.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import orjson

ROLL_EVERY: Final = 60.0
"""Minimum seconds between two rollouts that the platform causes.

Without it, a platform that requests a restart in every poll would keep all workers in their start phase.
"""

MAX_VERSION: Final = 256  # characters: more than a hash, a time or a name needs; logged and sent back
MAX_REASON: Final = 1000  # characters of a reason in a heartbeat: enough for an error with file and line

MAX_BEAT: Final = 10.0  # seconds: the longest timeout of one exchange
MIN_BEAT: Final = 1.0  # seconds: the shortest timeout, for any interval; enough for a TLS handshake
FIRST_RETRY: Final = 1.0  # seconds after the first failure; doubles with each further failure
MAX_RETRY: Final = 60.0  # seconds
JITTER: Final = 0.1  # of the interval, so that instances that were started together drift apart


class Action(StrEnum):
    """The actions that a platform can request."""

    RESTART = "restart"
    RELOAD = "reload"


@dataclass(frozen=True, slots=True)
class ConfigAnswer:
    """A valid answer to the config poll. `action` None: nothing is requested."""

    action: Action | None
    version: str | None


@dataclass(frozen=True, slots=True)
class InvalidAnswer:
    """An invalid answer. `reason` contains nothing of the answer."""

    reason: str


def read(body: bytes) -> ConfigAnswer | InvalidAnswer:
    """Parse the body of an answer to the config poll."""
    try:
        value: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return InvalidAnswer("the answer is not JSON")
    if not isinstance(value, dict):
        return InvalidAnswer("the answer is not a JSON object")
    version = value.get("version")
    if not (version is None or isinstance(version, str)):
        return InvalidAnswer("version is not a string")
    if version and not (len(version) <= MAX_VERSION and version.isprintable()):
        return InvalidAnswer(f"version is not printable or has more than {MAX_VERSION} characters")
    updated, action = value.get("updated"), value.get("action", "none")
    if not isinstance(updated, bool):
        return InvalidAnswer("updated is not true or false")
    if action not in ("none", *Action):
        return InvalidAnswer("action is not one of restart, reload, none")
    requested = updated and action != "none"
    return ConfigAnswer(Action(action) if requested else None, version or None)


@dataclass(frozen=True, slots=True)
class PlatformRequest:
    """An action to carry out now. Report its result with `began`, `unchanged`, `refused` or `leaving`."""

    action: Action
    version: str | None


class Result(StrEnum):
    """The result of a request."""

    ROLLING = "rolling"  # workers are being replaced
    DONE = "done"
    REFUSED = "refused"  # nothing was changed
    ROLLED_BACK = "rolled_back"  # a new worker failed; the previous configuration is active
    LEAVING = "leaving"  # the instance exits, and the platform starts it again


@dataclass(frozen=True, slots=True)
class LastAction:
    """The last request that was carried out or refused, and its result."""

    request: PlatformRequest
    result: Result
    reason: str = ""

    def json(self) -> dict[str, str | None]:
        """Return the JSON object that heartbeats contain."""
        return {
            "action": self.request.action,
            "version": self.request.version,
            "result": self.result,
            # A reason may quote any text, and a lone surrogate cannot be encoded in JSON.
            "reason": self.reason[:MAX_REASON].encode("utf-8", "replace").decode(),
        }


@dataclass(slots=True)
class PlatformSignal:
    """The state of the platform's requests: one method per event. Times are monotonic seconds.

    `config_version`: the platform's version that is active here. It is the version of the last request that
    was carried out; before that, the version in the first answer, because the file was read at the start.
    """

    config_version: str | None = None
    last_action: LastAction | None = None
    _answered: bool = False  # an answer has arrived
    _requesting: bool = False  # the last answer requested an action
    _version: str | None = None  # the version of the last answer that requested an action
    _waiting: PlatformRequest | None = None
    _next_roll: float = field(default=float("-inf"))
    _revision: int | None = None  # of the rollout that the last request started, until it ends

    # -- answers of the platform ----------------------------------------------------------------

    def answered(self, answer: ConfigAnswer, now: float) -> PlatformRequest | None:
        """Record an answer; return the request to carry out now, if there is one."""
        first, self._answered = not self._answered, True
        requested_before, self._requesting = self._requesting, answer.action is not None
        if first:
            self.config_version = answer.version
        if answer.action is not None:
            is_new = not requested_before if answer.version is None else answer.version != self._version
            self._version = answer.version or self._version
            if is_new and not first:
                self._remember(PlatformRequest(answer.action, answer.version))
        return self.tick(now)

    def tick(self, now: float) -> PlatformRequest | None:
        """Return the waiting request if its time has come. Call this at `next_due`."""
        if self._waiting is None or now < self._next_roll:
            return None
        request, self._waiting = self._waiting, None
        return request

    @property
    def next_due(self) -> float | None:
        """When the waiting request may be carried out; None if no request waits."""
        return self._next_roll if self._waiting is not None else None

    # -- results of a request -----------------------------------------------------------------------

    def began(self, request: PlatformRequest, revision: int, note: str, now: float) -> None:
        """Record that a rollout to this revision has started. `note`: a remark for the platform."""
        self._revision = revision
        self._next_roll = now + ROLL_EVERY
        self.last_action = LastAction(request, Result.ROLLING, note)

    def unchanged(self, request: PlatformRequest) -> None:
        """Record that there was nothing to do."""
        self._settle(LastAction(request, Result.DONE, "nothing has changed"))

    def refused(self, request: PlatformRequest, reason: str) -> None:
        """Record that the file, or the state of the instance, does not allow the action."""
        self._settle(LastAction(request, Result.REFUSED, reason))

    def leaving(self, request: PlatformRequest) -> None:
        """Record that the instance exits, as requested."""
        self._settle(LastAction(request, Result.LEAVING))

    def rollout_ended(self, revision: int, failure: str) -> None:
        """Record the end of any rollout. `failure` is empty if all workers run this revision."""
        last = self.last_action
        if last is None or self._revision is None or revision < self._revision:
            return
        result = Result.ROLLED_BACK if failure else Result.DONE
        self._settle(LastAction(last.request, result, failure or last.reason))

    # -- internals --------------------------------------------------------------------------------

    def _remember(self, request: PlatformRequest) -> None:
        if self._waiting is not None and self._waiting.action is Action.RESTART:
            request = PlatformRequest(Action.RESTART, request.version)
        self._waiting = request

    def _settle(self, last: LastAction) -> None:
        self._revision = None
        self.last_action = last
        if last.result is Result.DONE:
            self.config_version = last.request.version or self.config_version


@dataclass(slots=True)
class Pace:
    """The schedule of one kind of exchange. `interval`: seconds between two exchanges."""

    interval: float
    failures: int = 0  # consecutive

    @property
    def deadline(self) -> float:
        """Timeout of one exchange in seconds: an exchange must not delay the next one."""
        return max(MIN_BEAT, min(MAX_BEAT, self.interval))

    def succeeded(self, began: float, now: float, chance: float) -> float:
        """Return the seconds until the next exchange, after one that succeeded.

        `began`: when it started. `chance`: uniform in [0, 1).
        """
        self.failures = 0
        return max(0.0, began + self.interval * (1 - JITTER * chance) - now)

    def failed(self, chance: float) -> float:
        """Return the seconds until the next exchange, after one that failed. `chance`: uniform in [0, 1)."""
        self.failures += 1
        # Ten doublings exceed MAX_RETRY; without the limit a week of failures would overflow a float.
        delay = min(MAX_RETRY, FIRST_RETRY * 2.0 ** min(self.failures - 1, 10))
        return delay * (0.5 + chance / 2)
