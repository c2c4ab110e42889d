"""Which requests are one and the same, and whose keys are whose."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain.errors import ErrorCode
from agentscope_supervisor.domain.idempotency import (
    MAX_KEY,
    MISMATCH,
    Key,
    content,
    fingerprint,
    is_valid,
    scope_of,
)

BODY: dict[str, Any] = {"session_id": "s", "message": {"content": "hi", "role": "user"}}


def print_of(fields: object = BODY, session: str = "s", form: StreamKind = StreamKind.EVENTS) -> bytes:
    body = json.dumps(fields).encode()
    return fingerprint(content(json.loads(body), body), session, form)


@pytest.mark.parametrize("value", ["a", "8e03978e-40d5-43dd-bc93-6894a57f9324", '"quoted"', "x" * MAX_KEY])
def test_what_can_be_a_key(value: str) -> None:
    assert is_valid(value)


@pytest.mark.parametrize("value", ["", "x" * (MAX_KEY + 1), "ü", "a\tb", "a\x00", "\x7f"])
def test_what_cannot(value: str) -> None:
    assert not is_valid(value)


def test_two_keys_of_one_caller_are_equal_whatever_was_sent() -> None:
    assert Key("me", "k", b"1") == Key("me", "k", b"2")
    assert Key("me", "k", b"1") != Key("you", "k", b"1")
    assert Key("me", "k", b"1") != Key("me", "l", b"1")


def test_a_scope_is_of_the_token_and_of_the_principal() -> None:
    scopes = {scope_of(token, principal) for token in ("a", "b", "") for principal in ("x", "y", "\ud800")}
    assert len(scopes) == 9
    assert scope_of("a", "x") == scope_of("a", "x")


def test_the_same_however_it_is_written() -> None:
    turned = {"message": {"role": "user", "content": "hi"}, "session_id": "s"}
    assert print_of(turned) == print_of()
    spaced = json.dumps(BODY, indent=4).encode()
    assert fingerprint(content(json.loads(spaced), spaced), "s", StreamKind.EVENTS) == print_of()


@pytest.mark.parametrize(
    "other",
    [
        print_of({**BODY, "message": {"content": "hi!", "role": "user"}}),
        print_of({**BODY, "metadata": {}}),
        print_of(session="t"),
        print_of(form=StreamKind.WHOLE),
    ],
    ids=["message", "metadata", "session", "form"],
)
def test_another_request(other: bytes) -> None:
    assert other != print_of()


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return {**BODY, "metadata": {"deep": value}}


@pytest.mark.parametrize(
    "fields", [nested(300), {**BODY, "metadata": {"a": "\ud800"}}], ids=["deep", "surrogate"]
)
def test_what_cannot_be_written_canonically_is_taken_as_it_came(fields: Any) -> None:
    assert content(fields, b"as it came") == b"as it came"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text("aé\n", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text("abc", max_size=2), JSON), st.dictionaries(st.text("abc", max_size=2), JSON))
def test_equal_prints_are_of_equal_bodies(one: dict[str, Any], other: dict[str, Any]) -> None:
    # As JSON, where true is not 1.
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (print_of(one) == print_of(other)) is same
    assert print_of(one) == print_of(dict(reversed(one.items())))


def test_a_mismatch_is_told_with_its_status() -> None:
    assert (MISMATCH.code, MISMATCH.status, MISMATCH.retryable) == (
        ErrorCode.IDEMPOTENCY_MISMATCH,
        422,
        False,
    )
