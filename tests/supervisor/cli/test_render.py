"""The text of `status` and the table of sessions, rendered from the JSON of an instance."""

import copy
import io
from typing import Any, Final

import pytest
from rich.console import Console

from agentscope_supervisor.cli import render

DEATH: Final = {"cause": "oom", "at": "2026-01-01T00:00:00Z", "detail": "512 MB"}
INSTANCE: Final[dict[str, Any]] = {
    **{"name": "shop", "status": "degraded", "uptime": 7200.0, "url": "http://localhost:8080", "pid": 7},
    **{"unready": None, "edition": 2, "memory_mb": 40.2, "version": "1.0", "rolling": False, "trouble": None},
    "turns": {"open": 1, "running": 1, "waiting": 0, "accepted": 9},
    "sessions": 3,
    "latency": {"turn": {"p50": 1.26, "p95": 61.0}, "first_event": {"p50": 0.02, "p95": None}},
    "platform": {"instance_id": "i-1", "failing": ["heartbeat"], "failures": 4},
    "store": None,
    "rollout": {"edition": 2, "failure": "the new process died", "at": "2026-01-01T00:00:00Z"},
    "slots": [
        {"slot": 0, "restarts": 5, "breaker_open": True, "starts_in": 29.0, "last_death": DEATH},
    ],
    "workers": [
        {
            **{"slot": 1, "generation": 3, "pid": None, "state": "draining", "seconds": 61.0},
            **{"turns": 1, "memory_mb": None},
        }
    ],
    "zygotes": [{"pid": 8, "memory_mb": 61.4}],
    "deaths": {"oom": 4, "signal": 1},
}


def shown(instance: dict[str, Any], width: int = 80, **console: Any) -> list[str]:
    screen = Console(file=io.StringIO(), width=width, highlight=False, markup=False, **console)
    screen.print(render.status(instance, width))
    assert isinstance(screen.file, io.StringIO)
    return [line.rstrip() for line in screen.file.getvalue().splitlines()]


def test_status_shows_the_summary_and_a_row_for_each_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "clock", lambda utc: "2026-01-01 01:02:03")
    lines = shown(INSTANCE, 140)
    assert lines[0] == "shop: degraded, up 2 h 0 min, http://localhost:8080"
    assert "turns: 1 running, 0 waiting, 9 accepted; active sessions: 3 in 5 min" in lines
    assert "latency: 1.3 s (p50), 61 s (p95); first event: 20 ms (p50), - (p95)" in lines
    assert "memory: 102 MB; supervisor: pid 7, 40 MB, version 1.0" in lines
    assert "platform i-1: failing: heartbeat (4 failures)" in lines
    assert "worker exits: 4 oom, 1 signal" in lines
    assert "failed: the new process died" in " ".join(lines)
    note = "breaker open, starts in 29 s, last: oom"
    assert lines[-4:] == [
        f"SLOT  GEN  PID  STATE           FOR  TURNS  MB  RESTARTS  {'NOTE':39}  LAST EXIT",
        f"   0    -    -  down              -      -   -         5  {note}  2026-01-01 01:02:03: 512 MB",
        "   1    3    -  draining  1 min 1 s      1   -            leaving",
        "   -    -    8  zygote            -      -  61         -",
    ]


def test_a_terminal_of_80_columns_has_no_details() -> None:
    assert shown(INSTANCE, 80)[-5:] == [
        "SLOT  GEN  PID  STATE           FOR  TURNS  MB  RESTARTS  NOTE",
        "   0    -    -  down              -      -   -         5  breaker open, starts",
        "                                                          in 29 s, last: oom",
        "   1    3    -  draining  1 min 1 s      1   -            leaving",
        "   -    -    8  zygote            -      -  61         -",
    ]


def printed(entry: dict[str, Any], **console: Any) -> str:
    screen = Console(file=io.StringIO(), width=40, highlight=False, markup=False, **console)
    screen.print(render.log_line(entry), soft_wrap=True)
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def test_a_line_of_the_log_is_text_with_time_level_message_and_fields(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(render, "clock", lambda utc: "2026-01-01 01:02:03")
    entry = {
        **{"ts": "2026-01-01T00:02:03.045Z", "level": "warning", "message": "worker [b]died\nthen \x1b[2J"},
        **{"worker": "0.1", "slot": 0, "generation": 1, "turns": 3, "exception": "Traceback\n  line"},
    }
    assert printed(entry) == (
        "01:02:03.045 warning worker [b]died worker=0.1 turns=3\n"
        "    then \\x1b[2J\n"
        "    Traceback\n"
        "      line\n"
    )
    assert "\x1b[33mwarning\x1b[0m" in printed(entry, force_terminal=True, color_system="standard")
    assert printed({"message": "x", "slot": 2}) == "         x slot=2\n"


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"unready": "no worker is ready"}, "refuses turns: no worker is ready"),
        ({"rolling": True}, "revision 2; rollout in progress"),
        ({"rollout": None}, "revision 2"),
        ({"store": "disk full"}, "runs and idempotency keys are kept in memory only: disk full"),
        ({"rollout": None, "trouble": "line 3: [red]no[/red]"}, "last reload refused: line 3: [red]no[/red]"),
        ({"platform": {"instance_id": "i-1", "failing": [], "failures": 4}}, "platform i-1: connected"),
    ],
)
def test_status_shows_conditions_that_are_not_always_there(changes: dict[str, Any], line: str) -> None:
    assert line in shown({**INSTANCE, **changes})


@pytest.mark.parametrize("width", [40, 63, 64, 80, 200])
def test_every_width_is_kept_and_no_text_is_lost(width: int) -> None:
    instance = copy.deepcopy(INSTANCE)
    instance["slots"][0]["last_death"]["cause"] = "unresponsive"
    lines = shown(instance, width)
    assert max(map(len, lines)) <= width
    words = "".join("".join(lines).split())
    for word in ("thenewprocessdied", "http://localhost:8080", "down", "draining"):
        assert word in words
    assert ("RESTARTS" in words) is (width >= render.NARROW)


def test_colours_only_repeat_words() -> None:
    coloured = shown(INSTANCE, force_terminal=True, color_system="standard")
    assert any("\x1b[" in line for line in coloured)
    assert not any("\x1b" in line for line in shown(INSTANCE))


def test_control_characters_in_a_failure_do_not_reach_the_terminal() -> None:
    instance = {**INSTANCE, "rollout": {**INSTANCE["rollout"], "failure": "\x1b[2J\x1b]0;owned\x07"}}
    text = "\n".join(shown(instance))
    assert "\x1b" not in text
    assert "\\x1b[2J" in text


def test_sessions_keep_their_order_and_their_literal_ids() -> None:
    screen = Console(file=io.StringIO(), width=80)
    open_sessions = [
        {
            "session_id": "[b]x[/b]",
            "worker": "0.1",
            "run_id": "r",
            "waiting": 1,
            "events": 7,
            "seconds": 61.0,
        },
        {"session_id": "s" * 200, "worker": None, "run_id": None, "waiting": 1, "events": 0, "seconds": 0.0},
    ]
    screen.print(render.sessions(open_sessions, 80))
    assert isinstance(screen.file, io.StringIO)
    lines = screen.file.getvalue().splitlines()
    assert lines[1].split() == ["[b]x[/b]", "0.1", "1", "1", "7", "1", "min", "1", "s"]
    assert max(map(len, lines)) <= 80
    assert "".join(lines).count("s") >= 200
