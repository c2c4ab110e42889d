"""`models.<name>.light_stream`: the pieces of a stream are the objects that the client would have built."""

import importlib
from collections.abc import Mapping
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentscope_protocol.config.settings import ModelSettings
from agentscope_worker.runtime import runtime
from agentscope_worker.runtime.compat.majors import seam
from agentscope_worker.runtime.models import light_stream
from agentscope_worker.runtime.models.slots import build_models
from tests.fakes.model_server import ModelServer
from tests.worker.agents import question
from tests.worker.conftest import openai

pytestmark = pytest.mark.agentscope

PROVIDERS: Final = ("openai", "anthropic", "dashscope")  # those whose clients, on 2.x, take the hook

# Any JSON value, to put where a field has another type.
ODD: Final = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-1, 1) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


def _mapping(required: Mapping[str, Any], optional: Mapping[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with the given fields. A field may be missing, null or of another type; others may be added."""

    def maybe_odd(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.one_of(strategy, strategy, strategy, st.none(), ODD)

    fields = {**required, **optional}
    usual = st.fixed_dictionaries(dict(required), optional=dict(optional))
    unusual = st.fixed_dictionaries(
        {}, optional={name: maybe_odd(each) for name, each in fields.items()} | {"unknown": ODD}
    )
    return usual | unusual


TEXT: Final = st.text(max_size=4)
NUMBER: Final = st.integers(0, 3)
FUNCTION: Final = _mapping({}, {"name": TEXT, "arguments": TEXT})
CALL: Final = _mapping({"index": NUMBER}, {"id": TEXT, "type": st.just("function"), "function": FUNCTION})
AUDIO: Final = _mapping({}, {"id": TEXT, "data": TEXT, "transcript": TEXT})
DELTA: Final = _mapping(
    {},
    {
        "content": TEXT,
        "role": st.sampled_from(["assistant", "another"]),
        "refusal": TEXT,
        "reasoning_content": TEXT,
        "tool_calls": st.lists(CALL, max_size=2),
        "audio": AUDIO,
    },
)
TOKEN: Final = _mapping(
    {"token": TEXT, "logprob": st.floats(-1, 0) | st.integers(-1, 0), "top_logprobs": st.just([])},
    {"bytes": st.lists(NUMBER, max_size=2)},
)
LOGPROBS: Final = _mapping({}, {"content": st.lists(TOKEN, max_size=2)})
CHOICE: Final = _mapping(
    {"index": NUMBER, "delta": DELTA},
    {"finish_reason": st.sampled_from(["stop", "length", "another", None]), "logprobs": LOGPROBS},
)
DETAILS: Final = _mapping({}, {"cached_tokens": NUMBER, "reasoning_tokens": NUMBER})
USAGE: Final = _mapping(
    {"prompt_tokens": NUMBER, "completion_tokens": NUMBER, "total_tokens": NUMBER},
    {"prompt_tokens_details": DETAILS, "completion_tokens_details": DETAILS},
)
CHUNK: Final = _mapping(
    {
        "id": TEXT,
        "object": st.just("chat.completion.chunk"),
        "created": NUMBER,
        "model": TEXT,
        "choices": st.lists(CHOICE, max_size=2),
    },
    {"usage": USAGE, "system_fingerprint": TEXT, "service_tier": st.sampled_from(["default", "another"])},
)

EVENT_DELTA: Final = st.one_of(
    _mapping({"type": st.just("text_delta"), "text": TEXT}, {}),
    _mapping({"type": st.just("input_json_delta"), "partial_json": TEXT}, {}),
    _mapping({"type": st.just("thinking_delta"), "thinking": TEXT}, {}),
    _mapping({"type": st.just("signature_delta"), "signature": TEXT}, {}),
    _mapping({"type": st.just("citations_delta"), "citation": ODD}, {}),
)
EVENT: Final = st.one_of(
    _mapping({"type": st.just("content_block_delta"), "index": NUMBER, "delta": EVENT_DELTA}, {}),
    _mapping({"type": st.just("content_block_stop"), "index": NUMBER}, {}),
    _mapping(
        {
            "type": st.just("content_block_start"),
            "index": NUMBER,
            "content_block": _mapping({"type": st.just("text"), "text": TEXT}, {}),
        },
        {},
    ),
    _mapping(
        {
            "type": st.just("message_delta"),
            "delta": _mapping({}, {"stop_reason": st.sampled_from(["end_turn", "another"])}),
            "usage": _mapping({"output_tokens": NUMBER}, {"input_tokens": NUMBER}),
        },
        {},
    ),
    st.just({"type": "message_stop"}),
    ODD,
)


class Client:
    """A client's hook, with and without `lighten`."""

    def __init__(self, provider: str) -> None:
        slot = ModelSettings(provider=provider, model="m", api_key="k", base_url="http://127.0.0.1:9")
        package = type(seam().make_model(slot).client).__module__.partition(".")[0]
        known = light_stream._CLIENTS[package]
        self.piece = getattr(importlib.import_module(known.module), known.name)
        self.own = seam().make_model(slot).client
        model = seam().make_model(slot)
        light_stream.lighten(model, "main", slot)
        self.light = model.client

    def compare(self, data: Any) -> None:
        built = []
        for client in (self.light, self.own):
            try:
                built.append(client._process_response_data(data=data, cast_to=self.piece, response=None))
            except Exception as error:  # whatever the client raises for this value, both must raise
                built.append((type(error), str(error)))
        assert light_stream.is_same(*built), f"{data!r}: {built[0]!r} is not {built[1]!r}"


@pytest.fixture(scope="module")
def openai_client() -> Client:
    return Client("openai")


@pytest.fixture(scope="module")
def anthropic_client() -> Client:
    return Client("anthropic")


@given(CHUNK)
@settings(max_examples=200, deadline=None)
def test_any_chunk_of_openai_is_what_its_client_builds(openai_client: Client, chunk: Any) -> None:
    openai_client.compare(chunk)


@given(EVENT)
@settings(max_examples=200, deadline=None)
def test_any_event_of_anthropic_is_what_its_client_builds(anthropic_client: Client, event: Any) -> None:
    anthropic_client.compare(event)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_the_samples_are_built_without_the_client(provider: str) -> None:
    build = light_stream._verified(provider)
    assert build is not None, "the installed client is not one that light_stream can serve"
    for sample in light_stream._CLIENTS[provider].samples:
        build(sample)  # and not Unusual


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_agentscope_makes_the_same_of_a_light_stream(
    start: Any, server: ModelServer, provider: str
) -> None:
    common = {"provider": provider, "model": "m", "api_key": "k"}
    common["base_url"] = server.url(provider, seam().MAJOR)
    await start(models={"light": common, "plain": {**common, "light_stream": "off"}})
    for text in ("one two three", 'call search {"query": "x"}'):
        light, plain = [
            [_content(each) async for each in await slot([question(text)])]
            for slot in (runtime.models.light, runtime.models.plain)
        ]
        assert light == plain
        assert light


def _content(response: Any) -> list[dict[str, Any]]:
    """The blocks of a response, without the ids and times that differ from call to call."""
    blocks = [each if isinstance(each, dict) else each.model_dump() for each in response.content]
    volatile = {"id", "created_at", "finished_at"}
    return [{key: value for key, value in block.items() if key not in volatile} for block in blocks]


async def test_light_stream_off_leaves_the_client_alone(start: Any, server: ModelServer) -> None:
    await start(models={"light": openai(server), "plain": openai(server, light_stream="off")})
    assert "_process_response_data" in vars(runtime.models.light.client)
    assert "_process_response_data" not in vars(runtime.models.plain.client)


def test_a_client_that_builds_other_objects_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from openai import _models

    original = _models.construct_type

    def changed(*, value: Any, type_: Any, metadata: Any = None) -> Any:
        built = original(value=value, type_=type_, metadata=metadata)
        built.__dict__["added_by_a_later_release"] = 1
        return built

    monkeypatch.setattr(_models, "construct_type", changed)
    light_stream._verified.cache_clear()
    try:
        slot = ModelSettings(provider="openai", model="m", api_key="k", base_url="http://127.0.0.1:9")
        model = build_models({"main": slot}).main
        assert "_process_response_data" not in vars(model.client)
        assert "light_stream is off: the client builds its pieces differently" in caplog.text
    finally:
        light_stream._verified.cache_clear()
