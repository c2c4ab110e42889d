from agentscope.runtime import runtime, AgentApp, SessionContext
from agentscope.message import Msg
from typing import AsyncIterator


class App(AgentApp):
    begun: list = []

    def init_new_session(self, session_id):
        self.begun.append(session_id)

    async def __call__(self, msg: Msg, ctx: SessionContext) -> AsyncIterator[Msg]:
        state = await runtime.session.load_session_state(
            ctx.session_id,
            allow_not_exist=True,
        )

        if state is None:
            self.init_new_session(ctx.session_id)

        await runtime.session.save_session_state(ctx.session_id)
        yield msg
