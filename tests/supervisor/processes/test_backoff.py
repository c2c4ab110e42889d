"""Restart delays of a slot: doubling, jitter, the breaker, and the reset after a healthy process."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentscope_supervisor.processes.backoff import RestartHistory, RestartPolicy

HALF = 0.0  # the lowest random number: half of the delay
MOST = 1 - 2**-53  # the greatest float below 1
DAY = 86400.0  # seconds


def wide(**changes: float) -> RestartHistory:
    """Return a history whose breaker never opens."""
    return RestartHistory(RestartPolicy(burst=10**9, **changes))


def test_delays_double_from_half_a_second_up_to_thirty() -> None:
    history = wide()
    assert [history.exited(float(i), 0.0, MOST) for i in range(9)] == pytest.approx(
        [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    )


@given(st.integers(1, 12), st.floats(0, MOST))
@settings(deadline=None, derandomize=True)
def test_jitter_reduces_the_delay_by_at_most_half(exits: int, chance: float) -> None:
    full, history = min(30.0, 0.5 * 2 ** (exits - 1)), wide()
    for i in range(exits):
        delay = history.exited(float(i), 0.0, chance)
    assert full / 2 <= delay <= full


def test_jitter_covers_the_whole_range() -> None:
    assert wide().exited(0.0, 0.0, HALF) == 0.25
    assert wide().exited(0.0, 0.0, 0.5) == 0.375


def test_the_breaker_opens_at_the_fifth_exit_in_a_minute() -> None:
    history = RestartHistory()
    delays = [history.exited(at, 0.0, HALF) for at in (0.0, 10.0, 20.0, 30.0)]
    assert max(delays) < 4
    assert not history.breaker_open
    assert history.exited(59.9, 0.0, HALF) == 30.0
    assert history.breaker_open


def test_exits_older_than_a_minute_are_not_counted() -> None:
    history = RestartHistory()
    for at in (0.0, 10.0, 20.0, 30.0):
        history.exited(at, 0.0, HALF)
    assert history.exited(60.0, 0.0, HALF) == 4.0
    assert not history.breaker_open
    assert history.exited(69.9, 0.0, HALF) == 30.0, "10 to 69.9: five within a minute"


def test_rests_of_an_open_breaker_double_up_to_five_minutes() -> None:
    history, at = RestartHistory(), 0.0
    for _ in range(4):
        history.exited(at, 0.0, HALF)
    rests = []
    for _ in range(6):
        rests.append(history.exited(at, 0.0, HALF))
        at += rests[-1]
    assert rests == [30, 60, 120, 240, 300, 300]


def test_a_probe_that_is_ready_for_less_than_a_minute_keeps_the_breaker_open() -> None:
    history = RestartHistory()
    for _ in range(5):
        history.exited(0.0, 0.0, HALF)
    assert history.exited(90.0, 59.9, HALF) == 60.0
    assert history.breaker_open


def test_a_healthy_process_resets_the_history() -> None:
    history = RestartHistory()
    for _ in range(7):
        history.exited(0.0, 0.0, HALF)
    assert history.exited(30.0, 60.0, HALF) == 0.0
    assert not history.breaker_open
    delays = [history.exited(31.0, 0.0, HALF) for _ in range(5)]
    assert delays == [0.25, 0.5, 1, 2, 30]


@pytest.mark.parametrize("chance", [HALF, 0.5, MOST])
@pytest.mark.parametrize("lives_for", [0.0, 0.1, 0.6, 2.0])
def test_a_crash_loop_forks_at_most_eight_times_in_its_first_minute(chance: float, lives_for: float) -> None:
    history, at, forks = RestartHistory(), 0.0, 0
    while at < 60:
        forks += 1
        at += lives_for
        at += history.exited(at, lives_for, chance)
    assert 5 <= forks <= 8


def test_a_slot_that_fails_for_a_week_is_still_probed() -> None:
    """Unlimited doubling overflows a float after 1024 times."""
    history, at = RestartHistory(), 0.0
    while at < 7 * DAY:
        at += 1.0
        at += history.exited(at, 0.0, HALF)
    assert history.exited(at, 0.0, HALF) == 300.0


def test_a_slot_with_short_lives_for_days_still_has_the_maximum_delay() -> None:
    """Each process lives too briefly to be healthy and too long for the breaker: two exits per minute."""
    history, at = RestartHistory(), 0.0
    while at < 2 * DAY:
        at += 40.0
        delay = history.exited(at, 40.0, MOST)
        at += delay
    assert delay == pytest.approx(30.0)
