"""`runtime.tools`: one Toolkit for the project, and a clone for each agent."""

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from agentscope_worker.runtime import runtime
from tests.fakes.model_server import ModelServer
from tests.worker.agents import MAJOR, add_tool, make_agent, question, text_of, until
from tests.worker.conftest import openai

pytestmark = pytest.mark.agentscope


class Answer(BaseModel):
    number: int


async def ask_for_an_answer(agent: Any, text: str) -> Any:
    """The structured output of a reply to `text`."""
    if MAJOR == 1:
        call = f'call generate_response {{"number": {text}}}'
        return (await agent(question(call), structured_model=Answer)).metadata
    call = f'call GenerateStructuredOutput {{"number": {text}}}'
    return (await agent(question(call), structured_schema=Answer)).structured_output


async def first(word: str) -> str:
    return "first"


async def second(word: str) -> str:
    return "second"


async def tool_names(agent: Any) -> set[str]:
    toolkit = agent.toolkit
    schemas = toolkit.get_json_schemas() if MAJOR == 1 else await toolkit.get_tool_schemas()
    return {schema["function"]["name"] for schema in schemas}


async def test_a_structured_output_survives_other_replies(start: Any, server: ModelServer) -> None:
    await start(models={"main": openai(server)})
    server.delay = 0.1
    asking = asyncio.create_task(ask_for_an_answer(make_agent(), "7"))
    await until(lambda: server.streaming)
    await make_agent("Saturday")(question("hello"))
    assert await asking == {"number": 7}


async def test_each_agent_has_its_own_tools(start: Any, server: ModelServer) -> None:
    await start(models={"main": openai(server)})
    await add_tool(first)
    one, other = make_agent(), make_agent()
    await add_tool(second, one.toolkit)
    assert {"first", "second"} <= await tool_names(one)
    assert "second" not in await tool_names(other)
    assert "second" not in await tool_names(make_agent())
    assert one.toolkit is not runtime.tools


async def test_tools_of_the_project_work_in_a_clone(start: Any, server: ModelServer) -> None:
    await start(models={"main": openai(server)})
    await add_tool(first)
    reply = await make_agent()(question('call first {"word": "x"}'))
    assert text_of(reply) == "Echo: first"


async def test_concurrent_structured_outputs_do_not_interfere(start: Any, server: ModelServer) -> None:
    """Each registers a tool and removes it again while the other agents reply."""
    await start(models={"main": openai(server)})
    server.delay = 0.02
    asked = [ask_for_an_answer(make_agent(f"agent {n}"), str(n)) for n in range(8)]
    assert await asyncio.gather(*asked) == [{"number": n} for n in range(8)]
    assert await tool_names(make_agent()) == await tool_names(make_agent()), (
        "the temporary tool must be removed"
    )
    assert not {"generate_response", "GenerateStructuredOutput"} & await tool_names(make_agent())


async def test_the_same_agent_can_be_called_again(start: Any, server: ModelServer) -> None:
    await start(models={"main": openai(server)})
    agent = make_agent()
    assert await ask_for_an_answer(agent, "1") == {"number": 1}
    assert text_of(await agent(question("hello"))) == "Echo: hello"
    assert await ask_for_an_answer(agent, "2") == {"number": 2}


async def test_removing_a_tool_does_not_affect_other_agents(start: Any, server: ModelServer) -> None:
    await start(models={"main": openai(server)})
    await add_tool(first)
    one, other = make_agent(), make_agent()
    if MAJOR == 1:
        one.toolkit.remove_tool_function("first")
    else:
        await one.toolkit.remove_tool("first")
    assert "first" not in await tool_names(one)
    assert "first" in await tool_names(other)
    assert "first" in await tool_names(make_agent())


@pytest.mark.skipif(MAJOR == 2, reason="2.x keeps the active groups in the agent's state")
async def test_tool_groups_belong_to_a_session(start: Any, server: ModelServer) -> None:
    await start(models={"main": openai(server)})
    runtime.tools.create_tool_group("more", description="more", active=False)
    one, other = make_agent(), make_agent()
    one.toolkit.update_tool_groups(["more"], active=True)
    await runtime.session.save_session_state("one", agent=one, toolkit=one.toolkit)
    restored = make_agent()
    await runtime.session.load_session_state("one", agent=restored, toolkit=runtime.tools)
    assert restored.toolkit.groups["more"].active
    for toolkit in (other.toolkit, runtime.tools, make_agent().toolkit):
        assert not toolkit.groups["more"].active


async def test_a_toolkit_of_the_author_is_not_cloned(start: Any, server: ModelServer) -> None:
    from agentscope.tool import Toolkit

    await start(models={"main": openai(server)})
    own = Toolkit()
    if MAJOR == 1:
        from agentscope.agent import ReActAgent

        agent = ReActAgent(name="a", sys_prompt="", model=runtime.models.main, toolkit=own)
    else:
        from agentscope.agent import Agent

        agent = Agent(name="a", system_prompt="", model=runtime.models.main, toolkit=own)
    assert agent.toolkit is own
