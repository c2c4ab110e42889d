"""The bytes of the events that the supervisor makes itself, to the letter."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentscope_supervisor.domain import sse
from agentscope_supervisor.domain.errors import ErrorCode, Failure


def test_an_event() -> None:
    assert sse.event("r1", 7, b'{"a":1}') == b'id: r1-7\ndata: {"a":1}\n\n'


def test_the_end() -> None:
    assert sse.done("r1", 3) == (
        b'id: r1-3\ndata: {"name":"assistant","content":"","role":"assistant","metadata":{"done":true}}\n\n'
    )


def test_an_error() -> None:
    failure = Failure(ErrorCode.WORKER_LOST, "gone", retryable=True)
    assert sse.error("r1", 0, failure) == (
        b'id: r1-0\ndata: {"error": {"code": "WORKER_LOST", "message": "gone", "retryable": true}}\n\n'
    )


def test_the_object_of_an_error_is_the_same_in_a_body() -> None:
    failure = Failure(ErrorCode.NOT_READY, "soon")
    assert sse.error_object(failure) == {"code": "NOT_READY", "message": "soon", "retryable": False}


@pytest.mark.parametrize("text, line", [("queued 2", b": queued 2\n\n"), ("keep-alive", b": keep-alive\n\n")])
def test_a_comment(text: str, line: bytes) -> None:
    assert sse.comment(text) == line


@given(st.text(), st.sampled_from(ErrorCode), st.booleans())
@settings(deadline=None, derandomize=True)
def test_no_message_breaks_an_event_in_two(message: str, code: ErrorCode, retryable: bool) -> None:
    """The App's exception may hold any line break: a client must see one event, and all the text."""
    sent = sse.error("run", 5, Failure(code, message, retryable))
    assert b"\r" not in sent
    assert sent.count(b"\n") == 3
    head, data = sent.removesuffix(b"\n\n").split(b"\n")
    assert head == b"id: run-5"
    told = json.loads(data.removeprefix(b"data: "))["error"]
    assert told == {"code": code.value, "message": message, "retryable": retryable}
