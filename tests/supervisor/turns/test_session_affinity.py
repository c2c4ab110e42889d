"""Which sessions are known, and who is told of which, once; on a clock of the test's own."""

import math
from collections import Counter
from typing import Final

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agentscope_supervisor.turns import session_affinity as residents_module
from agentscope_supervisor.turns.session_affinity import FAREWELL_WITHIN, SessionAffinity

IDLE_AFTER: Final = 10.0
NOBODY: Final = frozenset[str]()


@pytest.fixture
def known() -> SessionAffinity:
    """Process 1 wants to be told, process 2 does not."""
    made = SessionAffinity(IDLE_AFTER)
    made.joined(1)
    return made


def test_a_session_is_told_once_when_it_was_not_used_for_long(known: SessionAffinity) -> None:
    known.used("a", 1, "0.1", 0.0)
    known.used("b", 1, "0.1", 4.0)
    assert known.waiting
    assert known.due(NOBODY, 9, 9.9) == []
    assert known.due(NOBODY, 9, 10.0) == [("a", 1)]
    assert known.due(NOBODY, 9, 13.9) == []
    assert known.due(NOBODY, 9, 14.0) == [("b", 1)]
    assert known.due(NOBODY, 9, math.inf) == []
    assert not known.waiting


def test_a_use_puts_it_off(known: SessionAffinity) -> None:
    known.used("a", 1, "0.1", 0.0)
    known.used("b", 1, "0.1", 1.0)
    known.used("a", 1, "0.1", 9.0)
    assert known.due(NOBODY, 9, 11.0) == [("b", 1)]
    assert known.due(NOBODY, 9, 19.0) == [("a", 1)]


def test_a_session_with_a_turn_is_in_use(known: SessionAffinity) -> None:
    known.used("a", 1, "0.1", 0.0)
    known.used("b", 1, "0.1", 0.0)
    assert known.due({"a"}, 9, 10.0) == [("b", 1)]
    assert known.due(NOBODY, 9, 19.9) == []
    assert known.due(NOBODY, 9, 20.0) == [("a", 1)]


def test_no_more_are_told_at_once_than_there_is_room(known: SessionAffinity) -> None:
    for session in "abc":
        known.used(session, 1, "0.1", 0.0)
    assert known.due(NOBODY, 0, 10.0) == known.due(NOBODY, -1, 10.0) == []
    assert known.due(NOBODY, 2, 10.0) == [("a", 1), ("b", 1)]
    known.leave(1, 10.0)
    assert known.due(NOBODY, 0, 10.0) == []
    assert known.due(NOBODY, 1, 10.0) == [("c", 1)]


def test_a_process_that_does_not_want_to_be_told_is_not(known: SessionAffinity) -> None:
    known.used("a", 2, "1.1", 0.0)
    assert known.home("a") is None
    known.leave(2, 1.0)
    assert not known.stays(2)
    assert known.due(NOBODY, 9, 10.0) == []
    assert known.get("a", 10.0) is None, "it is forgotten all the same"


def test_what_is_known_of_a_session(known: SessionAffinity) -> None:
    assert known.get("a", 0.0) is None
    known.used("a", 1, "0.1", 0.0)
    known.used("a", 2, "1.1", 3.0)
    seen = known.get("a", 5.0)
    assert seen is not None
    assert (seen.used_at, seen.worker, seen.process) == (3.0, "1.1", 2)
    assert list(known.ids()) == ["a"]
    assert known.get("a", 12.9) is not None
    assert known.get("a", 13.0) is None
    known.forget("a")
    known.forget("a")
    assert list(known.ids()) == []


def test_the_home_of_a_session_is_where_it_was_used_last(known: SessionAffinity) -> None:
    known.joined(3)
    assert known.home("a") is None
    known.used("a", 1, "0.1", 0.0)
    assert known.home("a") == 1
    known.used("a", 3, "0.2", 0.0)
    assert known.home("a") == 3
    known.notified("a")
    assert known.home("a") is None
    known.notified("b")
    known.rested("a", 1.0)
    assert known.home("a") is None, "it has ended; the next one has to be used first"
    known.rested("c", 1.0)
    assert known.get("c", 1.0) is None
    known.used("a", 3, "0.2", 0.0)
    known.gone(3)
    assert known.home("a") is None
    known.gone(1)
    known.used("a", 1, "0.1", 0.0)
    assert known.home("a") is None
    assert known.due(NOBODY, 9, 99.0) == [], "there is nobody to tell"


def test_a_process_that_leaves_is_told_of_all_that_live_in_it(known: SessionAffinity) -> None:
    known.joined(3)
    for session in "abcd":
        known.used(session, 1, "0.1", 0.0)
    known.used("b", 3, "0.2", 1.0)
    known.leave(1, 1.0)
    assert known.stays(1)
    assert known.waiting
    assert known.departed(1.0) == []
    assert known.due({"c"}, 9, 1.0) == [("a", 1), ("d", 1)], "b has moved, c has a turn"
    assert known.departed(1.0) == []
    known.notified("c")
    assert known.due(NOBODY, 9, 1.0) == []
    assert known.departed(1.0) == [(1, 0)]
    assert known.departed(1.0) == []
    assert not known.stays(1)
    assert known.get("a", 1.0) is not None, "it is known on, and lives nowhere"
    assert known.home("a") is None


def test_a_turn_that_began_just_before_counts(known: SessionAffinity) -> None:
    known.leave(1, 0.0)
    known.used("late", 1, "0.1", 0.0)
    assert known.due({"late"}, 9, 0.0) == []
    assert known.departed(0.0) == []
    known.rested("late", 1.0)
    assert known.due(NOBODY, 9, 1.0) == [("late", 1)]
    assert known.departed(1.0) == [(1, 0)]


def test_a_farewell_has_an_end(known: SessionAffinity) -> None:
    for session in "abc":
        known.used(session, 1, "0.1", 0.0)
    known.leave(1, 0.0)
    assert known.due(NOBODY, 1, 0.0) == [("a", 1)]
    assert known.departed(FAREWELL_WITHIN - 0.1) == []
    assert known.departed(FAREWELL_WITHIN) == [(1, 2)]
    assert known.home("b") is None
    assert not known.waiting


def test_a_process_that_dies_is_told_nothing(known: SessionAffinity) -> None:
    known.used("a", 1, "0.1", 0.0)
    known.leave(1, 0.0)
    known.gone(1)
    assert known.due(NOBODY, 9, 99.0) == []
    assert known.departed(99.0) == []


@pytest.mark.as_python
def test_no_more_sessions_are_known_than_are_allowed(
    known: SessionAffinity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residents_module, "MAX_KNOWN", 2)
    for session in "abcb":
        known.used(session, 1, "0.1", 0.0)
    assert list(known.ids()) == ["c", "b"]


class World(RuleBasedStateMachine):
    """Processes 0 to 2 want to be told. `lives` is who has been used where, and not been told of."""

    sessions = st.sampled_from("abcde")
    processes = st.integers(0, 2)

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.known = SessionAffinity(IDLE_AFTER)
        self.lives: dict[str, int] = {}
        self.alive: set[int] = set()
        self.busy: set[str] = set()
        self.told: Counter[tuple[str, int]] = Counter()

    @rule(seconds=st.sampled_from([0.0, 3.0, IDLE_AFTER, FAREWELL_WITHIN]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(process=processes)
    def joined(self, process: int) -> None:
        self.known.joined(process)
        self.alive.add(process)

    @rule(process=processes)
    def gone(self, process: int) -> None:
        self.known.gone(process)
        self.alive.discard(process)

    @rule(session=sessions, process=processes, keeps=st.booleans())
    def used(self, session: str, process: int, keeps: bool) -> None:
        if process in self.alive:
            self.known.used(session, process, f"{process}.1", self.now)
            self.lives[session] = process
            (self.busy.add if keeps else self.busy.discard)(session)

    @rule(session=sessions)
    def rested(self, session: str) -> None:
        self.known.rested(session, self.now)
        self.busy.discard(session)

    @rule(process=processes)
    def leave(self, process: int) -> None:
        if not self.known.stays(process):
            self.known.leave(process, self.now)

    @rule(room=st.integers(0, 3))
    def tell(self, room: int) -> None:
        found = self.known.due(self.busy, room, self.now)
        assert len(found) <= room
        for session, process in found:
            assert session not in self.busy
            assert process in self.alive
            assert self.lives.pop(session) == process, "it is told once for each stay"

    @rule()
    def departed(self) -> None:
        for process, untold in self.known.departed(self.now):
            left = {session for session, where in self.lives.items() if where == process}
            assert untold or not left & set(self.known.ids()), "nobody is left behind in silence"
            self.alive.discard(process)

    @invariant()
    def homes_are_alive(self) -> None:
        for session in "abcde":
            home = self.known.home(session)
            assert home is None or (home == self.lives[session] and home in self.alive)


TestWorld = World.TestCase
