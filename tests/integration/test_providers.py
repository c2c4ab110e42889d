"""Each provider, streamed and not, asked over HTTP: supervisor, worker, and a model server that looks.

What each call showed on the wire is recorded as properties of its test; `tests/provider_table.py` makes the
table of them in docs/guides/agents-and-models.md.
"""

from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fakes.model_server import PROVIDERS, ModelServer, in_thread
from tests.fakes.slots import HEADER, expected, slot
from tests.harness.client import Stream, call, invoke, new_session, stop, streamed
from tests.harness.instance import Instance
from tests.harness.projects import copied
from tests.harness.waiting import eventually

pytestmark = pytest.mark.agentscope

VERSION: Final = version("agentscope")
MAJOR: Final = int(VERSION.split(".")[0])
STREAMS: Final = {"stream": True, "whole": False}

every_provider = pytest.mark.parametrize("provider", PROVIDERS)


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with in_thread() as running:
        yield running


@pytest.fixture(scope="module")
def instance(server: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """One worker with a slot for each provider and way."""
    models = {
        f"{provider}_{way}": slot(server, provider, MAJOR, stream=stream)
        for provider in PROVIDERS
        for way, stream in STREAMS.items()
    }
    folder = tmp_path_factory.mktemp("providers")
    with Instance(copied("models", folder / "project", models=models), folder, workers=1) as running:
        yield running.start()


@every_provider
@pytest.mark.parametrize("way", STREAMS)
async def test_a_call_over_http(
    instance: Instance,
    server: ModelServer,
    provider: str,
    way: str,
    record_property: Callable[[str, object], None],
) -> None:
    server.requests.clear()
    metadata = {"slot": f"{provider}_{way}"}
    events = await streamed(instance.port, new_session(provider), "one two", metadata=metadata)
    assert [event.text for event in events] == {
        "stream": ["Echo:", " one", " two"],
        "whole": ["Echo: one two"],
    }[way]
    (request,) = server.requests
    wanted = expected(provider, MAJOR, STREAMS[way])
    assert wanted.seen_in(request) == wanted
    seen: dict[str, Any] = {
        "provider": provider,
        "agentscope": VERSION,
        "way": way,
        "url": request.path,
        "key": next(name for name in wanted.key_headers if name in request.headers),
        "header": HEADER,
        "kwargs": ", ".join(place for place in wanted.body if place != "stream"),
        "events": len(events),
    }
    for name, value in seen.items():
        record_property(name, value)


@every_provider
@pytest.mark.parametrize("way", STREAMS)
async def test_a_stopped_turn_leaves_the_provider(
    instance: Instance, server: ModelServer, provider: str, way: str
) -> None:
    before = server.cut_off
    session = new_session(provider)
    metadata = {"slot": f"{provider}_{way}"}
    async with Stream(instance.port, session, "delay 0.05 " + "word " * 200, metadata=metadata) as stream:
        if STREAMS[way]:
            await stream.until(events=2)
        else:
            await eventually(lambda: server.streaming > 0, 10.0, "the provider is asked")
        assert await stop(instance.port, session_id=session) == 1
        if STREAMS[way]:
            await stream.whole(error="INTERRUPTED")
        else:
            assert (await stream.refused()).code == "INTERRUPTED"
    await eventually(lambda: server.cut_off == before + 1, 30, "the provider sees its client leave")
    assert server.streaming == 0


@every_provider
async def test_an_error_of_the_provider_is_the_turns_error(instance: Instance, provider: str) -> None:
    metadata = {"slot": f"{provider}_stream"}
    response = await invoke(instance.port, new_session(provider), "fail 404", metadata=metadata)
    assert (response.status, response.code) == (500, "APP_ERROR")
    assert "fail 404" in response.json["error"]["message"]


@every_provider
async def test_a_truncated_answer_is_marked_in_the_done_event(instance: Instance, provider: str) -> None:
    """The provider's stream closes without a finish reason."""
    metadata = {"slot": f"{provider}_stream"}
    async with Stream(instance.port, new_session(provider), "close 3 a b c d", metadata=metadata) as stream:
        await stream.whole()
    done = stream.events[-1].data["metadata"]
    done.pop("usage", None)  # providers that report it early
    assert done == {"done": True, "finish_reason": "TRUNCATED"}
    await eventually(lambda: "closed without a finish reason" in instance.log, 30, "the worker logs it")
    fields = {"metadata": metadata, "stream": False}
    whole = await invoke(instance.port, new_session(provider), "close 3 a b c d", **fields)
    (message,) = whole.json["messages"]
    message["metadata"].pop("usage", None)
    assert message["metadata"] == {"finish_reason": "TRUNCATED"}


@every_provider
async def test_the_usage_of_a_turn(instance: Instance, provider: str) -> None:
    metadata, session = {"slot": f"{provider}_stream"}, new_session(provider)
    async with Stream(instance.port, session, "one two", metadata=metadata) as stream:
        await stream.whole()
    used = stream.events[-1].data["metadata"]["usage"]
    assert (used["output_tokens"], used["input_tokens"] > 0) == (3, True)
    (model,) = used["models"]
    assert used == {key: model[key] for key in ("input_tokens", "output_tokens", "ms")} | {"models": [model]}
    assert model["calls"] == 1
    kept = (await call(instance.port, "GET", f"/runs/{stream.run_id}")).json["usage"]
    assert kept == used
    (row,) = (await call(instance.port, "GET", f"/runs?session_id={session}")).json["runs"]
    assert row["usage"] == kept
    whole = await invoke(instance.port, new_session(provider), "one two", metadata=metadata)
    assert whole.json["messages"][-1]["metadata"]["usage"]["output_tokens"] == 3
    metrics = (await call(instance.port, "GET", "/metrics")).body.decode()
    labels = f'{{direction="output",model="{model["model"]}"}}'
    assert f"agentscope_model_tokens_total{labels} " in metrics


async def test_the_usage_of_turns_that_do_not_complete(instance: Instance) -> None:
    """Of an App that raises, in the done event too; of a turn that is stopped, as far as it is known."""
    metadata = {"slot": "openai_whole", "raise": "no"}
    async with Stream(instance.port, new_session(), "one two", metadata=metadata) as stream:
        await stream.whole(error="APP_ERROR")
    assert stream.events[-1].data["metadata"]["usage"]["output_tokens"] == 3
    failed = await invoke(instance.port, new_session(), "one two", metadata=metadata)
    run = (await call(instance.port, "GET", f"/runs/{failed.headers['x-run-id']}")).json
    assert (run["error"]["code"], run["usage"]["output_tokens"]) == ("APP_ERROR", 3)
    metadata = {"slot": "anthropic_stream"}
    async with Stream(
        instance.port, new_session(), "delay 0.05 " + "word " * 200, metadata=metadata
    ) as stream:
        await stream.until(events=2)
        assert await stop(instance.port, run_id=stream.run_id) == 1
        await stream.whole(error="INTERRUPTED")
    assert stream.events[-1].data["metadata"]["usage"]["input_tokens"] == 1


def test_a_client_library_that_is_missing_says_so_at_the_start(tmp_path: Path, server: ModelServer) -> None:
    """The project hides the library, as an environment without it would."""
    models = {"main": slot(server, "ollama", MAJOR)}
    project = copied("models", tmp_path / "project", models=models)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    missing = "raise ModuleNotFoundError(\"No module named 'ollama'\", name='ollama')\n"
    (hidden / "ollama.py").write_text(missing, "utf-8")
    with Instance(project, tmp_path, workers=1, variables={"PYTHONPATH": str(hidden)}) as instance:
        assert instance.launch().wait_exit(40.0) == 78
        assert "models.main: provider ollama needs the package ollama" in instance.log
        assert "-m pip install ollama" in instance.log
