"""Passes each message to a model and streams its answer. The model is the slot `main` in agentapp.yaml."""

from collections.abc import AsyncIterator

from agentscope.message import Msg
from agentscope.runtime import AgentApp, SessionContext, runtime


class App(AgentApp):
    async def __call__(self, msg: Msg, ctx: SessionContext) -> AsyncIterator[Msg]:
        async for chunk in runtime.models.main.stream([msg]):
            yield Msg(name="assistant", content=chunk.text, role="assistant")
