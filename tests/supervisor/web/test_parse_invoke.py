"""What a body must be to become a turn: the table of refusals, and no exception but Refused for anything.

The message in it is checked by the worker: tests/worker/dialects/test_native.py.
"""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain.errors import ErrorCode, Failure, Refused
from agentscope_supervisor.domain.idempotency import Key
from agentscope_supervisor.domain.request import MAX_PARSED, TurnRequest, session_id
from agentscope_supervisor.web.dialects.native import NATIVE
from agentscope_supervisor.web.parse_invoke import outline, read

GOOD: dict[str, Any] = {"session_id": "s", "message": {"content": "hi"}}
MISSING: Any = object()
MUCH = {"more": "x" * MAX_PARSED}
BAD_POLICIES: list[Any] = ["wait", "", True, 1, ["queue"], {}]


def asked(
    body: object = GOOD,
    *,
    header: str | None = None,
    accepts_json: bool = False,
    principal: str = "token",
    headers: dict[str, str] | None = None,
    key: str | None = None,
    token: str = "t0k3n",
) -> TurnRequest:
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    large = None
    if len(body) > MAX_PARSED:
        large = outline(body, principal, digests=key is not None)
        while not large.step():
            pass
    return read(
        body,
        NATIVE,
        header_session=header,
        accepts_json=accepts_json,
        token=token,
        principal=principal,
        headers=headers or {},
        idempotency_key=key,
        outline=large,
    )


def refusal(body: object, *, header: str | None = None) -> str:
    with pytest.raises(Refused) as caught:
        asked(body, header=header)
    failure = caught.value.failure
    assert (failure.code, failure.status, failure.retryable) == (ErrorCode.INVALID_REQUEST, 400, False)
    assert str(caught.value) == failure.message
    return failure.message


def changed(path: str, value: object) -> dict[str, Any]:
    """The good body with one key set, or taken away."""
    body = json.loads(json.dumps(GOOD))
    *sections, key = path.split(".")
    place = body
    for section in sections:
        place = place[section]
    place[key] = value
    if value is MISSING:
        del place[key]
    return dict(body)


# -- what is taken -------------------------------------------------------------------------------


def test_the_smallest_body() -> None:
    body = b'{"session_id":"s","message":{"content":""}}'
    assert asked(body) == TurnRequest("s", StreamKind.EVENTS, None, body, "t0k3n", {}, NATIVE)


def test_the_body_goes_on_as_it_came() -> None:
    body = b' {"message": {"content": "\\u00e9", "id": 7, "x": [1.0]}, "session_id": "s", "later": 1e2}\n'
    assert asked(body).body == body


@pytest.mark.parametrize("message", [{}, {"content": 1, "role": "tool"}])
def test_any_message_object_goes_on_to_the_worker(message: object) -> None:
    assert asked(changed("message", message)).body == json.dumps(changed("message", message)).encode()


@pytest.mark.parametrize(
    "message, text",
    [
        (MISSING, "message is missing"),
        (None, "message is missing"),
        (7, "message is a number"),
        ([], "message is a list"),
    ],
)
def test_a_request_without_a_message_is_refused_before_it_interrupts_another(
    message: object, text: str
) -> None:
    assert refusal(json.dumps(changed("message", message)).encode()).startswith(text)


@pytest.mark.parametrize("body", [b"[]", b"null", b"", b"{", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    assert refusal(body).startswith("the body ")


@pytest.mark.parametrize(
    "stream, accepts_json, kind",
    [
        (MISSING, False, StreamKind.EVENTS),
        (MISSING, True, StreamKind.WHOLE),
        (True, True, StreamKind.EVENTS),
        (True, False, StreamKind.EVENTS),
        (False, False, StreamKind.WHOLE),
        (False, True, StreamKind.WHOLE),
    ],
)
def test_the_body_decides_the_kind_and_accept_only_where_it_does_not(
    stream: object, accepts_json: bool, kind: StreamKind
) -> None:
    body = GOOD if stream is MISSING else changed("stream", stream)
    assert asked(body, accepts_json=accepts_json).kind is kind


@pytest.mark.parametrize("on_busy", ["queue", "reject", "interrupt", "latest", None])
def test_on_busy_may_be_chosen_for_one_turn(on_busy: str | None) -> None:
    assert asked(changed("on_busy", on_busy)).on_busy == on_busy


def test_the_session_may_come_in_the_header_or_in_both() -> None:
    assert asked(changed("session_id", MISSING), header="h").session_id == "h"
    assert asked(changed("session_id", None), header="h").session_id == "h"
    assert asked(GOOD, header="s").session_id == "s"


def test_trace_context_goes_on() -> None:
    headers = {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}
    assert asked(headers=headers).headers == headers


@pytest.mark.parametrize(
    "metadata, principal",
    [({"user_id": "u1"}, "u1"), ({"user_id": 7}, "7"), ({"other": 1}, ""), ({}, "")],
)
def test_who_is_counted_can_be_read_from_the_metadata(metadata: object, principal: str) -> None:
    body = changed("metadata", metadata)
    assert asked(body, principal="metadata.user_id").principal == principal
    assert asked(body, principal="token").principal == "t0k3n"


@pytest.mark.parametrize("value, kind", [({}, "an object"), ([], "a list")])
def test_who_is_counted_has_a_name(value: object, kind: str) -> None:
    deep = b"%b%b" % (b"[" * 1000, b"]" * 1000)
    body = json.dumps(changed("metadata", {"user_id": value})).encode()
    for sent in (body, body.replace(b'"user_id": []', b'"user_id": ' + deep)):
        failure = outcome(sent, None, "metadata.user_id")
        assert isinstance(failure, Failure)
        assert failure.message == f"metadata.user_id must be a string or a number, not {kind}"


def test_without_metadata_all_are_counted_together() -> None:
    assert asked(GOOD, principal="metadata.user_id").principal == ""


# -- without a session ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [{"message": "hi"}, {"message": "hi", "session_id": None}, MUCH | {"message": "hi"}]
)
def test_a_request_may_name_no_session(body: dict[str, Any]) -> None:
    found = asked(body)
    assert (found.session_id, found.is_new_session) == ("", False)
    found.begin_session("made")
    assert (found.session_id, found.is_new_session) == ("made", True)


def test_a_key_does_not_depend_on_the_session_that_is_made() -> None:
    first, again = asked({"message": "hi"}, key="k"), asked({"message": "hi"}, key="k")
    first.begin_session("made")
    again.begin_session("made again")
    assert first.key == again.key
    assert first.key is not None
    named = asked({"message": "hi", "session_id": "made"}, key="k").key
    assert named is not None
    assert named.fingerprint != first.key.fingerprint


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("session_id", 7, "session_id must be a string, not a number"),
        ("session_id", ["s"], "session_id must be a string, not a list"),
        ("session_id", "", "session_id must have 1 to 256 characters, not 0"),
        ("session_id", "s" * 257, "session_id must have 1 to 256 characters, not 257"),
        ("session_id", "a\nb", "session_id must not contain control characters"),
        ("session_id", "a\x00", "session_id must not contain control characters"),
        ("session_id", "\x85", "session_id must not contain control characters"),
        ("metadata", [], "metadata must be an object, not a list"),
        ("metadata", "x", "metadata must be an object, not a string"),
        ("stream", 1, "stream must be true or false, not a number"),
        ("stream", "true", "stream must be true or false, not a string"),
        *(
            ("on_busy", value, "on_busy must be one of queue, reject, interrupt, latest")
            for value in BAD_POLICIES
        ),
    ],
)
def test_a_wrong_value_is_named(path: str, value: object, message: str) -> None:
    assert refusal(changed(path, value)) == message


@pytest.mark.parametrize(
    "header, message",
    [
        ("", "X-Session-Id must have 1 to 256 characters, not 0"),
        ("a\tb", "X-Session-Id must not contain control characters"),
        ("caf\udce9", "X-Session-Id must be valid Unicode"),
        ("other", "session_id in the body and in the header X-Session-Id differ"),
    ],
)
def test_a_wrong_header_is_named(header: str, message: str) -> None:
    assert refusal(GOOD, header=header) == message


def test_a_wrong_session_in_the_body_is_named_beside_a_good_header() -> None:
    assert refusal(changed("session_id", 7), header="s") == "session_id must be a string, not a number"


# -- large bodies --------------------------------------------------------------------------------


def test_a_large_body_is_read_as_a_small_one() -> None:
    asks = {**GOOD, "stream": False, "on_busy": "latest", "metadata": {"user_id": 7, **MUCH}}
    body = json.dumps(asks).encode()
    assert asked(body, principal="metadata.user_id") == TurnRequest(
        "s", StreamKind.WHOLE, "latest", body, "7", {}, NATIVE
    )
    assert asked({**GOOD, **MUCH}, principal="metadata.user_id").principal == ""
    assert asked({**GOOD, "message": {"content": MUCH["more"]}}).session_id == "s"
    assert asked({"session_id": "s", "message": MUCH["more"]}).session_id == "s"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"session_id": 7}, "session_id must be a string, not a number"),
        ({"session_id": "x" * 300}, "session_id must have 1 to 256 characters, not 300"),
        ({"session_id": "x" * MAX_PARSED}, "session_id has more than 65536 bytes"),
        ({"stream": "x"}, "stream must be true or false, not a string"),
        ({"on_busy": []}, "on_busy must be one of queue, reject, interrupt, latest"),
        ({"metadata": []}, "metadata must be an object, not a list"),
        ({"message": []}, "message is a list; it must be a string, or an object with at least content"),
    ],
)
def test_a_wrong_value_in_a_large_body_is_named(change: dict[str, Any], message: str) -> None:
    assert refusal({**GOOD, **MUCH, **change}) == message


def test_a_large_body_is_the_same_request_only_if_its_bytes_are() -> None:
    body = json.dumps({**GOOD, **MUCH}).encode()
    prints = [
        key.fingerprint for key in (asked(each, key="k").key for each in (body, body, body + b" ")) if key
    ]
    assert prints[0] == prints[1] != prints[2]


# -- whatever comes ------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
MESSAGES = st.one_of(
    JSON,
    st.fixed_dictionaries(
        {"content": st.text() | st.lists(st.dictionaries(st.text(), SCALARS)) | JSON},
        optional={"role": st.sampled_from(["user", "tool"]) | JSON, "name": st.text() | JSON, "id": JSON},
    ),
)
BODIES = st.fixed_dictionaries(
    {"session_id": st.text(min_size=1, max_size=9) | JSON, "message": MESSAGES},
    optional={
        "metadata": st.dictionaries(st.just("user_id"), JSON) | JSON,
        "stream": st.booleans() | JSON,
        "on_busy": st.sampled_from(["queue", "latest"]) | JSON,
    },
)
HEADERS = st.none() | st.text(max_size=5) | st.text("\udc80\udcff\x00s", max_size=3)


def outcome(body: bytes, header: str | None, principal: str) -> TurnRequest | Failure:
    try:
        return asked(body, header=header, principal=principal)
    except Refused as refused:
        return refused.failure


@given(BODIES | JSON, HEADERS, st.sampled_from(["token", "metadata.user_id"]))
@settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_any_json_is_taken_or_refused(value: Any, header: str | None, principal: str) -> None:
    body = json.dumps(value).encode()
    turn = outcome(body, header, principal)
    if isinstance(turn, Failure):
        assert turn.code is ErrorCode.INVALID_REQUEST
        assert turn.message.encode(), "it will stand in JSON"
    else:
        assert turn.body == body
        assert turn.session_id == session_id(value.get("session_id") or header)
        assert isinstance(turn.principal, str)
        assert turn.on_busy == value.get("on_busy")


@given(st.binary() | st.binary().map(lambda tail: b'{"session_id":"s","message":{"content":"' + tail))
@settings(deadline=None, derandomize=True)
def test_bytes_that_are_no_json_object_are_refused(body: bytes) -> None:
    if not isinstance(outcome(body, "s", "token"), Failure):
        assert isinstance(json.loads(body), dict)


# -- Idempotency-Key -----------------------------------------------------------------------------


def test_a_request_without_the_header_has_no_key() -> None:
    assert asked().key is None


def test_a_key_is_the_callers_own() -> None:
    def key(token: str, user: str, principal: str) -> Key:
        found = asked({**GOOD, "metadata": {"u": user}}, key="k", token=token, principal=principal).key
        assert found is not None
        return found

    assert key("a", "x", "token") == key("a", "y", "token") != key("b", "x", "token")
    assert key("a", "x", "metadata.u") != key("a", "y", "metadata.u")
    assert key("a", "x", "metadata.u") != key("b", "x", "metadata.u"), "not with another token"


@pytest.mark.parametrize("value", ["", "x" * 256, "é"])
def test_a_key_that_cannot_be(value: str) -> None:
    with pytest.raises(Refused, match="Idempotency-Key must be 1 to 255 printable ASCII characters"):
        asked(key=value)


def test_a_key_remembers_what_was_asked() -> None:
    prints = [
        found.fingerprint
        for found in (
            asked(key="k").key,
            asked(json.dumps(GOOD, indent=2).encode(), key="k").key,
            asked({**GOOD, "stream": False}, key="k").key,
            asked(accepts_json=True, key="k").key,
            asked({"message": GOOD["message"]}, header="other", key="k").key,
        )
        if found is not None
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == len(prints) - 1
