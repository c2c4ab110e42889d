"""An App for tests: each session has an agent of its own; all share the slot `main` and `runtime.tools`.

A turn with `metadata.structured` asks for a structured output and yields it as JSON; any other streams
what the agent says. Runs on AgentScope 1.x (ReActAgent) and 2.x (Agent).
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import agentscope
from agentscope.message import Msg, TextBlock
from agentscope.runtime import AgentApp, SessionContext, runtime
from pydantic import BaseModel

MAJOR = int(agentscope.__version__.split(".")[0])


class Answer(BaseModel):
    number: int


async def found(word: str) -> str:
    await asyncio.sleep(0.02)  # so that calls of several sessions overlap
    return f"{word} found"


class App(AgentApp):
    def __init__(self) -> None:
        self.agents: dict[str, Any] = {}

    async def on_startup(self) -> None:
        if MAJOR == 1:
            from agentscope.tool import ToolResponse

            async def look(word: str) -> ToolResponse:
                return ToolResponse([TextBlock(type="text", text=await found(word))])

            runtime.tools.register_tool_function(look)
        else:
            from agentscope.tool import FunctionTool, ToolChunk

            async def look(word: str) -> ToolChunk:
                return ToolChunk(content=[TextBlock(text=await found(word))])

            await runtime.tools.add_tool(FunctionTool(look))

    async def __call__(self, msg: Msg, ctx: SessionContext) -> AsyncIterator[Msg]:
        agent = self.agents.get(ctx.session_id) or self.new_agent(ctx.session_id)
        if not ctx.metadata.get("structured"):
            async for chunk in agent.stream(msg):
                yield chunk
        elif MAJOR == 1:
            reply = await agent(msg, structured_model=Answer)
            yield Msg(name="answer", content=json.dumps(reply.metadata), role="assistant")
        else:
            reply = await agent(msg, structured_schema=Answer)
            yield Msg(name="answer", content=json.dumps(reply.structured_output), role="assistant")

    def new_agent(self, session_id: str) -> Any:
        shared = {"name": "Friday", "model": runtime.models.main, "toolkit": runtime.tools}
        if MAJOR == 1:
            from agentscope.agent import ReActAgent

            agent = ReActAgent(sys_prompt="Help.", **shared)
        else:
            from agentscope.agent import Agent

            agent = Agent(system_prompt="Help.", **shared)
        self.agents[session_id] = agent
        return agent
