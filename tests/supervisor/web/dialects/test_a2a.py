"""A2A: what the supervisor reads in a request, and the responses that it makes."""

import json
from typing import Any, Final

import pytest

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain.errors import ErrorCode, Failure, refusal
from agentscope_supervisor.domain.request import MAX_PARSED
from agentscope_supervisor.domain.run import LOST
from agentscope_supervisor.web.dialects import a2a
from agentscope_supervisor.web.dialects.a2a import A2A_03, A2A_10, METHODS_03, METHODS_10, Method
from tests.supervisor.web.dialects.reading import read, refused

RUN: Final = "a" * 32
FAILED: Final = Failure(ErrorCode.APP_ERROR, "no")
TASK: Final = b'{"id":"t"}'


def sending(method: str = "message/send", **params: Any) -> dict[str, Any]:
    message = {"messageId": "m", "parts": [{"text": "x"}], **params.pop("message", {})}
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"message": message, **params}}


@pytest.mark.parametrize(
    "fields, kind, detached, at_once",
    [
        (sending(), StreamKind.WHOLE, False, False),
        (sending("SendMessage"), StreamKind.WHOLE, False, False),
        (sending("message/stream"), StreamKind.EVENTS, False, False),
        (sending("SendStreamingMessage"), StreamKind.EVENTS, False, False),
        (sending(configuration={"blocking": False}), StreamKind.EVENTS, True, True),
        (sending("SendMessage", configuration={"returnImmediately": True}), StreamKind.EVENTS, True, True),
    ],
)
def test_a_message_is_streamed_whole_or_answered_at_once(
    fields: object, kind: StreamKind, detached: bool, at_once: bool
) -> None:
    asked = read(A2A_03, fields)
    assert (asked.kind, asked.detached, asked.at_once) == (kind, detached, at_once)


@pytest.mark.parametrize("padding", [1, MAX_PARSED])
def test_the_context_is_the_session(padding: int) -> None:
    more = {"contextId": "c", "metadata": {"user": "ann"}, "parts": [{"text": "x" * padding}]}
    asked = read(A2A_10, sending(message=more), principal="metadata.user")
    assert (asked.session_id, asked.principal) == ("c", "ann")
    assert read(A2A_10, sending(message={"contextId": ""})).session_id == ""
    assert read(A2A_10, sending(metadata={"user": "bob"}), principal="metadata.user").principal == "bob"


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"params": []}, "params must be an object"),
        ({"params": {}}, "message is missing"),
        ({"params": {"message": 3}}, "message must not be a number"),
        ({"params": {"message": {}}}, "message.messageId must be a string"),
        ({"params": {"message": {"messageId": "m"}}}, "message.parts must be a list"),
        (sending(configuration=3), "configuration must not be a number"),
    ],
)
def test_wrong_fields_are_refused(fields: object, said: str) -> None:
    assert said in refused(A2A_03, fields)


def test_a_result_has_the_envelope_of_its_request() -> None:
    old, new = a2a.envelope(sending()), a2a.envelope(sending("SendMessage"))
    assert json.loads(a2a.answer(TASK, old)) == {"jsonrpc": "2.0", "id": 1, "result": {"id": "t"}}
    assert json.loads(a2a.answer(TASK, new))["result"] == {"task": {"id": "t"}}


@pytest.mark.parametrize(
    "failure, result, status, code",
    [
        (refusal(ErrorCode.OVERLOADED, "full"), b"", 503, -32603),
        (refusal(ErrorCode.SESSION_BUSY, "busy"), TASK, 200, -32603),
        (Failure(ErrorCode.INVALID_REQUEST, "wrong"), TASK, 200, -32602),
        (Failure(ErrorCode.UNAUTHORIZED, "who?"), b"", 401, -32603),
        (Failure(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "what?"), b"", 200, -32005),
        (Failure(ErrorCode.GONE, "gone"), b"", 200, -32001),
        (FAILED, b"[]", 200, -32603),
    ],
)
def test_an_error_is_one_of_json_rpc(failure: Failure, result: bytes, status: int, code: int) -> None:
    sent = a2a.refuse(failure, a2a.envelope(sending()), result)
    answer = json.loads(sent.body)
    assert (sent.status, answer["id"], answer["error"]["code"]) == (status, 1, code)
    assert answer["error"]["message"] == failure.message


def test_a_task_that_failed_is_no_error() -> None:
    sent = a2a.refuse(FAILED, a2a.envelope(sending()), TASK)
    assert (sent.status, json.loads(sent.body)["result"]) == (200, {"id": "t"})


def test_an_error_before_the_body_was_read_has_no_id() -> None:
    assert json.loads(a2a.refuse(FAILED, b"").body)["id"] is None
    assert json.loads(a2a.refuse(FAILED, b"[]").body)["id"] is None


def test_errors_of_the_protocol_name_their_reason() -> None:
    data = json.loads(a2a.rpc_error(1, a2a.TASK_NOT_FOUND, "no"))["error"]["data"]
    assert (data[0]["reason"], data[0]["domain"]) == ("TASK_NOT_FOUND", "a2a-protocol.org")
    assert "data" not in json.loads(a2a.rpc_error(1, a2a.INVALID_PARAMS, "no"))["error"]


@pytest.mark.parametrize("dialect, prefix", [(A2A_03, ""), (A2A_10, "TASK_STATE_")])
def test_the_states_of_a_task_that_no_worker_has_completed(dialect: Any, prefix: str) -> None:
    def state(failure: Failure | None) -> str:
        task = json.loads(dialect.wire.result(RUN, "s", failure, None))
        assert (task["id"], task["contextId"]) == (RUN, "s")
        assert ("kind" in task) is (prefix == "")
        text: str = task["status"]["state"]
        return text if not prefix else text.removeprefix(prefix).lower()

    assert state(None) == "submitted"
    assert state(LOST) == "failed"
    assert state(Failure(ErrorCode.INTERRUPTED, "x")) == "canceled"


def test_both_versions_have_a_method_for_each_purpose() -> None:
    assert set(METHODS_03.values()) == set(METHODS_10.values()) == set(Method)


def test_the_card() -> None:
    card = a2a.card("http://a.example", {}, "9", has_token=False)
    assert card["url"] == "http://a.example/a2a"
    assert [each["protocolVersion"] for each in card["supportedInterfaces"]] == ["1.0", "0.3"]
    assert (card["version"], "security" in card) == ("9", False)
    texts = {"name": "N", "description": "D", "version": "1", "url": "https://b.example/x/"}
    named = a2a.card("http://a.example", texts, "9", has_token=True)
    assert (named["name"], named["description"], named["version"]) == ("N", "D", "1")
    assert named["url"] == "https://b.example/x/a2a"
    assert named["security"] == [{"bearer": []}]
