"""Percentiles of the last turns."""

from agentscope_supervisor.turns.latencies import KEPT, Latencies

UNKNOWN = {"p50": None, "p95": None}


def test_nothing_is_known_of_no_turn() -> None:
    assert Latencies().percentiles() == {"turn": UNKNOWN, "first_event": UNKNOWN}


def test_a_turn_without_an_event_has_no_first_one() -> None:
    latencies = Latencies()
    latencies.note(2.0, None)
    assert latencies.percentiles() == {"turn": {"p50": 2.0, "p95": 2.0}, "first_event": UNKNOWN}


def test_percentiles_are_of_turns_that_were() -> None:
    latencies = Latencies()
    for seconds in range(101):
        latencies.note(float(seconds), seconds / 10)
    assert latencies.percentiles() == {
        "turn": {"p50": 50.0, "p95": 95.0},
        "first_event": {"p50": 5.0, "p95": 9.5},
    }


def test_turns_of_long_ago_do_not_count() -> None:
    latencies = Latencies()
    for seconds in [1000.0] * KEPT + [1.0] * KEPT:
        latencies.note(seconds, seconds)
    assert latencies.percentiles()["turn"] == {"p50": 1.0, "p95": 1.0}
