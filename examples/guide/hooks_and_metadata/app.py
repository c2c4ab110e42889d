from agentscope.runtime import runtime, AgentApp, SessionContext
from agentscope.message import Msg
from typing import AsyncIterator


class App(AgentApp):
    async def on_startup(self) -> None:
        await runtime.models.main([
            Msg(name="system", content="warmup", role="system")
        ])

    async def on_shutdown(self) -> None:
        pass

    async def __call__(self, msg: Msg, ctx: SessionContext) -> AsyncIterator[Msg]:
        user_id = ctx.metadata.get("user_id")
        tenant_id = ctx.metadata.get("tenant_id")

        if tenant_id == "enterprise":
            yield Msg(name="a", content=f"{user_id} of {tenant_id}", role="assistant")
