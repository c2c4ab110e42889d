"""The token bucket bounds what passes in any time, and allows a burst after a quiet time."""

from hypothesis import given
from hypothesis import strategies as st

from agentscope_supervisor.processes.token_bucket import TokenBucket

RATE, BURST = 10.0, 50.0


def spent(bucket: TokenBucket, now: float, units: float) -> bool:
    """Take `units` if anything is available; return whether they passed."""
    if bucket.available(now) <= 0:
        return False
    bucket.take(units)
    return True


def test_a_burst_passes_first_and_then_the_rate() -> None:
    bucket = TokenBucket(RATE, BURST)
    assert [spent(bucket, 0.0, 10) for _ in range(7)] == [True] * 5 + [False] * 2
    assert not spent(bucket, 0.0, 1)
    assert spent(bucket, 0.5, 5)
    assert not spent(bucket, 0.5, 1)


def test_the_bucket_refills_up_to_the_burst() -> None:
    bucket = TokenBucket(RATE, BURST)
    bucket.available(0.0)
    bucket.take(BURST)
    assert bucket.available(2.0) == 20
    assert bucket.available(1e6) == BURST


def test_a_debt_is_refilled_first() -> None:
    bucket = TokenBucket(RATE, BURST)
    assert spent(bucket, 0.0, 150)
    assert not spent(bucket, 9.0, 1)
    assert bucket.available(11.0) == 10


def test_time_before_the_first_call_adds_nothing() -> None:
    assert TokenBucket(RATE, BURST).available(1e9) == BURST


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0, 30)), max_size=50))
def test_at_most_burst_plus_rate_plus_one_overdraft_passes(wishes: list[tuple[float, float]]) -> None:
    bucket, now, passed = TokenBucket(RATE, BURST), 0.0, 0.0
    for pause, units in wishes:
        now += pause
        passed += units if spent(bucket, now, units) else 0
        assert passed <= BURST + now * RATE + 30 + 1e-6
