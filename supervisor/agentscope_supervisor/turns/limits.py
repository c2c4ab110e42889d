"""The limits of turns: when a new turn is refused, and when an open turn has taken too long. Pure.

Compares numbers with limits, and changes no turn. `ledger` counts, and acts on the results.

Where to read next: `ledger`, and `domain.errors` for the error codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from agentscope_supervisor.domain.errors import ErrorCode, Failure, refusal
from agentscope_supervisor.domain.request import OnBusy
from agentscope_supervisor.domain.turn import Purpose, Turn, TurnState

MAX_HELD_BODIES: Final = 256 * 1024 * 1024
"""Maximum size in bytes of the bodies of all open turns: sixteen bodies of the default maximum size. Above it
new turns are refused, so that a stopped worker cannot fill the supervisor's memory."""

CRASH_RETRIES: Final = 1
"""Number of times that a turn is run again after a crash. The first crash may be chance; each further one
would also end the other turns in that process."""

REPLACE_AGAIN_AFTER: Final = 60.0
"""Seconds after which the replacement of a process that holds a session is requested again: the replacement
may have failed to start."""

NOTIFY_WITHIN: Final = 15.0
"""Seconds that the notification of a process may take before it is cancelled. A client may be waiting for it:
the App should free memory, or save one session."""

MAX_NOTIFYING: Final = 32
"""Maximum number of notifications at a time that no client waits for: as many concurrent saves as a store
can be expected to serve."""

# Read once: see `agentscope_protocol.wire.values`.
_CLIENT: Final = Purpose.CLIENT
_NOTIFY_IDLE: Final = Purpose.NOTIFY_IDLE
_WAITING: Final = TurnState.WAITING
_CANCELLING: Final = TurnState.CANCELLING
_SETTLED: Final = TurnState.SETTLED


class Expiry(Enum):
    """Which time of a turn is over."""

    TIMEOUT = auto()  # the turn itself
    START = auto()  # its slot has had no process for too long
    CANCELLATION = auto()  # the App has ignored the cancellation
    REPLACEMENT = auto()  # its process still runs, although its replacement was requested


@dataclass(frozen=True, slots=True)
class TurnLimits:
    """Limits of the instance: the keys of the same names in agentapp.yaml. Times in seconds.

    A method whose name begins with `refuse` returns the reason to refuse a new turn; None: this limit allows
    the turn.
    """

    max_turns: int
    max_inflight: int  # turns of one slot
    max_queue: int  # waiting turns of one session
    max_turns_per_principal: int | None
    request_timeout: float  # 0: no timeout
    start_timeout: float
    cancel_grace: float
    retry_on_crash: bool = False  # if no event was sent to the client

    def refuse_any(self, turns: int, held: int) -> Failure | None:
        """For any session and caller. `turns`: open turns. `held`: bytes of bodies, with the new one."""
        if turns >= self.max_turns:
            return refusal(ErrorCode.OVERLOADED, f"the instance has {self.max_turns} turns already")
        if held > MAX_HELD_BODIES:
            return refusal(ErrorCode.OVERLOADED, "the open turns hold too many bytes already")
        return None

    def refuse_on(self, of_slot: int, of_principal: int) -> Failure | None:
        """For one slot and one caller. `of_slot`, `of_principal`: their open turns."""
        if of_slot >= self.max_inflight:
            return refusal(ErrorCode.OVERLOADED, f"the worker has {self.max_inflight} turns already")
        most = self.max_turns_per_principal
        if most is not None and of_principal >= most:
            return refusal(ErrorCode.TOO_MANY_REQUESTS, f"this caller has {most} turns already")
        return None

    def refuse_busy(self, queue: Sequence[Turn], on_busy: OnBusy) -> Failure | None:
        """For a session that has open turns: `queue`."""
        if on_busy == "reject" and any(turn.purpose is _CLIENT for turn in queue):
            return refusal(ErrorCode.SESSION_BUSY, "a turn of this session is running")
        # With `latest`, the new turn replaces the waiting ones: the limit cannot be exceeded.
        turns = len(queue) - (queue[0].purpose is _NOTIFY_IDLE)
        if on_busy != "latest" and turns > self.max_queue:
            message = f"{self.max_queue} turns of this session wait already"
            return refusal(ErrorCode.TOO_MANY_REQUESTS, message)
        return None

    def expiry(self, turn: Turn, down_since: float | None, now: float) -> Expiry | None:
        """Which time of an open turn is over; None: none. `down_since`: since when its slot has no process;
        None: it has one."""
        if turn.state is _CANCELLING:
            return Expiry.CANCELLATION if now - turn.cancelled_at >= self.cancel_grace else None
        if turn.state is _SETTLED:
            return Expiry.REPLACEMENT if now - turn.replace_asked_at >= REPLACE_AGAIN_AFTER else None
        is_notification = turn.purpose is _NOTIFY_IDLE
        timeout = NOTIFY_WITHIN if is_notification else self.request_timeout
        if timeout and now - turn.accepted_at >= timeout:
            return Expiry.TIMEOUT
        if turn.state is _WAITING and down_since is not None:
            waited = now - max(turn.accepted_at, down_since)
            return Expiry.START if waited >= self.start_timeout else None
        return None
