"""`runtime.tools`: one Toolkit for the project, and none that two agents change."""

import asyncio
from typing import Any

from pydantic import BaseModel

from agentscope_worker.runtime import runtime
from tests.fakes.model_server import ModelServer
from tests.worker.agents import MAJOR, add_tool, make_agent, question, text_of, until
from tests.worker.conftest import openai


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


async def test_a_toolkit_of_the_authors_own_is_taken_as_it_is(start: Any, server: ModelServer) -> None:
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
