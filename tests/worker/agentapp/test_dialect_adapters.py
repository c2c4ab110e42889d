"""The routes of other protocols that every AgentApp has: AG-UI, and Responses with OpenAI's own client."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from agentscope_runtime.engine import AgentApp
from agentscope_runtime.engine.deployers.adapter.agui import AGUIAdaptorConfig

from agentscope_worker.agentapp import dialect_adapters
from tests.worker.agentapp.clients import Stream, eventually, running
from tests.worker.agentapp.scenarios import SCENARIOS, Handler, _growing, _text, request

SEEN: list[tuple[Any, ...]] = []


async def sees(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
    SEEN.append((request.session_id, request.user_id, [each.get_text_content() for each in msgs]))
    for each in _growing([_text("Hel")], [_text("Hello")]):
        yield each


def app_of(handler: Handler, **options: Any) -> AgentApp:
    app = AgentApp(**options)
    app.query()(handler)
    SEEN.clear()
    return app


def sent(answer: httpx.Response) -> list[dict[str, Any]]:
    """The data of each event."""
    lines = answer.text.splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def run_of(text: str, thread: str = "t") -> dict[str, Any]:
    message = {"id": "1", "role": "user", "content": text}
    return {"threadId": thread, "runId": "r", "messages": [message], "tools": [], "context": []}


async def test_ag_ui() -> None:
    app = app_of(sees, agui_config=AGUIAdaptorConfig(route_path="/agent"))
    async with running(app) as client:
        answer = await client.post("/agent", json=run_of("Hi"))
        refused = await client.post("/agent", json={"threadId": "t", "messages": []})
    assert [each["type"] for each in sent(answer)] == [
        "RUN_STARTED",
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END",
        "RUN_FINISHED",
    ]
    assert sent(answer)[0]["threadId"] == "t"
    assert "".join(each.get("delta", "") for each in sent(answer)) == "Hello"
    assert SEEN == [("t", "t", ["Hi"])]
    assert refused.status_code == 400
    assert "no message with the role user" in refused.json()["error"]["message"]


async def test_ag_ui_of_thinking_and_tools() -> None:
    async with running(app_of(SCENARIOS["thinking_and_call"].handler)) as client:
        found = sent(await client.post("/ag-ui", json=run_of("Hi")))
    kinds = [each["type"] for each in found]
    assert kinds[1:3] == ["REASONING_START", "REASONING_MESSAGE_START"]
    assert kinds[-5:-1] == ["TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END", "TOOL_CALL_RESULT"]
    assert (found[-4]["delta"], found[-2]["content"]) == ('{"a": 1}', "1")


async def test_a_failure_is_the_last_event_of_ag_ui() -> None:
    async with running(app_of(SCENARIOS["failing"].handler)) as client:
        found = sent(await client.post("/ag-ui", json=run_of("Hi")))
    assert found[-1]["type"] == "RUN_ERROR"
    assert found[-1]["code"] == "AGENT_UNKNOWN_ERROR"
    assert "ValueError: no more" in found[-1]["message"]


async def test_a_request_of_another_protocol_is_one_of_its_session() -> None:
    """It waits for its turn, and a stop of the session ends it."""

    async def waits(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
        yield next(_growing([_text("one")], []))
        await asyncio.Event().wait()

    app = app_of(waits)
    body = {**request("x"), "user_id": None, "session_id": "t"}
    async with running(app) as client, Stream(app, body) as first:
        await first.until("in_progress", "content")
        second = asyncio.create_task(client.post("/ag-ui", json=run_of("Hi")))
        await app.stop_chat(user_id=None, session_id="t")
        assert (await first.rest())[-1]["status"] == "canceled"

        async def listens() -> bool:
            return "chan:None:t" in app._interrupt_backend._listeners

        await eventually(listens)
        await app.stop_chat(user_id=None, session_id="t")
        found = sent(await asyncio.wait_for(second, 10))
    assert (found[-1]["type"], found[-1]["code"]) == ("RUN_ERROR", "INTERRUPTED")


async def test_responses_with_the_client_of_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialect_adapters, "MAX_KEPT", 2)
    app = app_of(sees)
    async with running(app) as plain:
        url = "http://test/compatible-mode/v1"
        client = openai.AsyncOpenAI(api_key="x", base_url=url, http_client=plain, max_retries=0)
        first = await client.responses.create(model="m", input="one", user="me", instructions="Be kind.")
        assert first.output_text == "Hello"
        second = await client.responses.create(model="m", input="two", previous_response_id=first.id)
        stream = await client.responses.create(
            model="m",
            input=[{"role": "user", "content": [{"type": "input_text", "text": "three"}]}],
            conversation="c",
            stream=True,
        )
        events = [event async for event in stream]
        assert events[-1].type == "response.completed"
        assert events[-1].response.output_text == "Hello"
        with pytest.raises(openai.NotFoundError, match="Previous response"):
            await client.responses.create(model="m", input="four", previous_response_id=first.id)
        with pytest.raises(openai.BadRequestError, match="input must be a list"):
            await client.responses.create(model="m", input=7)  # type: ignore[arg-type]
    assert second.id != first.id
    sessions = [each[0] for each in SEEN]
    assert sessions == [sessions[0], sessions[0], "c"]
    assert SEEN[0][1:] == ("me", ["Be kind.", "one"])


async def test_responses_of_tools_and_failures() -> None:
    body = {"model": "m", "input": "x"}
    async with running(app_of(SCENARIOS["tools"].handler)) as client:
        answer = (await client.post("/compatible-mode/v1/responses", json=body)).json()
    assert [each["type"] for each in answer["output"]] == ["message", "mcp_call", "message"]
    call = answer["output"][1]
    assert (call["name"], call["arguments"], call["output"]) == ("add", '{"a": 1, "b": 2}', "3")
    async with running(app_of(SCENARIOS["failing"].handler)) as client:
        failed = (await client.post("/compatible-mode/v1/responses", json=body)).json()
        stream = await client.post("/compatible-mode/v1/responses", json={**body, "stream": True})
    assert (failed["status"], failed["error"]["code"]) == ("failed", "AGENT_UNKNOWN_ERROR")
    last = sent(stream)[-1]
    assert last["type"] == "response.failed"
    assert last["sequence_number"] == len(sent(stream)) - 1
    assert last["response"]["error"]["code"] == "AGENT_UNKNOWN_ERROR"
