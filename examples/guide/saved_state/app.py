from agentscope.runtime import runtime, AgentApp, SessionContext
from agentscope.message import Msg
from agentscope.agent import ReActAgent
from typing import AsyncIterator


class App(AgentApp):
    async def on_startup(self) -> None:
        self.agent = ReActAgent(name="a", sys_prompt="", model=runtime.models.main)

    async def __call__(self, msg: Msg, ctx: SessionContext) -> AsyncIterator[Msg]:
        await runtime.session.load_session_state(
            ctx.session_id,
            memory=self.agent.memory,
            toolkit=self.agent.toolkit,
        )

        async for chunk in self.agent.stream(msg):
            yield chunk

        await runtime.session.save_session_state(
            ctx.session_id,
            memory=self.agent.memory,
            toolkit=self.agent.toolkit,
        )
