"""The buckets of a histogram."""

from hypothesis import given, settings
from hypothesis import strategies as st

from agentscope_supervisor.telemetry.histogram import Histogram


def test_a_value_counts_in_each_bucket_with_a_larger_or_equal_bound() -> None:
    histogram = Histogram((0.1, 1.0))
    assert histogram.cumulative() == [("0.1", 0), ("1.0", 0), ("+Inf", 0)]
    for value in (0.0, 0.1, 0.5, 1.0, 1.5, 100.0):
        histogram.observe(value)
    assert histogram.cumulative() == [("0.1", 2), ("1.0", 4), ("+Inf", 6)]
    assert histogram.total == 103.1


@given(st.lists(st.floats(0, 1000)))
@settings(deadline=None, derandomize=True)
def test_a_bucket_counts_the_values_up_to_its_bound(values: list[float]) -> None:
    histogram = Histogram((0.5, 5.0, 50.0))
    for value in values:
        histogram.observe(value)
    expected = [sum(value <= bound for value in values) for bound in (0.5, 5.0, 50.0, float("inf"))]
    assert [count for _, count in histogram.cumulative()] == expected
