"""A turn over any number of connections: each message once, in order, or the reason why not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope_supervisor.client.calls import Call
from agentscope_supervisor.client.errors import (
    ApiError,
    AppError,
    ClientError,
    ConnectionLost,
    Gone,
    NotReady,
    SessionBusy,
    WorkerLost,
)
from agentscope_supervisor.client.results import Message
from agentscope_supervisor.client.turn import FIRST_DELAY, MAX_DELAY, Attempts, Parser, Turn, is_error
from agentscope_supervisor.domain.errors import ErrorCode, Failure
from agentscope_supervisor.web.dialects import native

RUN = "0" * 32
HEAD = {"x-run-id": RUN}
KEYED = Call("POST", "/invoke", body=b"{}")
UNKEYED = Call("POST", "/invoke", body=b"{}", may_repeat=False)


def turn(call: Call | None = KEYED, retries: int = 3, **more: Any) -> Turn:
    return Turn(call, Attempts(retries, lambda: 1.0), **more)


def event(number: int, **fields: Any) -> bytes:
    data = {"name": "a", "role": "assistant", "content": f"text {number}", **fields}
    return native.event(RUN, number, json.dumps(data).encode())


def body(code: str, *, retryable: bool = False) -> bytes:
    return json.dumps({"error": {"code": code, "message": "why", "retryable": retryable}}).encode()


# -- one connection --------------------------------------------------------------------------------


def test_a_turn_that_succeeds() -> None:
    followed = turn()
    assert followed.request is KEYED
    followed.begun(200, HEAD | {"x-session-id": "made"})
    (message,) = followed.feed(b": queued 1\n\n" + event(0, metadata={"chunk": True}))
    assert (message.text, message.role, message.id) == ("text 0", "assistant", f"{RUN}-0")
    assert (followed.run_id, followed.session_id, followed.is_over) == (RUN, "made", False)
    assert followed.feed(native.done(RUN, 1, b'{"usage": {"input_tokens": 1}}')) == []
    assert (followed.is_over, followed.failure) == (True, None)
    assert followed.metadata["usage"] == {"input_tokens": 1}


def test_a_turn_that_fails_in_its_stream() -> None:
    followed = turn()
    followed.begun(200, HEAD)
    failure = Failure(ErrorCode.APP_ERROR, "no")
    assert followed.feed(event(0) + native.tail(RUN, 1, failure)[0])[0].text == "text 0"
    assert isinstance(followed.failure, AppError)
    assert (followed.failure.message, followed.failure.run_id, followed.failure.status) == ("no", RUN, None)


@pytest.mark.parametrize("error", [None, {"code": "x", "message": "the reply failed"}])
def test_a_message_with_a_member_error_is_a_message(error: object) -> None:
    """As AgentScope 2.0.11 writes it."""
    followed = turn()
    followed.begun(200, HEAD)
    assert len(followed.feed(event(0, error=error))) == 1
    assert followed.failure is None


def test_what_is_an_error() -> None:
    assert is_error({"error": {"code": "APP_ERROR"}})
    assert not is_error({"error": None})
    assert not is_error({"role": "assistant", "error": {}})


@given(st.binary(max_size=200), st.lists(st.integers(1, 20), max_size=40))
def test_any_split_of_a_stream_is_the_same_stream(noise: bytes, sizes: list[int]) -> None:
    text = json.dumps({"role": "assistant", "content": noise.hex() + "wörd"}).encode()
    stream = b": x\n\n" + b"".join(native.event(RUN, number, text) + b": y\n\n" for number in range(3))
    parser, found, at = Parser(), [], 0
    for size in [*sizes, len(stream)]:
        found += parser.feed(stream[at : at + size])
        at += size
    assert found == [(f"{RUN}-{number}", text.decode()) for number in range(3)]


# -- cuts ------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 700), max_size=12))
def test_any_cuts_give_each_message_once(cuts: list[int]) -> None:
    whole = [event(number) for number in range(6)] + [native.done(RUN, 6)]
    followed, found = turn(retries=20), list[Message]()
    for cut in [*cuts, 10_000]:
        if followed.is_over:
            break
        _, _, after = followed.request.path.partition("?after=")
        rest = b"".join(whole[int(after) + 1 if after else 0 :])
        followed.begun(200, HEAD)
        found += followed.feed(rest[:cut])
        if not followed.is_over:
            followed.lost("cut")
    assert [message.text for message in found] == [f"text {number}" for number in range(6)]


def test_before_the_response_the_request_is_repeated_if_it_has_a_key() -> None:
    followed = turn()
    assert followed.lost("cut") == 0
    assert followed.request is KEYED
    with pytest.raises(ConnectionLost) as caught:
        turn(UNKEYED).lost("cut")
    assert caught.value.run_id is None


def test_after_its_head_the_run_is_followed_also_without_a_key() -> None:
    followed = turn(UNKEYED, session_id="me")
    followed.begun(200, HEAD)
    assert followed.lost("cut") == 0
    assert (followed.request.path, followed.request.headers) == (
        f"/runs/{RUN}/events",
        {"X-Session-Id": "me"},
    )
    followed.begun(200, HEAD)
    followed.feed(event(0))
    followed.lost("cut")
    assert followed.request.path == f"/runs/{RUN}/events?after=0"


def test_a_run_that_is_resumed_after_its_end() -> None:
    followed = turn(None, run_id=RUN, after=4)
    assert followed.request.path.endswith("?after=4")
    followed.begun(204, HEAD)
    assert followed.is_over


def test_attempts_that_bring_nothing_are_counted() -> None:
    followed = turn(retries=2)
    followed.begun(200, HEAD)
    for _ in range(3):
        assert followed.lost("cut") == 0
        assert followed.lost("cut") == FIRST_DELAY
        followed.feed(event(followed.last + 1))
    followed.lost("cut")
    followed.lost("cut")
    with pytest.raises(ConnectionLost, match="cut") as caught:
        followed.lost("cut")
    assert caught.value.run_id == RUN
    attempts = Attempts(100, lambda: 0.0)
    delays = [attempts.lost(KEYED, "cut") for _ in range(12)]
    assert delays[:4] == [0.0, 0.05, 0.1, 0.2]
    assert max(delays) == MAX_DELAY / 2


def test_events_that_were_seen_are_skipped_and_missing_ones_are_reported() -> None:
    followed = turn()
    followed.begun(200, HEAD)
    followed.feed(event(0) + event(1))
    assert [message.text for message in followed.feed(event(1) + event(2))] == ["text 2"]
    with pytest.raises(ClientError, match="event 3 of run"):
        followed.feed(event(4))
    with pytest.raises(ClientError, match="not one of an instance"):
        followed.feed(b"id: x\ndata: {}\n\n")


# -- refusals --------------------------------------------------------------------------------------


def test_a_temporary_refusal_is_repeated_after_the_time_that_it_names() -> None:
    followed = turn(UNKEYED)
    assert followed.refused(503, {"retry-after": "3"}, body("NOT_READY", retryable=True)) == 4.0
    assert followed.request is UNKEYED
    for _ in range(2):
        followed.refused(503, {}, body("NOT_READY", retryable=True))
    with pytest.raises(NotReady):
        followed.refused(503, {}, body("NOT_READY", retryable=True))


@pytest.mark.parametrize(
    ("status", "code", "retryable", "kind"),
    [
        (500, "APP_ERROR", False, AppError),
        (409, "SESSION_BUSY", True, SessionBusy),
        (502, "WORKER_LOST", False, WorkerLost),
        (410, "GONE", False, Gone),
        (418, "OF_THE_FUTURE", False, ApiError),
    ],
)
def test_other_refusals_end_the_turn(status: int, code: str, retryable: bool, kind: type[ApiError]) -> None:
    with pytest.raises(kind) as caught:
        turn().refused(status, {"x-request-id": "r"}, body(code, retryable=retryable))
    error = caught.value
    assert (type(error), error.code, error.status, error.request_id) == (kind, code, status, "r")
    assert (str(error), error.retryable) == (f"{code}: why", retryable)


def test_a_proxy_that_cannot_reach_the_instance_is_asked_again_with_a_key_only() -> None:
    assert turn().refused(502, {}, b"<h1>Bad gateway</h1>") == 0
    with pytest.raises(ApiError, match="HTTP_502: <h1>Bad gateway"):
        turn(UNKEYED).refused(502, {}, b"<h1>Bad gateway</h1>")
    with pytest.raises(ApiError, match="HTTP_404"):
        turn().refused(404, {}, b"\xff")
