"""Decisions about the platform's answers: which are carried out, when, and what is reported about them."""

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
    ConfigAnswer,
    InvalidAnswer,
    Pace,
    PlatformRequest,
    PlatformSignal,
    Result,
    read,
)

RESTART, RELOAD = Action.RESTART, Action.RELOAD
QUIET = ConfigAnswer(None, None)
V1, V2, V3 = (ConfigAnswer(RESTART, version) for version in ("v1", "v2", "v3"))
UNVERSIONED = ConfigAnswer(RESTART, None)


# -- parsing ------------------------------------------------------------------------------------


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
def test_a_valid_answer_is_parsed(body: dict[str, Any], answer: ConfigAnswer) -> None:
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
def test_an_invalid_answer_is_recognised(body: bytes) -> None:
    found = read(body)
    assert isinstance(found, InvalidAnswer)
    assert "restart" not in found.reason.replace("restart, reload", ""), (
        "the reason repeats nothing of the answer"
    )


@given(
    st.binary()
    | st.recursive(st.none() | st.booleans() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
@settings(deadline=None, derandomize=True)
def test_no_body_raises(body: bytes) -> None:
    assert isinstance(read(body), ConfigAnswer | InvalidAnswer)


# -- changes ------------------------------------------------------------------------------------


def carried_out(answers: list[ConfigAnswer]) -> list[str | None]:
    """The versions of the requests that are carried out, each as a rollout, if answers come 100 s apart."""
    signal, done = PlatformSignal(), []
    for number, answer in enumerate(answers):
        request = signal.answered(answer, 100.0 * number)
        if request is not None:
            done.append(request.version)
            signal.began(request, number, "", 100.0 * number)
    return done


@pytest.mark.parametrize(
    "answers, done",
    [
        ([V1, V1, V1], []),  # requested before this instance started
        ([UNVERSIONED, UNVERSIONED], []),
        ([QUIET, V1, V1, V1], ["v1"]),
        ([QUIET, UNVERSIONED, UNVERSIONED], [None]),
        ([QUIET, UNVERSIONED, QUIET, UNVERSIONED], [None, None]),
        ([V1, V2, V2, V3], ["v2", "v3"]),
        ([V1, QUIET, V1, QUIET, V1], []),  # two replicas of the platform disagree, or it has restarted
        ([QUIET, V1, QUIET, V1], ["v1"]),
        ([V1, V2, V1], ["v2", "v1"]),  # a rollback to v1
        ([V1, UNVERSIONED, V1], []),  # the request stays, and then the version is not new
        ([V1, QUIET, UNVERSIONED], [None]),
        ([UNVERSIONED, V1], ["v1"]),
        ([UNVERSIONED, QUIET, V1], ["v1"]),
        ([ConfigAnswer(None, "v1"), V1], ["v1"]),  # a restart with the active version
        ([QUIET, V1, ConfigAnswer(RELOAD, "v1")], ["v1"]),
        ([QUIET, QUIET], []),
    ],
)
def test_only_a_new_request_is_carried_out(answers: list[ConfigAnswer], done: list[str | None]) -> None:
    assert carried_out(answers) == done


def test_a_request_soon_after_a_rollout_waits() -> None:
    signal = PlatformSignal()
    signal.answered(QUIET, 0.0)
    first = signal.answered(V1, 10.0)
    assert first == PlatformRequest(RESTART, "v1")
    signal.began(first, 2, "", 10.0)
    assert signal.answered(V2, 20.0) is None
    assert signal.next_due == 10.0 + ROLL_EVERY
    assert signal.answered(QUIET, 30.0) is None, "a withdrawn request is still carried out"
    assert signal.tick(69.9) is None
    assert signal.tick(70.0) == PlatformRequest(RESTART, "v2")
    assert signal.next_due is None
    assert signal.tick(1000.0) is None, "it is returned once"


@pytest.mark.parametrize(
    "requests, remembered",
    [
        ([(RELOAD, "v2"), (RELOAD, "v3")], PlatformRequest(RELOAD, "v3")),
        ([(RESTART, "v2"), (RELOAD, "v3")], PlatformRequest(RESTART, "v3")),
        ([(RELOAD, "v2"), (RESTART, "v3")], PlatformRequest(RESTART, "v3")),
    ],
)
def test_of_several_waiting_requests_the_newest_stays_and_restart_wins(
    requests: list[tuple[Action, str]], remembered: PlatformRequest
) -> None:
    signal = PlatformSignal()
    signal.answered(QUIET, 0.0)
    signal.began(PlatformRequest(RELOAD, "v1"), 2, "", 0.0)
    for action, version in requests:
        assert signal.answered(ConfigAnswer(action, version), 1.0) is None
    assert signal.tick(ROLL_EVERY) == remembered


def test_only_a_rollout_makes_the_next_request_wait() -> None:
    signal = PlatformSignal()
    signal.answered(QUIET, 0.0)
    refused, unchanged = signal.answered(V1, 1.0), signal.answered(V2, 2.0)
    assert refused is not None
    assert unchanged is not None
    signal.refused(refused, "the file is broken")
    signal.unchanged(unchanged)
    assert signal.answered(V3, 3.0) == PlatformRequest(RESTART, "v3")


answers_strategy = st.lists(
    st.tuples(
        st.builds(
            ConfigAnswer, st.sampled_from([None, RESTART, RELOAD]), st.sampled_from([None, "v1", "v2"])
        ),
        st.floats(0, 100),
        st.booleans(),  # whether a rollout starts
    ),
    max_size=40,
)


@given(answers_strategy)
@settings(deadline=None, derandomize=True)
def test_each_request_is_carried_out_at_most_once_and_rollouts_keep_their_distance(
    answers: list[tuple[ConfigAnswer, float, bool]],
) -> None:
    signal, now, edges, done = PlatformSignal(), 0.0, 0, 0
    rolled_at = float("-inf")
    before: ConfigAnswer | None = None
    for answer, pause, rolls in answers:
        now += pause
        # An upper bound: a change between two consecutive answers that requests an action.
        edges += before is not None and answer.action is not None and answer != before
        before = answer
        request = signal.answered(answer, now)
        if request is not None:
            done += 1
            assert now - rolled_at >= ROLL_EVERY
            if rolls:
                rolled_at = now
                signal.began(request, done, "", now)
            else:
                signal.refused(request, "no")
        assert signal.next_due is None or signal.next_due > now, "a due request is returned at once"
    done += signal.tick(now + ROLL_EVERY) is not None
    assert done <= edges


# -- results ------------------------------------------------------------------------------------


def rolling() -> PlatformSignal:
    """A signal whose first answer had version v1, and that now rolls out v2 as revision 5."""
    signal = PlatformSignal()
    signal.answered(ConfigAnswer(None, "v1"), 0.0)
    assert signal.config_version == "v1", "the active version was read at the start"
    request = signal.answered(V2, 1.0)
    assert request is not None
    signal.began(request, 5, "a note", 1.0)
    return signal


def reported(signal: PlatformSignal) -> tuple[str | None, ...]:
    assert signal.last_action is not None
    return (*signal.last_action.json().values(), signal.config_version)


def test_a_running_rollout_is_reported() -> None:
    assert reported(rolling()) == ("restart", "v2", "rolling", "a note", "v1")


def test_a_completed_rollout_makes_its_version_the_active_one() -> None:
    signal = rolling()
    signal.rollout_ended(5, "")
    assert reported(signal) == ("restart", "v2", "done", "a note", "v2")
    signal.rollout_ended(6, "of another request")
    assert reported(signal) == ("restart", "v2", "done", "a note", "v2")


def test_a_failed_rollout_is_reported_with_its_reason() -> None:
    signal = rolling()
    signal.rollout_ended(5, "app.py, line 3: no")
    assert reported(signal) == ("restart", "v2", "rolled_back", "app.py, line 3: no", "v1")


def test_the_end_of_an_earlier_rollout_is_ignored_and_that_of_a_later_one_counts() -> None:
    signal = rolling()
    signal.rollout_ended(4, "")
    assert reported(signal)[2] == "rolling"
    signal.rollout_ended(6, "")
    assert reported(signal)[2] == "done"


def test_the_end_of_a_rollout_without_a_request_is_ignored() -> None:
    signal = PlatformSignal()
    signal.rollout_ended(1, "")
    assert signal.last_action is None


def test_other_results_are_reported() -> None:
    signal, request = PlatformSignal(), PlatformRequest(RELOAD, None)
    signal.refused(request, "x" * 5000 + "\ud800")
    assert reported(signal) == ("reload", None, "refused", "x" * MAX_REASON, None)
    signal.refused(request, "\ud800")
    json.dumps(reported(signal)).encode()
    assert reported(signal)[3] == "?"
    signal.unchanged(PlatformRequest(RELOAD, "v9"))
    assert reported(signal) == ("reload", "v9", "done", "nothing has changed", "v9")
    signal.leaving(request)
    assert reported(signal) == ("reload", None, "leaving", "", "v9")
    assert set(Result) == {"rolling", "done", "refused", "rolled_back", "leaving"}


# -- the schedule -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "interval, deadline",
    [(30.0, MAX_BEAT), (10.0, MAX_BEAT), (5.0, 5.0), (0.1, MIN_BEAT), (3600.0, MAX_BEAT)],
)
def test_the_timeout_of_an_exchange_is_bounded_by_the_interval(interval: float, deadline: float) -> None:
    assert Pace(interval).deadline == deadline


def test_the_interval_counts_from_the_start_of_an_exchange() -> None:
    pace = Pace(30.0)
    assert pace.succeeded(100.0, 104.0, 0.0) == 26.0
    assert pace.succeeded(100.0, 104.0, 1.0) == 23.0
    assert Pace(2.0).succeeded(100.0, 104.0, 0.5) == 0.0


def test_failures_are_retried_after_1_to_60_seconds() -> None:
    pace, most = Pace(30.0), 1 - 2**-53
    assert [pace.failed(most) for _ in range(8)] == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60])
    assert pace.failed(0.0) == MAX_RETRY / 2
    assert pace.failures == 9
    for _ in range(2000):
        assert pace.failed(most) <= MAX_RETRY
    pace.succeeded(0.0, 0.0, 0.0)
    assert pace.failed(most) == pytest.approx(1)
