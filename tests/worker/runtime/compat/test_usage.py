"""Tokens and time, added up for each model, and what the models of each provider report."""

from types import SimpleNamespace
from typing import Any

import pytest

from agentscope_worker.runtime import runtime
from agentscope_worker.runtime.compat import finish_reasons
from agentscope_worker.runtime.compat.usage import MAX_MODELS, Tally
from tests.fakes.model_server import PROVIDERS, ModelServer
from tests.fakes.slots import slot
from tests.worker.agents import MAJOR, make_agent, question
from tests.worker.conftest import openai


def used(tokens_in: Any, tokens_out: Any, seconds: Any) -> Any:
    return SimpleNamespace(input_tokens=tokens_in, output_tokens=tokens_out, time=seconds)


def test_calls_are_added_up_for_each_model() -> None:
    tally = Tally()
    assert tally.report() is None
    tally.add("a", used(1, 2, 0.25))
    tally.add("b", used(10, 20, 1.0))
    tally.add("a", used(3, None, float("nan")))
    tally.add("a", used("x", -1, 0.5))
    assert tally.report() == {
        "input_tokens": 14,
        "output_tokens": 22,
        "ms": 1750,
        "models": [
            {"model": "a", "calls": 3, "input_tokens": 4, "output_tokens": 2, "ms": 750},
            {"model": "b", "calls": 1, "input_tokens": 10, "output_tokens": 20, "ms": 1000},
        ],
    }


def test_models_are_bounded() -> None:
    tally = Tally()
    for number in range(MAX_MODELS + 5):
        tally.add(f"{number:03d}" + "x" * 200, used(1, 1, 0))
    report = tally.report()
    assert report is not None
    assert (len(report["models"]), report["models"][-1]["calls"]) == (MAX_MODELS, 6)
    assert {len(each["model"]) for each in report["models"]} == {128}
    assert report["input_tokens"] == MAX_MODELS + 5


@pytest.mark.agentscope
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("streams", [True, False])
async def test_the_models_of_each_provider_report(
    start: Any, server: ModelServer, provider: str, streams: bool
) -> None:
    await start(models={"main": slot(server, provider, MAJOR, stream=streams)})
    with finish_reasons.observed() as outcome:
        [chunk async for chunk in runtime.models.main.stream(question("one two"))]
    report = outcome.usage.report()
    assert report is not None
    (model,) = report["models"]
    assert (model["model"], model["calls"], model["output_tokens"]) == (
        runtime.config.models["main"].model,
        1,
        3,
    )
    assert model["input_tokens"] >= 1
    assert outcome.metadata == {"usage": report}


@pytest.mark.agentscope
async def test_agents_count_for_their_turn(start: Any, server: ModelServer) -> None:
    await start(models={"main": openai(server)})
    with finish_reasons.observed() as outcome:
        await make_agent()(question("one"))
        [chunk async for chunk in make_agent().stream(question("one two"))]
    report = outcome.usage.report()
    assert report is not None
    assert (report["models"][0]["calls"], report["output_tokens"]) == (2, 5)
