"""One turn, and the commands for it, which `turns.ledger` returns and `turns.service` executes. Pure.

Most turns are a client's message and its run. The deletion of a session and the notification of a process
are turns too, with another `Purpose`, so that they have their place in the order of the session's turns.

Where to read next: `turns.ledger` has the states of a turn and their transitions.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from agentscope_protocol.wire.frames import CancelReason
from agentscope_protocol.wire.values import value
from agentscope_supervisor.domain.errors import Failure
from agentscope_supervisor.domain.request import TurnRequest
from agentscope_supervisor.domain.run import Run


class Purpose(Enum):
    """Why a turn exists."""

    CLIENT = auto()  # a client sent a message
    FORGET = auto()  # a client deletes its session
    NOTIFY_IDLE = auto()  # the process that holds the session is notified that the session leaves it


class TurnState(Enum):
    WAITING = auto()
    RUNNING = auto()
    CANCELLING = auto()
    SETTLED = auto()  # its run has ended; the process has not ended the turn


_WAITING: Final = TurnState.WAITING  # read once: see `agentscope_protocol.wire.values`


@dataclass(init=False, slots=True, eq=False)
class Turn:
    """One turn: its request, its run, and its state. Only the ledger changes it, except `stream`, which
    belongs to the link of its process."""

    number: Final[int]  # unique in the instance, never reused
    request: Final[TurnRequest]
    run: Final[Run]
    slot: int
    accepted_at: float
    purpose: Final[Purpose]
    state: TurnState
    process: int | None  # that the turn was dispatched to
    stream: int  # number of the stream on the link of that process; 0: none
    crashes: int  # crashes that it was lost in, and after which it waited to run again
    ending: Failure | None  # the failure to report after its cancellation
    cancelled_at: float
    replace_asked_at: float  # when the replacement of its process was last requested

    def __init__(
        self,
        number: int,
        request: TurnRequest,
        run: Run,
        slot: int,
        accepted_at: float,
        purpose: Purpose = Purpose.CLIENT,
    ) -> None:
        self.number, self.request, self.run, self.slot = number, request, run, slot
        self.accepted_at, self.purpose = accepted_at, purpose
        self.state, self.process, self.stream, self.crashes, self.ending = _WAITING, None, 0, 0, None
        self.cancelled_at = self.replace_asked_at = 0.0

    @property
    def run_id(self) -> str:
        return self.run.run_id

    @property
    def session_id(self) -> str:
        return self.request.session_id

    @property
    def is_open(self) -> bool:
        """Whether its run has not ended yet."""
        return self.run.ended_at is None


@dataclass(init=False, slots=True, unsafe_hash=True)
class Dispatch:
    """Send the turn to this process."""

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
    """End the turn's run: successfully if `failure` is None. Returned exactly once for each turn."""

    turn: Final[Turn]
    failure: Final[Failure | None]

    def __init__(self, turn: Turn, failure: Failure | None) -> None:
        self.turn, self.failure = turn, failure


@value
class Idle:
    """The last open turn of this process has ended."""

    process: int


@value
class ReplaceProcess:
    """Replace the process: a turn ignored its cancellation, and ends only when its process ends."""

    turn: Turn
    process: int


Command = Dispatch | Cancel | Complete | Idle | ReplaceProcess
