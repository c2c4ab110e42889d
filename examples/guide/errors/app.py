from agentscope.runtime import runtime, AgentApp, SessionContext
from agentscope.message import Msg
from typing import AsyncIterator


class App(AgentApp):
    async def __call__(self, msg: Msg, ctx: SessionContext) -> AsyncIterator[Msg]:
        try:
            async for chunk in runtime.models.main.stream([msg]):
                yield chunk
        except Exception as e:
            yield Msg(
                name="system",
                content=f"Error: {str(e)}",
                role="assistant",
                metadata={"error": True},
            )
