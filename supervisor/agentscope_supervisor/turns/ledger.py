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

Where to read next: `service` executes the commands; `domain.errors` has the error codes.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agentscope_protocol.wire.errors import Code
from agentscope_protocol.wire.frames import CancelReason, StreamKind
from agentscope_supervisor.domain.errors import ErrorCode, Failure, failed_again, of_worker, refusal
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
from agentscope_supervisor.turns.session_affinity import SessionAffinity

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


@dataclass(frozen=True, slots=True)
class TurnLimits:
    """Limits of the instance: the keys of the same names in agentapp.yaml. Times in seconds."""

    max_turns: int
    max_inflight: int  # turns of one slot
    max_queue: int  # waiting turns of one session
    max_turns_per_principal: int | None
    request_timeout: float  # 0: no timeout
    start_timeout: float
    cancel_grace: float
    retry_on_crash: bool = False  # if no event was sent to the client


_REASONS: Final = {
    CancelReason.CLIENT_GONE: Failure(ErrorCode.INTERRUPTED, "the client left"),
    CancelReason.TIMEOUT: Failure(ErrorCode.TIMEOUT, "the turn took longer than server.request_timeout"),
    CancelReason.INTERRUPTED: Failure(ErrorCode.INTERRUPTED, "the turn was stopped"),
    CancelReason.DRAINING: Failure(ErrorCode.DRAINING, "the instance is stopping"),
}
_SUPERSEDED: Final = Failure(ErrorCode.SUPERSEDED, "a newer message of this session replaced this one")
_NOT_READY: Final = refusal(ErrorCode.NOT_READY, "no worker became ready for this session in time")
_DRAINING: Final = refusal(ErrorCode.DRAINING, "the instance is stopping")

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


@dataclass(slots=True)
class Ledger:
    """Owner of the open turns. The caller reports each event with one method call, and executes the commands
    that it returns, in order.

    `slot_of`: the slot of a session, given the number of slots (`routing.slot_of`).
    """

    limits: TurnLimits
    slots: int
    slot_of: Callable[[str, int], int]
    draining: bool = False
    affinity: SessionAffinity = field(default_factory=lambda: SessionAffinity(math.inf))
    total: int = 0  # turns of clients accepted since the start
    _last: int = 0  # number of the newest turn
    _notifying: int = 0  # open turns with purpose NOTIFY_IDLE
    _turns: dict[int, Turn] = field(default_factory=dict)
    # The first turn of a list runs, or runs next. A list is short, and an empty deque would take 700 bytes.
    _sessions: dict[str, list[Turn]] = field(default_factory=dict)
    _slots: list[_Slot] = field(init=False)
    _on_process: dict[int, int] = field(default_factory=dict)  # turns that were dispatched and have not ended
    _by_principal: dict[str, int] = field(default_factory=dict)  # open turns
    _held: int = 0  # bytes of bodies
    _settled: int = 0  # turns in SETTLED

    def __post_init__(self) -> None:
        self._slots = [_Slot() for _ in range(self.slots)]

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

    def ahead(self, turn: Turn) -> int:
        """The number of turns of the session before a waiting turn; 0 if it has just ended."""
        turns = self._sessions.get(turn.session_id, ())
        return next((i for i, other in enumerate(turns) if other is turn), 0)

    def sessions(self) -> Mapping[str, Sequence[Turn]]:
        """The open turns of each session that has any; the first one runs, or runs next."""
        return self._sessions

    def assigned(self, slot: int) -> int | None:
        """The process that gets the turns of this slot; None: none, or the slot is unknown."""
        return self._slots[slot].process if slot < len(self._slots) else None

    def on_process(self, process: int) -> int:
        """The number of turns that were dispatched to this process and have not ended."""
        return self._on_process.get(process, 0)

    def running(self) -> int:
        """The number of turns that were dispatched to any process and have not ended."""
        return sum(self._on_process.values())

    # -- events -----------------------------------------------------------------------------

    def accept(
        self, request: TurnRequest, run: Run, on_busy: OnBusy, now: float, purpose: Purpose = _CLIENT
    ) -> tuple[Turn | Failure, list[Command]]:
        """A request arrived. Returns its turn, or the reason for its refusal. `purpose`: not NOTIFY_IDLE."""
        session_id, principal, size = request.session_id, request.principal, len(request.body)
        queue = self._sessions.get(session_id)
        slot = self.slot_of(session_id, self.slots)
        failure = self._refusal(slot, size, principal) or (queue and self._busy(queue, on_busy)) or None
        if failure is not None:
            return failure, []
        self.total += purpose is _CLIENT
        self._last += 1
        turn = Turn(self._last, request, run, slot, now, purpose)
        self._turns[turn.number] = turn
        self._slots[slot].turns += 1
        self._held += size
        self._by_principal[principal] = self._by_principal.get(principal, 0) + 1
        commands: list[Command] = []
        if queue is None:
            self._sessions[session_id] = [turn]
            self._next(session_id, commands)
            return turn, commands
        earlier = list(queue)
        queue.append(turn)
        if on_busy == "interrupt" and earlier[0].purpose is _CLIENT:
            self._cancel(earlier[0], CancelReason.INTERRUPTED, now, commands)
        elif on_busy == "latest":
            for other in earlier:
                # A turn that waits to run again has begun once: a newer message does not replace it.
                waits = other.state is _WAITING and not other.crashes
                if waits and other.purpose is _CLIENT:
                    self._drop(other, _SUPERSEDED, commands)
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
            self._count_off(turn.process, commands)
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
                self._sessions[session_id] = []
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
            self._drop(turn, _DRAINING, commands)
        return commands

    def close(self) -> list[Command]:
        """No process is left, and none will start: end every open turn."""
        commands = self.drain()
        for turn in list(self._turns.values()):
            commands += self._terminal(turn, _DRAINING)
        return commands

    def expire(self, now: float) -> list[Command]:
        """End or cancel the turns whose time is over. The caller must call this about every second while
        there are turns."""
        commands: list[Command] = []
        limits = self.limits
        for turn in list(self._turns.values()):
            if turn.state is _CANCELLING:
                if now - turn.cancelled_at >= limits.cancel_grace:
                    self._give_up(turn, now, commands)
            elif turn.state is _SETTLED:
                if now - turn.replace_asked_at >= REPLACE_AGAIN_AFTER:
                    self._replace(turn, now, commands)
            elif turn.purpose is _NOTIFY_IDLE:
                turn.accepted_at = min(turn.accepted_at, now)
                if now - turn.accepted_at >= NOTIFY_WITHIN:
                    self._cancel(turn, CancelReason.TIMEOUT, now, commands)
            else:
                place = self._slots[turn.slot]
                if limits.request_timeout and now - turn.accepted_at >= limits.request_timeout:
                    self._cancel(turn, CancelReason.TIMEOUT, now, commands)
                elif (
                    turn.state is _WAITING
                    and place.process is None
                    and now - max(turn.accepted_at, place.down_since) >= limits.start_timeout
                ):
                    self._drop(turn, _NOT_READY, commands)
        return commands

    def full(self, size: int = 1) -> Failure | None:
        """The reason why no turn with a body of `size` bytes can be accepted now, whatever its session and
        caller; None: one can."""
        if self.draining:
            return _DRAINING
        if len(self._turns) - self._notifying >= self.limits.max_turns:
            return refusal(ErrorCode.OVERLOADED, f"the instance has {self.limits.max_turns} turns already")
        if self._held + size > MAX_HELD_BODIES:
            return refusal(ErrorCode.OVERLOADED, "the open turns hold too many bytes already")
        return None

    # -- internal ---------------------------------------------------------------------------

    def _refusal(self, slot: int, size: int, principal: str) -> Failure | None:
        limits, failure = self.limits, self.full(size)
        if failure is not None:
            return failure
        if self._slots[slot].turns >= limits.max_inflight:
            return refusal(ErrorCode.OVERLOADED, f"the worker has {limits.max_inflight} turns already")
        most = limits.max_turns_per_principal
        if most is not None and self._by_principal.get(principal, 0) >= most:
            return refusal(ErrorCode.TOO_MANY_REQUESTS, f"this caller has {most} turns already")
        return None

    def _busy(self, queue: list[Turn], on_busy: OnBusy) -> Failure | None:
        if on_busy == "reject" and any(turn.purpose is _CLIENT for turn in queue):
            return refusal(ErrorCode.SESSION_BUSY, "a turn of this session is running")
        # With `latest`, this turn replaces the waiting ones: the limit cannot be exceeded.
        turns = len(queue) - (queue[0].purpose is _NOTIFY_IDLE)
        if on_busy != "latest" and turns > self.limits.max_queue:
            message = f"{self.limits.max_queue} turns of this session wait already"
            return refusal(ErrorCode.TOO_MANY_REQUESTS, message)
        return None

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
        self._on_process[process] = self.on_process(process) + 1
        commands.append(Dispatch(turn, process))

    def _notify(self, session_id: str, process: int, commands: list[Command]) -> None:
        """Dispatch the notification of a process that the session leaves, before any waiting turn."""
        self._last += 1
        self._notifying += 1
        slot = self.slot_of(session_id, self.slots)
        # `expire` sets the time of acceptance: the time is not known here.
        request = TurnRequest(session_id, StreamKind.IDLE, None, b"", "", {}, NO_EVENTS)
        run = Run(f"idle-{self._last}", session_id, StreamKind.IDLE, NO_EVENTS, math.inf)
        turn = Turn(self._last, request, run, slot, math.inf, _NOTIFY_IDLE)
        self._turns[turn.number] = turn
        self._sessions[session_id].insert(0, turn)
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
            self._drop(turn, _REASONS[reason], commands)
        elif turn.state is _RUNNING:
            assert turn.process is not None
            turn.state, turn.ending, turn.cancelled_at = _CANCELLING, _REASONS[reason], now
            commands.append(Cancel(turn, turn.process, reason))

    def _drop(self, turn: Turn, failure: Failure, commands: list[Command]) -> None:
        """End a waiting turn."""
        commands.append(Complete(turn, _reported(turn, failure)))
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
        self._count_off(turn.process, commands)

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
            commands.append(Complete(turn, turn.ending or (failure and _reported(turn, failure))))
            self._count_off(turn.process, commands)
        self._forget(turn, commands)
        return commands

    def _count_off(self, process: int, commands: list[Command]) -> None:
        """A process has one open turn less."""
        left = self._on_process.pop(process) - 1
        if left:
            self._on_process[process] = left
        else:
            commands.append(Idle(process))

    def _forget(self, turn: Turn, commands: list[Command]) -> None:
        assert self._turns.pop(turn.number, None) is turn, "a turn ends once"
        place = self._slots[turn.slot]
        if turn.purpose is _NOTIFY_IDLE:
            self._notifying -= 1
        else:
            place.turns -= 1
            self._held -= len(turn.request.body)
            count = self._by_principal.pop(turn.request.principal) - 1
            if count:
                self._by_principal[turn.request.principal] = count
        queue = self._sessions[turn.session_id]
        queue.remove(turn)
        if queue:
            self._next(turn.session_id, commands)
        else:
            del self._sessions[turn.session_id]
            place.ready.pop(turn.session_id, None)


def _reported(turn: Turn, failure: Failure) -> Failure:
    """The failure to report. After a crash it must not say that the turn never began."""
    return failed_again(failure) if turn.crashes else failure
