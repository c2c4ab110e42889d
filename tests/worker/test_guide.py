"""The projects in examples/: the apps of the user guide, verbatim, and those of this repository."""

import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from agentscope_protocol.config.settings import Settings, load
from agentscope_worker import host
from agentscope_worker.dialects import native
from agentscope_worker.runtime import SessionContext, runtime
from tests.fakes.model_server import ModelServer
from tests.worker.agents import MAJOR, add_tool, text_of
from tests.worker.conftest import openai

pytestmark = pytest.mark.agentscope

EXAMPLES = Path(__file__).parents[2] / "examples"
GUIDE = EXAMPLES / "guide"
only_1x = pytest.mark.skipif(MAJOR != 1, reason="names ReActAgent, which 2.x does not have")


def app(name: str) -> str:
    """The app.py of an example of the guide."""
    return (GUIDE / name / "app.py").read_text("utf-8")


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


def test_the_configuration_of_each_example_is_valid() -> None:
    projects = sorted(path.parent for path in EXAMPLES.glob("**/agentapp.yaml"))
    assert {GUIDE / name for name in ("simple", "react_agent", "several_agents")} < set(projects)
    for project in projects:
        env = {"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": "http://localhost/v1"}
        load((project / "agentapp.yaml").read_text("utf-8"), source=str(project), env=env)
        assert (project / "requirements.txt").exists()


async def test_the_simple_app_works(start: Any, models: Any) -> None:
    await start(app("simple"), models=models)
    assert [text_of(msg) for msg in await ask("one two")] == ["Echo:", " one", " two"]


@only_1x
async def test_the_react_agent_with_tools_works(start: Any, models: Any, server: ModelServer) -> None:
    async def look(word: str) -> str:
        return f"found {word}"

    project = await start(app("react_agent"), models=models)
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
    await start(app("several_agents"), models=models)
    first, *rest = await ask("work")
    assert text_of(first) == "Plan: Echo: work"
    assert {msg.name for msg in rest} == {"Executor"}
    assert "Echo: work" in str(server.requests[-1].body["messages"][-1])


@only_1x
async def test_memory_and_toolkit_states_are_restored(start: Any, models: Any, server: ModelServer) -> None:
    await start(app("saved_state"), models=models)
    assert await ask_text("one") == "Echo: one"
    assert await ask_text("two") == "Echo: two"
    assert "one" in str(server.requests[-1].body["messages"])


async def test_a_new_session_has_no_state(start: Any) -> None:
    await start(app("new_session"))
    for session in ("a", "b", "a", "b"):
        await ask("x", session)
    assert runtime.app.begun == ["a", "b"]  # type: ignore[attr-defined]


async def test_the_app_with_error_handling_works(start: Any, models: Any) -> None:
    await start(app("errors"), models=models)
    (msg,) = await ask("fail 401")
    assert text_of(msg).startswith("Error: ")
    assert msg.metadata == {"error": True}


async def test_hooks_run_and_metadata_is_available(start: Any, models: Any, server: ModelServer) -> None:
    await start(app("hooks_and_metadata"), models=models)
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
