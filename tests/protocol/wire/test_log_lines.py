"""Log lines between worker and supervisor: written lines are parsed, all others are plain output."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope_protocol.wire.log_lines import (
    ABOUT,
    LEVELS,
    MARK,
    MAX_BYTES,
    LogLine,
    read,
    session_digest,
    write,
)

TEXTS = st.text(max_size=200)
LINES = st.builds(
    LogLine,
    TEXTS,
    st.sampled_from(sorted(LEVELS)),
    st.dictionaries(st.sampled_from(ABOUT), TEXTS),
    TEXTS,
)


@given(LINES)
def test_a_written_line_is_one_line_and_survives_a_round_trip(line: LogLine) -> None:
    text = write(line)
    assert "\n" not in text
    assert read(text) == line


@given(TEXTS)
def test_reading_any_text_never_raises(text: str) -> None:
    assert read(text) is None or text.startswith(MARK)
    read(MARK + text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "plain", '{"level": "info", "message": "x"}', MARK, MARK + "{", MARK + "[]", MARK + "7"),
        MARK + '{"level": "info"}',
        MARK + '{"message": "x"}',
        MARK + '{"level": "loud", "message": "x"}',
        MARK + '{"level": "info", "message": 7}',
        MARK + '{"level": "info", "message": "x", "run": {}}',
        MARK + "[" * 100_000,
    ],
)
def test_other_text_is_not_parsed(text: str) -> None:
    assert read(text) is None


def test_unknown_fields_are_ignored() -> None:
    text = MARK + json.dumps({"level": "error", "message": "x", "run": "r", "worker": "7.7"})
    assert read(text) == LogLine("x", "error", {"run": "r"})


@pytest.mark.parametrize("letter", ["x", "é", "\x00", "\U0001f389"])
def test_a_record_over_the_limit_becomes_lines_of_its_level_and_context(letter: str) -> None:
    about = {"logger": "a" * 10_000, "run": "r"}
    text = write(LogLine(letter * MAX_BYTES, "error", about, letter * MAX_BYTES))
    lines = text.split("\n")
    assert max(len(line.encode()) for line in lines) <= MAX_BYTES
    pieces = [read(line) for line in lines]
    assert {(each.level, each.about["run"]) for each in pieces if each is not None} == {("error", "r")}
    assert "".join(each.message for each in pieces if each is not None) == letter * 2 * MAX_BYTES


def test_a_record_with_a_lone_surrogate_is_written() -> None:
    sent = write(LogLine("\ud800")).encode("utf-8", "backslashreplace").decode()
    assert read(sent) == LogLine("\ud800")


def test_text_is_human_readable() -> None:
    assert LogLine("gone", "error", {"logger": "a.b", "run": "r"}, "Traceback\nE").text == (
        "ERROR a.b: gone\nTraceback\nE"
    )
    assert LogLine("here").text == "INFO here"


def test_a_session_digest_is_stable() -> None:
    assert session_digest("user_1") == "79b0aa0042b3c056"
