"""A model's stream that closes without a finish reason is marked, not passed on as a complete response."""

import asyncio
from typing import Any

import pytest

from agentscope_worker.runtime import runtime
from agentscope_worker.runtime.compat import finish_reasons
from tests.fakes.model_server import PROVIDERS, ModelServer
from tests.fakes.slots import slot
from tests.worker.agents import MAJOR, add_tool, drain_for, make_agent, question, text_of
from tests.worker.conftest import openai

pytestmark = pytest.mark.agentscope

CLOSED = "close 3 one two three four five"
MARK = {"finish_reason": "TRUNCATED"}


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_truncated_stream_of_each_provider_is_marked(
    start: Any, server: ModelServer, provider: str, caplog: pytest.LogCaptureFixture
) -> None:
    await start(models={"main": slot(server, provider, MAJOR)})
    for text, marks in [(CLOSED, [MARK]), ("one two", []), ("limit 2 one two three", [])]:
        caplog.clear()
        with finish_reasons.observed() as outcome:
            stream = runtime.models.main.stream(question(text))
            chunks = [(chunk.text, chunk.metadata) async for chunk in stream]
        assert "".join(text for text, _ in chunks).startswith("Echo:")
        assert [dict(metadata) for _, metadata in chunks if metadata] == marks
        assert outcome.reason == ("TRUNCATED" if marks else None)
        assert len([each for each in caplog.messages if "without a finish reason" in each]) == len(marks)


async def test_a_truncated_reply_of_an_agent_is_marked(start: Any, server: ModelServer) -> None:
    await start(models={"main": openai(server)})
    chunks = [chunk async for chunk in make_agent().stream(question(CLOSED))]
    assert "".join(map(text_of, chunks)).startswith("Echo:")
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert [dict(chunk.metadata or {}) for chunk in chunks if chunk.metadata] == [MARK]
    assert not text_of(chunks[-1])
    assert (await make_agent()(question(CLOSED))).metadata == MARK
    assert not (await make_agent()(question("one two"))).metadata


async def test_only_the_last_call_of_a_reply_counts(start: Any, server: ModelServer) -> None:
    """A stream that closes in a tool call does not truncate the answer that follows it."""

    async def look(word: str) -> str:
        return word

    await start(models={"main": openai(server), "whole": openai(server, stream=False)})
    await add_tool(look)
    reply = await make_agent()(question('close 9 call look {"word": "it"}'))
    assert text_of(reply).startswith("Echo: ")
    assert not reply.metadata
    with finish_reasons.observed() as outcome:
        async for _ in runtime.models.main.stream(question(CLOSED)):
            pass
        assert outcome.reason == "TRUNCATED"
        await runtime.models.whole(question("again"))
        assert outcome.reason is None


async def test_a_stream_that_its_reader_leaves_is_not_truncated(start: Any, server: ModelServer) -> None:
    server.delay = 0.02
    await start(models={"main": openai(server)})
    with finish_reasons.observed() as outcome, pytest.raises(TimeoutError):
        await drain_for(0.1, runtime.models.main.stream(question("word " * 200)))
    with finish_reasons.observed() as of_agent, pytest.raises(TimeoutError):
        await drain_for(0.1, make_agent().stream(question("word " * 200)))
    assert outcome.reason is of_agent.reason is None
    await asyncio.sleep(0)
