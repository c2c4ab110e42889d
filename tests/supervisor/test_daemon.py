"""All decisions together, as `daemon` and `workers.pool` connect them, on a machine with arbitrary events.

Each decision has its own tests. These tests check what holds only if the decisions fit together: the
invariants of a turn across processes, and that nothing is kept of turns and processes that have ended. The
daemon is the real one; `tests.fakes.machine` provides the kernel, the workers and the clock.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from typing import Final, get_args

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentscope_protocol.config.settings import Settings
from agentscope_protocol.wire.errors import Code
from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.daemon import Daemon
from agentscope_supervisor.domain.errors import ErrorCode, Failure
from agentscope_supervisor.domain.idempotency import Key
from agentscope_supervisor.domain.request import OnBusy, TurnRequest
from agentscope_supervisor.domain.run import Reader, Run
from agentscope_supervisor.domain.turn import Purpose, Turn, TurnState
from agentscope_supervisor.system import control_group, kernel
from agentscope_supervisor.turns import routing
from agentscope_supervisor.turns.quarantine import Quarantine
from agentscope_supervisor.web.dialects.native import NATIVE
from agentscope_supervisor.workers.fleet import EX_CONFIG, EX_OK, EX_TEMPFAIL
from agentscope_supervisor.workers.lifecycle import ProcessState
from tests.fakes.machine import STATES, Machine, Worker, notice_detail

pytestmark = pytest.mark.as_python

SESSIONS: Final = ("a", "b", "c", "d", "e")  # with two slots and with three, each slot has some
BODIES: Final = (b"one", b"two")
STATUSES: Final = st.sampled_from([0, 1, -11, EX_CONFIG])
MOST_SLOTS: Final = 4
NOTIFIED: Final = '{"forms": [2, 3]}'  # a worker that is notified about sessions that leave it


class Client(Reader):
    """Takes what it is fed."""

    def fed(self, number: int, count: int, payload: bytes, now: float) -> bool:
        return True

    def ended(self) -> None:
        pass


class Asked(Run):
    """The run of a request that became a turn, its client, and each result that its client received."""

    def __init__(self, run_id: str, session: str, body: bytes, now: float, key: Key | None = None) -> None:
        super().__init__(run_id, session, StreamKind.EVENTS, NATIVE, now, key)
        self.body: Final = body
        self.results: Final[list[Failure | None]] = []
        self.client: Final = Client()
        self.readers.append(self.client)

    def end(self, failure: Failure | None, now: float) -> None:
        self.results.append(failure)
        super().end(failure, now)


class World(RuleBasedStateMachine):
    """Clients, an operator, and all events that end processes."""

    def __init__(self) -> None:
        super().__init__()
        self.undo = ExitStack()
        self.runs = count(1)
        self.asked: dict[Turn, Asked] = {}  # all accepted turns, in order of arrival
        self.poison = Quarantine()
        self.blamed: set[int] = set()

    @initialize(
        size=st.integers(1, 3),
        works=st.sampled_from([True] * 5 + [False]),
        max_turns=st.sampled_from([None, None, 4]),
        notified=st.booleans(),
    )
    def begin(self, size: int, works: bool, max_turns: int | None, notified: bool) -> None:
        supervisor = {"workers": size, "max_turns": max_turns}
        sessions = {"max_queue": 2, "idle_after": 20}
        sections = {"supervisor": supervisor, "sessions": sessions, "server": {"metrics": False}}
        chosen = Settings.model_validate(sections)
        self.size = size
        self.machine = Machine(chosen)
        self.machine.ready = NOTIFIED if notified else ""
        self.machine.on_failed = self.a_turn_has_failed
        self.undo.enter_context(self.machine.installed())
        self.machine.boot()
        assert len(self.machine.workers) == 1, "the first slot starts alone"
        if works:
            self.all_starts_succeed()
            self.all_starts_succeed()

    # -- facts ------------------------------------------------------------------------------

    @property
    def daemon(self) -> Daemon:
        return self.machine.daemon

    @property
    def over(self) -> bool:
        return self.machine.status is not None

    @property
    def stopping(self) -> bool:
        return bool(self.machine.asked_at)

    def workers(self, which: Callable[[Worker], bool] = lambda _: True) -> list[Worker]:
        return [worker for worker in self.machine.workers if worker.acts and which(worker)]

    def starting(self) -> list[Worker]:
        return self.workers(lambda w: not w.is_ready and not w.link.closed)

    def running(self) -> list[tuple[Worker, Turn]]:
        return [(w, t) for w in self.workers(lambda w: not w.link.closed) for t in w.turns]

    def unreported(self) -> list[Worker]:
        return [worker for worker in self.machine.workers if not worker.alive and not worker.reported]

    def open(self) -> list[Turn]:
        return [turn for turn, asked in self.asked.items() if not asked.results]

    def a_turn_has_failed(self, worker: Worker, turn: Turn, code: Code) -> None:
        """A link is about to report a failure; the quarantine of the model records it too."""
        if turn.purpose is not Purpose.CLIENT or self.asked[turn].results:
            return
        body, now = self.asked[turn].body, self.machine.loop.now
        if code is Code.LINK_LOST:
            number = worker.link.process
            if number not in self.daemon._fleet.leaving and self.poison.lost(turn.session_id, body, now):
                self.blamed.add(number)
        elif code is not Code.UNSENT:
            self.poison.survived(turn.session_id, body)

    # -- clients ------------------------------------------------------------------------------

    def ask(self, session: str, on_busy: OnBusy | None, body: bytes, key: Key | None = None) -> None:
        run_id = f"r{next(self.runs)}"
        asked = Asked(run_id, session, body, self.machine.loop.now, key)
        request = TurnRequest(session, StreamKind.EVENTS, on_busy, body, "ann", {}, NATIVE, key)

        def submit() -> None:
            turn = self.daemon._turns.submit(request, asked)
            poisoned = self.poison.refusal(session, body, self.machine.loop.now)
            if isinstance(turn, Failure):
                assert (turn.code is ErrorCode.POISONED) is (poisoned is not None)
                assert self.stopping or turn.code is not ErrorCode.DRAINING
            else:
                assert poisoned is None
                assert not self.stopping
                self.asked[turn] = asked

        self.machine.do(submit)

    @precondition(lambda self: not self.over)
    @rule(
        asks=st.lists(
            st.tuples(st.sampled_from(SESSIONS), st.sampled_from([None, *get_args(OnBusy)])),
            min_size=1,
            max_size=4,
        ),
        body=st.sampled_from(BODIES),
    )
    def clients_ask(self, asks: list[tuple[str, OnBusy | None]], body: bytes) -> None:
        for session, on_busy in asks:
            self.ask(session, on_busy, body)

    @precondition(lambda self: not self.over)
    @rule(session=st.sampled_from(SESSIONS))
    def a_session_is_deleted(self, session: str) -> None:
        asked = Asked(f"r{next(self.runs)}", session, b"", self.machine.loop.now)
        request = TurnRequest(session, StreamKind.FORGET, "reject", b"{}", "ann", {}, NATIVE)
        busy = any(turn.session_id == session and turn.purpose is Purpose.CLIENT for turn in self.open())
        turn = self.machine.do(lambda: self.daemon._turns.submit(request, asked))
        if isinstance(turn, Failure):
            refused = (ErrorCode.SESSION_BUSY,) if busy else (ErrorCode.TOO_MANY_REQUESTS,)
            assert turn.code in refused or self.stopping
        else:
            assert not busy
            self.asked[turn] = asked

    @precondition(lambda self: not self.over and self.open())
    @rule(data=st.data(), another_reads=st.booleans())
    def a_client_leaves(self, data: st.DataObject, another_reads: bool) -> None:
        turn = data.draw(st.sampled_from(self.open()))
        if not another_reads:
            turn.run.leave(self.asked[turn].client)
        self.machine.do(lambda: self.daemon._turns.leave(turn))

    @precondition(lambda self: not self.over)
    @rule(session=st.sampled_from(SESSIONS))
    def a_session_is_stopped(self, session: str) -> None:
        self.machine.do(lambda: self.daemon._turns.interrupt(session_id=session, run_id=None))

    # -- workers ------------------------------------------------------------------------------

    def ends(self, worker: Worker, turn: Turn, code: Code | None) -> None:
        if turn in worker.cancelled:
            code = Code.CANCELLED
        if code is None and turn.purpose is Purpose.CLIENT and not self.asked[turn].results:
            self.poison.survived(turn.session_id, self.asked[turn].body)
        self.machine.do(lambda: worker.answers(turn, code))

    @precondition(lambda self: not self.over and self.running())
    @rule(data=st.data(), code=st.sampled_from([None, Code.APP_ERROR, Code.BAD_MESSAGE]))
    def a_turn_ends(self, data: st.DataObject, code: Code | None) -> None:
        worker, turn = data.draw(st.sampled_from(self.running()))
        self.ends(worker, turn, code)

    @precondition(lambda self: not self.over and self.running())
    @rule(but_the_cancelled=st.booleans())
    def the_turns_end(self, but_the_cancelled: bool) -> None:
        for worker, turn in self.running():
            if turn in worker.turns and not (but_the_cancelled and turn in worker.cancelled):
                self.ends(worker, turn, None)

    @precondition(lambda self: not self.over and self.starting())
    @rule()
    def all_starts_succeed(self) -> None:
        for worker in self.starting():
            if worker.alive:  # an earlier one may have made it unnecessary
                self.machine.do(worker.becomes_ready)

    @precondition(lambda self: not self.over and self.starting())
    @rule(data=st.data(), status=STATUSES)
    def a_start_fails(self, data: st.DataObject, status: int) -> None:
        self.a_start_of(data.draw(st.sampled_from(self.starting())), fails_with=status)

    def a_start_of(self, worker: Worker, fails_with: int) -> None:
        self.machine.do(
            lambda: worker.link.listener.noticed(worker.link.process, "failed", notice_detail("no"))
        )
        worker.dies(fails_with)
        self.reported(worker, "link first")

    @precondition(lambda self: not self.over and self.workers())
    @rule(
        data=st.data(),
        status=STATUSES,
        report=st.sampled_from(["link first", "exit first", "exit only", "link only", "not yet"]),
    )
    def one_dies(self, data: st.DataObject, status: int, report: str) -> None:
        worker = data.draw(st.sampled_from(self.workers()))
        worker.dies(status)
        self.reported(worker, report)

    @precondition(lambda self: not self.over and self.workers(lambda w: bool(w.turns)))
    @rule(data=st.data())
    def one_is_killed_by_a_turn(self, data: st.DataObject) -> None:
        self.one_dies_of(data.draw(st.sampled_from(self.workers(lambda w: bool(w.turns)))))

    def one_dies_of(self, worker: Worker) -> None:
        worker.dies(-11)
        self.reported(worker, "link first")

    @precondition(lambda self: not self.over and not self.stopping)
    @rule(session=st.sampled_from(SESSIONS), body=st.sampled_from(BODIES), link_first=st.booleans())
    def a_message_kills_again_and_again(self, session: str, body: bytes, link_first: bool) -> None:
        """Until it is refused. `link_first`: the link reports each exit first, otherwise the kernel."""
        for _ in range(4):
            self.recover(2.0)
            if self.over:
                return
            self.ask(session, "queue", body)
            for worker, turn in self.running():
                if turn.session_id == session:
                    worker.dies(-11)
                    self.reported(worker, "link first" if link_first else "exit first")

    @precondition(lambda self: not self.over and self.soaking())
    @rule()
    def a_replacement_is_lost_while_it_soaks(self) -> None:
        worker = self.soaking()[0]
        worker.dies(-9)
        self.reported(worker, "link only")
        self.machine.pass_time(2.1)

    def soaking(self) -> list[Worker]:
        incoming = [slot.incoming for slot in self.daemon._fleet.slots]
        return self.workers(lambda w: w.is_ready and w.link.process in incoming)

    @precondition(lambda self: not self.over and self.unreported())
    @rule(data=st.data(), report=st.sampled_from(["link first", "exit first", "exit only"]))
    def an_end_is_reported(self, data: st.DataObject, report: str) -> None:
        self.reported(data.draw(st.sampled_from(self.unreported())), report)

    def reported(self, worker: Worker, report: str) -> None:
        match report:
            case "link first":
                self.machine.do(worker.link.lose)
                self.exit_is_reported(worker)
            case "exit first":
                self.exit_is_reported(worker)
                self.ends_its_process(worker, worker.link.lose)
            case "exit only":
                self.exit_is_reported(worker)
            case "link only":
                self.machine.do(worker.link.lose)

    def exit_is_reported(self, worker: Worker) -> None:
        self.ends_its_process(worker, worker.end_is_reported)

    def ends_its_process(self, worker: Worker, event: Callable[[], None]) -> None:
        was_current = worker.link.process in self.currents()
        self.machine.do(event)
        if was_current and worker.link.process in self.blamed and worker.reported and worker.link.closed:
            slot = self.daemon._fleet.slots[worker.link.slot]
            assert self.stopping or self.machine.forks_fail or slot.start_at is None, (
                "the slot is not to blame and must not wait"
            )

    @precondition(lambda self: not self.over and self.linked())
    @rule(data=st.data())
    def a_link_is_lost(self, data: st.DataObject) -> None:
        """Its process lives: it broke the protocol, or closed its link."""
        worker = data.draw(st.sampled_from(self.linked()))
        self.machine.do(worker.link.lose)

    def linked(self) -> list[Worker]:
        return self.workers(lambda w: not w.link.closed and (w.terminated_at is None or not w.turns))

    @precondition(lambda self: not self.over and self.workers(lambda w: w.is_ready))
    @rule(data=st.data(), kind=st.sampled_from(sorted(STATES)))
    def a_loop_is_blocked(self, data: st.DataObject, kind: str) -> None:
        worker = data.draw(st.sampled_from(self.workers(lambda w: w.is_ready)))
        worker.stuck, worker.stuck_at = kind, self.machine.loop.now

    @precondition(lambda self: not self.over and any(w.stuck for w in self.machine.workers))
    @rule()
    def loops_run_again(self) -> None:
        for worker in self.machine.workers:
            if worker.alive:
                worker.stuck = None
                worker.reads()

    @precondition(lambda self: not self.over and self.workers(lambda w: w.is_ready and not w.link.closed))
    @rule(data=st.data())
    def one_requests_its_replacement(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.workers(lambda w: w.is_ready and not w.link.closed)))
        self.machine.do(
            lambda: worker.link.listener.noticed(worker.link.process, "worn", notice_detail("full"))
        )

    @precondition(lambda self: not self.over and self.terminated())
    @rule(report=st.sampled_from(["link first", "exit first", "exit only", "not yet"]))
    def terminated_workers_exit(self, report: str) -> None:
        for worker in self.terminated():
            for turn in list(worker.turns):
                if not worker.link.closed:
                    worker.cancelled.add(turn)
                    self.ends(worker, turn, None)
            if worker.alive:
                worker.dies(0)
                self.reported(worker, report)

    def terminated(self) -> list[Worker]:
        return self.workers(lambda w: w.terminated_at is not None)

    # -- the operator, and time ---------------------------------------------------------------

    @precondition(lambda self: not self.over)
    @rule(number=st.sampled_from([signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGQUIT]))
    def a_signal_arrives(self, number: signal.Signals) -> None:
        if number is signal.SIGTTIN and self.size == MOST_SLOTS:
            return
        if not self.stopping:
            self.size += {signal.SIGTTIN: 1, signal.SIGTTOU: -1 if self.size > 1 else 0}.get(number, 0)
        self.machine.signal(number)

    @precondition(lambda self: not self.over)
    @rule()
    def slots_are_reset(self) -> None:
        fleet = self.daemon._fleet
        for slot in range(self.size):
            self.machine.do(lambda slot=slot: self.daemon._controller.reset(slot))
            assert fleet.slots[slot].start_at is None or self.machine.forks_fail

    @precondition(lambda self: not self.over)
    @rule()
    def a_broken_file_is_rejected(self) -> None:
        revision, chosen = self.daemon._fleet.revision, self.machine.settings
        self.machine.settings = None
        self.machine.signal(signal.SIGHUP)
        self.machine.settings = chosen
        assert self.daemon._fleet.revision == revision

    @precondition(lambda self: not self.over)
    @rule(fail=st.sampled_from([True, False, False]))
    def forks_fail(self, fail: bool) -> None:
        self.machine.forks_fail = fail

    @precondition(lambda self: not self.over)
    @rule(starts=st.sampled_from(["at once", "at once", "waiting", "under way"]))
    def starts_are_delayed(self, starts: str) -> None:
        self.machine.starts = starts
        if starts == "at once":
            for process in sorted(self.machine.requests):
                self.machine.do(lambda process=process: self.machine.start_process(process))

    @precondition(lambda self: not self.over)
    @rule(seconds=st.sampled_from([0.06, 1.0, 2.0, 6.0, 11.0, 35.0]))
    def time_passes(self, seconds: float) -> None:
        self.machine.pass_time(seconds)

    @precondition(lambda self: not self.over)
    @rule()
    def everything_succeeds_for_a_while(self) -> None:
        self.recover()

    @precondition(lambda self: not self.over and not self.stopping and self.deaf())
    @rule()
    def a_turn_that_ignores_its_cancellation_ends_with_its_process(self) -> None:
        """Even if its process cannot be replaced at once. No other client may lose a turn."""
        worker = self.deaf()[0]
        for _ in range(60):
            if worker.alive:
                self.recover(5.0, but_the_cancelled=True)
        assert not worker.alive

    def deaf(self) -> list[Worker]:
        return [worker for worker, turn in self.running() if turn in worker.cancelled]

    def recover(self, seconds: float = 6.0, *, but_the_cancelled: bool = False) -> None:
        self.machine.forks_fail = False
        self.starts_are_delayed("at once")
        self.loops_run_again()
        for worker in self.unreported():
            self.reported(worker, "link first")
        self.terminated_workers_exit("link first")
        self.the_turns_end(but_the_cancelled)
        self.all_starts_succeed()
        self.machine.pass_time(seconds)

    @precondition(lambda self: not self.over)
    @rule(really=st.sampled_from([False] * 7 + [True]))
    def it_is_stopped(self, really: bool) -> None:
        if really or self.stopping:
            self.machine.signal(signal.SIGTERM)

    @precondition(lambda self: self.over)
    @rule()
    def nothing_happens_after_the_end(self) -> None:
        processes = len(self.machine.workers)
        self.machine.pass_time(100.0)
        assert len(self.machine.workers) == processes

    # -- invariants ---------------------------------------------------------------------------

    def currents(self) -> dict[int, int]:
        """Return the current process of each slot, with the slot."""
        return {s.current: i for i, s in enumerate(self.daemon._fleet.slots) if s.current is not None}

    @invariant()
    def processes_are_few_and_known(self) -> None:
        fleet = self.daemon._fleet
        alive = {w.link.process for w in self.machine.workers if w.alive}
        known = {process.number for process in self.daemon._pool}
        assert alive <= known, "a process was removed before the kernel reported its exit"
        assert len(known - fleet.leaving) <= self.size + 1
        assert fleet.size == self.size
        if not self.over:
            assert self.daemon._controller.recycling._processes.keys() == known == fleet._revisions.keys()
        assert (
            fleet.leaving | fleet.ready_since.keys() | fleet._to_replace | self.daemon._turns._blamed <= known
        )
        wanted = {fleet.revision, fleet._good_revision}
        assert wanted <= self.daemon._controller.revisions._snapshots.keys()

    @invariant()
    def turns_go_where_they_can_run(self) -> None:
        fleet, book = self.daemon._fleet, self.daemon._ledger
        assert fleet.routed == book.slots
        ready = {p.number for p in self.daemon._pool if p.state is ProcessState.READY}
        for number, slot in self.currents().items():
            assert book.assigned(slot) == (number if number in ready else None)
        if not self.over:
            waiting = [turn for turn in self.open() if turn.state is TurnState.WAITING]
            for turn in waiting:
                first = book._sessions[turn.session_id][0]
                assert turn.slot == routing.slot_of(turn.session_id, fleet.routed)
                assert first is not turn or book.assigned(turn.slot) is None, (
                    "a turn waits although it could run"
                )

    @invariant()
    def each_turn_is_kept_while_it_lasts(self) -> None:
        if self.over:
            assert not self.open(), "a turn without a terminal event"
            return
        ledger = self.daemon._ledger
        kept = {number: turn.purpose for number, turn in ledger._turns.items() if turn.is_open}
        notifications = {number for number, purpose in kept.items() if purpose is Purpose.NOTIFY_IDLE}
        assert kept.keys() - notifications == {turn.number for turn in self.open()}
        assert ledger.open == len(kept)
        assert self.machine.ready or not notifications
        runs = {turn.number for w in self.machine.workers if not w.link.closed for turn in w.turns}
        assert ledger._turns.keys() <= kept.keys() | runs

    @invariant()
    def turns_of_a_session_begin_in_order(self) -> None:
        for session in SESSIONS:
            turns = [
                turn for turn in self.asked if turn.session_id == session and not self.asked[turn].results
            ]
            assert not any(turn in self.machine.begun for turn in turns[1:])

    # -- the end ------------------------------------------------------------------------------

    def teardown(self) -> None:
        with self.undo:
            if hasattr(self, "machine"):
                self.comes_to_an_end()

    def comes_to_an_end(self) -> None:
        if not self.over and not self.stopping:
            self.comes_to_rest()
        if not self.over:
            self.machine.signal(signal.SIGTERM)
        for _ in range(10):
            if not self.over:
                self.recover(12.0)
        assert self.over, "the instance was stopped, and all its processes have exited"
        if self.stopping:
            assert self.machine.status == EX_OK
        else:
            assert self.machine.status in (EX_CONFIG, EX_TEMPFAIL)
            assert not self.daemon._fleet.ever_ready, "gave up although the App has worked"
        assert all(len(asked.results) == 1 for asked in self.asked.values())
        daemon = self.daemon
        assert not any([daemon._ledger._turns, daemon._ledger._sessions, daemon._turns._blamed])
        assert not daemon._turns._leaving
        assert not any([daemon._turns.affinity._subscribed, daemon._turns.affinity._leaving])
        assert not any([daemon._ledger._on_process, daemon._ledger._by_principal, daemon._ledger._held])
        assert not any(
            [list(daemon._pool), daemon._controller.recycling._processes, daemon._fleet._revisions]
        )

    def comes_to_rest(self) -> None:
        """Check that once nothing fails, one more reload brings every slot to the newest revision."""
        for asked in (False, True):
            if asked:
                self.machine.signal(signal.SIGHUP)
            for _ in range(60):
                if not self.over and not self.rests():
                    due = self.daemon._fleet.next_due or self.machine.loop.now
                    self.recover(max(due - self.machine.loop.now, 2.0))
            if self.over:
                return
            assert self.rests()
        assert {self.daemon._fleet._revisions[number] for number in self.currents()} == {
            self.daemon._fleet.revision
        }

    def rests(self) -> bool:
        fleet = self.daemon._fleet
        serves = fleet.serving() == fleet.routed == self.size
        return serves and not fleet.rolling and not fleet.leaving and not self.open()


# -- examples ------------------------------------------------------------------------------------


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    world.begin(size=1, works=True, max_turns=None, notified=False)
    yield world
    world.teardown()


def test_a_turn_that_ignores_its_cancellation_ends_even_if_its_worker_is_replaced_late(
    world: World,
) -> None:
    world.clients_ask([("a", "queue"), ("a", "interrupt")], b"one")
    old = world.machine.workers[0]
    world.machine.pass_time(11.0)
    world.a_start_of(world.machine.workers[1], fails_with=1)
    assert len(world.machine.workers) == 2, "the replacement has failed, and is not retried at once"
    world.a_turn_that_ignores_its_cancellation_ends_with_its_process()
    assert not old.alive
    assert [len(asked.results) for asked in world.asked.values()] == [1, 1]


def test_a_turn_is_blamed_even_if_the_kernel_reports_the_exit_before_the_link(world: World) -> None:
    world.a_message_kills_again_and_again("a", b"one", link_first=False)
    assert world.poison.refusal("a", b"one", world.machine.loop.now) is not None
    assert world.daemon._fleet.slots[0].history.short_lives == 1, (
        "the slot may be to blame for the first exit"
    )
    assert not world.daemon._turns._blamed


@pytest.mark.parametrize("code", [None, Code.APP_ERROR])
def test_a_message_that_succeeds_in_the_end_is_not_refused(world: World, code: Code | None) -> None:
    for _ in range(3):
        world.ask("a", "queue", b"one")
        world.one_dies_of(world.running()[0][0])
        world.recover(2.0)
        world.all_starts_succeed()
        world.ask("a", "queue", b"one")
        world.ends(*world.running()[0], code)
    assert [len(asked.results) for asked in world.asked.values()] == [1] * 6


def test_a_turn_that_waits_for_a_failing_first_start_gets_an_error() -> None:
    world = World()
    world.begin(size=1, works=False, max_turns=None, notified=False)
    world.ask("a", "queue", b"one")
    world.a_start_of(world.machine.workers[0], fails_with=EX_CONFIG)
    assert world.over
    assert not world.open()
    world.teardown()


def test_a_replacement_that_is_lost_while_it_soaks_does_not_get_the_slot(world: World) -> None:
    world.a_signal_arrives(signal.SIGHUP)
    world.all_starts_succeed()
    world.a_replacement_is_lost_while_it_soaks()
    world.turns_go_where_they_can_run()
    world.ask("a", "queue", b"one")
    assert [worker for worker, _ in world.running()] == [world.machine.workers[0]]


def replaced_under_a_turn(world: World) -> Worker:
    """Return a draining process with an open turn; another process serves its slot."""
    world.ask("a", "queue", b"one")
    world.a_signal_arrives(signal.SIGHUP)
    world.all_starts_succeed()
    world.machine.pass_time(2.1)
    (old, _), *_ = world.running()
    assert old.link.process in world.daemon._controller.fleet.leaving
    return old


def test_a_rollout_waits_for_a_long_turn_and_then_ends_its_process(world: World) -> None:
    old = replaced_under_a_turn(world)
    world.machine.pass_time(100.0)
    assert old.terminated_at is None
    world.the_turns_end(but_the_cancelled=False)
    assert old.terminated_at == world.machine.loop.now


def test_a_stop_gives_a_draining_process_the_same_deadline(world: World) -> None:
    old = replaced_under_a_turn(world)
    world.machine.signal(signal.SIGTERM)
    world.machine.pass_time(31.0)
    assert old.terminated_at is not None


def test_a_second_stop_signal_kills_all_processes(world: World) -> None:
    world.ask("a", "queue", b"one")
    world.machine.signal(signal.SIGTERM)
    world.machine.signal(signal.SIGTERM)
    assert not any(worker.alive for worker in world.machine.workers)


def test_a_cancelled_start_does_not_block_the_stop(world: World) -> None:
    world.starts_are_delayed("waiting")
    world.a_signal_arrives(signal.SIGTTIN)
    world.machine.signal(signal.SIGTERM)
    world.terminated_workers_exit("link first")
    assert world.over


def test_a_process_that_starts_after_it_was_retired_is_killed(world: World) -> None:
    world.starts_are_delayed("under way")
    world.a_signal_arrives(signal.SIGTTIN)
    (process,) = world.machine.requests
    world.machine.signal(signal.SIGTERM)
    world.machine.do(lambda: world.machine.start_process(process))
    late = world.machine.by_number[process]
    assert not late.alive


def test_a_slot_that_is_added_during_a_rollout_gets_its_sessions(world: World) -> None:
    world.a_signal_arrives(signal.SIGTTIN)
    world.machine.do(world.machine.workers[1].link.lose)
    world.a_signal_arrives(signal.SIGHUP)
    world.comes_to_rest()


def test_an_unsent_turn_waits_again(world: World) -> None:
    worker = world.machine.workers[0]
    worker.stuck, worker.stuck_at = "blocked", world.machine.loop.now
    world.ask("a", "queue", b"one")
    ((turn, asked),) = world.asked.items()
    assert asked.worker == "0.1"
    world.machine.do(lambda: worker.dies(1))
    world.machine.do(worker.link.lose)
    assert turn.state is TurnState.WAITING
    assert (asked.worker, asked.state.name) == (None, "QUEUED")
    assert world.daemon._turns.ahead(turn) == 0


def test_a_client_with_a_key_may_come_back_after_each_disconnect(world: World) -> None:
    world.ask("a", "queue", b"one", Key("me", "k", b"print"))
    ((turn, asked),) = world.asked.items()
    asked.leave(asked.client)
    world.machine.do(lambda: world.daemon._turns.leave(turn))
    world.machine.pass_time(8.0)
    world.machine.do(lambda: world.daemon._turns.leave(turn))  # the client came back in between
    world.machine.pass_time(9.0)
    assert turn.state is TurnState.RUNNING
    world.machine.pass_time(2.0)
    assert turn.state is TurnState.CANCELLING
    world.the_turns_end(but_the_cancelled=False)
    assert not world.daemon._turns._leaving


def test_a_reload_counts_the_cpus_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "usable_cpus", lambda: 4)
    monkeypatch.setattr(control_group, "cpu_limit", lambda: 0.5)
    world = World()
    world.begin(size=1, works=True, max_turns=None, notified=False)
    chosen = {"supervisor": {"workers": "auto"}, "server": {"metrics": False}}
    world.machine.settings = Settings.model_validate(chosen)
    for quota, slots in ((0.5, 1), (2.5, 3)):  # the file stays the same
        monkeypatch.setattr(control_group, "cpu_limit", lambda quota=quota: quota)
        world.a_signal_arrives(signal.SIGHUP)
        for _ in range(slots + 1):
            world.all_starts_succeed()
            world.machine.pass_time(30.0)
        assert world.daemon._controller.fleet.size == slots
    world.size = slots
    world.teardown()


# -- the state machine; last, because a failing example is faster and easier to read --------------

World.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestWorld = World.TestCase
