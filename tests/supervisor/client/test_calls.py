"""The requests of the client: paths, headers and bodies."""

import json

import pytest

from agentscope_supervisor.client import calls


def test_a_turn() -> None:
    call = calls.invocation("hi", "me", {"a": 1}, "reject", "k", stream=True)
    assert (call.method, call.path, call.may_repeat) == ("POST", "/invoke", True)
    assert call.headers == {
        "Content-Type": "application/json",
        "Idempotency-Key": "k",
        "X-Session-Id": "me",
    }
    assert json.loads(call.body or b"") == {
        "message": "hi",
        "stream": True,
        "session_id": "me",
        "metadata": {"a": 1},
        "on_busy": "reject",
    }


@pytest.mark.parametrize("session", [None, "字", " blank", "a\nb"])
def test_a_session_that_is_no_header(session: str | None) -> None:
    call = calls.invocation({"content": "hi"}, session, None, None, None, stream=False)
    assert (call.headers, call.may_repeat) == ({"Content-Type": "application/json"}, False)
    fields = {"message": {"content": "hi"}, "stream": False}
    assert json.loads(call.body or b"") == (fields | {"session_id": session} if session else fields)


def test_paths() -> None:
    assert calls.events("r", -1, None).path == "/runs/r/events"
    assert calls.events("r", 3, None).path == "/runs/r/events?after=3"
    assert calls.run("../x").path == "/runs/..%2Fx"
    assert calls.runs("a b", "ended", 5, "c").path == "/runs?session_id=a+b&state=ended&limit=5&after=c"
    assert calls.messages("a/b", None, None).path == "/sessions/a%2Fb/messages"
    assert calls.session("ü").path == "/sessions/%C3%BC"
    deletion = calls.delete_session("s", "ada")
    assert (deletion.method, deletion.path, deletion.may_repeat) == (
        "DELETE",
        "/sessions/s?user_id=ada",
        False,
    )


def test_stops() -> None:
    assert json.loads(calls.stop("s", None).body or b"") == {"session_id": "s"}
    assert json.loads(calls.stop(None, "r").body or b"") == {"run_id": "r"}
    for session, run in ((None, None), ("s", "r")):
        with pytest.raises(ValueError, match="either"):
            calls.stop(session, run)


def test_objects() -> None:
    assert calls.read_object(b'{"a": 1}') == {"a": 1}
    for other in (b"", b"[]", b"\xff"):
        assert calls.read_object(other) == {}
