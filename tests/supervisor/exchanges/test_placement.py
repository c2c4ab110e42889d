"""Where an exchange goes: its session, an identifier that a worker has sent, or anywhere."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope_supervisor.exchanges.placement import (
    MAX_LEARNED_ID,
    MAX_NAMED,
    MAX_SCANNED,
    Key,
    Learned,
    SessionSources,
    key_of,
    needs_body,
    slot_for,
)

EVERYWHERE = SessionSources(cookie="sid", query="conversation")
NOWHERE = SessionSources()


def session(
    headers: dict[str, str] | None = None,
    query: str = "",
    body: bytes | None = None,
    at: SessionSources = EVERYWHERE,
) -> str:
    return key_of(at, headers or {}, "/path", query, body).session


def test_a_session_is_in_the_header_else_in_the_body_else_as_configured() -> None:
    headers = {"x-session-id": "h", "cookie": 'a=b; sid="c"; d'}
    query, body = "conversation=q", b'{"session_id": "b"}'
    assert session(headers, query, body) == "h"
    del headers["x-session-id"]
    assert session(headers, query, body) == "b"
    assert session(headers, query) == "c"
    del headers["cookie"]
    assert session(headers, query) == "q"
    assert session(headers, "other=q") == ""
    assert session({"cookie": "sid=c"}, query, at=NOWHERE) == ""


@pytest.mark.parametrize(
    "body",
    [
        b'{"text": "' + "é".encode()[:1],
        b'{"session_id": 7}',
        b'{"session_id": ""}',
        b'{"inner": {"session_id": "b"}}',
        b'["session_id", "b"]',
        b"not JSON",
        b"",
    ],
)
def test_a_body_without_a_valid_session_id_has_none(body: bytes) -> None:
    assert session(body=body) == ""


@given(st.text(min_size=1, max_size=20), st.integers(0, 3))
def test_the_session_is_found_in_the_beginning_of_a_longer_body(text: str, cut: int) -> None:
    body = json.dumps({"session_id": "b", "text": text * 10}, ensure_ascii=False).encode("utf-8", "ignore")
    assert session(body=body[: len(body) - 10 - cut]) == "b"


@pytest.mark.parametrize("value", ["", "x" * 257, "a\x00b"])
def test_an_invalid_session_id_is_ignored(value: str) -> None:
    assert session({"x-session-id": value}, "conversation=q") == "q"


def test_strings_that_may_be_identifiers_are_collected() -> None:
    key = key_of(NOWHERE, {}, "/tasks//t-1", "id=t%2D2&x", b'{"params": {"message": {"taskId": "t-3"}}}')
    assert key == Key("", ("tasks", "t-1", "t-2", "params", "message", "taskId", "t-3"))
    assert key_of(NOWHERE, {}, "/tasks/t-1", "", None, names=False) == Key("")


def test_the_number_of_collected_strings_is_limited() -> None:
    many = "&".join(f"n=v{number}" for number in range(MAX_NAMED + 1))
    body = json.dumps([f"s{number}" for number in range(2 * MAX_NAMED)]).encode()
    key = key_of(NOWHERE, {}, "/a" * (2 * MAX_NAMED), many, body)
    assert len(key.named) <= 2 * MAX_NAMED
    assert "v1" not in key.named


@pytest.mark.parametrize(
    "headers,needs",
    [
        ({"content-type": "application/json; charset=utf-8"}, True),
        ({"content-type": "application/vnd.api+JSON"}, True),
        ({"content-type": "application/json", "x-session-id": "s"}, False),
        ({"content-type": "multipart/form-data"}, False),
        ({}, False),
    ],
)
def test_only_json_without_a_session_header_needs_its_body(headers: dict[str, str], needs: bool) -> None:
    assert needs_body(headers) is needs


def by_length(session_id: str, slots: int) -> int:
    return len(session_id) % slots


def test_the_slot_is_that_of_a_learned_identifier_else_of_the_session_else_any() -> None:
    learned = Learned()
    learned.learn(["task", "made-up"], 2)
    assert slot_for(Key("made-up"), learned, 3, by_length) == 2
    assert slot_for(Key("s", ("unknown", "task")), learned, 3, by_length) == 2
    assert slot_for(Key("s"), learned, 3, by_length) == 1
    assert slot_for(Key("", ("unknown",)), learned, 3, by_length) is None
    assert slot_for(Key("s", ("task",)), learned, 2, by_length) == 1, "slot 2 was removed"


def test_the_identifiers_used_least_recently_are_forgotten() -> None:
    learned = Learned(maximum=2)
    learned.learn(["a", "b", "", "x" * (MAX_LEARNED_ID + 1)], 0)
    assert learned.slot(["a"]) == 0
    learned.learn(["c"], 1)
    assert (learned.slot(["b"]), learned.slot(["a"]), learned.slot(["c"]), len(learned)) == (None, 0, 1, 2)


def test_a_session_at_the_end_of_the_scanned_bytes_is_found() -> None:
    body = b'{"text": "' + b"x" * (MAX_SCANNED - 100) + b'", "session_id": "b"'
    assert session(body=body) == "b"
