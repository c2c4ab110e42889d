"""Ours: an App that hands on what `turns` has."""

from collections.abc import AsyncIterator

from agentscope.message import Msg
from agentscope.runtime import AgentApp, SessionContext
from turns import turn


class App(AgentApp):
    async def __call__(self, msg: Msg, ctx: SessionContext) -> AsyncIterator[Msg]:  # type: ignore[override]
        return turn(msg)
