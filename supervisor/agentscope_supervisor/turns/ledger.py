"""The open turns: which of them wait, which run in which process, and how each one ends. Pure.

A turn waits while an earlier turn of its session is open, and while its slot has no process. Then it is
dispatched to the process, runs, and ends. The turns of a session never overlap, and run in order of arrival.
That also holds when the process of their slot changes: a turn is dispatched only when the one before it has
ended.

    WAITING -> RUNNING -> (CANCELLING -> (SETTLED ->)) gone

In SETTLED the run has ended with an error, but the App has not ended the turn: the session stays occupied.
Complete is the one terminal event. Every turn gets exactly one.

A turn goes back from RUNNING to WAITING, as the first of its session, in two cases: it provably never reached
its process; or `retry_on_crash` is set, and its process crashed before an event was sent to the client.

Two more operations on a session are turns with another purpose: its deletion, and the notification of a
process that the session leaves (`session_affinity` decides when). So no client's turn runs at the same time,
and a message that arrives meanwhile waits.

Where to read next: `open_turns` has the index of the turns, `limits` the limits, `endings` the failures;
`service` executes the commands.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from agentscope_protocol.wire.errors import Code
from agentscope_protocol.wire.frames import CancelReason, StreamKind
from agentscope_supervisor.domain.errors import Failure, of_worker
from agentscope_supervisor.domain.request import OnBusy, TurnRequest
from agentscope_supervisor.domain.run import Run
from agentscope_supervisor.domain.turn import (
    Cancel,
    Command,
    Complete,
    Dispatch,
    Idle,
    Purpose,
    ReplaceProcess,
    Turn,
    TurnState,
)
from agentscope_supervisor.domain.wire_format import NO_EVENTS
from agentscope_supervisor.turns.endings import CANCELLED, DRAINING, NOT_READY, SUPERSEDED, reported
from agentscope_supervisor.turns.limits import (
    CRASH_RETRIES,
    MAX_HELD_BODIES,
    MAX_NOTIFYING,
    NOTIFY_WITHIN,
    REPLACE_AGAIN_AFTER,
    Expiry,
    TurnLimits,
)
from agentscope_supervisor.turns.open_turns import OpenTurns
from agentscope_supervisor.turns.session_affinity import SessionAffinity

__all__ = [
    "CRASH_RETRIES",
    "MAX_HELD_BODIES",
    "MAX_NOTIFYING",
    "NOTIFY_WITHIN",
    "REPLACE_AGAIN_AFTER",
    "Ledger",
    "TurnLimits",
]

# Read once: see `agentscope_protocol.wire.values`.
_CLIENT: Final = Purpose.CLIENT
_NOTIFY_IDLE: Final = Purpose.NOTIFY_IDLE
_FORGET: Final = Purpose.FORGET
_WAITING: Final = TurnState.WAITING
_RUNNING: Final = TurnState.RUNNING
_CANCELLING: Final = TurnState.CANCELLING
_SETTLED: Final = TurnState.SETTLED
_UNSENT: Final = Code.UNSENT
_LINK_LOST: Final = Code.LINK_LOST


@dataclass(slots=True)
class _Slot:
    process: int | None = None
    down_since: float = 0.0
    turns: int = 0
    ready: dict[str, None] = field(default_factory=dict)  # sessions whose first turn waits for a process


class Ledger(OpenTurns):
    """Owner of the open turns. The caller reports each event with one method call, and executes the commands
    that it returns, in order.

    `slot_of`: the slot of a session, given the number of slots (`routing.slot_of`). `affinity`: None: no
    process is notified of sessions that leave it.
    """

    def __init__(
        self,
        limits: TurnLimits,
        slots: int,
        slot_of: Callable[[str, int], int],
        affinity: SessionAffinity | None = None,
    ) -> None:
        super().__init__()
        self.limits = limits
        self.slots = slots
        self.slot_of = slot_of
        self.affinity: Final = affinity if affinity is not None else SessionAffinity(math.inf)
        self.draining = False
        self.total = 0  # turns of clients accepted since the start
        self._last = 0  # number of the newest turn
        self._slots = [_Slot() for _ in range(slots)]

    def assigned(self, slot: int) -> int | None:
        """The process that gets the turns of this slot; None: none, or the slot is unknown."""
        return self._slots[slot].process if slot < len(self._slots) else None

    # -- events -----------------------------------------------------------------------------

    def accept(
        self, request: TurnRequest, run: Run, on_busy: OnBusy, now: float, purpose: Purpose = _CLIENT
    ) -> tuple[Turn | Failure, list[Command]]:
        """A request arrived. Returns its turn, or the reason for its refusal. `purpose`: not NOTIFY_IDLE."""
        session_id, limits = request.session_id, self.limits
        queue = self._sessions.get(session_id, ())
        slot = self.slot_of(session_id, self.slots)
        of_principal = self._by_principal.get(request.principal, 0)
        failure = self.full(len(request.body)) or limits.refuse_on(self._slots[slot].turns, of_principal)
        if failure is None and queue:
            failure = limits.refuse_busy(queue, on_busy)
        if failure is not None:
            return failure, []
        self.total += purpose is _CLIENT
        self._last += 1
        turn = Turn(self._last, request, run, slot, now, purpose)
        earlier = list(queue)
        self._add(turn)
        self._slots[slot].turns += 1
        commands: list[Command] = []
        if not earlier:
            self._next(session_id, commands)
        elif on_busy == "interrupt" and earlier[0].purpose is _CLIENT:
            self._cancel(earlier[0], CancelReason.INTERRUPTED, now, commands)
        elif on_busy == "latest":
            for other in earlier:
                # A turn that waits to run again has begun once: a newer message does not replace it.
                waits = other.state is _WAITING and not other.crashes
                if waits and other.purpose is _CLIENT:
                    self._drop(other, SUPERSEDED, commands)
        return turn, commands

    def assign(self, slot: int, process: int | None, now: float) -> list[Command]:
        """Turns of this slot are dispatched to `process` from now on; None: they wait."""
        # A slot that is added gets its process before `resize` gives it sessions.
        self._slots += [_Slot() for _ in range(len(self._slots), slot + 1)]
        place = self._slots[slot]
        if place.process is not None and process is None:
            place.down_since = now
        place.process = process
        commands: list[Command] = []
        if process is not None:
            for session_id in list(place.ready):
                self._next(session_id, commands)
        return commands

    def resize(self, slots: int, now: float) -> list[Command]:
        """Sessions are distributed over `slots` slots from now on. Running turns stay in their process;
        waiting turns move with their session."""
        self.slots = slots
        self._slots += [_Slot(down_since=now) for _ in range(len(self._slots), slots)]
        commands: list[Command] = []
        for session_id, queue in self._sessions.items():
            for turn in queue:
                self._place(turn)
            self._next(session_id, commands)
        return commands

    def ended(self, turn: Turn) -> list[Command]:
        """The App completed the turn."""
        return self._terminal(turn, None) if turn.number in self._turns else []

    def failed(self, turn: Turn, code: Code, message: str, *, harmless: bool = False) -> list[Command]:
        """The worker failed the turn, or was lost with it. `harmless`: the turn may run again, because no
        event was sent to its client and neither its message nor its session is quarantined."""
        if turn.number not in self._turns:
            return []
        crashed = code is _LINK_LOST and harmless and self.limits.retry_on_crash
        again = code is _UNSENT or (crashed and turn.crashes < CRASH_RETRIES)
        may_wait = turn.state is _RUNNING and turn.purpose is not _NOTIFY_IDLE and not self.draining
        if again and may_wait:
            commands: list[Command] = []
            turn.crashes += crashed
            assert turn.process is not None, "it runs"
            self._free(turn.process, commands)
            turn.state, turn.process = _WAITING, None
            self._place(turn)
            self._next(turn.session_id, commands)
            return commands
        return self._terminal(turn, of_worker(code, message))

    def cancel(self, turn: Turn, reason: CancelReason, now: float) -> list[Command]:
        """End this turn. Without effect if it has ended, or is being cancelled already."""
        commands: list[Command] = []
        if turn.number in self._turns:
            self._cancel(turn, reason, now, commands)
        return commands

    def interrupt(
        self, now: float, *, session_id: str | None = None, run_id: str | None = None
    ) -> tuple[int, list[Command]]:
        """End the turns of a session, or one run. Returns the number of turns that were not being cancelled
        already."""
        commands: list[Command] = []
        turns = self._sessions.get(session_id, ()) if session_id is not None else self._turns.values()
        hit = [
            turn
            for turn in turns
            if run_id in (None, turn.run_id) and turn.ending is None and turn.purpose is _CLIENT
        ]
        # From the last to the first, so that no waiting turn is dispatched only to be cancelled.
        for turn in reversed(hit):
            self._cancel(turn, CancelReason.INTERRUPTED, now, commands)
        return len(hit), commands

    def notify_idle(self, now: float) -> list[Command]:
        """Notify processes of the sessions that leave them. The caller must call this when a notification has
        ended, and about every second while `affinity.waiting`."""
        commands: list[Command] = []
        if not self.draining:
            for session_id, process in self.affinity.due(
                self._sessions, MAX_NOTIFYING - self._notifying, now
            ):
                self._notify(session_id, process, commands)
        return commands

    def cut(self, process: int, now: float) -> list[Command]:
        """The drain timeout of this process is over: cancel its turns."""
        commands: list[Command] = []
        for turn in [turn for turn in self._turns.values() if turn.process == process]:
            self._cancel(turn, CancelReason.DRAINING, now, commands)
        return commands

    def drain(self) -> list[Command]:
        """The instance stops: running turns may finish, waiting turns end."""
        self.draining = True
        commands: list[Command] = []
        for turn in [turn for turn in self._turns.values() if turn.state is _WAITING]:
            self._drop(turn, DRAINING, commands)
        return commands

    def close(self) -> list[Command]:
        """No process is left, and none will start: end every open turn."""
        commands = self.drain()
        for turn in list(self._turns.values()):
            commands += self._terminal(turn, DRAINING)
        return commands

    def expire(self, now: float) -> list[Command]:
        """End or cancel the turns whose time is over. The caller must call this about every second while
        there are turns."""
        commands: list[Command] = []
        for turn in list(self._turns.values()):
            if turn.purpose is _NOTIFY_IDLE:
                turn.accepted_at = min(turn.accepted_at, now)
            slot = self._slots[turn.slot]
            match self.limits.expiry(turn, slot.down_since if slot.process is None else None, now):
                case Expiry.TIMEOUT:
                    self._cancel(turn, CancelReason.TIMEOUT, now, commands)
                case Expiry.START:
                    self._drop(turn, NOT_READY, commands)
                case Expiry.CANCELLATION:
                    self._give_up(turn, now, commands)
                case Expiry.REPLACEMENT:
                    self._replace(turn, now, commands)
        return commands

    def full(self, size: int = 1) -> Failure | None:
        """The reason why no turn with a body of `size` bytes can be accepted now, whatever its session and
        caller; None: one can."""
        if self.draining:
            return DRAINING
        return self.limits.refuse_any(len(self._turns) - self._notifying, self._held + size)

    # -- internal ---------------------------------------------------------------------------

    def _next(self, session_id: str, commands: list[Command]) -> None:
        """Dispatch the first turn of a session, if it waits and its slot has a process. If another process
        must be notified first, dispatch that notification instead."""
        turn = self._sessions[session_id][0]
        if turn.state is not _WAITING:
            return
        place = self._slots[turn.slot]
        if place.process is None:
            place.ready[session_id] = None
            return
        place.ready.pop(session_id, None)
        home = self.affinity.home(session_id)
        if home is not None and (home != place.process or turn.purpose is _FORGET):
            self.affinity.notified(session_id)
            self._notify(session_id, home, commands)
        else:
            self._dispatch(turn, place.process, commands)

    def _dispatch(self, turn: Turn, process: int, commands: list[Command]) -> None:
        turn.state, turn.process = _RUNNING, process
        self._count_on(process)
        commands.append(Dispatch(turn, process))

    def _notify(self, session_id: str, process: int, commands: list[Command]) -> None:
        """Dispatch the notification of a process that the session leaves, before any waiting turn."""
        self._last += 1
        slot = self.slot_of(session_id, self.slots)
        # `expire` sets the time of acceptance: the time is not known here.
        request = TurnRequest(session_id, StreamKind.IDLE, None, b"", "", {}, NO_EVENTS)
        run = Run(f"idle-{self._last}", session_id, StreamKind.IDLE, NO_EVENTS, math.inf)
        turn = Turn(self._last, request, run, slot, math.inf, _NOTIFY_IDLE)
        self._add(turn)
        self._dispatch(turn, process, commands)

    def _place(self, turn: Turn) -> None:
        """Move a waiting turn to the slot that serves its session now."""
        slot = self.slot_of(turn.session_id, self.slots)
        if turn.state is _WAITING and turn.slot != slot:
            self._slots[turn.slot].ready.pop(turn.session_id, None)
            self._slots[turn.slot].turns -= 1
            self._slots[slot].turns += 1
            turn.slot = slot

    def _cancel(self, turn: Turn, reason: CancelReason, now: float, commands: list[Command]) -> None:
        if turn.state is _WAITING:
            self._drop(turn, CANCELLED[reason], commands)
        elif turn.state is _RUNNING:
            assert turn.process is not None
            turn.state, turn.ending, turn.cancelled_at = _CANCELLING, CANCELLED[reason], now
            commands.append(Cancel(turn, turn.process, reason))

    def _drop(self, turn: Turn, failure: Failure, commands: list[Command]) -> None:
        """End a waiting turn."""
        commands.append(Complete(turn, reported(turn, failure)))
        self._forget(turn, commands)

    def _give_up(self, turn: Turn, now: float, commands: list[Command]) -> None:
        """End the run of a turn that ignored its cancellation, and wait for the turn no longer: its process
        may end before it does. Until then its session stays occupied, so that no other turn of it runs."""
        assert turn.process is not None
        turn.state = _SETTLED
        self._settled += 1
        self.affinity.notified(turn.session_id)  # no notification can run; the process must not wait for one
        commands.append(Complete(turn, turn.ending))
        self._replace(turn, now, commands)
        self._free(turn.process, commands)

    def _replace(self, turn: Turn, now: float, commands: list[Command]) -> None:
        assert turn.process is not None
        turn.replace_asked_at = now
        commands.append(ReplaceProcess(turn, turn.process))

    def _terminal(self, turn: Turn, failure: Failure | None) -> list[Command]:
        commands: list[Command] = []
        if turn.state is _SETTLED:
            self._settled -= 1
        else:
            assert turn.process is not None, "only a turn that was dispatched can end"
            commands.append(Complete(turn, turn.ending or (failure and reported(turn, failure))))
            self._free(turn.process, commands)
        self._forget(turn, commands)
        return commands

    def _free(self, process: int, commands: list[Command]) -> None:
        """A turn of this process has ended, or is no longer waited for."""
        if self._count_off(process):
            commands.append(Idle(process))

    def _forget(self, turn: Turn, commands: list[Command]) -> None:
        slot = self._slots[turn.slot]
        if turn.purpose is not _NOTIFY_IDLE:
            slot.turns -= 1
        if self._remove(turn):
            self._next(turn.session_id, commands)
        else:
            slot.ready.pop(turn.session_id, None)
