"""The index of the open turns: by number, session, process and caller, with their counts. Pure.

Decides nothing: `ledger` extends this class with the decisions, and is the only one to add or remove turns.

Where to read next: `ledger`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from agentscope_supervisor.domain.run import Run
from agentscope_supervisor.domain.turn import Purpose, Turn, TurnState
from agentscope_supervisor.domain.wire_format import WireFormat

# Read once: see `agentscope_protocol.wire.values`.
_CLIENT: Final = Purpose.CLIENT
_NOTIFY_IDLE: Final = Purpose.NOTIFY_IDLE
_SETTLED: Final = TurnState.SETTLED


class OpenTurns:
    """The open turns. The methods that change them are for `ledger`."""

    def __init__(self) -> None:
        self._turns: dict[int, Turn] = {}
        # The first turn of a list runs, or runs next. A list is short; an empty deque would take 700 bytes.
        self._sessions: dict[str, list[Turn]] = {}
        self._on_process: dict[int, int] = {}  # turns that were dispatched and have not ended
        self._by_principal: dict[str, int] = {}  # turns; notifications do not count
        self._held = 0  # bytes of bodies
        self._notifying = 0  # turns with purpose NOTIFY_IDLE
        self._settled = 0  # turns in SETTLED

    # -- queries ----------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._turns)

    @property
    def open(self) -> int:
        """The number of turns whose run has not ended."""
        return len(self._turns) - self._settled

    def active_sessions(self) -> Iterator[str]:
        """The session of each open turn of a client."""
        for turn in self._turns.values():
            if turn.purpose is _CLIENT and turn.state is not _SETTLED:
                yield turn.session_id

    def turn_of(self, run: Run) -> Turn | None:
        """The turn of a run; None: it has ended."""
        turns = self._sessions.get(run.session_id, ())
        return next((turn for turn in turns if turn.run is run), None)

    def newest(self, session_id: str, wire: WireFormat) -> Run | None:
        """The open run of a session that was accepted last, among those of this wire format."""
        turns = self._sessions.get(session_id, ())
        runs = (turn.run for turn in reversed(turns) if turn.is_open and turn.run.wire is wire)
        return next(runs, None)

    def ahead(self, turn: Turn) -> int:
        """The number of turns of the session before a waiting turn; 0 if it has just ended."""
        turns = self._sessions.get(turn.session_id, ())
        return next((i for i, other in enumerate(turns) if other is turn), 0)

    def sessions(self) -> Mapping[str, Sequence[Turn]]:
        """The open turns of each session that has any; the first one runs, or runs next."""
        return self._sessions

    def on_process(self, process: int) -> int:
        """The number of turns that were dispatched to this process and have not ended."""
        return self._on_process.get(process, 0)

    def running(self) -> int:
        """The number of turns that were dispatched to any process and have not ended."""
        return sum(self._on_process.values())

    # -- changes ----------------------------------------------------------------------------

    def _add(self, turn: Turn) -> None:
        """Add a turn: a notification as the first one of its session, any other turn as the last one."""
        self._turns[turn.number] = turn
        queue = self._sessions.get(turn.session_id)
        if queue is None:
            queue = self._sessions[turn.session_id] = []
        if turn.purpose is _NOTIFY_IDLE:
            self._notifying += 1
            queue.insert(0, turn)
        else:
            principal = turn.request.principal
            self._held += len(turn.request.body)
            self._by_principal[principal] = self._by_principal.get(principal, 0) + 1
            queue.append(turn)

    def _remove(self, turn: Turn) -> bool:
        """Remove a turn. Returns whether its session has more of them."""
        assert self._turns.pop(turn.number, None) is turn, "a turn ends once"
        if turn.purpose is _NOTIFY_IDLE:
            self._notifying -= 1
        else:
            self._held -= len(turn.request.body)
            count = self._by_principal.pop(turn.request.principal) - 1
            if count:
                self._by_principal[turn.request.principal] = count
        queue = self._sessions[turn.session_id]
        queue.remove(turn)
        if not queue:
            del self._sessions[turn.session_id]
            return False
        return True

    def _count_on(self, process: int) -> None:
        """A turn was dispatched to this process."""
        self._on_process[process] = self.on_process(process) + 1

    def _count_off(self, process: int) -> bool:
        """A process has one open turn less. Returns whether it was the last one."""
        left = self._on_process.pop(process) - 1
        if left:
            self._on_process[process] = left
        return not left
