"""What answers of the platform mean: edges, the time between two rollouts, what is told of the last ask."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentscope_supervisor.heartbeat.decisions import (
    MAX_BEAT,
    MAX_REASON,
    MAX_RETRY,
    MIN_BEAT,
    ROLL_EVERY,
    Action,
    Ask,
    ConfigAnswer,
    Garbage,
    Pace,
    PlatformSignal,
    Result,
    read,
)

RESTART, RELOAD = Action.RESTART, Action.RELOAD
QUIET = ConfigAnswer(None, None)
V1, V2, V3 = (ConfigAnswer(RESTART, version) for version in ("v1", "v2", "v3"))
UNVERSIONED = ConfigAnswer(RESTART, None)


# -- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body, answer",
    [
        ({"updated": True, "action": "restart", "version": "v1"}, ConfigAnswer(RESTART, "v1")),
        ({"updated": True, "action": "reload"}, ConfigAnswer(RELOAD, None)),
        ({"updated": True, "action": "reload", "version": None}, ConfigAnswer(RELOAD, None)),
        ({"updated": True, "action": "reload", "version": ""}, ConfigAnswer(RELOAD, None)),
        ({"updated": True, "action": "none", "version": "v1"}, ConfigAnswer(None, "v1")),
        ({"updated": True, "version": "v1"}, ConfigAnswer(None, "v1")),
        ({"updated": False, "action": "restart", "version": "v1"}, ConfigAnswer(None, "v1")),
        ({"updated": False}, QUIET),
        ({"updated": False, "more": [1, {"a": 2}]}, QUIET),
        ({"updated": True, "action": "restart", "version": "x" * 256}, ConfigAnswer(RESTART, "x" * 256)),
    ],
)
def test_an_answer_is_read(body: dict[str, Any], answer: ConfigAnswer) -> None:
    assert read(json.dumps(body).encode()) == answer


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"restart"',
        b"{}",
        b'{"action": "restart"}',
        b'{"updated": 1, "action": "restart"}',
        b'{"updated": "true", "action": "restart"}',
        b'{"updated": true, "action": "RESTART"}',
        b'{"updated": true, "action": null}',
        b'{"updated": true, "action": ["restart"]}',
        b'{"updated": true, "action": {"restart": true}}',
        b'{"updated": true, "action": "restart", "version": 2}',
        b'{"updated": true, "action": "restart", "version": ["v2"]}',
        b'{"updated": true, "action": "restart", "version": "a\\nb"}',
        b'{"updated": true, "action": "restart", "version": "' + b"x" * 257 + b'"}',
        b'{"updated": true, "action": "restart", "version": "\\ud800"}',
        b'{"updated": ' * 5000,
        b"[" * 60_000,
    ],
)
def test_what_says_nothing_is_garbage(body: bytes) -> None:
    found = read(body)
    assert isinstance(found, Garbage)
    assert "restart" not in found.reason.replace("restart, reload", ""), "nothing of it is repeated"


@given(
    st.binary()
    | st.recursive(st.none() | st.booleans() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
@settings(deadline=None, derandomize=True)
def test_no_body_raises(body: bytes) -> None:
    assert isinstance(read(body), ConfigAnswer | Garbage)


# -- edges --------------------------------------------------------------------------------------


def acted_on(answers: list[ConfigAnswer]) -> list[str | None]:
    """The versions of what is done when these come far apart, and each thing done is a rollout."""
    signal, done = PlatformSignal(), []
    for number, answer in enumerate(answers):
        ask = signal.answered(answer, 100.0 * number)
        if ask is not None:
            done.append(ask.version)
            signal.began(ask, number, "", 100.0 * number)
    return done


@pytest.mark.parametrize(
    "answers, done",
    [
        ([V1, V1, V1], []),  # there before this instance
        ([UNVERSIONED, UNVERSIONED], []),
        ([QUIET, V1, V1, V1], ["v1"]),
        ([QUIET, UNVERSIONED, UNVERSIONED], [None]),
        ([QUIET, UNVERSIONED, QUIET, UNVERSIONED], [None, None]),
        ([V1, V2, V2, V3], ["v2", "v3"]),
        ([V1, QUIET, V1, QUIET, V1], []),  # two replicas of a platform that differ, or a restart of it
        ([QUIET, V1, QUIET, V1], ["v1"]),
        ([V1, V2, V1], ["v2", "v1"]),  # a roll back to it
        ([V1, UNVERSIONED, V1], []),  # still updated, and then nothing new
        ([V1, QUIET, UNVERSIONED], [None]),
        ([UNVERSIONED, V1], ["v1"]),
        ([UNVERSIONED, QUIET, V1], ["v1"]),
        ([ConfigAnswer(None, "v1"), V1], ["v1"]),  # a restart of what serves already
        ([QUIET, V1, ConfigAnswer(RELOAD, "v1")], ["v1"]),
        ([QUIET, QUIET], []),
    ],
)
def test_only_an_edge_is_acted_on(answers: list[ConfigAnswer], done: list[str | None]) -> None:
    assert acted_on(answers) == done


def test_an_ask_soon_after_a_rollout_waits_for_its_time() -> None:
    signal = PlatformSignal()
    signal.answered(QUIET, 0.0)
    first = signal.answered(V1, 10.0)
    assert first == Ask(RESTART, "v1")
    signal.began(first, 2, "", 10.0)
    assert signal.answered(V2, 20.0) is None
    assert signal.next_due == 10.0 + ROLL_EVERY
    assert signal.answered(QUIET, 30.0) is None, "an ask that is withdrawn was asked"
    assert signal.tick(69.9) is None
    assert signal.tick(70.0) == Ask(RESTART, "v2")
    assert signal.next_due is None
    assert signal.tick(1000.0) is None, "it was remembered once"


@pytest.mark.parametrize(
    "asks, remembered",
    [
        ([(RELOAD, "v2"), (RELOAD, "v3")], Ask(RELOAD, "v3")),
        ([(RESTART, "v2"), (RELOAD, "v3")], Ask(RESTART, "v3")),
        ([(RELOAD, "v2"), (RESTART, "v3")], Ask(RESTART, "v3")),
    ],
)
def test_of_several_that_wait_the_newest_stays_as_the_strongest(
    asks: list[tuple[Action, str]], remembered: Ask
) -> None:
    signal = PlatformSignal()
    signal.answered(QUIET, 0.0)
    signal.began(Ask(RELOAD, "v1"), 2, "", 0.0)
    for action, version in asks:
        assert signal.answered(ConfigAnswer(action, version), 1.0) is None
    assert signal.tick(ROLL_EVERY) == remembered


def test_only_a_rollout_makes_the_next_ask_wait() -> None:
    signal = PlatformSignal()
    signal.answered(QUIET, 0.0)
    refused, unchanged = signal.answered(V1, 1.0), signal.answered(V2, 2.0)
    assert refused is not None
    assert unchanged is not None
    signal.refused(refused, "the file is broken")
    signal.unchanged(unchanged)
    assert signal.answered(V3, 3.0) == Ask(RESTART, "v3")


answers_strategy = st.lists(
    st.tuples(
        st.builds(
            ConfigAnswer, st.sampled_from([None, RESTART, RELOAD]), st.sampled_from([None, "v1", "v2"])
        ),
        st.floats(0, 100),
        st.booleans(),  # it rolls
    ),
    max_size=40,
)


@given(answers_strategy)
@settings(deadline=None, derandomize=True)
def test_each_edge_is_acted_on_at_most_once_and_rollouts_keep_their_distance(
    answers: list[tuple[ConfigAnswer, float, bool]],
) -> None:
    signal, now, edges, done = PlatformSignal(), 0.0, 0, 0
    rolled_at = float("-inf")
    before: ConfigAnswer | None = None
    for answer, pause, rolls in answers:
        now += pause
        # Whoever sees only two answers in a row cannot see less than this as an edge.
        edges += before is not None and answer.action is not None and answer != before
        before = answer
        ask = signal.answered(answer, now)
        if ask is not None:
            done += 1
            assert now - rolled_at >= ROLL_EVERY
            if rolls:
                rolled_at = now
                signal.began(ask, done, "", now)
            else:
                signal.refused(ask, "no")
        assert signal.next_due is None or signal.next_due > now, "what is due is done at once"
    done += signal.tick(now + ROLL_EVERY) is not None
    assert done <= edges


# -- what became of it --------------------------------------------------------------------------


def rolling() -> PlatformSignal:
    """Answered v1, then rolling v2 as edition 5."""
    signal = PlatformSignal()
    signal.answered(ConfigAnswer(None, "v1"), 0.0)
    assert signal.config_version == "v1", "what serves was read at the start"
    ask = signal.answered(V2, 1.0)
    assert ask is not None
    signal.began(ask, 5, "a note", 1.0)
    return signal


def told(signal: PlatformSignal) -> tuple[str | None, ...]:
    assert signal.last_action is not None
    return (*signal.last_action.told().values(), signal.config_version)


def test_a_rollout_under_way_is_told() -> None:
    assert told(rolling()) == ("restart", "v2", "rolling", "a note", "v1")


def test_a_rollout_that_ends_well_makes_its_version_the_one_that_serves() -> None:
    signal = rolling()
    signal.rollout_ended(5, "")
    assert told(signal) == ("restart", "v2", "done", "a note", "v2")
    signal.rollout_ended(6, "of somebody else")
    assert told(signal) == ("restart", "v2", "done", "a note", "v2")


def test_a_rollout_that_fails_is_told_with_its_reason() -> None:
    signal = rolling()
    signal.rollout_ended(5, "app.py, line 3: no")
    assert told(signal) == ("restart", "v2", "rolled_back", "app.py, line 3: no", "v1")


def test_the_end_of_an_earlier_rollout_says_nothing_of_this_one_and_a_later_one_does() -> None:
    signal = rolling()
    signal.rollout_ended(4, "")
    assert told(signal)[2] == "rolling"
    signal.rollout_ended(6, "")
    assert told(signal)[2] == "done"


def test_the_end_of_a_rollout_that_nobody_here_asked_for_is_nothing() -> None:
    signal = PlatformSignal()
    signal.rollout_ended(1, "")
    assert signal.last_action is None


def test_other_ends_are_told() -> None:
    signal, ask = PlatformSignal(), Ask(RELOAD, None)
    signal.refused(ask, "x" * 5000 + "\ud800")
    assert told(signal) == ("reload", None, "refused", "x" * MAX_REASON, None)
    signal.refused(ask, "\ud800")
    json.dumps(told(signal)).encode()
    assert told(signal)[3] == "?"
    signal.unchanged(Ask(RELOAD, "v9"))
    assert told(signal) == ("reload", "v9", "done", "nothing has changed", "v9")
    signal.leaving(ask)
    assert told(signal) == ("reload", None, "leaving", "", "v9")
    assert set(Result) == {"rolling", "done", "refused", "rolled_back", "leaving"}


# -- the pace -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "interval, deadline",
    [(30.0, MAX_BEAT), (10.0, MAX_BEAT), (5.0, 5.0), (0.1, MIN_BEAT), (3600.0, MAX_BEAT)],
)
def test_an_exchange_neither_takes_long_nor_delays_the_next(interval: float, deadline: float) -> None:
    assert Pace(interval).deadline == deadline


def test_the_interval_counts_from_the_beginning_and_is_never_exceeded() -> None:
    pace = Pace(30.0)
    assert pace.succeeded(100.0, 104.0, 0.0) == 26.0
    assert pace.succeeded(100.0, 104.0, 1.0) == 23.0
    assert Pace(2.0).succeeded(100.0, 104.0, 0.5) == 0.0


def test_failures_are_retried_after_one_second_to_sixty() -> None:
    pace, most = Pace(30.0), 1 - 2**-53
    assert [pace.failed(most) for _ in range(8)] == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60])
    assert pace.failed(0.0) == MAX_RETRY / 2
    assert pace.failures == 9
    for _ in range(2000):
        assert pace.failed(most) <= MAX_RETRY
    pace.succeeded(0.0, 0.0, 0.0)
    assert pace.failed(most) == pytest.approx(1)
