"""The turns against clients and workers that do what they like, in virtual time, with a model beside them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any, Final, Literal, get_args

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentscope_protocol.wire.errors import Code
from agentscope_protocol.wire.frames import CancelReason, StreamKind
from agentscope_supervisor.domain.errors import ErrorCode, Failure, of_worker
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
from agentscope_supervisor.turns.ledger import (
    CRASH_RETRIES,
    MAX_HELD_BODIES,
    MAX_NOTIFYING,
    NOTIFY_WITHIN,
    REPLACE_AGAIN_AFTER,
    Ledger,
    TurnLimits,
)
from agentscope_supervisor.turns.session_affinity import SessionAffinity
from agentscope_supervisor.web.dialects.native import NATIVE

SESSIONS: Final = ("s0", "s1", "s2")
IDLE_AFTER: Final = 100.0
PRINCIPALS: Final = ("ann", "bob")
SIZES: Final = (10, 10, MAX_HELD_BODIES // 4)
ENDINGS: Final = {
    CancelReason.CLIENT_GONE: ErrorCode.INTERRUPTED,
    CancelReason.TIMEOUT: ErrorCode.TIMEOUT,
    CancelReason.INTERRUPTED: ErrorCode.INTERRUPTED,
    CancelReason.DRAINING: ErrorCode.DRAINING,
}


def slot_of(session: str, slots: int) -> int:
    """A sharing out that a reader can follow: s0, s1 and s2 take turns, all others are in slot 0."""
    return SESSIONS.index(session) % slots if session in SESSIONS else 0


@cache
def body(size: int) -> bytes:
    return bytes(size)


def asked(
    run_id: str,
    session: str,
    size: int = 2,
    principal: str = "ann",
    kind: StreamKind = StreamKind.EVENTS,
) -> tuple[TurnRequest, Run]:
    """A request for a turn, and the run that the turn would have."""
    request = TurnRequest(session, kind, None, body(size), principal, {}, NATIVE)
    return request, Run(run_id, session, kind, NATIVE, 0.0)


Ended = Mapping[Turn, ErrorCode | None]


@dataclass
class Known:
    """What the model knows of one accepted turn."""

    on: int | None = None  # the process that has it
    dispatches: int = 0
    unsent: int = 0  # times that it provably never left
    crashes: int = 0  # times that it was lost and may run again
    cancelled_at: float | None = None
    ending: ErrorCode | None = None
    settled: bool = False
    replace_asked_at: float = 0.0

    @property
    def over(self) -> bool:
        return self.settled and self.on is None

    @property
    def waits(self) -> bool:
        return not self.settled and self.on is None

    @property
    def runs(self) -> bool:
        return not self.settled and self.on is not None and self.cancelled_at is None


class World(RuleBasedStateMachine):
    """Clients and workers. `known` is in order of arrival and keeps every turn that ever was."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.known: dict[Turn, Known] = {}
        self.processes = count(1)
        self.assigned: list[int | None] = []
        self.down_since: list[float] = []
        self.draining = False

    @initialize(
        slots=st.integers(1, 2),
        most=st.sampled_from([None, 2]),
        request_timeout=st.sampled_from([0.0, 30.0]),
        up=st.sampled_from([True, True, False]),
        repeats=st.booleans(),
    )
    def begin(self, slots: int, most: int | None, request_timeout: float, up: bool, repeats: bool) -> None:
        self.limits = TurnLimits(
            max_turns=6,
            max_inflight=5,
            max_queue=2,
            max_turns_per_principal=most,
            request_timeout=request_timeout,
            start_timeout=10.0,
            cancel_grace=5.0,
            retry_on_crash=repeats,
        )
        self.ledger = Ledger(self.limits, slots, slot_of)
        self.assigned, self.down_since = [None] * slots, [0.0] * slots
        for slot in range(slots if up else 0):
            self.a_process_takes_over(slot)

    # -- the model --------------------------------------------------------------------------

    def open(self, session: str | None = None) -> list[Turn]:
        """Turns that are not over, in order of arrival; of one session or of all."""
        return [t for t, k in self.known.items() if not k.over and session in (None, t.session_id)]

    def waiting(self, session: str | None = None) -> list[Turn]:
        return [turn for turn in self.open(session) if self.known[turn].waits]

    def running(self, session: str | None = None) -> list[Turn]:
        return [turn for turn in self.open(session) if self.known[turn].runs]

    def held(self) -> list[Turn]:
        return [turn for turn, known in self.known.items() if known.on is not None]

    def do(
        self,
        commands: Iterable[Command],
        ended: Ended | None = None,
        cancelled: Mapping[Turn, CancelReason] | None = None,
        replaced: Iterable[Turn] = (),
        idle: Iterable[int] = (),
    ) -> None:
        """Carry out, and compare with what the model says must come of this; dispatches are checked alone."""
        settles: dict[Turn, ErrorCode | None] = {}
        cancels: dict[Turn, CancelReason] = {}
        replaces: list[Turn] = []
        idles: list[int] = []
        for command in commands:
            match command:
                case Dispatch(turn, process):
                    known = self.known[turn]
                    assert not self.draining
                    assert process == self.assigned[turn.slot]
                    assert self.open(turn.session_id)[0] is turn, "out of order, or two at a time"
                    assert known.waits
                    assert known.crashes <= CRASH_RETRIES
                    again = known.unsent + known.crashes
                    assert known.dispatches == again, "a turn that may have begun was dispatched again"
                    known.on, known.dispatches = process, known.dispatches + 1
                case Cancel(turn, process, reason):
                    known = self.known[turn]
                    assert known.runs
                    assert known.on == process
                    known.cancelled_at, known.ending = self.now, ENDINGS[reason]
                    cancels[turn] = reason
                case Complete(turn, failure):
                    known = self.known[turn]
                    assert not known.settled, "settled twice"
                    known.settled = True
                    assert not (known.crashes and failure and failure.retryable), "the App has seen it"
                    assert turn.is_open
                    turn.run.end(failure, self.now)
                    settles[turn] = failure.code if failure is not None else None
                case Idle(process):
                    idles.append(process)
                case ReplaceProcess(turn, process):
                    assert self.known[turn].on == process
                    replaces.append(turn)
        assert settles == (ended or {})
        assert cancels == (cancelled or {})
        assert replaces == list(replaced)
        assert idles == list(idle)

    def leaves(self, turn: Turn) -> list[int]:
        """The turn's process has no more to do with it; that process, if this was its last."""
        known = self.known[turn]
        process, known.on = known.on, None
        assert process is not None
        return [] if known.settled or self.is_waited_for(process) else [process]

    def is_waited_for(self, process: int, but: Iterable[Turn] = ()) -> bool:
        """Whether it has a turn that has not been given up."""
        given_up = {id(self.known[turn]) for turn in but}
        return any(k.on == process and not k.settled and id(k) not in given_up for k in self.known.values())

    def refusal(
        self, session: str, slot: int, size: int, principal: str, on_busy: OnBusy
    ) -> ErrorCode | None:
        turns, limits = self.open(), self.limits
        if self.draining:
            return ErrorCode.DRAINING
        if len(turns) >= limits.max_turns or sum(t.slot == slot for t in turns) >= limits.max_inflight:
            return ErrorCode.OVERLOADED
        if sum(len(turn.request.body) for turn in turns) + size > MAX_HELD_BODIES:
            return ErrorCode.OVERLOADED
        most = limits.max_turns_per_principal
        if most is not None and sum(turn.request.principal == principal for turn in turns) >= most:
            return ErrorCode.TOO_MANY_REQUESTS
        of_session = self.open(session)
        if of_session and on_busy == "reject":
            return ErrorCode.SESSION_BUSY
        if on_busy != "latest" and len(of_session) > limits.max_queue:
            return ErrorCode.TOO_MANY_REQUESTS
        return None

    # -- what clients do --------------------------------------------------------------------

    @rule(
        session=st.sampled_from(SESSIONS),
        on_busy=st.sampled_from(get_args(OnBusy)),
        size=st.sampled_from(SIZES),
        principal=st.sampled_from(PRINCIPALS),
    )
    def a_client_submits(self, session: str, on_busy: OnBusy, size: int, principal: str) -> None:
        slot = slot_of(session, self.ledger.slots)
        expected = self.refusal(session, slot, size, principal, on_busy)
        earlier, waiting, running = self.open(session), self.waiting(session), self.running(session)
        run_id = f"run-{len(self.known)}"
        request, run = asked(run_id, session, size, principal)
        turn, commands = self.ledger.accept(request, run, on_busy, self.now)
        if isinstance(turn, Failure):
            assert turn.code is expected
            assert commands == []
            return
        assert expected is None
        assert (turn.number, turn.accepted_at) == (len(self.known) + 1, self.now)
        assert (turn.request, turn.run, turn.run_id) == (request, run, run_id)
        self.known[turn] = Known()
        told: dict[Turn, ErrorCode | None] = {}
        cancelled: dict[Turn, CancelReason] = {}
        if on_busy == "latest":
            told = {t: ErrorCode.SUPERSEDED for t in waiting if not self.known[t].crashes}
        elif on_busy == "interrupt" and earlier:
            if earlier[0] in waiting:
                told = {earlier[0]: ErrorCode.INTERRUPTED}
            cancelled = dict.fromkeys(running, CancelReason.INTERRUPTED)
        self.do(commands, told, cancelled)

    def unsettled(self) -> list[Turn]:
        return [turn for turn in self.open() if not self.known[turn].settled]

    @precondition(lambda self: self.unsettled())
    @rule(data=st.data(), reason=st.sampled_from(CancelReason))
    def a_turn_is_cancelled(self, data: st.DataObject, reason: CancelReason) -> None:
        turn = data.draw(st.sampled_from(self.unsettled()))
        known = self.known[turn]
        told = {turn: ENDINGS[reason]} if known.waits else {}
        cancelled = {turn: reason} if known.runs else {}
        self.do(self.ledger.cancel(turn, reason, self.now), told, cancelled)

    @rule(session=st.sampled_from(SESSIONS))
    def a_session_is_stopped(self, session: str) -> None:
        self.stopped(self.waiting(session), self.running(session), session_id=session)

    @rule(data=st.data())
    def a_run_is_stopped(self, data: st.DataObject) -> None:
        """Also one that is over, and one that never was."""
        run_id = data.draw(st.sampled_from([turn.run_id for turn in self.known] + ["never"]))
        waiting = [turn for turn in self.waiting() if turn.run_id == run_id]
        running = [turn for turn in self.running() if turn.run_id == run_id]
        self.stopped(waiting, running, run_id=run_id)

    def stopped(self, waiting: list[Turn], running: list[Turn], **which: str) -> None:
        hit, commands = self.ledger.interrupt(self.now, **which)
        assert hit == len(waiting) + len(running)
        assert not any(isinstance(command, Dispatch) and command.turn in waiting for command in commands)
        self.do(
            commands,
            dict.fromkeys(waiting, ErrorCode.INTERRUPTED),
            dict.fromkeys(running, CancelReason.INTERRUPTED),
        )

    # -- what workers and the fleet do --------------------------------------------------------

    def assign(self, slot: int, process: int | None) -> None:
        if process is None and self.assigned[slot] is not None:
            self.down_since[slot] = self.now
        self.assigned[slot] = process
        self.do(self.ledger.assign(slot, process, self.now))

    @rule(data=st.data())
    def a_process_becomes_ready(self, data: st.DataObject) -> None:
        self.a_process_takes_over(data.draw(st.integers(0, len(self.assigned) - 1)))

    def a_process_takes_over(self, slot: int) -> None:
        self.assign(slot, next(self.processes))

    @rule(data=st.data(), really=st.sampled_from([False, True]))
    def a_slot_loses_its_process(self, data: st.DataObject, really: bool) -> None:
        """It may live on for a while, with its turns. The loss may be told again."""
        if really:
            self.assign(data.draw(st.integers(0, len(self.assigned) - 1)), None)

    @rule(slots=st.integers(1, 3))
    def sessions_are_shared_out_anew(self, slots: int) -> None:
        for _ in range(len(self.assigned), slots):
            self.assigned.append(None)
            self.down_since.append(self.now)
        self.do(self.ledger.resize(slots, self.now))

    @precondition(lambda self: self.held())
    @rule(data=st.data())
    def a_turn_ends(self, data: st.DataObject) -> None:
        turn = data.draw(st.sampled_from(self.held()))
        known = self.known[turn]
        told = {} if known.settled else {turn: known.ending}
        idle = self.leaves(turn)
        self.do(self.ledger.ended(turn), told, idle=idle)

    @precondition(lambda self: self.held())
    @rule(data=st.data(), code=st.sampled_from([*Code, Code.UNSENT]), harmless=st.booleans())
    def a_turn_fails(self, data: st.DataObject, code: Code, harmless: bool) -> None:
        self.fails(data.draw(st.sampled_from(self.held())), code, harmless)

    def fails(self, turn: Turn, code: Code, harmless: bool) -> None:
        known, may = self.known[turn], harmless and self.limits.retry_on_crash
        live = known.runs and not self.draining
        unsent = live and code is Code.UNSENT
        crashed = live and code is Code.LINK_LOST and may and known.crashes < CRASH_RETRIES
        ending = known.ending or self.honest(turn, of_worker(code, "").code, of_worker(code, "").retryable)
        told = {} if known.settled or unsent or crashed else {turn: ending}
        known.unsent += unsent
        known.crashes += crashed
        idle = self.leaves(turn)
        self.do(self.ledger.failed(turn, code, "no", harmless=harmless), told, idle=idle)

    def honest(self, turn: Turn, code: ErrorCode, retryable: bool) -> ErrorCode:
        """What the client is told: of a turn that the App has seen, nothing that says it has not."""
        return ErrorCode.WORKER_LOST if self.known[turn].crashes and retryable else code

    @precondition(lambda self: self.held())
    @rule(data=st.data())
    def a_process_dies(self, data: st.DataObject) -> None:
        process = data.draw(st.sampled_from(sorted({self.known[turn].on or 0 for turn in self.held()})))
        if process in self.assigned:
            self.assign(self.assigned.index(process), None)
        for turn in [turn for turn in self.held() if self.known[turn].on == process]:
            code = data.draw(st.sampled_from([Code.LINK_LOST, Code.UNSENT]))
            self.fails(turn, code, harmless=data.draw(st.booleans()))

    @precondition(lambda self: self.held())
    @rule(data=st.data())
    def a_process_has_no_time_left(self, data: st.DataObject) -> None:
        process = data.draw(st.sampled_from(sorted({self.known[turn].on or 0 for turn in self.held()})))
        cut = [turn for turn in self.running() if self.known[turn].on == process]
        self.do(self.ledger.cut(process, self.now), {}, dict.fromkeys(cut, CancelReason.DRAINING))

    # -- time, and the end --------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 5.0, 9.5, 10.0, 31.0, REPLACE_AGAIN_AFTER]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        told: dict[Turn, ErrorCode | None] = {}
        cancelled: dict[Turn, CancelReason] = {}
        replaced: list[Turn] = []
        given_up: list[Turn] = []
        for turn in self.open():
            known, limit = self.known[turn], self.limits.request_timeout
            if known.settled:
                if self.now - known.replace_asked_at >= REPLACE_AGAIN_AFTER:
                    replaced.append(turn)
            elif known.cancelled_at is not None:
                if self.now - known.cancelled_at >= self.limits.cancel_grace:
                    told[turn] = known.ending
                    replaced.append(turn)
                    given_up.append(turn)
            elif limit and self.now - turn.accepted_at >= limit:
                if known.waits:
                    told[turn] = ErrorCode.TIMEOUT
                else:
                    cancelled[turn] = CancelReason.TIMEOUT
            elif known.waits and self.assigned[turn.slot] is None:
                since = max(turn.accepted_at, self.down_since[turn.slot])
                if self.now - since >= self.limits.start_timeout:
                    told[turn] = self.honest(turn, ErrorCode.NOT_READY, retryable=True)
        idle = []
        for turn in replaced:
            self.known[turn].replace_asked_at = self.now
        for number, turn in enumerate(given_up):
            process = self.known[turn].on
            assert process is not None
            if not self.is_waited_for(process, given_up[: number + 1]):
                idle.append(process)
        self.do(self.ledger.expire(self.now), told, cancelled, replaced, idle)

    @precondition(lambda self: not self.draining)
    @rule(really=st.sampled_from([False] * 6 + [True]))
    def the_instance_stops(self, really: bool) -> None:
        if really:
            self.draining = True
            told = {turn: self.honest(turn, ErrorCode.DRAINING, retryable=True) for turn in self.waiting()}
            self.do(self.ledger.drain(), told)

    # -- what must hold ---------------------------------------------------------------------

    @invariant()
    def whoever_can_run_does(self) -> None:
        for session in SESSIONS:
            turns = self.open(session)
            assert all(self.known[turn].waits for turn in turns[1:]), "two turns of a session overlap"
            if turns and self.known[turns[0]].waits:
                assert turns[0].slot == slot_of(session, self.ledger.slots)
                assert self.assigned[turns[0].slot] is None
                assert not self.draining

    @invariant()
    def it_counts_right(self) -> None:
        held = Counter(self.known[turn].on for turn in self.held() if not self.known[turn].settled)
        turns = self.open()
        assert len(self.ledger) == len(turns)
        unsettled = self.unsettled()
        assert self.ledger.open == len(unsettled)
        assert sorted(self.ledger.active_sessions()) == sorted(turn.session_id for turn in unsettled)
        assert self.ledger.total == len(self.known)
        assert self.ledger.running() == held.total()
        assert all(self.ledger.on_process(process) == n for process, n in held.items() if process)
        assert self.ledger.on_process(-1) == 0
        assert [self.ledger.assigned(slot) for slot in range(len(self.assigned))] == self.assigned
        for turn in self.waiting():
            assert self.ledger.ahead(turn) == self.open(turn.session_id).index(turn)

    @invariant()
    def turns_say_where_they_are(self) -> None:
        for turn in self.open():
            known = self.known[turn]
            assert turn.process == known.on
            assert (turn.state is TurnState.WAITING) is known.waits
            assert (turn.state is TurnState.RUNNING) is known.runs
            assert (turn.state is TurnState.SETTLED) is known.settled
            assert turn.is_open is not known.settled
            assert self.ledger.turn_of(turn.run) is turn
        assert all(self.ledger.turn_of(turn.run) is None for turn, known in self.known.items() if known.over)

    def teardown(self) -> None:
        if self.assigned:
            for turn in self.held()[::2]:
                self.fails(turn, Code.LINK_LOST, harmless=False)
            remaining = {
                turn: self.known[turn].ending or self.honest(turn, ErrorCode.DRAINING, retryable=True)
                for turn in self.unsettled()
            }
            processes = {self.known[turn].on for turn in self.held()}
            self.draining = True
            commands = self.ledger.close()
            assert {command.process for command in commands if isinstance(command, Idle)} <= processes
            self.do([command for command in commands if not isinstance(command, Idle | Dispatch)], remaining)
            assert all(known.settled for known in self.known.values())
            assert_nothing_is_kept(self.ledger)


def assert_nothing_is_kept(ledger: Ledger) -> None:
    assert len(ledger) == ledger.open == ledger.running() == 0
    assert not any([ledger._turns, ledger._sessions, ledger._on_process, ledger._by_principal])
    assert ledger._held == 0
    assert all(slot.turns == 0 and slot.ready == {} for slot in ledger._slots)


# -- examples ------------------------------------------------------------------------------------


class Book:
    """A ledger with one slot, in which time stands still unless told otherwise."""

    def __init__(
        self, process: int | None = 1, affinity: SessionAffinity | None = None, **limits: Any
    ) -> None:
        bounds: dict[str, Any] = {
            "max_turns": 100,
            "max_inflight": 100,
            "max_queue": 16,
            "max_turns_per_principal": None,
            "request_timeout": 600.0,
            "start_timeout": 60.0,
            "cancel_grace": 10.0,
        }
        self.ledger = Ledger(TurnLimits(**bounds | limits), 1, slot_of, affinity=affinity)
        self.ledger.assign(0, process, 0.0)

    def submit(
        self,
        session: str = "s",
        on_busy: OnBusy = "queue",
        *,
        size: int = 10,
        principal: str = "ann",
        now: float = 0.0,
    ) -> tuple[Turn, list[Command]]:
        number = self.ledger.total + 1
        request, run = asked(f"r{number}", session, size, principal)
        turn, commands = self.ledger.accept(request, run, on_busy, now)
        assert isinstance(turn, Turn)
        return turn, commands

    def refused(
        self, session: str = "s", on_busy: OnBusy = "queue", *, size: int = 10, principal: str = "ann"
    ) -> tuple[ErrorCode, int, bool]:
        failure, commands = self.ledger.accept(*asked("r", session, size, principal), on_busy, 0.0)
        assert isinstance(failure, Failure)
        assert failure.message
        assert commands == []
        return failure.code, failure.status, failure.retryable


def settled(commands: list[Command]) -> list[tuple[Turn, ErrorCode, bool]]:
    """The turns that were told a failure, with its code and whether it may be retried."""
    return [
        (c.turn, c.failure.code, c.failure.retryable)
        for c in commands
        if isinstance(c, Complete) and c.failure
    ]


def test_a_turn_is_handed_over_runs_and_ends() -> None:
    book = Book()
    turn, commands = book.submit()
    assert commands == [Dispatch(turn, 1)]
    assert (book.ledger.on_process(1), book.ledger.running()) == (1, 1)
    assert book.ledger.ended(turn) == [Complete(turn, None), Idle(1)]
    assert_nothing_is_kept(book.ledger)


def test_queue_runs_the_turns_of_a_session_one_at_a_time_in_order_of_arrival() -> None:
    book = Book()
    (a, _), (b, to_b), (c, to_c) = book.submit(), book.submit(), book.submit()
    assert to_b == to_c == []
    assert [book.ledger.ahead(turn) for turn in (a, b, c)] == [0, 1, 2]
    assert book.ledger.ended(a)[-1] == Dispatch(b, 1)
    assert book.ledger.ahead(a) == 0, "who asks has not been told yet"
    assert book.ledger.ended(b)[-1] == Dispatch(c, 1)
    book.ledger.ended(c)
    assert book.ledger.ahead(c) == 0


def test_queue_has_a_bound_for_each_session() -> None:
    book = Book(max_queue=2)
    for _ in range(3):
        book.submit()
    assert book.refused() == (ErrorCode.TOO_MANY_REQUESTS, 429, True)
    book.submit("another")


def test_reject_refuses_a_second_turn_of_the_session_only() -> None:
    book = Book()
    turn, _ = book.submit(on_busy="reject")
    assert book.refused(on_busy="reject") == (ErrorCode.SESSION_BUSY, 409, True)
    book.submit("another", "reject")
    book.ledger.ended(turn)
    book.submit(on_busy="reject")


def test_interrupt_ends_the_running_turn_and_takes_its_place_when_it_has_ended() -> None:
    book = Book()
    old, _ = book.submit()
    new, commands = book.submit(on_busy="interrupt")
    assert commands == [Cancel(old, 1, CancelReason.INTERRUPTED)]
    commands = book.ledger.failed(old, Code.CANCELLED, "")
    assert settled(commands) == [(old, ErrorCode.INTERRUPTED, False)]
    assert commands[-1] == Dispatch(new, 1)


def test_a_second_interrupt_does_not_cancel_again() -> None:
    book = Book()
    book.submit()
    book.submit(on_busy="interrupt")
    assert book.submit(on_busy="interrupt")[1] == []


def test_latest_keeps_the_running_turn_and_of_those_that_wait_the_newest() -> None:
    book = Book()
    running, _ = book.submit()
    waiting, _ = book.submit()
    newest, commands = book.submit(on_busy="latest")
    assert settled(commands) == [(waiting, ErrorCode.SUPERSEDED, False)]
    assert book.ledger.ended(running)[-1] == Dispatch(newest, 1)


def test_latest_is_taken_although_the_queue_is_full() -> None:
    book = Book(max_queue=1)
    book.submit()
    book.submit()
    book.refused()
    book.submit(on_busy="latest")


def test_latest_while_the_slot_has_no_process_keeps_the_newest_of_all() -> None:
    book = Book(process=None)
    for _ in range(3):
        newest, _ = book.submit(on_busy="latest")
    assert book.ledger.assign(0, 7, 1.0) == [Dispatch(newest, 7)]


@pytest.mark.parametrize(
    "limits, code, status",
    [
        ({"max_turns": 2}, ErrorCode.OVERLOADED, 503),
        ({"max_inflight": 2}, ErrorCode.OVERLOADED, 503),
        ({"max_turns_per_principal": 2}, ErrorCode.TOO_MANY_REQUESTS, 429),
    ],
)
def test_limits_of_turns(limits: dict[str, int], code: ErrorCode, status: int) -> None:
    book = Book(**limits)
    turn, _ = book.submit("a")
    book.submit("b")
    assert book.refused("c") == (code, status, True)
    book.ledger.ended(turn)
    book.submit("c")


def test_the_limit_of_a_principal_is_its_own() -> None:
    book = Book(max_turns_per_principal=1)
    book.submit("a")
    book.refused("b")
    book.submit("c", principal="bob")


def test_the_limit_of_a_slot_is_its_own() -> None:
    ledger = Ledger(Book(max_inflight=1).ledger.limits, 2, slot_of)
    for session in ("s0", "s1"):
        turn, _ = ledger.accept(*asked("r", session), "queue", 0.0)
        assert isinstance(turn, Turn)


def test_the_bodies_of_open_turns_have_a_bound() -> None:
    book = Book()
    turn, _ = book.submit("a", size=MAX_HELD_BODIES - 10)
    book.submit("b", size=10)
    assert book.refused("c", size=1) == (ErrorCode.OVERLOADED, 503, True)
    book.ledger.ended(turn)
    book.submit("c", size=MAX_HELD_BODIES - 10)


def test_turns_wait_while_their_slot_has_no_process_and_go_in_order_when_it_has() -> None:
    book = Book(process=None)
    turns = [book.submit(session)[0] for session in ("a", "b", "a")]
    assert book.ledger.assign(0, 5, 1.0) == [Dispatch(turns[0], 5), Dispatch(turns[1], 5)]


def test_a_turn_that_waits_too_long_for_a_process_is_told_so() -> None:
    book = Book(process=None, start_timeout=60.0)
    turn, _ = book.submit(now=10.0)
    assert book.ledger.expire(69.9) == []
    assert settled(book.ledger.expire(70.0)) == [(turn, ErrorCode.NOT_READY, True)]


def test_the_wait_for_a_process_is_counted_from_the_loss_of_the_last_one() -> None:
    book = Book(start_timeout=60.0)
    running, _ = book.submit(now=0.0)
    waiting, _ = book.submit(now=0.0)
    book.ledger.assign(0, None, 100.0)
    book.ledger.assign(0, None, 130.0)
    book.ledger.failed(running, Code.LINK_LOST, "")
    assert book.ledger.expire(159.9) == []
    assert settled(book.ledger.expire(160.0)) == [(waiting, ErrorCode.NOT_READY, True)]


def test_a_turn_behind_another_waits_for_that_one_and_not_for_a_process() -> None:
    book = Book(start_timeout=1.0)
    book.submit()
    book.submit()
    assert book.ledger.expire(500.0) == []


def test_a_turn_that_never_left_a_dead_process_goes_to_the_next() -> None:
    book = Book()
    turn, _ = book.submit()
    book.ledger.assign(0, None, 1.0)
    assert book.ledger.failed(turn, Code.UNSENT, "") == [Idle(1)]
    assert book.ledger.assign(0, 2, 2.0) == [Dispatch(turn, 2)]


def test_a_turn_that_may_have_begun_is_lost_with_its_process() -> None:
    book = Book()
    turn, _ = book.submit()
    assert settled(book.ledger.failed(turn, Code.LINK_LOST, "")) == [(turn, ErrorCode.WORKER_LOST, False)]


def crash(book: Book, turn: Turn, *, harmless: bool = True) -> list[Command]:
    """The process that has this turn dies under it; the slot has none then."""
    book.ledger.assign(0, None, 1.0)
    return book.ledger.failed(turn, Code.LINK_LOST, "", harmless=harmless)


def test_a_harmless_turn_runs_again_in_its_place_where_that_is_allowed() -> None:
    book = Book(retry_on_crash=True)
    turn, _ = book.submit()
    waiting, _ = book.submit()
    assert crash(book, turn) == [Idle(1)]
    assert (turn.state, book.ledger.ahead(waiting)) == (TurnState.WAITING, 1)
    assert book.ledger.assign(0, 2, 2.0) == [Dispatch(turn, 2)], "before those that wait"
    assert book.ledger.ended(turn) == [Complete(turn, None), Idle(2), Dispatch(waiting, 2)]


@pytest.mark.parametrize("allowed, harmless", [(False, True), (True, False)])
def test_a_turn_is_not_repeated_unless_that_is_allowed_and_harmless(allowed: bool, harmless: bool) -> None:
    book = Book(retry_on_crash=allowed)
    turn, _ = book.submit()
    assert settled(crash(book, turn, harmless=harmless)) == [(turn, ErrorCode.WORKER_LOST, False)]


def test_a_turn_is_repeated_once_and_then_told_of_both_deaths() -> None:
    book = Book(retry_on_crash=True)
    turn, _ = book.submit()
    crash(book, turn)
    book.ledger.assign(0, 2, 2.0)
    commands = crash(book, turn)
    assert settled(commands) == [(turn, ErrorCode.WORKER_LOST, False)]
    assert isinstance(commands[0], Complete)
    assert commands[0].failure is not None
    assert "the retry failed too: the worker died" in commands[0].failure.message


def test_an_app_error_of_a_repeated_turn_is_told_as_it_is() -> None:
    book = Book(retry_on_crash=True)
    turn, _ = book.submit()
    crash(book, turn)
    book.ledger.assign(0, 2, 2.0)
    failed = book.ledger.failed(turn, Code.APP_ERROR, "no")
    assert failed == [Complete(turn, Failure(ErrorCode.APP_ERROR, "no")), Idle(2)]


def test_a_turn_that_is_cancelled_is_not_repeated_whether_its_process_lives_or_has_died() -> None:
    book = Book(retry_on_crash=True)
    (a, _), (b, _) = book.submit("a"), book.submit("b")
    book.ledger.cancel(a, CancelReason.CLIENT_GONE, 0.0)
    assert settled(crash(book, a)) == [(a, ErrorCode.INTERRUPTED, False)]
    assert crash(book, b) == [Idle(1)]
    assert settled(book.ledger.cancel(b, CancelReason.INTERRUPTED, 2.0)) == [
        (b, ErrorCode.INTERRUPTED, False)
    ]
    assert_nothing_is_kept(book.ledger)


def test_a_turn_that_waits_to_run_again_does_not_make_room_for_the_latest() -> None:
    book = Book(retry_on_crash=True)
    begun, _ = book.submit()
    waiting, _ = book.submit()
    crash(book, begun)
    latest, commands = book.submit(on_busy="latest")
    assert settled(commands) == [(waiting, ErrorCode.SUPERSEDED, False)]
    assert book.ledger.assign(0, 2, 2.0) == [Dispatch(begun, 2)]
    assert book.ledger.ended(begun)[-1] == Dispatch(latest, 2)


def test_a_turn_that_cannot_run_again_is_never_said_not_to_have_begun() -> None:
    book = Book(retry_on_crash=True, start_timeout=60.0)
    (a, _), (b, _) = book.submit("a"), book.submit("b")
    crash(book, a)
    assert settled(book.ledger.expire(61.0)) == [(a, ErrorCode.WORKER_LOST, False)], "no process came"
    crash(book, b)
    assert settled(book.ledger.drain()) == [(b, ErrorCode.WORKER_LOST, False)], "the instance stops"


def test_a_turn_that_never_reached_its_second_process_still_has_its_one_repetition() -> None:
    book = Book(retry_on_crash=True)
    turn, _ = book.submit()
    crash(book, turn)
    book.ledger.assign(0, 2, 2.0)
    assert book.ledger.failed(turn, Code.UNSENT, "")[-1] == Dispatch(turn, 2)
    book.ledger.drain()
    assert settled(book.ledger.failed(turn, Code.UNSENT, "")) == [(turn, ErrorCode.WORKER_LOST, False)]


def test_a_turn_that_never_left_and_is_not_wanted_any_more_ends() -> None:
    book = Book()
    turn, _ = book.submit()
    book.ledger.cancel(turn, CancelReason.CLIENT_GONE, 0.0)
    assert settled(book.ledger.failed(turn, Code.UNSENT, "")) == [(turn, ErrorCode.INTERRUPTED, False)]


def test_a_turn_that_never_left_when_the_instance_stops_is_lost_and_may_be_sent_again() -> None:
    book = Book()
    turn, _ = book.submit()
    book.ledger.drain()
    assert settled(book.ledger.failed(turn, Code.UNSENT, "")) == [(turn, ErrorCode.WORKER_LOST, True)]


def test_a_session_moves_to_the_new_process_only_after_its_turn_on_the_old_one() -> None:
    book = Book()
    old, _ = book.submit("a")
    waiting, _ = book.submit("a")
    assert book.ledger.assign(0, 2, 1.0) == []
    other, commands = book.submit("b")
    assert commands == [Dispatch(other, 2)]
    assert book.ledger.ended(old) == [Complete(old, None), Idle(1), Dispatch(waiting, 2)]


def test_when_sessions_are_shared_out_anew_what_runs_stays_and_what_waits_goes() -> None:
    book = Book()
    running, _ = book.submit("s1")
    waiting, _ = book.submit("s1")
    assert book.ledger.resize(2, 1.0) == []
    assert_slots_count(book.ledger, [1, 1])
    assert book.ledger.assign(1, 7, 1.0) == []
    assert book.ledger.ended(running) == [Complete(running, None), Idle(1), Dispatch(waiting, 7)]


def test_a_slot_that_is_added_has_its_process_before_its_share_of_the_sessions() -> None:
    book = Book()
    assert book.ledger.assigned(1) is None
    assert book.ledger.assign(1, 7, 1.0) == []
    assert book.ledger.resize(2, 1.0) == []
    turn, commands = book.submit("s1")
    assert commands == [Dispatch(turn, 7)]


def test_a_turn_that_waits_for_a_slot_that_is_taken_away_runs_in_another() -> None:
    book = Book()
    book.ledger.resize(2, 0.0)
    turn, commands = book.submit("s1")
    assert commands == []
    assert book.ledger.resize(1, 1.0) == [Dispatch(turn, 1)]
    assert_slots_count(book.ledger, [1, 0])


def test_a_turn_that_never_left_finds_its_slot_as_sessions_are_shared_out_now() -> None:
    book = Book()
    book.ledger.resize(2, 0.0)
    book.ledger.assign(1, 7, 0.0)
    turn, _ = book.submit("s1")
    book.ledger.resize(1, 1.0)
    assert book.ledger.failed(turn, Code.UNSENT, "") == [Idle(7), Dispatch(turn, 1)]


def assert_slots_count(ledger: Ledger, turns: list[int]) -> None:
    assert [slot.turns for slot in ledger._slots] == turns


@pytest.mark.parametrize("reason, code", ENDINGS.items())
@pytest.mark.parametrize("word", ["end", "fail"])
def test_whatever_a_cancelled_turn_says_its_client_is_told_why_it_was_cancelled(
    reason: CancelReason, code: ErrorCode, word: Literal["end", "fail"]
) -> None:
    book = Book()
    turn, _ = book.submit()
    assert book.ledger.cancel(turn, reason, 0.0) == [Cancel(turn, 1, reason)]
    assert book.ledger.cancel(turn, CancelReason.TIMEOUT, 1.0) == []
    ending = book.ledger.ended(turn) if word == "end" else book.ledger.failed(turn, Code.APP_ERROR, "x")
    assert settled(ending) == [(turn, code, False)]


@pytest.mark.parametrize("reason, code", ENDINGS.items())
def test_a_waiting_turn_that_is_cancelled_never_reaches_a_process(
    reason: CancelReason, code: ErrorCode
) -> None:
    book = Book()
    running, _ = book.submit()
    waiting, _ = book.submit()
    assert settled(book.ledger.cancel(waiting, reason, 0.0))[0][:2] == (waiting, code)
    assert book.ledger.ended(running) == [Complete(running, None), Idle(1)]


def test_a_turn_that_ignores_its_cancellation_is_given_up_and_keeps_its_session() -> None:
    book = Book(cancel_grace=10.0)
    turn, _ = book.submit()
    waiting, _ = book.submit()
    book.ledger.cancel(turn, CancelReason.INTERRUPTED, 5.0)
    assert book.ledger.expire(14.9) == []
    commands = book.ledger.expire(15.0)
    assert settled(commands) == [(turn, ErrorCode.INTERRUPTED, False)]
    assert commands[1:] == [ReplaceProcess(turn, 1), Idle(1)], (
        "its process may end; nothing else would end it"
    )
    assert waiting.state is TurnState.WAITING, "its session is held until it has ended"
    assert book.ledger.expire(15.0 + REPLACE_AGAIN_AFTER - 0.1) == [], "given up once"
    assert book.ledger.expire(15.0 + REPLACE_AGAIN_AFTER) == [ReplaceProcess(turn, 1)], (
        "it may not have helped"
    )
    assert settled(book.ledger.expire(1000.0)) == [(waiting, ErrorCode.TIMEOUT, False)]
    assert book.ledger.cancel(turn, CancelReason.TIMEOUT, 20.0) == []
    assert book.ledger.interrupt(20.0, run_id=turn.run_id) == (0, [])
    assert book.ledger.failed(turn, Code.LINK_LOST, "") == []


def test_a_turn_above_its_time_is_cancelled_whether_it_runs_or_waits() -> None:
    book = Book(request_timeout=600.0)
    running, _ = book.submit(now=0.0)
    waiting, _ = book.submit(now=1.0)
    assert book.ledger.expire(599.9) == []
    assert book.ledger.expire(600.0) == [Cancel(running, 1, CancelReason.TIMEOUT)]
    assert settled(book.ledger.expire(601.0)) == [(waiting, ErrorCode.TIMEOUT, False)]


def test_without_a_request_timeout_a_turn_may_take_for_ever() -> None:
    book = Book(request_timeout=0.0)
    book.submit()
    assert book.ledger.expire(1e9) == []


def test_stop_of_a_session_hands_over_nothing_that_it_is_about_to_end() -> None:
    book = Book()
    running, _ = book.submit("a")
    waiting = [book.submit("a")[0] for _ in range(2)]
    other, _ = book.submit("b")
    hit, commands = book.ledger.interrupt(1.0, session_id="a")
    assert hit == 3
    assert {turn for turn, *_ in settled(commands)} == set(waiting)
    assert [c for c in commands if not isinstance(c, Complete)] == [
        Cancel(running, 1, CancelReason.INTERRUPTED)
    ]
    assert other.state is TurnState.RUNNING


def test_stop_of_a_run_ends_that_one_only() -> None:
    book = Book()
    book.submit()
    waiting, _ = book.submit()
    assert book.ledger.interrupt(1.0, run_id="no such run") == (0, [])
    assert book.ledger.interrupt(1.0, session_id="no such session") == (0, [])
    hit, commands = book.ledger.interrupt(1.0, run_id=waiting.run_id)
    assert (hit, settled(commands)) == (1, [(waiting, ErrorCode.INTERRUPTED, False)])


def test_when_the_instance_stops_what_runs_may_finish_and_what_waits_will_not_begin() -> None:
    book = Book()
    running, _ = book.submit()
    waiting, _ = book.submit()
    assert settled(book.ledger.drain()) == [(waiting, ErrorCode.DRAINING, True)]
    assert book.refused("new") == (ErrorCode.DRAINING, 503, True)
    assert book.ledger.ended(running) == [Complete(running, None), Idle(1)]


def test_when_the_time_to_drain_is_over_the_turns_of_that_process_are_cut() -> None:
    book = Book()
    old, _ = book.submit("a")
    book.ledger.assign(0, 2, 0.0)
    book.submit("b")
    assert book.ledger.cut(1, 30.0) == [Cancel(old, 1, CancelReason.DRAINING)]
    assert settled(book.ledger.failed(old, Code.CANCELLED, "")) == [(old, ErrorCode.DRAINING, False)]


def test_close_tells_everybody_who_is_left() -> None:
    book = Book()
    running, _ = book.submit("a")
    waiting, _ = book.submit("a")
    cancelled, _ = book.submit("b")
    book.ledger.cancel(cancelled, CancelReason.TIMEOUT, 0.0)
    told = [(turn, code) for turn, code, _ in settled(book.ledger.close())]
    assert told == [
        (waiting, ErrorCode.DRAINING),
        (running, ErrorCode.DRAINING),
        (cancelled, ErrorCode.TIMEOUT),
    ]
    assert_nothing_is_kept(book.ledger)


@pytest.mark.parametrize("word", ["end", "fail", "cancel"])
def test_what_is_said_of_a_turn_after_close_is_ignored(word: str) -> None:
    """The link of a worker whose child holds it open ends after the instance has."""
    book = Book()
    turn, _ = book.submit()
    book.ledger.close()
    match word:
        case "end":
            assert book.ledger.ended(turn) == []
        case "fail":
            assert book.ledger.failed(turn, Code.LINK_LOST, "") == []
        case "cancel":
            assert book.ledger.cancel(turn, CancelReason.CLIENT_GONE, 1.0) == []


# -- the machine, last: what an example finds is told faster and more plainly --------------------

World.TestCase.settings = settings(
    max_examples=250,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestWorld = World.TestCase


# -- between the turns of clients ----------------------------------------------------------------


def with_home(**limits: Any) -> Book:
    """Process 1 has the slot, wants notifications, and holds session "s"."""
    book = Book(affinity=SessionAffinity(IDLE_AFTER), **limits)
    book.ledger.affinity.joined(1)
    book.ledger.affinity.used("s", 1, "0.1", 0.0)
    return book


def notification(commands: list[Command]) -> Turn:
    """The turn that notifies, which is all that these commands dispatch."""
    (command,) = commands
    assert isinstance(command, Dispatch)
    assert command.turn.purpose is Purpose.NOTIFY_IDLE
    return command.turn


def delete(book: Book, session: str = "s", now: float = 0.0) -> tuple[Turn | Failure, list[Command]]:
    request, run = asked("d", session, kind=StreamKind.FORGET)
    return book.ledger.accept(request, run, "reject", now, Purpose.FORGET)


def test_a_session_that_is_idle_is_notified_and_its_next_turn_waits_for_it() -> None:
    book = with_home()
    assert book.ledger.notify_idle(IDLE_AFTER - 0.1) == []
    notifying = notification(book.ledger.notify_idle(IDLE_AFTER))
    assert (notifying.session_id, notifying.process) == ("s", 1)
    assert book.ledger.on_process(1) == 1
    turn, commands = book.submit("s", "reject")
    assert commands == []
    assert book.ledger.ahead(turn) == 1
    assert book.ledger.ended(notifying)[-1] == Dispatch(turn, 1)
    assert book.ledger.total == 1, "clients are counted"
    book.ledger.ended(turn)
    assert_nothing_is_kept(book.ledger)


def test_a_session_moves_when_its_process_was_notified() -> None:
    book = with_home()
    book.ledger.assign(0, 2, 0.0)
    turn, commands = book.submit()
    notifying = notification(commands)
    assert notifying.process == 1
    assert turn.state is TurnState.WAITING
    assert book.ledger.failed(notifying, Code.APP_ERROR, "no")[-1] == Dispatch(turn, 2)


def test_a_notification_is_not_repeated() -> None:
    for code in (Code.UNSENT, Code.LINK_LOST):
        book = with_home()
        book.ledger.assign(0, 2, 0.0)
        turn, commands = book.submit()
        assert book.ledger.failed(notification(commands), code, "gone")[-1] == Dispatch(turn, 2)


def test_a_notification_has_its_time_and_then_its_grace() -> None:
    book = with_home(cancel_grace=10.0, request_timeout=1.0)
    notifying = notification(book.ledger.notify_idle(IDLE_AFTER))
    start = IDLE_AFTER + 0.5
    assert book.ledger.expire(start) == []
    assert book.ledger.expire(start + NOTIFY_WITHIN - 0.1) == []
    late = start + NOTIFY_WITHIN
    assert book.ledger.expire(late) == [Cancel(notifying, 1, CancelReason.TIMEOUT)]
    assert [type(command) for command in book.ledger.expire(late + 10.0)] == [Complete, ReplaceProcess, Idle]
    turn, commands = book.submit(now=late + 10.0)
    assert commands == [], "its process must end first"
    assert book.ledger.failed(notifying, Code.LINK_LOST, "")[-1] == Dispatch(turn, 1)


def test_a_notification_is_neither_interrupted_nor_counted() -> None:
    book = with_home(max_turns=1, max_inflight=1, max_turns_per_principal=1)
    notifying = notification(book.ledger.notify_idle(IDLE_AFTER))
    assert book.ledger.full() is None
    assert book.ledger.interrupt(0.0, session_id="s") == (0, [])
    turn, commands = book.submit("s", "interrupt")
    assert commands == []
    assert notifying.state is TurnState.RUNNING
    assert book.refused("another") == (ErrorCode.OVERLOADED, 503, True)
    book.ledger.ended(notifying)
    assert turn.state is TurnState.RUNNING


def test_a_session_that_is_being_notified_has_room_for_as_many_turns_as_ever() -> None:
    book = with_home(max_queue=0)
    notification(book.ledger.notify_idle(IDLE_AFTER))
    turn, _ = book.submit()
    assert turn.state is TurnState.WAITING
    assert book.refused() == (ErrorCode.TOO_MANY_REQUESTS, 429, True)


def test_latest_leaves_what_is_not_of_clients() -> None:
    book = Book(process=None)
    (deletion, _), (turn, _) = delete(book), book.submit()
    assert isinstance(deletion, Turn)
    _, commands = book.submit("s", "latest")
    assert settled(commands) == [(turn, ErrorCode.SUPERSEDED, False)]
    assert deletion.state is TurnState.WAITING


def test_only_so_many_sessions_are_notified_at_once() -> None:
    book = with_home()
    for number in range(MAX_NOTIFYING + 5):
        book.ledger.affinity.used(f"s{number}", 1, "0.1", 0.0)
    first = book.ledger.notify_idle(IDLE_AFTER)
    assert len(first) == MAX_NOTIFYING
    assert book.ledger.notify_idle(IDLE_AFTER) == []
    assert isinstance(first[0], Dispatch)
    book.ledger.ended(first[0].turn)
    assert len(book.ledger.notify_idle(IDLE_AFTER)) == 1
    book.ledger.drain()
    assert book.ledger.notify_idle(IDLE_AFTER) == [], "the instance stops: no more notifications"


def test_a_turn_that_ignored_its_cancellation_holds_up_no_notification() -> None:
    book = with_home()
    turn, _ = book.submit()
    book.ledger.cancel(turn, CancelReason.INTERRUPTED, 0.0)
    book.ledger.affinity.leave(1, 0.0)
    assert book.ledger.notify_idle(0.0) == []
    assert book.ledger.affinity.departed(0.0) == [], "it may end yet, and is notified then"
    book.ledger.expire(10.0)
    assert book.ledger.notify_idle(10.0) == []
    assert book.ledger.affinity.departed(10.0) == [(1, 0)]


def test_a_deletion_is_a_turn_that_is_refused_while_another_is_open() -> None:
    book = Book()
    turn, _ = book.submit()
    refused, commands = delete(book)
    assert isinstance(refused, Failure)
    assert (refused.code, commands) == (ErrorCode.SESSION_BUSY, [])
    book.ledger.ended(turn)
    deletion, commands = delete(book)
    assert isinstance(deletion, Turn)
    assert commands == [Dispatch(deletion, 1)]
    second, commands = delete(book)
    assert isinstance(second, Turn), "it waits, and will find nothing"
    after, _ = book.submit("s", "reject")
    assert book.ledger.interrupt(0.0, session_id="s")[0] == 1
    assert book.ledger.ended(deletion)[-1] == Dispatch(second, 1)
    assert book.ledger.total == 2
    book.ledger.ended(second)
    assert_nothing_is_kept(book.ledger)
    assert after.process is None


def test_before_a_deletion_the_process_is_notified() -> None:
    book = with_home()
    deletion, commands = delete(book)
    assert isinstance(deletion, Turn)
    assert book.ledger.ended(notification(commands))[-1] == Dispatch(deletion, 1)


def test_a_deletion_that_was_not_sent_is_given_to_the_next_process() -> None:
    book = Book()
    deletion, _ = delete(book)
    assert isinstance(deletion, Turn)
    book.ledger.assign(0, 2, 0.0)
    assert book.ledger.failed(deletion, Code.UNSENT, "")[-1] == Dispatch(deletion, 2)


def test_open_turns_are_shown_by_session() -> None:
    book = Book()
    (first, _), (second, _) = book.submit(), book.submit()
    assert {session: list(turns) for session, turns in book.ledger.sessions().items()} == {
        "s": [first, second]
    }


def test_the_turn_of_a_run_is_found_until_its_process_has_ended_it() -> None:
    book = Book(cancel_grace=10.0)
    (first, _), (second, _) = book.submit(), book.submit()
    assert (book.ledger.turn_of(first.run), book.ledger.turn_of(second.run)) == (first, second)
    assert book.ledger.turn_of(asked("other", "s")[1]) is None
    book.ledger.ended(first)
    assert book.ledger.turn_of(first.run) is None
    book.ledger.cancel(second, CancelReason.TIMEOUT, 0.0)
    book.ledger.expire(10.0)
    assert (book.ledger.open, list(book.ledger.active_sessions())) == (0, []), "its run has ended"
    assert (len(book.ledger), book.ledger.turn_of(second.run)) == (1, second)
    book.ledger.ended(second)
    assert_nothing_is_kept(book.ledger)


def test_the_newest_run_of_a_session_is_the_last_open_one_of_its_format() -> None:
    book = Book()
    (_, _), (second, _) = book.submit("s"), book.submit("s")
    assert book.ledger.newest("s", NATIVE) is second.run
    assert book.ledger.newest("s", NO_EVENTS) is None
    assert book.ledger.newest("other", NATIVE) is None


def test_only_sessions_with_a_turn_of_a_client_are_active() -> None:
    book = with_home()
    notifying = notification(book.ledger.notify_idle(IDLE_AFTER))
    delete(book, "d")
    book.submit("b")
    assert (book.ledger.open, list(book.ledger.active_sessions())) == (3, ["b"])
    assert notifying.run.wire.tail("r", 0, None) == (b"", 0), "no client reads it"
