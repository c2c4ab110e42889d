"""The complete example of agentscope-runtime, on AgentScope 1.x."""

import asyncio
import os
from contextlib import asynccontextmanager

from agentscope.agent import ReActAgent
from agentscope.formatter import DashScopeChatFormatter
from agentscope.memory import InMemoryMemory
from agentscope.model import DashScopeChatModel
from agentscope.pipeline import stream_printing_messages
from agentscope.session import RedisSession
from agentscope.tool import Toolkit, execute_python_code
from agentscope_runtime.engine import AgentApp
from agentscope_runtime.engine.schemas.agent_schemas import AgentRequest
from fastapi import FastAPI


# 1. Define the lifespan
@asynccontextmanager
async def lifespan(app: FastAPI):
    import fakeredis

    fake_redis = fakeredis.aioredis.FakeRedis(decode_responses=True)
    # FakeRedis is for development and tests. In production, use
    # a client of your own Redis (such as redis.asyncio.Redis).
    app.state.session = RedisSession(connection_pool=fake_redis.connection_pool)
    try:
        yield
    finally:
        print("AgentApp is shutting down...")


# 2. Create the AgentApp
agent_app = AgentApp(
    app_name="Friday",
    app_description="A helpful assistant",
    lifespan=lifespan,
    # Without 'interrupt_redis_url' and 'interrupt_backend', the
    # local interrupt backend is used. For interrupts between
    # hosts, add:
    # interrupt_redis_url="redis://localhost",
)


# 3. Define how requests are answered
@agent_app.query(framework="agentscope")
async def query_func(
    self,
    msgs,
    request: AgentRequest = None,
    **kwargs,
):
    session_id = request.session_id
    user_id = request.user_id

    toolkit = Toolkit()
    toolkit.register_tool_function(execute_python_code)

    agent = ReActAgent(
        name="Friday",
        model=DashScopeChatModel(
            "qwen-turbo",
            api_key=os.getenv("DASHSCOPE_API_KEY"),
            stream=True,
        ),
        sys_prompt="You're a helpful assistant named Friday.",
        toolkit=toolkit,
        memory=InMemoryMemory(),
        formatter=DashScopeChatFormatter(),
    )
    agent.set_console_output_enabled(enabled=True)

    # Load the state of the agent
    await agent_app.state.session.load_session_state(
        session_id=session_id,
        user_id=user_id,
        agent=agent,
    )

    try:
        async for msg, last in stream_printing_messages(
            agents=[agent],
            coroutine_task=agent(msgs),
        ):
            yield msg, last

    except asyncio.CancelledError:
        # Handle the interrupt
        print(f"Task {session_id} was manually interrupted.")

        # Interrupt the agent, so that it stops completely
        await agent.interrupt()

        # Raise again, so that the task is marked as STOPPED
        raise

    finally:
        # Save the state of the agent
        await agent_app.state.session.save_session_state(
            session_id=session_id,
            user_id=user_id,
            agent=agent,
        )


# 4. Add the route that interrupts
@agent_app.post("/stop")
async def stop_task(request: AgentRequest):
    await agent_app.stop_chat(
        user_id=request.user_id,
        session_id=request.session_id,
    )
    return {
        "status": "success",
        "message": "Interrupt signal broadcasted.",
    }


# 5. Start the app
agent_app.run(host="127.0.0.1", port=8090)
