"""`runtime.models`: requests to the provider, and slots as an App and AgentScope see them."""

import copy
import gc
import sys
from typing import Any

import pytest
from agentscope.model import ChatModelBase, OpenAIChatModel

from agentscope_protocol.config.settings import ModelSettings
from agentscope_worker.runtime import runtime
from agentscope_worker.runtime.boot_error import BootError
from agentscope_worker.runtime.compat import providers
from agentscope_worker.runtime.compat.majors import seam
from agentscope_worker.runtime.models.slots import build_models
from tests.fakes.model_server import ModelServer
from tests.worker.agents import drain_for, question, until
from tests.worker.conftest import openai

pytestmark = pytest.mark.agentscope


async def test_stream_yields_new_text_only(start: Any, server: ModelServer) -> None:
    await start(models={"main": openai(server)})
    texts = [chunk.text async for chunk in runtime.models.main.stream([question("one two")])]
    assert texts == ["Echo:", " one", " two"]


async def test_stream_of_a_slot_without_streaming_yields_one_chunk(start: Any, server: ModelServer) -> None:
    await start(models={"main": openai(server, stream=False)})
    texts = [chunk.text async for chunk in runtime.models.main.stream([question("one two")])]
    assert texts == ["Echo: one two"]
    assert server.requests[0].body["stream"] is False


async def test_settings_are_sent_to_the_provider(start: Any, server: ModelServer) -> None:
    slot = openai(
        server,
        generate_kwargs={"temperature": 0.5, "seed": 7},
        client_kwargs={"default_headers": {"X-Team": "blue"}},
    )
    await start(models={"main": slot})
    async for _ in runtime.models.main.stream(question("hello")):
        pass
    request = server.requests[0]
    assert request.headers["Authorization"] == "Bearer sk-test"
    assert request.headers["X-Team"] == "blue"
    assert request.body["model"] == "gpt-4"
    assert request.body["stream"] is True
    assert request.body["temperature"] == 0.5
    assert request.body["seed"] == 7


async def test_a_call_returns_the_result_of_agentscope(start: Any, server: ModelServer) -> None:
    await start(
        models={"flowing": openai(server), "whole": openai(server, stream=False)},
    )
    whole = await runtime.models.whole([question("hello")])
    assert seam().text_of(whole) == "Echo: hello"
    responses = [each async for each in await runtime.models.flowing([question("hello")])]
    assert seam().text_of(responses[-1]) == "Echo: hello"


async def test_a_slot_passes_for_the_model(start: Any, server: ModelServer) -> None:
    await start(models={"main": openai(server)})
    slot = runtime.models.main
    assert isinstance(slot, OpenAIChatModel)
    assert isinstance(slot, ChatModelBase)
    assert copy.deepcopy(slot) is slot
    assert slot.client is not None
    assert not hasattr(slot, "no_such_attribute")


async def test_the_stream_flag_is_saved_assigned_and_restored(start: Any, server: ModelServer) -> None:
    await start(models={"main": openai(server)})
    slot = runtime.models.main
    saved = slot.stream
    assert saved
    assert saved == True  # noqa: E712 - how some callers compare a flag
    slot.stream = False
    assert not slot.stream
    response = await slot([question("hello")])
    assert seam().text_of(response) == "Echo: hello"
    slot.stream = saved
    assert slot.stream
    assert [chunk.text async for chunk in slot.stream([question("hello")])] == ["Echo:", " hello"]


async def test_an_unread_answer_keeps_no_connection_open(start: Any, server: ModelServer) -> None:
    server.delay = 0.05
    await start(models={"main": openai(server)})
    for _ in range(5):
        await runtime.models.main([question("warm up, please")])
    gc.collect()
    await until(lambda: not server.streaming)
    assert server.connections <= 1


async def test_a_cancelled_stream_raises_and_closes_its_connection(start: Any, server: ModelServer) -> None:
    server.delay = 0.02
    await start(models={"main": openai(server)})
    with pytest.raises(TimeoutError):
        await drain_for(0.1, runtime.models.main.stream([question("word " * 200)]))
    gc.collect()
    await until(lambda: not server.streaming)
    # The next call of the task must not raise a cancellation that was handled already.
    assert [c.text async for c in runtime.models.main.stream([question("x")])] == ["Echo:", " x"]


async def test_the_last_chunk_carries_tool_calls(start: Any, server: ModelServer) -> None:
    await start(models={"main": openai(server)})
    chunks = [c async for c in runtime.models.main.stream([question('call look {"at": 1}')])]
    assert [chunk.text for chunk in chunks] == [""]
    assert seam().holds_more_than_text(chunks[-1].raw)
    assert chunks[-1].content == chunks[-1].raw.content
    with pytest.raises(AttributeError):
        _ = chunks[-1].no_such_attribute


async def test_slots_are_accessible_by_name(start: Any, server: ModelServer) -> None:
    await start(models={"main": openai(server), "small": openai(server)})
    models = runtime.models
    assert models["main"] is models.main
    assert list(models.keys()) == ["main", "small"]
    assert "small" in models
    assert "large" not in models
    assert len(models) == 2
    with pytest.raises(AttributeError, match=r"'large'.*configured: main, small"):
        _ = models.large
    with pytest.raises(KeyError, match=r"'large'.*configured: main, small"):
        _ = models["large"]
    assert not hasattr(models, "_main")


def test_a_missing_key_is_an_error_unless_base_url_is_set() -> None:
    with pytest.raises(BootError, match=r"models.main: .*api_key is missing"):
        build_models({"main": ModelSettings(provider="openai", model="m")})
    local = ModelSettings(provider="openai", model="m", base_url="http://127.0.0.1:9/v1")
    assert build_models({"main": local}).main.stream


def test_a_missing_client_library_is_reported_with_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ollama", None)
    with pytest.raises(BootError, match=r"models.main: .* not installed: .*-m pip install ollama"):
        build_models({"main": ModelSettings(provider="ollama", model="m")})


def test_a_proxy_without_its_package_is_reported_as_the_client_reports_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client library is installed: to install it again would mend nothing."""
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(BootError, match=r"models.main: .*SOCKS.*socksio") as told:
        build_models({"main": ModelSettings(provider="openai", model="m", api_key="k")})
    assert "-m pip install" not in told.value.message


def test_a_dependency_of_a_client_library_is_named_if_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'jiter'", name="jiter")

    monkeypatch.setattr(providers, "request_arguments", broken)
    with pytest.raises(BootError, match=r"models.main: .*No module named 'jiter'") as told:
        build_models({"main": ModelSettings(provider="openai", model="m", api_key="k")})
    assert "pip install" not in told.value.message


def test_rejected_settings_name_the_slot() -> None:
    settings = ModelSettings.model_validate(
        {"provider": "openai", "model": "m", "api_key": "k", "client_kwargs": {"no_such": 1}}
    )
    with pytest.raises(BootError, match=r"models.main: .*no_such"):
        build_models({"main": settings})
