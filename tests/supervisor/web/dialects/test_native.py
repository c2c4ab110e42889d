"""The bytes of the native dialect that the supervisor writes itself, to the letter."""

import json
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentscope_supervisor.domain.errors import ErrorCode, Failure, error_object
from agentscope_supervisor.web.dialects import FORMATS, native
from agentscope_supervisor.web.dialects.native import NATIVE

APP_ERROR: Final = Failure(ErrorCode.APP_ERROR, "no")


def test_an_event() -> None:
    assert native.event("r1", 7, b'{"a":1}') == b'id: r1-7\ndata: {"a":1}\n\n'


def test_the_end() -> None:
    assert native.done("r1", 3) == (
        b'id: r1-3\ndata: {"name":"assistant","content":"","role":"assistant","metadata":{"done":true}}\n\n'
    )


def test_an_error() -> None:
    failure = Failure(ErrorCode.WORKER_LOST, "gone", retryable=True)
    assert native.error("r1", 0, failure) == (
        b'id: r1-0\ndata: {"error": {"code": "WORKER_LOST", "message": "gone", "retryable": true}}\n\n'
    )


def test_the_object_of_an_error_is_the_same_in_a_body() -> None:
    failure = Failure(ErrorCode.NOT_READY, "soon")
    assert error_object(failure) == {"code": "NOT_READY", "message": "soon", "retryable": False}


@pytest.mark.parametrize("text, line", [("queued 2", b": queued 2\n\n"), ("keep-alive", b": keep-alive\n\n")])
def test_a_comment(text: str, line: bytes) -> None:
    assert native.comment(text) == line


@given(st.text(), st.sampled_from(ErrorCode), st.booleans())
@settings(deadline=None, derandomize=True)
def test_no_message_breaks_an_event_in_two(message: str, code: ErrorCode, retryable: bool) -> None:
    """The App's exception may hold any line break: a client must see one event, and all the text."""
    sent = native.error("run", 5, Failure(code, message, retryable))
    assert b"\r" not in sent
    assert sent.count(b"\n") == 3
    head, data = sent.removesuffix(b"\n\n").split(b"\n")
    assert head == b"id: run-5"
    told = json.loads(data.removeprefix(b"data: "))["error"]
    assert told == {"code": code.value, "message": message, "retryable": retryable}


def test_a_stream_that_ends_well_ends_with_the_done_event() -> None:
    assert NATIVE.tail("r1", 3, None) == (native.done("r1", 3), 1)


@pytest.mark.parametrize(
    "sent, metadata",
    [
        (b'{"finish_reason":"TRUNCATED"}', {"done": True, "finish_reason": "TRUNCATED"}),
        (b'{\n"done": false, "n": "\\n"}', {"done": True, "n": "\n"}),
        (b"{}", {"done": True}),
        (b"[]", {"done": True}),
        (b"{", {"done": True}),
        (b'{"a":"%b"}' % bytes(70_000), {"done": True}),
    ],
)
def test_the_done_event_has_the_metadata_that_the_worker_sent(
    sent: bytes, metadata: dict[str, object]
) -> None:
    done, count = NATIVE.tail("r1", 3, None, sent)
    assert count == done.count(b"\n\n") == 1
    head, data = done.removesuffix(b"\n\n").split(b"\n")
    assert (head, json.loads(data.removeprefix(b"data: "))["metadata"]) == (b"id: r1-3", metadata)


def test_a_stream_that_fails_ends_with_an_error_and_the_done_event() -> None:
    expected = native.error("r1", 3, APP_ERROR) + native.done("r1", 4)
    assert NATIVE.tail("r1", 3, APP_ERROR) == (expected, 2)
    used = b'{"usage":1}'
    expected = native.error("r1", 3, APP_ERROR) + native.done("r1", 4, used)
    assert NATIVE.tail("r1", 3, APP_ERROR, used) == (expected, 2)


@given(st.lists(st.binary().map(lambda data: data.replace(b"\n", b"")), max_size=4), st.data())
@settings(deadline=None, derandomize=True)
def test_a_piece_is_cut_after_any_event(texts: list[bytes], data: st.DataObject) -> None:
    made = [native.event("r1", number, text) for number, text in enumerate(texts)]
    count = data.draw(st.integers(0, len(made)))
    assert NATIVE.end_of(b"".join(made), count) == len(b"".join(made[:count]))


@pytest.mark.parametrize(
    "count, expected", [(0, b"[]"), (1, b'[{"a":1}]'), (2, b'[{"a":1},{"b":"data: 2"}]')]
)
def test_the_messages_in_a_piece_are_one_array(count: int, expected: bytes) -> None:
    piece = (
        native.event("r1", 0, b'{"a":1}') + native.event("r1", 1, b'{"b":"data: 2"}') + native.done("r1", 2)
    )
    assert NATIVE.messages(piece, count) == expected


def test_the_body_of_an_answer_that_is_not_streamed() -> None:
    assert NATIVE.json_body('s"1', "r1", b'["x"]') == b'{"session_id":"s\\"1","run_id":"r1","messages":["x"]}'


def test_a_stream_tells_caches_and_proxies_to_pass_it_on_at_once() -> None:
    assert dict(NATIVE.headers) == {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache, no-transform",
        "X-Accel-Buffering": "no",
    }


def test_each_wire_format_is_found_by_its_number() -> None:
    assert FORMATS[0] is NATIVE
    assert all(number == each.number for number, each in FORMATS.items())


def test_more_events_than_a_piece_has_end_with_the_piece() -> None:
    """The count comes from the worker."""
    piece = native.event("r", 0, b"{}")
    assert NATIVE.end_of(piece, 2**32 - 1) == len(piece)
    assert NATIVE.end_of(b"no event", 1) == len(b"no event")
