"""The five providers: every setting of a slot reaches the provider, and none is dropped."""

import asyncio
import gc
import importlib.abc
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from agentscope_protocol.config.settings import ModelSettings
from agentscope_worker.runtime import runtime
from agentscope_worker.runtime.boot_error import BootError
from agentscope_worker.runtime.compat.majors import seam
from agentscope_worker.runtime.models.slots import build_models
from tests.fakes.model_server import PROVIDERS, ModelServer, Request
from tests.fakes.slots import HEADER, Expected, expected, slot
from tests.worker.agents import MAJOR, add_tool, drain_for, make_agent, question, text_of, until

pytestmark = pytest.mark.agentscope

every_provider = pytest.mark.parametrize("provider", PROVIDERS)
LONG = "delay 0.02 " + "word " * 500

streamed_and_not = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


def found_on_the_wire(request: Request, provider: str, stream: bool) -> Expected:
    """The settings of `slot` that a request contains, to be compared with `expected`."""
    return expected(provider, MAJOR, stream).seen_in(request)


@every_provider
@streamed_and_not
async def test_every_setting_of_a_slot_is_sent(
    start: Any, server: ModelServer, provider: str, stream: bool
) -> None:
    await start(models={"main": slot(server, provider, MAJOR, stream=stream)})
    said = await runtime.models.main([question("one two")])
    if stream:
        said = [each async for each in said][-1]
    assert seam().text_of(said) == "Echo: one two"
    texts = [chunk.text async for chunk in runtime.models.main.stream([question("one two")])]
    assert texts == (["Echo:", " one", " two"] if stream else ["Echo: one two"])
    assert len(server.requests) == 2
    for request in server.requests:
        assert found_on_the_wire(request, provider, stream) == expected(provider, MAJOR, stream)


@every_provider
@streamed_and_not
async def test_an_agent_calls_the_model_and_tools(
    start: Any, server: ModelServer, provider: str, stream: bool
) -> None:
    async def look(word: str) -> str:
        return f"{word} found"

    await start(models={"main": slot(server, provider, MAJOR, stream=stream)})
    await add_tool(look)
    agent = make_agent()
    assert text_of(await agent(question("one two"))) == "Echo: one two"
    assert text_of(await agent(question('call look {"word": "it"}'))) == "Echo: it found"
    assert len(server.requests) == 3
    for request in server.requests:
        assert found_on_the_wire(request, provider, stream) == expected(provider, MAJOR, stream)


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """An abandoned stream must end at once, not when the garbage collector runs."""
    gc.disable()
    yield
    gc.enable()


@every_provider
async def test_an_unread_response_keeps_no_connection_open(
    start: Any, server: ModelServer, provider: str, no_garbage_collection: None
) -> None:
    await start(models={"main": slot(server, provider, MAJOR)})
    for _ in range(5):
        await runtime.models.main([question(LONG)])
    await until(lambda: server.cut_off == 5)
    await until(lambda: not server.connections)
    assert [c.text async for c in runtime.models.main.stream([question("x")])] == ["Echo:", " x"]


@every_provider
async def test_an_abandoned_stream_is_closed(
    start: Any, server: ModelServer, provider: str, no_garbage_collection: None
) -> None:
    await start(models={"main": slot(server, provider, MAJOR)})
    async for _ in runtime.models.main.stream([question(LONG)]):
        break
    await until(lambda: server.cut_off == 1)
    await until(lambda: not server.connections)


@every_provider
@streamed_and_not
async def test_cancelling_closes_the_connection(
    start: Any, server: ModelServer, provider: str, stream: bool
) -> None:
    await start(models={"main": slot(server, provider, MAJOR, stream=stream)})
    reading = asyncio.create_task(drain_for(60, runtime.models.main.stream([question(LONG)])))
    await until(lambda: server.streaming)
    await asyncio.sleep(0.1)  # in the middle of the response, not at its start
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await until(lambda: server.cut_off == 1)
    assert not server.streaming
    assert len(server.requests) == 1


@every_provider
async def test_an_error_response_of_the_provider_is_raised(
    start: Any, server: ModelServer, provider: str
) -> None:
    await start(models={"main": slot(server, provider, MAJOR)})
    with pytest.raises(Exception, match=r"40[14]|fail 404"):
        await drain_for(10, runtime.models.main.stream([question("fail 404")]))


@every_provider
async def test_shutdown_closes_all_connections(start: Any, server: ModelServer, provider: str) -> None:
    await start(models={"main": slot(server, provider, MAJOR)})
    await drain_for(10, runtime.models.main.stream([question("hello")]))
    await runtime.shutdown()
    await until(lambda: not server.connections)


async def test_two_slots_of_one_provider_use_their_own_servers(start: Any, server: ModelServer) -> None:
    async with ModelServer() as other:
        models = {
            f"{provider}_{name}": slot(where, provider, MAJOR)
            for provider in PROVIDERS
            for name, where in (("here", server), ("there", other))
        }
        await start(models=models)
        for each in runtime.models.values():
            await drain_for(10, each.stream([question("hello")]))
        assert len(server.requests) == len(other.requests) == len(PROVIDERS)
        await runtime.shutdown()


def build(provider: str, **more: Any) -> Any:
    given = {"provider": provider, "model": "m", "api_key": "k", "base_url": "http://127.0.0.1:9", **more}
    return build_models({"main": ModelSettings.model_validate(given)}).main


@every_provider
@pytest.mark.parametrize("key", ["model", "messages", "stream", "tools"])
def test_arguments_that_agentscope_sets_are_rejected(provider: str, key: str) -> None:
    with pytest.raises(
        BootError, match=rf"models.main: .*generate_kwargs cannot set {key}: AgentScope sets it"
    ):
        build(provider, generate_kwargs={key: "x"})


@every_provider
def test_unknown_client_kwargs_are_rejected(provider: str) -> None:
    with pytest.raises(BootError, match=r"models.main: .*no_such"):
        build(provider, client_kwargs={"no_such": 1})


@every_provider
@pytest.mark.parametrize("key", ["api_key", "base_url"])
def test_client_kwargs_must_not_repeat_keys_of_the_slot(provider: str, key: str) -> None:
    with pytest.raises(BootError, match=rf"client_kwargs cannot set {key}: set {key} of the slot"):
        build(provider, client_kwargs={key: "http://127.0.0.1:8"})


def test_a_second_url_for_gemini_is_rejected() -> None:
    with pytest.raises(BootError, match=r"client_kwargs.http_options cannot set base_url"):
        build("gemini", client_kwargs={"http_options": {"base_url": "http://127.0.0.1:8"}})


def test_arguments_that_googles_client_rejects_are_rejected_at_startup() -> None:
    with pytest.raises(BootError, match=r"generate_kwargs cannot contain no_such: .*extra_body"):
        build("gemini", generate_kwargs={"no_such": 1})
    with pytest.raises(BootError, match=r"top_k: .*valid number") as failure:
        build("gemini", generate_kwargs={"top_k": "not-a-number"})
    assert "not-a-number" not in failure.value.message


@pytest.mark.skipif(MAJOR == 1, reason="1.x has no Parameters")
@pytest.mark.parametrize(
    "provider, name, value",
    [
        ("openai", "thinking_enable", True),
        ("anthropic", "thinking_budget", 1024),
        ("anthropic", "thinking_display", "summarized"),
        ("gemini", "thinking_budget", 1024),
    ],
)
def test_a_parameter_that_is_not_sent_alone_is_rejected(provider: str, name: str, value: Any) -> None:
    with pytest.raises(BootError, match=rf"generate_kwargs.{name} is only sent together with"):
        build(provider, generate_kwargs={name: value})


@pytest.mark.skipif(MAJOR == 2, reason="2.x asks DashScope through OpenAI's client")
def test_generate_kwargs_must_not_repeat_client_arguments_of_dashscope() -> None:
    with pytest.raises(BootError, match="generate_kwargs cannot set headers: the slot or client_kwargs"):
        build("dashscope", generate_kwargs={"headers": {}}, client_kwargs={"headers": {}})


@pytest.mark.skipif(MAJOR == 2, reason="2.x has one path for all of DashScope's models")
@pytest.mark.parametrize("stream", [True, False])
async def test_a_dashscope_vision_model_uses_its_own_path(
    start: Any, server: ModelServer, stream: bool
) -> None:
    more = {"model": "qwen-vl-max"}
    await start(models={"main": slot(server, "dashscope", MAJOR, stream=stream) | more})
    texts = [chunk.text async for chunk in runtime.models.main.stream([question("hello")])]
    assert "".join(texts) == "Echo: hello"
    (request,) = server.requests
    assert request.path == "/api/v1/services/aigc/multimodal-generation/generation"
    assert request.headers[HEADER] == "blue"
    assert request.body["parameters"]["seed"] == 7


async def test_reasoning_effort_alone_is_sent_to_openai(start: Any, server: ModelServer) -> None:
    more = {"generate_kwargs": {"reasoning_effort": "high"}}
    await start(models={"main": slot(server, "openai", MAJOR) | more})
    await drain_for(10, runtime.models.main.stream([question("hello")]))
    assert server.requests[0].body["reasoning_effort"] == "high"


async def test_an_organization_is_sent_to_openai(start: Any, server: ModelServer) -> None:
    more = {"client_kwargs": {"organization": "org-7"}}
    await start(models={"main": slot(server, "openai", MAJOR) | more})
    await drain_for(10, runtime.models.main.stream([question("hello")]))
    assert server.requests[0].headers["OpenAI-Organization"] == "org-7"


async def test_ollama_options_include_other_generate_kwargs(start: Any, server: ModelServer) -> None:
    generate = {"temperature": 0.5, "options": {"num_ctx": 512}, "keep_alive": "1m", "think": False}
    await start(models={"main": slot(server, "ollama", MAJOR) | {"generate_kwargs": generate}})
    await drain_for(10, runtime.models.main.stream([question("hello")]))
    body = server.requests[0].body
    assert body["options"] == {"temperature": 0.5, "num_ctx": 512}
    assert (body["keep_alive"], body["think"]) == ("1m", False)


async def test_headers_of_a_slot_are_only_sent_with_its_requests(start: Any, server: ModelServer) -> None:
    slots = {name: slot(server, name, MAJOR) for name in PROVIDERS}
    bare = {name: {**each, "client_kwargs": {}} for name, each in slots.items()}
    await start(models={**slots, **{f"bare_{name}": each for name, each in bare.items()}})
    for each in runtime.models.values():
        await drain_for(10, each.stream([question("hello")]))
    assert [HEADER in request.headers for request in server.requests] == [True] * 5 + [False] * 5
    await runtime.shutdown()


@pytest.mark.parametrize("provider, package", [("gemini", "google-genai"), ("ollama", "ollama")])
def test_a_missing_client_library_is_reported_with_its_pip_command(
    provider: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = "google.genai" if provider == "gemini" else "ollama"

    class Missing(importlib.abc.MetaPathFinder):
        """Raises what the import of a module that is not installed raises."""

        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == missing:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    if provider == "gemini":
        google = pytest.importorskip("google")
        monkeypatch.delattr(google, "genai", raising=False)
    for name in [name for name in sys.modules if name.startswith(missing)]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(BootError) as failure:
        build(provider)
    assert failure.value.permanent
    assert failure.value.message.startswith(f"models.main: provider {provider} needs the package {package}")
    assert failure.value.message.endswith(f"To install it, run: {sys.executable} -m pip install {package}")
