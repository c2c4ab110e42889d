"""The results of the client, from the JSON of an instance of this version, and of a newer one."""

import pytest

import agentscope_supervisor.client as package
from agentscope_supervisor.client import AppError, errors, results
from agentscope_supervisor.domain.errors import ErrorCode

MESSAGE = {"name": "a", "role": "assistant", "content": "hi", "metadata": None}
ROW = {"run_id": "r", "session_id": "s", "state": "ended", "stream": True, "worker": "0.1", "error": None}


def test_texts() -> None:
    blocks = [{"type": "text", "text": "one"}, {"type": "tool_call"}, {"type": "text", "text": "two"}]
    assert results.message_of({"content": blocks}).text == "onetwo"
    assert results.message_of({}).text == ""
    answer = results.answer_of({"session_id": "s", "run_id": "r", "messages": [MESSAGE, MESSAGE]})
    assert (answer.text, answer.messages[0].metadata, answer.usage) == ("hihi", {}, None)
    last = MESSAGE | {"metadata": {"usage": {"ms": 1}}}
    answer = results.answer_of({"session_id": "s", "run_id": "r", "messages": [MESSAGE, last]})
    assert answer.usage == {"ms": 1}
    assert results.answer_of({"session_id": "s", "run_id": "r", "messages": []}).usage is None


def test_runs() -> None:
    page = results.page_of({"runs": [ROW | {"started_at": "2026", "new": 1}], "next": "x"})
    (run,) = page.runs
    assert (page.next, run.started_at, run.messages, run.text, run.error) == ("x", "2026", None, "", None)
    assert run.data["new"] == 1
    failure = {"code": "APP_ERROR", "message": "no", "retryable": False}
    run = results.run_of(ROW | {"error": failure, "messages": [MESSAGE], "usage": {"output_tokens": 2}})
    assert isinstance(run.error, AppError)
    assert (run.error.message, run.text, run.usage) == ("no", "hi", {"output_tokens": 2})


def test_sessions_and_health() -> None:
    session = results.session_of({"session_id": "s", "worker": "0.1", "run_id": None, "waiting": 2})
    assert (session.session_id, session.worker, session.run_id, session.waiting) == ("s", "0.1", None, 2)
    health = results.health_of({"status": "degraded", "uptime": 1.5}, 200)
    assert (health.status, health.is_up, health.uptime) == ("degraded", True, 1.5)
    assert not results.health_of({}, 503).is_up


def test_each_code_has_its_exception() -> None:
    assert set(errors.CLASSES) == {code.value for code in ErrorCode}
    assert {each.__name__ for each in errors.CLASSES.values()} <= set(package.__all__)


def test_all_names_are_there() -> None:
    assert [name for name in package.__all__ if not hasattr(package, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        _ = package.Other  # type: ignore[attr-defined]
