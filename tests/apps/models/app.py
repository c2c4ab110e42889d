"""An App for tests: streams what the model slot says that `metadata.slot` names,
and raises `metadata.raise` if it is there. Runs on both majors."""

from collections.abc import AsyncIterator

from agentscope.message import Msg
from agentscope.runtime import AgentApp, SessionContext, runtime


class App(AgentApp):
    async def __call__(self, msg: Msg, ctx: SessionContext) -> AsyncIterator[Msg]:
        async for chunk in runtime.models[ctx.metadata["slot"]].stream([msg]):
            yield Msg(name="assistant", content=chunk.text, role="assistant")
        if "raise" in ctx.metadata:
            raise RuntimeError(ctx.metadata["raise"])
