"""Repeats each message word by word, and counts the turns of each session."""

import asyncio
from collections.abc import AsyncIterator

from agentscope.message import Msg
from agentscope.runtime import AgentApp, SessionContext, runtime

PAUSE = 0.05  # seconds between words, to make the streaming visible


class Turns:
    """The state of a session. `runtime.session` needs only these two methods."""

    def __init__(self) -> None:
        self.count = 0

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


class App(AgentApp):
    async def __call__(self, msg: Msg, ctx: SessionContext) -> AsyncIterator[Msg]:
        turns = Turns()
        await runtime.session.load_session_state(ctx.session_id, turns=turns)
        turns.count += 1
        await runtime.session.save_session_state(ctx.session_id, turns=turns)

        yield Msg(name="echo", content=f"Turn {turns.count}:", role="assistant")
        for word in (msg.get_text_content() or "").split():
            await asyncio.sleep(PAUSE)
            yield Msg(name="echo", content=f" {word}", role="assistant")
