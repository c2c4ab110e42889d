"""How `cli.formatting` writes numbers, times and texts for people."""

import pytest

from agentscope_supervisor.cli import formatting
from agentscope_supervisor.domain.printable import printable


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
    assert printable("a\x1b[2J\x07\x9b1m\tb\nc") == "a\\x1b[2J\\x07\\x9b1m\tb\nc"
    assert printable("rm \u202egpj.x \u2066y\u2069 \u200f") == "rm \\u202egpj.x \\u2066y\\u2069 \u200f"


def test_counts_are_listed_with_the_largest_first() -> None:
    assert formatting.counted({"oom": 1, "signal": 3, "asked": 1}) == "3 signal, 1 asked, 1 oom"


def test_exits_are_listed_with_their_last_output_and_stacks() -> None:
    asked = {
        **{"at": "2026-01-01T00:00:00Z", "worker": "0.1", "cause": "asked", "detail": "", "pid": 7},
        **{"ended": "exit 0", "lived": 61.0, "ready": 60.0, "turns": 0, "output": ["bye"], "stacks": []},
    }
    killed = asked | {"cause": "signal", "detail": "SIGSEGV", "pid": None, "ready": None, "stacks": ["f"]}
    lines = formatting.death_lines([asked, killed | {"output": [str(n) for n in range(20)]}])
    assert lines[0].endswith("  worker 0.1  asked")
    assert lines[1] == "    pid 7, exit 0, ran for 1 min 1 s, ready for 1 min 0 s, lost turns: 0"
    assert lines[2].endswith("  worker 0.1  signal (SIGSEGV)")
    assert lines[3] == "    exit 0, ran for 1 min 1 s, never ready, lost turns: 0"
    assert lines[4:16] == [f"    | {n}" for n in range(8, 20)]
    assert lines[16:] == ["    stacks:", "    f"]
    assert formatting.death_lines([]) == ["no worker has exited yet"]


def test_stacks_are_listed_by_process() -> None:
    stacks = [{"worker": "supervisor", "lines": ["a"]}, {"worker": "0.1", "lines": []}]
    assert formatting.stack_lines(stacks) == [
        *("supervisor", "  a", "", "worker 0.1", "  no answer; the process may be stopped")
    ]
