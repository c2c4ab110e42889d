"""Counting sessions with a turn in the last five minutes, in a bounded place."""

import pytest

from agentscope_supervisor.turns import active_sessions
from agentscope_supervisor.turns.active_sessions import ACTIVE_FOR, ActiveSessions


def test_a_session_counts_until_five_minutes_after_its_last_turn() -> None:
    seen = ActiveSessions()
    assert seen.active([], 0.0) == 0
    seen.ended("a", 0.0)
    seen.ended("b", 10.0)
    seen.ended("a", 20.0)
    assert seen.active([], 20.0) == 2
    assert seen.active([], 10.0 + ACTIVE_FOR) == 1
    assert seen.active([], 19.9 + ACTIVE_FOR) == 1
    assert seen.active([], 20.0 + ACTIVE_FOR) == 0


def test_a_session_with_a_turn_now_counts_once_however_long_it_runs() -> None:
    seen = ActiveSessions()
    seen.ended("a", 0.0)
    assert seen.active(["a", "b", "b", "c"], 1.0) == 3
    assert seen.active(["b"], 10_000.0) == 1


@pytest.mark.as_python
def test_what_is_remembered_is_bounded(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(active_sessions, "MAX_COUNTED", 3)
    seen = ActiveSessions()
    for number in range(10):
        seen.ended(f"s{number}", 0.0)
    assert seen.active([], 0.0) == 3
    assert seen.active(["s9", "s0"], 0.0) == 4, "the newest are those that stayed"


def test_many_sessions_cost_no_more_each_than_a_few() -> None:
    seen = ActiveSessions()
    for number in range(active_sessions.MAX_COUNTED + 1000):
        seen.ended(f"s{number}", number / 1e6)
    assert seen.active([], 1.0) == active_sessions.MAX_COUNTED
