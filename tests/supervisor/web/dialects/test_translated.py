"""The dialects whose events a worker writes: how their requests are read, and how their runs end."""

import json
from typing import Any, Final

import pytest

from agentscope_protocol.wire.frames import Place, StreamKind, Will
from agentscope_supervisor.domain.errors import ErrorCode, Failure, refusal
from agentscope_supervisor.domain.request import MAX_PARSED
from agentscope_supervisor.domain.run import LOST
from agentscope_supervisor.web.dialects import DIALECTS, openai, responses, translated
from agentscope_supervisor.web.dialects.ag_ui import AG_UI
from agentscope_supervisor.web.dialects.agentcore import AGENTCORE
from agentscope_supervisor.web.dialects.ai_sdk import AI_SDK
from agentscope_supervisor.web.dialects.chat import CHAT
from agentscope_supervisor.web.dialects.dialect import Dialect, Shape
from agentscope_supervisor.web.dialects.process import PROCESS
from agentscope_supervisor.web.dialects.responses import RESPONSES
from agentscope_supervisor.web.dialects.translated import filled, format_of
from tests.supervisor.web.dialects.reading import read, refused

RUN: Final = "a" * 32
FAILED: Final = Failure(ErrorCode.APP_ERROR, 'it said "no"\n\x01')
TRANSLATED: Final = [each for each in DIALECTS if each.wire.result is not None]
MESSAGES: Final = [{"role": "user", "content": "Hello"}]


# -- ends ----------------------------------------------------------------------------------------------


def test_the_places_of_a_template_are_filled_with_json() -> None:
    places = (Place.CODE, Place.MESSAGE, Place.NUMBER, Place.STATUS, Place.ERROR, Place.RUN)
    filled_in = filled(b"[%b,%b,%b,%b,%b,'%b']" % places, RUN, 7, FAILED, "gone")
    code, message, number, status, error, run = json.loads(filled_in.replace(b"'", b'"'))
    assert (code, message, number, status, run) == ("APP_ERROR", FAILED.message, 7, "gone", RUN)
    assert error == {"code": "APP_ERROR", "message": FAILED.message, "retryable": False}


def test_a_run_in_progress_has_no_error() -> None:
    template = b"[%b,%b,%b]" % (Place.CODE, Place.MESSAGE, Place.ERROR)
    assert filled(template, RUN, 0, None, "x") == b"[null,null,null]"


@pytest.mark.parametrize("dialect", TRANSLATED, ids=lambda each: each.path)
def test_a_run_that_ends_before_its_will_has_the_default_end(dialect: Dialect) -> None:
    wire = dialect.wire
    tail, count = wire.tail(RUN, 4, FAILED)
    assert count == tail.count(b"\n\n") >= 1
    assert wire.end_of(tail, count) == len(tail)
    assert json.dumps(FAILED.message).encode() in tail
    assert not any(place in tail for place in (b"\x01", b"\x02", b"\x03", b"\x04", b"\x05", b"\x06"))
    assert wire.result is not None
    json.loads(wire.result(RUN, "s", LOST, None))
    json.loads(wire.result(RUN, "s", None, None))


@pytest.mark.parametrize("dialect", TRANSLATED, ids=lambda each: each.path)
def test_the_worker_writes_the_end_of_a_complete_answer(dialect: Dialect) -> None:
    assert dialect.wire.tail(RUN, 4, None, b'{"a":1}') == (b"", 0)
    assert dialect.wire.json_body("s", RUN, b'{"a":1}') == b'{"a":1}'
    assert dialect.wire.messages(b"data: 1\n\n", 1) == b"[]"


@pytest.mark.parametrize("dialect", TRANSLATED, ids=lambda each: each.path)
def test_a_comment_is_a_part_of_the_next_event(dialect: Dialect) -> None:
    assert dialect.wire.comment("keep-alive") == b": keep-alive\n"


def test_a_will_is_filled_for_each_of_its_events() -> None:
    wire = format_of(99, "two", b"")
    line = b"%b %b\n\n" % (Place.NUMBER, Place.STATUS)
    tail, count = wire.tail(RUN, 4, FAILED, b"", Will(1, line * 2, b"%b" % Place.ERROR, b""))
    assert (tail, count) == (b'4 "failed"\n\n5 "failed"\n\n', 2)
    assert wire.result is not None
    assert wire.result(RUN, "s", None, Will(1, b"", Place.STATUS, b"")) == b'"in_progress"'


def test_a_run_that_no_worker_has_begun_waits() -> None:
    result = RESPONSES.wire.result
    assert result is not None
    state = json.loads(result(RUN, "s", None, None, 7))
    assert (state["id"], state["status"], state["created_at"]) == (f"resp_{RUN}", "queued", 7)
    assert json.loads(result(RUN, "s", FAILED, None))["status"] == "failed"
    assert json.loads(result(RUN, "s", Failure(ErrorCode.INTERRUPTED, "x"), None))["status"] == "cancelled"
    assert responses.status(None) == "in_progress"


@pytest.mark.parametrize(
    "fields, session, kind, detached, at_once",
    [
        ({"input": "x"}, None, StreamKind.WHOLE, False, False),
        ({"input": [], "stream": True, "conversation": "c"}, "c", StreamKind.EVENTS, False, False),
        ({"input": "x", "conversation": {"id": "c"}}, "c", StreamKind.WHOLE, False, False),
        ({"input": "x", "background": True}, None, StreamKind.EVENTS, True, True),
        ({"input": "x", "background": True, "stream": True}, None, StreamKind.EVENTS, True, False),
    ],
)
def test_requests_of_responses(
    fields: dict[str, object], session: str | None, kind: StreamKind, detached: bool, at_once: bool
) -> None:
    asked = read(RESPONSES, fields)
    assert asked.session_id == (session or "")
    assert (asked.kind, asked.detached, asked.at_once) == (kind, detached, at_once)


def test_a_response_follows_another_or_a_conversation() -> None:
    assert RESPONSES.follows is not None
    assert RESPONSES.follows({"previous_response_id": f"resp_{RUN}"}) == RUN
    assert RESPONSES.follows({}) is None
    both = {"input": "x", "conversation": "c", "previous_response_id": "resp_1"}
    assert "must not be given together" in refused(RESPONSES, both)


def test_the_shape_of_a_request_refuses_and_answers_for_its_dialect() -> None:
    shape = Shape(CHAT, b"{}")
    assert shape.answer(b"result") == b"result"
    assert shape.refuse(FAILED, b"null").status == 500


# -- requests --------------------------------------------------------------------------------------------


def test_a_request_without_a_session_gets_a_new_one() -> None:
    asked = read(CHAT, {"messages": MESSAGES})
    assert (asked.session_id, asked.kind) == ("", StreamKind.WHOLE)
    assert (asked.principal, asked.key, asked.on_busy, asked.detached) == ("t0k3n", None, None, False)


@pytest.mark.parametrize(
    "fields, header, session",
    [
        ({"metadata": {"session_id": "m"}, "user": "u"}, None, "m"),
        ({"metadata": {"session_id": "m"}}, "m", "m"),
        ({"user": "u"}, "h", "h"),
        ({"user": "u"}, None, "u"),
    ],
)
def test_a_request_names_its_session(fields: dict[str, object], header: str | None, session: str) -> None:
    asked = read(CHAT, {"messages": MESSAGES, "stream": True, **fields}, session=header)
    assert (asked.session_id, asked.kind) == (session, StreamKind.EVENTS)


def test_a_large_request_is_read_without_its_message() -> None:
    large = [{"role": "user", "content": "x" * MAX_PARSED}]
    fields = {"messages": large, "metadata": {"session_id": "m", "id": "ann"}, "stream": True}
    asked = read(CHAT, fields, key="k", principal="metadata.id")
    assert (asked.session_id, asked.principal, asked.kind) == ("m", "ann", StreamKind.EVENTS)
    assert read(CHAT, fields).principal == "t0k3n"


@pytest.mark.parametrize(
    "fields, session, said",
    [
        ({}, None, "messages is missing"),
        ({"messages": "x"}, None, "messages has the wrong type"),
        ({"messages": MESSAGES, "stream": "yes"}, None, "stream must not be a string"),
        ({"messages": MESSAGES, "metadata": []}, None, "metadata must not be a list"),
        ({"messages": MESSAGES, "metadata": {"session_id": 3}}, None, "session_id must be a string"),
        ({"messages": MESSAGES, "metadata": {"session_id": "a"}}, "b", "differ"),
        ({"messages": MESSAGES}, "", "1 to 256 characters"),
        ({"messages": MESSAGES, "user": "\n"}, None, "user must not contain control characters"),
    ],
)
def test_wrong_fields_are_refused(fields: object, session: str | None, said: str) -> None:
    assert said in refused(CHAT, fields, session=session)


def test_the_principal_may_be_a_member_of_the_metadata() -> None:
    def principal(metadata: object) -> str:
        return read(CHAT, {"messages": MESSAGES, "metadata": metadata}, principal="metadata.id").principal

    assert [principal({"id": "ann"}), principal({"id": 7}), principal({}), principal(None)] == [
        "ann",
        "7",
        "",
        "",
    ]
    fields = {"messages": MESSAGES, "metadata": {"id": {}}}
    assert "a string or a number, not an object" in refused(CHAT, fields, principal="metadata.id")


def test_a_key_holds_for_the_same_request_in_the_same_dialect() -> None:
    def key(**fields: object) -> Any:
        return read(CHAT, {"messages": MESSAGES, **fields}, key="k").key

    first = key()
    assert first == key()
    assert first.fingerprint == key().fingerprint, "a new session for each request makes no difference"
    assert first.fingerprint != key(stream=True).fingerprint
    assert first.fingerprint != key(user="u").fingerprint
    assert "Idempotency-Key must be" in refused(CHAT, {"messages": MESSAGES}, key="")


@pytest.mark.parametrize(
    "dialect, fields, session, kind",
    [
        (PROCESS, {"input": [], "session_id": "s"}, "s", StreamKind.EVENTS),
        (PROCESS, {"input": [], "stream": False}, None, StreamKind.WHOLE),
        (AG_UI, {"messages": [], "threadId": "s"}, "s", StreamKind.EVENTS),
        (AI_SDK, {"messages": [], "id": "s"}, "s", StreamKind.EVENTS),
        (AGENTCORE, {"prompt": "x"}, None, StreamKind.WHOLE),
        (AGENTCORE, {"prompt": "x", "stream": True}, None, StreamKind.EVENTS),
    ],
)
def test_requests_of_user_interfaces(
    dialect: Dialect, fields: dict[str, object], session: str | None, kind: StreamKind
) -> None:
    asked = read(dialect, fields)
    assert (asked.session_id, asked.kind) == (session or "", kind)


@pytest.mark.parametrize(
    "dialect, fields",
    [
        (PROCESS, {"input": [], "user_id": "ann"}),
        (PROCESS, {"input": [], "metadata": {"user_id": "ann"}}),
        (AG_UI, {"messages": [], "forwardedProps": {"user_id": "ann"}}),
        (AI_SDK, {"messages": [], "metadata": {"user_id": "ann"}}),
        (AGENTCORE, {"prompt": "x", "user_id": "ann"}),
    ],
)
@pytest.mark.parametrize("padding", [1, MAX_PARSED])
def test_the_principal_is_found_where_the_dialect_has_its_metadata(
    dialect: Dialect, fields: dict[str, object], padding: int
) -> None:
    asked = read(dialect, {**fields, "more": ["x" * padding]}, principal="metadata.user_id")
    assert asked.principal == "ann"


# -- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure, kind, may_retry",
    [
        (FAILED, "server_error", False),
        (refusal(ErrorCode.OVERLOADED, "full"), "server_error", True),
        (refusal(ErrorCode.TOO_MANY_REQUESTS, "full"), "rate_limit_error", True),
        (refusal(ErrorCode.SESSION_BUSY, "busy"), "invalid_request_error", False),
        (Failure(ErrorCode.UNAUTHORIZED, "who?"), "authentication_error", False),
        (Failure(ErrorCode.FORBIDDEN, "no"), "permission_error", False),
    ],
)
def test_an_error_has_the_shape_that_openai_clients_read(
    failure: Failure, kind: str, may_retry: bool
) -> None:
    sent = openai.refuse(failure, b"")
    assert sent.status == failure.status
    assert sent.headers == ({} if may_retry else {"x-should-retry": "false"})
    error = {"message": failure.message, "type": kind, "param": None, "code": failure.code}
    assert json.loads(sent.body) == {"error": error}


def test_a_dialect_without_its_own_errors_has_the_native_ones() -> None:
    sent = translated.refuse(FAILED, b"")
    error = {"code": "APP_ERROR", "message": FAILED.message, "retryable": False}
    assert (sent.status, sent.headers, json.loads(sent.body)) == (500, {}, {"error": error})
