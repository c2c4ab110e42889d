"""Agents and tools for the tests, created as each major of AgentScope requires."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from agentscope.message import Msg, TextBlock

from agentscope_worker.runtime import runtime
from agentscope_worker.runtime.compat.majors import check_installation

MAJOR = check_installation()


def make_agent(name: str = "Friday", **more: Any) -> Any:
    """An agent with the slot `main` and `runtime.tools`."""
    if MAJOR == 1:
        from agentscope.agent import ReActAgent

        return ReActAgent(
            name=name, sys_prompt="Help.", model=runtime.models.main, toolkit=runtime.tools, **more
        )
    from agentscope.agent import Agent

    return Agent(name=name, system_prompt="Help.", model=runtime.models.main, toolkit=runtime.tools, **more)


async def add_tool(function: Callable[..., Any], toolkit: Any = None) -> None:
    """Register a tool in `runtime.tools` or another toolkit; its result is the function's text."""
    toolkit = runtime.tools if toolkit is None else toolkit
    if MAJOR == 1:
        from agentscope.tool import ToolResponse

        async def answer(word: str) -> Any:
            return ToolResponse([TextBlock(type="text", text=await function(word))])

        toolkit.register_tool_function(answer, func_name=function.__name__)
    else:
        from agentscope.tool import FunctionTool, ToolChunk

        async def answer(word: str) -> Any:
            return ToolChunk(content=[TextBlock(text=await function(word))])

        await toolkit.add_tool(FunctionTool(answer, name=function.__name__))


def remembered(agent: Any) -> list[tuple[str, str]]:
    """(name, text) of the messages in an agent's memory."""
    messages = [msg for msg, _ in agent.memory.content] if MAJOR == 1 else agent.state.context
    return [(msg.name, text_of(msg)) for msg in messages]


def question(text: str) -> Msg:
    return Msg(name="user", content=text, role="user")


def text_of(msg: Msg) -> str:
    return msg.get_text_content("") or ""


def blocks_of(msg: Msg) -> list[dict[str, Any]]:
    """The content blocks of a message as dicts, on both majors."""
    return [block if isinstance(block, dict) else block.model_dump() for block in msg.get_content_blocks()]


async def until(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds that another task or the model server brings about."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a library's state has no event to wait for
            await asyncio.sleep(0.005)


async def drain(chunks: AsyncIterator[Any]) -> None:
    async for _ in chunks:
        pass


async def drain_for(seconds: float, chunks: AsyncIterator[Any]) -> None:
    """Read `chunks`. Raises: TimeoutError after the given number of seconds."""
    async with asyncio.timeout(seconds):
        await drain(chunks)
