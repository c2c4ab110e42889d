"""The failures with which the ledger itself ends turns. Pure.

Where to read next: `ledger` decides when; `domain.errors` has the failures that come from workers.
"""

from collections.abc import Mapping
from typing import Final

from agentscope_protocol.wire.frames import CancelReason
from agentscope_supervisor.domain.errors import ErrorCode, Failure, failed_again, refusal
from agentscope_supervisor.domain.turn import Turn

CANCELLED: Final[Mapping[CancelReason, Failure]] = {
    CancelReason.CLIENT_GONE: Failure(ErrorCode.INTERRUPTED, "the client left"),
    CancelReason.TIMEOUT: Failure(ErrorCode.TIMEOUT, "the turn took longer than server.request_timeout"),
    CancelReason.INTERRUPTED: Failure(ErrorCode.INTERRUPTED, "the turn was stopped"),
    CancelReason.DRAINING: Failure(ErrorCode.DRAINING, "the instance is stopping"),
}
"""The failure of a turn that was cancelled, by the reason."""

SUPERSEDED: Final = Failure(ErrorCode.SUPERSEDED, "a newer message of this session replaced this one")
NOT_READY: Final = refusal(ErrorCode.NOT_READY, "no worker became ready for this session in time")
DRAINING: Final = refusal(ErrorCode.DRAINING, "the instance is stopping")


def reported(turn: Turn, failure: Failure) -> Failure:
    """The failure to report for a turn. After a crash it must not say that the turn never began."""
    return failed_again(failure) if turn.crashes else failure
