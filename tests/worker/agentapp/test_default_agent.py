"""Agents of AgentScope behind `POST /process`: as `AgentApp(agent=…)`, and in a handler, with tools."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from agentscope_runtime.engine import AgentApp

from agentscope_worker.agentapp import default_agent
from agentscope_worker.runtime import runtime
from tests.fakes.model_server import ModelServer
from tests.worker.agentapp.clients import running
from tests.worker.agentapp.scenarios import events, request
from tests.worker.agentapp.test_events import assert_well_formed
from tests.worker.agents import MAJOR, add_tool, make_agent
from tests.worker.conftest import openai


def output(answer: str) -> list[tuple[str, str]]:
    """The type of each message, with its text, its arguments or its output."""
    stream = events(answer)
    assert_well_formed(stream)
    found = []
    for message in stream[-1]["output"]:
        (content,) = message["content"]
        data = content.get("data") or {}
        found.append((message["type"], content.get("text") or data.get("arguments") or data.get("output")))
    return found


async def ask(client: Any, session: str, text: str) -> list[tuple[str, str]]:
    body = {**request(text), "session_id": session}
    return output((await client.post("/process", json=body)).text)


async def shout(word: str) -> str:
    return word.upper()


@pytest.mark.parametrize("is_hosted", [True, False], ids=["in a worker", "elsewhere"])
async def test_an_agent_answers_each_session_with_its_own_state(
    is_hosted: bool, start: Callable[..., Any], server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = await start(models={"main": openai(server)})
    agent = make_agent()
    if not is_hosted:
        monkeypatch.setattr(type(runtime), "is_initialized", property(lambda _: False))
        monkeypatch.setattr(default_agent, "MAX_STATES", 2)
    app = AgentApp(agent=agent)
    async with running(app) as client:
        answers = await asyncio.gather(ask(client, "a", "one"), ask(client, "b", "two"))
        assert answers == [[("message", "Echo: one")], [("message", "Echo: two")]]
        assert await ask(client, "a", "three") == [("message", "Echo: three")]
        said = str(server.requests[-1].body["messages"])
        await ask(client, "c", "four")
        await ask(client, "b", "five")
    assert "Echo: one" in said
    assert "two" not in said
    assert bool(list((project / "sessions").glob("[!.]*"))) == is_hosted
    # Elsewhere only the newest two states are kept.
    assert ("Echo: two" in str(server.requests[-1].body["messages"])) == is_hosted


async def test_an_agent_calls_tools_on_its_way(start: Callable[..., Any], server: ModelServer) -> None:
    await start(models={"main": openai(server)})
    await add_tool(shout)
    result = json.dumps([{"type": "text", "text": "HI"}])
    expected = [
        ("plugin_call", '{"word": "hi"}'),
        ("plugin_call_output", result),
        ("message", "Echo: HI"),
    ]
    async with running(AgentApp(agent=make_agent())) as client:
        calls, outputs, text = await ask(client, "s", 'call shout {"word": "hi"}')
    assert (calls[0], json.loads(calls[1])) == ("plugin_call", {"word": "hi"})
    assert (outputs[0], text) == ("plugin_call_output", expected[2])
    assert [(each["type"], each["text"]) for each in json.loads(outputs[1])] == [("text", "HI")]


async def test_a_handler_with_tools(start: Callable[..., Any], server: ModelServer) -> None:
    """On 1.x the items of stream_printing_messages, on 2.x the events of reply_stream."""
    await start(models={"main": openai(server)})
    await add_tool(shout)
    app = AgentApp()

    @app.query(framework="agentscope")
    async def query(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
        agent = make_agent()
        if MAJOR == 1:
            from agentscope.pipeline import stream_printing_messages

            stream = stream_printing_messages(agents=[agent], coroutine_task=agent(msgs))
        else:
            stream = agent.reply_stream(msgs, yield_final_msg=True)
        async for each in stream:
            yield each

    async with running(app) as client:
        answer = (await client.post("/process", json=request('call shout {"word": "hi"}'))).text
    (call, arguments), (kind, result), text = output(answer)
    assert (call, json.loads(arguments)) == ("plugin_call", {"word": "hi"})
    assert (kind, json.loads(result)) == ("plugin_call_output", [{"type": "text", "text": "HI"}])
    assert text == ("message", "Echo: HI")
