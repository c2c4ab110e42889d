from agentscope.runtime import runtime, AgentApp, SessionContext
from agentscope.message import Msg
from agentscope.agent import ReActAgent
from agentscope.memory import InMemoryMemory
from typing import AsyncIterator


class App(AgentApp):
    def __init__(self):
        self._agents: dict[str, ReActAgent] = {}

    def _get_agent(self, session_id: str) -> ReActAgent:
        if session_id not in self._agents:
            self._agents[session_id] = ReActAgent(
                name="Assistant",
                sys_prompt="You are a helpful assistant with search capability.",
                model=runtime.models.main,
                toolkit=runtime.tools,
                memory=InMemoryMemory(),
            )
        return self._agents[session_id]

    async def __call__(
        self,
        msg: Msg,
        ctx: SessionContext,
    ) -> AsyncIterator[Msg]:
        agent = self._get_agent(ctx.session_id)

        await runtime.session.load_session_state(
            ctx.session_id,
            memory=agent.memory,
        )

        async for chunk in agent.stream(msg):
            yield chunk

        await runtime.session.save_session_state(
            ctx.session_id,
            memory=agent.memory,
        )
