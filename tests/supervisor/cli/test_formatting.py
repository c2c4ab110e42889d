"""How `cli.formatting` writes numbers, times and texts for people."""

import pytest

from agentscope_supervisor.cli import formatting


@pytest.mark.parametrize(
    "seconds, shown",
    [
        (0.4, "0 s"),
        (59.9, "59 s"),
        (60, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (86399, "23 h 59 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_a_duration_has_at_most_two_units(seconds: float, shown: str) -> None:
    assert formatting.duration(seconds) == shown


@pytest.mark.parametrize(
    "seconds, shown",
    [(None, "-"), (0.0, "0 ms"), (0.0234, "23 ms"), (1.26, "1.3 s"), (9.9, "9.9 s"), (61.2, "61 s")],
)
def test_a_latency_has_about_two_digits(seconds: float | None, shown: str) -> None:
    assert formatting.latency(seconds) == shown


def test_control_characters_are_escaped() -> None:
    assert formatting.printable("a\x1b[2J\x07\x9b1m\tb\nc") == "a\\x1b[2J\\x07\\x9b1m\tb\nc"


def test_counts_are_listed_with_the_largest_first() -> None:
    assert formatting.counted({"oom": 1, "signal": 3, "asked": 1}) == "3 signal, 1 asked, 1 oom"
