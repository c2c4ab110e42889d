"""The apps of the user guide, verbatim, and the examples of this repository."""

import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from agentscope_protocol.config.settings import Settings
from agentscope_worker import host
from agentscope_worker.dialects import native
from agentscope_worker.runtime import SessionContext, runtime
from tests.fakes.model_server import ModelServer
from tests.worker.agents import MAJOR, add_tool, text_of
from tests.worker.conftest import openai

pytestmark = pytest.mark.agentscope

EXAMPLES = Path(__file__).parents[2] / "examples"
only_1x = pytest.mark.skipif(MAJOR != 1, reason="names ReActAgent, which 2.x does not have")

SIMPLE = """
from agentscope.runtime import runtime, AgentApp, SessionContext
from agentscope.message import Msg
from typing import AsyncIterator


class App(AgentApp):
    async def __call__(
        self,
        msg: Msg,
        ctx: SessionContext,
    ) -> AsyncIterator[Msg]:
        model = runtime.models.main
        async for chunk in model.stream([msg]):
            yield Msg(
                name="assistant",
                content=chunk.text,
                role="assistant",
            )
"""

WITH_TOOLS = """
from agentscope.runtime import runtime, AgentApp, SessionContext
from agentscope.message import Msg
from agentscope.agent import ReActAgent
from agentscope.memory import InMemoryMemory
from typing import AsyncIterator


class App(AgentApp):
    def __init__(self):
        self._agents: dict[str, ReActAgent] = {}

    def _get_agent(self, session_id: str) -> ReActAgent:
        if session_id not in self._agents:
            self._agents[session_id] = ReActAgent(
                name="Assistant",
                sys_prompt="You are a helpful assistant with search capability.",
                model=runtime.models.main,
                toolkit=runtime.tools,
                memory=InMemoryMemory(),
            )
        return self._agents[session_id]

    async def __call__(
        self,
        msg: Msg,
        ctx: SessionContext,
    ) -> AsyncIterator[Msg]:
        agent = self._get_agent(ctx.session_id)

        await runtime.session.load_session_state(
            ctx.session_id,
            memory=agent.memory,
        )

        async for chunk in agent.stream(msg):
            yield chunk

        await runtime.session.save_session_state(
            ctx.session_id,
            memory=agent.memory,
        )
"""

SEVERAL = """
from agentscope.runtime import runtime, AgentApp, SessionContext
from agentscope.message import Msg
from agentscope.agent import ReActAgent
from typing import AsyncIterator


class App(AgentApp):
    async def on_startup(self) -> None:
        self.planner = ReActAgent(
            name="Planner",
            sys_prompt="You are a planning agent.",
            model=runtime.models.main,
        )
        self.executor = ReActAgent(
            name="Executor",
            sys_prompt="You are an execution agent.",
            model=runtime.models.assistant,
            toolkit=runtime.tools,
        )

    async def __call__(
        self,
        msg: Msg,
        ctx: SessionContext,
    ) -> AsyncIterator[Msg]:
        plan = await self.planner(msg)
        yield Msg(
            name="system",
            content=f"Plan: {plan.get_text_content()}",
            role="assistant",
        )

        async for chunk in self.executor.stream(plan):
            yield chunk
"""

# The guide omits the imports and `self.agent`.
STATE = """
from agentscope.runtime import runtime, AgentApp, SessionContext
from agentscope.message import Msg
from agentscope.agent import ReActAgent
from typing import AsyncIterator


class App(AgentApp):
    async def on_startup(self) -> None:
        self.agent = ReActAgent(name="a", sys_prompt="", model=runtime.models.main)

    async def __call__(self, msg: Msg, ctx: SessionContext) -> AsyncIterator[Msg]:
        await runtime.session.load_session_state(
            ctx.session_id,
            memory=self.agent.memory,
            toolkit=self.agent.toolkit,
        )

        async for chunk in self.agent.stream(msg):
            yield chunk

        await runtime.session.save_session_state(
            ctx.session_id,
            memory=self.agent.memory,
            toolkit=self.agent.toolkit,
        )
"""

NEW_SESSION = """
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
"""

ERRORS = """
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
"""

HOOKS = """
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
"""


@pytest.fixture
def models(server: ModelServer) -> dict[str, Any]:
    return {"main": openai(server), "assistant": openai(server)}


async def ask(text: str, session: str = "s", **metadata: Any) -> list[Any]:
    """The App's response to the JSON message of a client; each Msg as the client receives it."""
    msg = native.read_message({"name": "user", "content": text, "role": "user"})
    context = SessionContext(session, metadata)
    answer = [each async for each in await host.start_answer(runtime.app, msg, context)]
    for each in answer:
        assert b'"chunk":true' in native.write(each)
    return answer


async def ask_text(text: str, session: str = "s") -> str:
    return "".join([text_of(msg) for msg in await ask(text, session)])


async def test_the_simple_app_works(start: Any, models: Any) -> None:
    await start(SIMPLE, models=models)
    assert [text_of(msg) for msg in await ask("one two")] == ["Echo:", " one", " two"]


@only_1x
async def test_the_react_agent_with_tools_works(start: Any, models: Any, server: ModelServer) -> None:
    async def look(word: str) -> str:
        return f"found {word}"

    project = await start(WITH_TOOLS, models=models)
    await add_tool(look)
    assert await ask_text('call look {"word": "it"}') == "Echo: found it"
    assert await ask_text("hello", "other") == "Echo: hello"
    await runtime.shutdown()
    await runtime.start(Settings.model_validate({"models": models}), project)
    assert await ask_text("again") == "Echo: again"
    sent = [part["content"] for part in server.requests[-1].body["messages"]]
    assert "found it" in str(sent)
    assert "hello" not in str(sent)


@only_1x
async def test_the_app_with_several_agents_works(start: Any, models: Any, server: ModelServer) -> None:
    await start(SEVERAL, models=models)
    first, *rest = await ask("work")
    assert text_of(first) == "Plan: Echo: work"
    assert {msg.name for msg in rest} == {"Executor"}
    assert "Echo: work" in str(server.requests[-1].body["messages"][-1])


@only_1x
async def test_memory_and_toolkit_states_are_restored(start: Any, models: Any, server: ModelServer) -> None:
    await start(STATE, models=models)
    assert await ask_text("one") == "Echo: one"
    assert await ask_text("two") == "Echo: two"
    assert "one" in str(server.requests[-1].body["messages"])


async def test_a_new_session_has_no_state(start: Any) -> None:
    await start(NEW_SESSION)
    for session in ("a", "b", "a", "b"):
        await ask("x", session)
    assert runtime.app.begun == ["a", "b"]  # type: ignore[attr-defined]


async def test_the_app_with_error_handling_works(start: Any, models: Any) -> None:
    await start(ERRORS, models=models)
    (msg,) = await ask("fail 401")
    assert text_of(msg).startswith("Error: ")
    assert msg.metadata == {"error": True}


async def test_hooks_run_and_metadata_is_available(start: Any, models: Any, server: ModelServer) -> None:
    await start(HOOKS, models=models)
    assert server.requests[0].body["messages"][0]["role"] == "system"
    (msg,) = await ask("x", user_id="ann", tenant_id="enterprise")
    assert text_of(msg) == "ann of enterprise"
    assert await ask("x") == []


@pytest.fixture
async def example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: ModelServer
) -> AsyncIterator[Callable[[str], Any]]:
    """Starts a copy of an example, so that no sessions are stored in the original folder."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-example")
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)

    async def begin(name: str) -> None:
        shutil.copytree(EXAMPLES / name, tmp_path / name)
        await runtime.initialize(project_path=tmp_path / name)

    yield begin
    await runtime.shutdown()


async def test_the_echo_example_works(example: Any) -> None:
    await example("echo")
    assert await ask_text("hello there") == "Turn 1: hello there"
    assert await ask_text("and now") == "Turn 2: and now"
    assert await ask_text("hello", "other") == "Turn 1: hello"


async def test_the_chat_example_works(example: Any, server: ModelServer) -> None:
    await example("chat")
    assert await ask_text("hello there") == "Echo: hello there"
    assert server.requests[0].headers["Authorization"] == "Bearer sk-example"
