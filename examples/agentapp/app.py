"""An agent with sessions and a route that stops it, written against agentscope-runtime's AgentApp.

On AgentScope 2.x. `examples/agentapp_v1` is the same for 1.x, as agentscope-runtime documents it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from agentscope.agent import Agent
from agentscope.runtime import runtime
from agentscope.tool import Toolkit
from agentscope_runtime.engine import AgentApp
from agentscope_runtime.engine.schemas.agent_schemas import AgentRequest
from fastapi import FastAPI


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.session = runtime.session  # where agentapp.yaml says: files, or Redis
    yield
    print("AgentApp is shutting down...")


agent_app = AgentApp(
    app_name="Friday",
    app_description="A helpful assistant",
    lifespan=lifespan,
)


@agent_app.query(framework="agentscope")
async def query_func(self: Any, msgs: Any, request: AgentRequest, **kwargs: Any) -> AsyncIterator[Any]:
    session_id, user_id = request.session_id, request.user_id
    agent = Agent(
        name="Friday",
        system_prompt="You're a helpful assistant named Friday.",
        model=runtime.models.main,
        toolkit=Toolkit(),
    )
    session = agent_app.state.session
    await session.load_session_state(session_id=session_id, user_id=user_id, agent=agent)
    try:
        async for event in agent.reply_stream(msgs):
            yield event
    except asyncio.CancelledError:
        print(f"Task {session_id} was manually interrupted.")
        raise
    finally:
        await session.save_session_state(session_id=session_id, user_id=user_id, agent=agent)


@agent_app.post("/stop")
async def stop_task(request: AgentRequest) -> dict[str, str]:
    await agent_app.stop_chat(user_id=request.user_id, session_id=request.session_id)
    return {"status": "success", "message": "Interrupt signal broadcasted."}


agent_app.run(host="127.0.0.1", port=8090)
