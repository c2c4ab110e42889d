"""One turn, and the commands about it, which `turns.ledger` returns and `turns.service` executes. Pure.

A turn is mostly a client's message and its answer. What is done to a session between those is a turn too, of
another purpose, so that it takes its place in the session's order as they do.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Literal

from agentscope_protocol.wire.frames import CancelReason
from agentscope_protocol.wire.values import value
from agentscope_supervisor.domain.errors import Failure

OnBusy = Literal["queue", "reject", "interrupt", "latest"]


class Purpose(Enum):
    """Why there is a turn."""

    CLIENT = auto()
    FORGET = auto()  # a client has its session deleted
    TELL = auto()  # the process in which its session lives is told that it leaves


class TurnState(Enum):
    WAITING = auto()
    RUNNING = auto()
    CANCELLING = auto()
    SETTLED = auto()


_WAITING: Final = TurnState.WAITING  # read once: see `agentscope_protocol.wire.values`


@dataclass(init=False, slots=True, eq=False)
class Turn:
    """One turn. Others read it; only the ledger writes it."""

    number: Final[int]  # of the instance, never reused
    run_id: Final[str]
    session_id: Final[str]
    slot: int
    size: Final[int]  # bytes of its body
    principal: Final[str]
    accepted_at: float
    purpose: Final[Purpose]
    state: TurnState
    process: int | None  # that it was handed to
    crashes: int  # processes that it was lost with, and after which it waits or runs again
    ending: Failure | None  # what its client will be told once it has been cancelled
    cancelled_at: float
    distrusted_at: float  # when the end of its process was last asked for

    def __init__(
        self,
        number: int,
        run_id: str,
        session_id: str,
        slot: int,
        size: int,
        principal: str,
        accepted_at: float,
        purpose: Purpose = Purpose.CLIENT,
    ) -> None:
        self.number, self.run_id, self.session_id, self.slot = number, run_id, session_id, slot
        self.size, self.principal, self.accepted_at, self.purpose = size, principal, accepted_at, purpose
        self.state, self.process, self.crashes, self.ending = _WAITING, None, 0, None
        self.cancelled_at = self.distrusted_at = 0.0


@dataclass(init=False, slots=True, unsafe_hash=True)
class Dispatch:
    """Give the turn to this process now."""

    turn: Final[Turn]
    process: Final[int]

    def __init__(self, turn: Turn, process: int) -> None:
        self.turn, self.process = turn, process


@value
class Cancel:
    """Ask the process to end the turn."""

    turn: Turn
    process: int
    reason: CancelReason


@dataclass(init=False, slots=True, unsafe_hash=True)
class Complete:
    """Tell the client the end of its turn: well if `failure` is None. Once for each turn."""

    turn: Final[Turn]
    failure: Final[Failure | None]

    def __init__(self, turn: Turn, failure: Failure | None) -> None:
        self.turn, self.failure = turn, failure


@value
class Idle:
    """The last turn of this process has ended."""

    process: int


@value
class ReplaceProcess:
    """A turn ignored its cancellation; only the end of this process will end it."""

    turn: Turn
    process: int


Command = Dispatch | Cancel | Complete | Idle | ReplaceProcess
