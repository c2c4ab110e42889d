"""One turn, and what may be commanded about it: the words in which `ledger` decides and `turns` acts. Pure.

A turn is mostly a client's message and its answer. What is done to a session between those is a turn too, of
another purpose, so that it takes its place in the session's order as they do.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from agentscope_protocol.frames import CancelReason
from agentscope_protocol.values import value
from agentscope_supervisor.outcomes import Failure

OnBusy = Literal["queue", "reject", "interrupt", "latest"]


class Purpose(Enum):
    """Why there is a turn."""

    CLIENT = auto()
    FORGET = auto()  # a client has its session deleted
    TELL = auto()  # the process in which its session lives is told that it leaves


class State(Enum):
    WAITING = auto()
    RUNNING = auto()
    CANCELLING = auto()
    SETTLED = auto()


@dataclass(slots=True, eq=False)
class Turn:
    """One turn. Others read it; only the ledger writes it."""

    number: int  # of the instance, never reused
    run_id: str
    session_id: str
    slot: int
    size: int  # bytes of its body
    principal: str
    accepted_at: float
    purpose: Purpose = Purpose.CLIENT
    state: State = State.WAITING
    process: int | None = None  # that it was handed to
    crashes: int = 0  # processes that it was lost with, and after which it waits or runs again
    ending: Failure | None = None  # what its client will be told once it has been cancelled
    cancelled_at: float = 0.0
    distrusted_at: float = 0.0  # when the end of its process was last asked for


@value
class Hand:
    """Give the turn to this process now."""

    turn: Turn
    process: int


@value
class Cancel:
    """Ask the process to end the turn."""

    turn: Turn
    process: int
    reason: CancelReason


@value
class Settle:
    """Tell the client the end of its turn: well if `failure` is None. Once for each turn."""

    turn: Turn
    failure: Failure | None


@value
class Idle:
    """The last turn of this process has ended."""

    process: int


@value
class Distrust:
    """A turn ignored its cancellation; only the end of this process will end it."""

    turn: Turn
    process: int


Command = Hand | Cancel | Settle | Idle | Distrust
