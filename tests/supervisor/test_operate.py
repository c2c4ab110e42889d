"""What the operator's commands print, from what an instance says."""

import pytest

from agentscope_supervisor.operate import _duration, _shown_status, _table


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
    assert _duration(seconds) == shown


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert [line.rstrip() for line in _table(("A", "LONG"), [("wide", 1), ("x", 22)])] == [
        "A     LONG",
        "wide  1",
        "x     22",
    ]


def test_a_slot_that_rests_and_one_that_is_going() -> None:
    told = {
        **{"name": "shop", "status": "degraded", "uptime": 7200.0, "url": "http://localhost:8080", "pid": 7},
        **{"unready": None, "turns": {"open": 1, "accepted": 9}, "edition": 2, "memory_mb": 40.2},
        **{"version": "1.0", "rolling": False},
        "rollout": {"edition": 2, "failure": "the new process died", "at": "2026-01-01T00:00:00Z"},
        "slots": [
            {
                "slot": 0,
                "restarts": 5,
                "breaker_open": True,
                "starts_in": 29.0,
                "last_death": {"cause": "oom"},
            },
        ],
        "workers": [
            {
                **{"slot": 1, "generation": 3, "pid": None, "state": "draining", "seconds": 61.0},
                **{"turns": 1, "memory_mb": None},
            }
        ],
        "zygotes": [{"pid": 8, "memory_mb": 61.4}],
    }
    shown = [line.rstrip() for line in _shown_status(told)]
    assert shown[0] == "shop: degraded, up 2 h 0 min, http://localhost:8080"
    assert shown[2].endswith("failed: the new process died")
    assert " ".join(shown[-3].split()) == "0 - - down - - - 5 breaker open, starts in 29 s, last: oom"
    assert " ".join(shown[-2].split()) == "1 3 - draining 1 min 1 s 1 - leaves"
    assert " ".join(shown[-1].split()) == "- - 8 zygote - - 61 -"
