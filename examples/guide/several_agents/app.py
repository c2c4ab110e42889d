from agentscope.runtime import runtime, AgentApp, SessionContext
from agentscope.message import Msg
from agentscope.agent import ReActAgent
from typing import AsyncIterator


class App(AgentApp):
    async def on_startup(self) -> None:
        self.planner = ReActAgent(
            name="Planner",
            sys_prompt="You are a planning agent.",
            model=runtime.models.main,
        )
        self.executor = ReActAgent(
            name="Executor",
            sys_prompt="You are an execution agent.",
            model=runtime.models.assistant,
            toolkit=runtime.tools,
        )

    async def __call__(
        self,
        msg: Msg,
        ctx: SessionContext,
    ) -> AsyncIterator[Msg]:
        plan = await self.planner(msg)
        yield Msg(
            name="system",
            content=f"Plan: {plan.get_text_content()}",
            role="assistant",
        )

        async for chunk in self.executor.stream(plan):
            yield chunk
