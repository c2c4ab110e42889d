"""An App for tests: streams what the model slot says that `metadata.slot` names. Runs on both majors."""

from collections.abc import AsyncIterator

from agentscope.message import Msg
from agentscope.runtime import AgentApp, SessionContext, runtime


class App(AgentApp):
    async def __call__(self, msg: Msg, ctx: SessionContext) -> AsyncIterator[Msg]:
        async for chunk in runtime.models[ctx.metadata["slot"]].stream([msg]):
            yield Msg(name="assistant", content=chunk.text, role="assistant")
