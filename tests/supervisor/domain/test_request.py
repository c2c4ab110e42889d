"""The checks that every dialect shares: JSON objects and session ids, whatever comes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentscope_supervisor.domain.errors import ErrorCode, Refused
from agentscope_supervisor.domain.request import MAX_PARSED, json_object, session_id


def refusal(body: bytes) -> str:
    with pytest.raises(Refused) as caught:
        json_object(body)
    failure = caught.value.failure
    assert (failure.code, failure.status, failure.retryable) == (ErrorCode.INVALID_REQUEST, 400, False)
    assert str(caught.value) == failure.message
    return failure.message


def test_an_object_is_read_as_it_is_written() -> None:
    assert json_object(b' {"a": [1, 1.5, "\\u00e9"], "b": {"c": null}}\n') == {
        "a": [1, 1.5, "é"],
        "b": {"c": None},
    }


@pytest.mark.parametrize(
    "body, message",
    [
        (b"[]", "the body must be a JSON object, not a list"),
        (b'"text"', "the body must be a JSON object, not a string"),
        (b"7", "the body must be a JSON object, not a number"),
        (b"1.5", "the body must be a JSON object, not a number"),
        (b"true", "the body must be a JSON object, not true or false"),
        (b"null", "the body must be a JSON object, not null"),
    ],
)
def test_a_body_that_is_no_object_is_refused(body: bytes, message: str) -> None:
    assert refusal(body) == message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{}x",
        b"{'a': 1}",
        b'{"session_id": "\xff"}',
        b'{"session_id": "\\ud800"}',
        b'{"a": NaN}',
        b'{"a": 1e400}',
        '{"a": 1}'.encode("utf-16"),
        b'\xef\xbb\xbf{"a": 1}',
    ],
    ids=lambda body: body[:12],
)
def test_a_body_that_is_not_json_is_refused(body: bytes) -> None:
    assert refusal(body).startswith("the body is not valid JSON in UTF-8: ")


@pytest.mark.parametrize("level", [b"[", b'{"a":'])
def test_a_body_of_too_many_levels_is_refused(level: bytes) -> None:
    assert refusal(level * 2000) == "the body is nested more than 1024 levels deep"


def test_a_body_is_parsed_only_if_it_is_small() -> None:
    json_object(b"{" + b" " * (MAX_PARSED - 2) + b"}")
    with pytest.raises(Refused) as caught:
        json_object(b"{" + b" " * (MAX_PARSED - 1) + b"}")
    assert caught.value.failure.code is ErrorCode.PAYLOAD_TOO_LARGE


@given(st.binary() | st.binary().map(lambda tail: b'{"session_id":"s","message":{"content":"' + tail))
@settings(deadline=None, derandomize=True)
def test_any_bytes_are_refused(body: bytes) -> None:
    assert refusal(body)


@pytest.mark.parametrize("value", ["s", "s" * 256, "../x", "/etc/passwd", ".", "а б", "\u202e", "\U0001f600"])
def test_any_printable_text_can_be_a_session_id(value: str) -> None:
    assert session_id(value) == value


@pytest.mark.parametrize(
    "value, message",
    [
        (7, "X must be a string, not a number"),
        (["s"], "X must be a string, not a list"),
        (None, "X must be a string, not null"),
        ("", "X must have 1 to 256 characters, not 0"),
        ("s" * 257, "X must have 1 to 256 characters, not 257"),
        ("a\nb", "X must not contain control characters"),
        ("a\x00", "X must not contain control characters"),
        ("\x85", "X must not contain control characters"),
        ("a\udfff", "X must be valid Unicode"),
    ],
)
def test_a_wrong_session_id_is_named_where_it_stood(value: object, message: str) -> None:
    with pytest.raises(Refused) as caught:
        session_id(value, "X")
    assert caught.value.failure.message == message
