"""An agent whose reply ended in a tool call: its session goes on, also with strict model servers."""

import asyncio
import json
from typing import Any

import pytest

from agentscope_worker.runtime import runtime
from agentscope_worker.runtime.compat import tool_calls
from agentscope_worker.runtime.compat.tool_calls import mended_state
from tests.fakes.model_server import ModelServer
from tests.fakes.slots import slot
from tests.worker.agents import (
    MAJOR,
    add_tool,
    drain,
    make_agent,
    question,
    text_of,
    until,
)
from tests.worker.conftest import openai

pytestmark = pytest.mark.agentscope

CALL = 'call look {"word": "it, and nothing but it"}'
SLOWLY = f"delay 0.02 {CALL}"


async def look(word: str) -> str:
    return f"found {word}"


async def save(agent: Any) -> None:
    await runtime.session.save_session_state("s", **stateful(agent))


async def load(agent: Any) -> Any:
    await runtime.session.load_session_state("s", **stateful(agent))
    return agent


def stateful(agent: Any) -> dict[str, Any]:
    return {"memory": agent.memory} if MAJOR == 1 else {"agent": agent}


async def cut_off_in_the_arguments(agent: Any, server: ModelServer) -> None:
    """Leave a reply when the server has sent a part of its call's arguments."""
    before = server.pieces
    reply = asyncio.create_task(drain(agent.stream(question(SLOWLY))))
    await until(lambda: server.pieces >= before + 4)
    reply.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reply


@pytest.mark.parametrize("provider", ["openai", "dashscope", "anthropic"])
async def test_a_session_goes_on_after_a_stop_in_the_arguments_of_a_call(
    start: Any, server: ModelServer, provider: str
) -> None:
    """With the agent that was stopped, and with one that loads what was saved after the stop."""
    await start(models={"main": slot(server, provider, MAJOR)})
    await add_tool(look)
    agent = make_agent()
    await cut_off_in_the_arguments(agent, server)
    assert text_of(await agent(question("hello"))) == "Echo: hello"
    await save(agent)
    assert text_of(await (await load(make_agent()))(question("again"))) == "Echo: again"


async def test_a_session_goes_on_after_a_stop_with_a_model_of_the_author(
    start: Any, server: ModelServer
) -> None:
    if MAJOR == 1:
        pytest.skip("1.x has no DeepSeek model")
    from agentscope.agent import Agent
    from agentscope.credential import DeepSeekCredential
    from agentscope.model import DeepSeekChatModel

    await start()
    credential = DeepSeekCredential(api_key="k", base_url=server.base_url)
    model = DeepSeekChatModel(credential, "deepseek-chat")
    agent = Agent(name="a", system_prompt="", model=model)
    await cut_off_in_the_arguments(agent, server)
    assert text_of(await agent(question("hello"))) == "Echo: hello"
    await model.client.close()


async def test_a_saved_state_has_whole_tool_calls_only(start: Any, server: ModelServer) -> None:
    await start(models={"main": openai(server)})
    await add_tool(look)
    agent = make_agent()
    await cut_off_in_the_arguments(agent, server)
    await save(agent)
    stored = await runtime.session.load_session_state("s")
    assert mended_state(stored) is stored
    assert "interrupted" in json.dumps(stored)


@pytest.mark.parametrize("kept", [0, 4, 10])
async def test_a_call_that_reaches_the_token_limit_does_not_end_the_turn(
    start: Any, server: ModelServer, kept: int
) -> None:
    """The tool's error goes back to the model within the turn."""
    await start(models={"main": openai(server)})
    await add_tool(look)
    agent = make_agent()
    reply = await agent(question(f"limit {kept} {CALL}"))
    assert text_of(reply).startswith("Echo: ")
    assert text_of(await agent(question("hello"))) == "Echo: hello"


# AgentScope 1.x drops the coroutine of the second call without awaiting it.
@pytest.mark.filterwarnings("ignore:.*ReActAgent._acting")
async def test_a_session_goes_on_after_a_stop_in_the_first_of_two_calls(
    start: Any, server: ModelServer
) -> None:
    """AgentScope 1.x stores no result of the second call then."""
    await start(models={"main": openai(server)})
    called = asyncio.Event()

    async def stuck(word: str) -> str:
        called.set()
        await asyncio.Event().wait()
        return word

    await add_tool(stuck)
    agent = make_agent()
    reply = asyncio.create_task(drain(agent.stream(question('twice call stuck {"word": "x"}'))))
    await called.wait()
    reply.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reply
    assert text_of(await agent(question("hello"))) == "Echo: hello"
    await save(agent)
    assert text_of(await (await load(make_agent()))(question("again"))) == "Echo: again"


async def test_a_session_goes_on_after_a_crash_while_a_tool_ran(start: Any, server: ModelServer) -> None:
    """What was stored last was saved by the tool, before its worker died."""
    await start(models={"main": openai(server)})
    agents: list[Any] = []

    async def saves(word: str) -> str:
        await save(agents[0])
        return word

    await add_tool(saves)
    agents.append(make_agent())
    await drain(agents[0].stream(question('call saves {"word": "x"}')))
    assert text_of(await (await load(make_agent()))(question("again"))) == "Echo: again"


async def test_a_session_goes_on_after_a_model_error_in_the_arguments_of_a_call(
    start: Any, server: ModelServer
) -> None:
    await start(models={"main": openai(server)})
    await add_tool(look)
    agent = make_agent()
    with pytest.raises(Exception, match=r"(?i)connection|peer|incomplete"):
        await agent(question(f"break 4 {CALL}"))
    assert text_of(await agent(question("hello"))) == "Echo: hello"


async def test_a_state_that_was_stored_with_incomplete_calls_can_be_continued(
    start: Any, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(models={"main": openai(server)})
    agent = make_agent()
    with monkeypatch.context() as patched:  # as releases before this check stored it
        patched.setattr(tool_calls, "mended_state", lambda state: state)
        await cut_off_in_the_arguments(agent, server)
        await save(agent)
    assert text_of(await (await load(make_agent()))(question("again"))) == "Echo: again"


def call(number: int, given: Any = None, kind: str = "tool_call", **fields: Any) -> dict[str, Any]:
    return {"type": kind, "id": str(number), "name": "f", "input": "{}" if given is None else given, **fields}


def result(number: int) -> dict[str, Any]:
    return {"type": "tool_result", "id": str(number), "name": "f", "output": "done"}


def said(*blocks: Any, role: str = "assistant") -> dict[str, Any]:
    return {"name": "a", "role": role, "content": list(blocks)}


TEXT = {"type": "text", "text": "x"}
HINT = {"type": "hint", "hint": "x"}


def shape(messages: list[Any]) -> list[str]:
    """Each message as words: call ids, result ids with "!" for added ones, and other types."""
    words = {"tool_call": "c", "tool_use": "c", "tool_result": "r"}
    return [
        " ".join(
            words.get(block["type"], block["type"])
            + block.get("id", "")
            + "!" * (block.get("output") == tool_calls.INTERRUPTED)
            for block in message["content"]
        )
        for message in messages
    ]


@pytest.mark.parametrize(
    "history, mended",
    [
        ([said(call(1))], ["c1 r1!"]),
        ([said(call(1), call(2), call(3), result(1), result(3))], ["c1 c2 c3 r2! r1 r3"]),
        ([said(call(1), TEXT, call(2), result(2))], ["c1 text c2 r1! r2"]),
        ([said(call(1), HINT, TEXT)], ["c1 r1! hint text"]),
        ([said(call(1), HINT, result(1))], ["c1 r1 hint"]),
        ([said(call(1)), said(TEXT, role="user"), said(result(1), TEXT)], ["c1 r1", "text", "text"]),
        ([said(call(1)), said(TEXT, role="user"), said(result(1))], ["c1 r1", "text"]),
        ([said(result(1), TEXT)], ["text"]),
        ([said(call(1)), said(TEXT), said(call(1), result(1))], ["c1 r1!", "text", "c1 r1"]),
        (
            [said(call(1, state="asking"), call(2)), said(TEXT)],
            ["c1 c2 r1! r2!", "text"],
        ),
    ],
)
def test_each_call_of_2x_is_followed_by_its_result(history: list[Any], mended: list[str]) -> None:
    before = json.dumps(history)
    assert shape(mended_state({"context": history})["context"]) == mended
    assert json.dumps(history) == before


def test_each_call_of_1x_is_followed_by_its_result() -> None:
    first = said(call(1, {}, "tool_use"), call(2, {}, "tool_use"))
    items = [[first, ["mark"]], [said(result(1), role="system"), []], [said(TEXT), []]]
    mended = mended_state({"memory": {"content": items}})["memory"]["content"]
    assert shape([message for message, _ in mended]) == ["c1 c2", "r2!", "r1", "text"]
    assert [marks for _, marks in mended] == [["mark"], ["mark"], [], []]


@pytest.mark.parametrize(
    "state",
    [
        {"context": [said(call(1), result(1), TEXT), said(TEXT)]},
        {"context": [said(call(1, state="asking"), call(2))]},  # the agent waits for a permission
        {"content": [[said(call(1, {}, "tool_use")), []], [said(result(1)), []]]},
        {"history": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1"}]}]},
        {"history": [{"name": "a", "role": "user", "content": "text"}], "other": [1, {}], "none": []},
    ],
)
def test_a_state_with_whole_calls_stays_the_same(state: Any) -> None:
    assert mended_state(state) is state


@pytest.mark.parametrize(
    "given, whole",
    [
        ("", "{}"),
        ('{"seconds": ', '{"seconds": ""}'),
        ('{"a": {"b": [1, 2', '{"a": {"b": [1, 2]}}'),
        ("[1]", "{}"),
        ("no JSON", "{}"),
        ('{"a": 1}', '{"a": 1}'),
        ("[" * 100_000, "{}"),
    ],
)
def test_incomplete_arguments_become_an_object(given: str, whole: str) -> None:
    assert tool_calls.whole_arguments(given) == whole
    (mended,) = mended_state({"context": [said(call(1, given), result(1))]})["context"]
    assert mended["content"][0]["input"] == whole
    (old,) = mended_state({"content": [said(call(1, given, "tool_use"), result(1))]})["content"]
    assert old["content"][0]["input"] == json.loads(whole)
