"""Spans of a worker: turns and direct model calls, exported or dropped in time."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest

from agentscope_worker.runtime import runtime, tracing
from tests.fakes.model_server import ModelServer
from tests.fakes.otlp_sink import OtlpSink, Span
from tests.harness.mcp_process import McpProcess
from tests.worker.agents import MAJOR, make_agent, question, text_of
from tests.worker.conftest import openai

pytestmark = pytest.mark.agentscope

CALLER = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}

Start = Callable[..., Any]


@pytest.fixture
async def sink() -> AsyncIterator[OtlpSink]:
    async with OtlpSink() as running:
        yield running


def never() -> bool:
    return False


async def sent(sink: OtlpSink) -> list[Span]:
    """All spans, including the last ones."""
    await runtime.shutdown()
    return sink.spans


def test_without_tracing_the_headers_of_the_caller_are_passed_on() -> None:
    with tracing.turn("run", "session", CALLER, never) as headers:
        assert headers == CALLER


async def test_with_tracing_the_headers_name_the_span_of_the_turn(start: Start, sink: OtlpSink) -> None:
    await start(tracing={"endpoint": sink.endpoint})
    with tracing.turn("run", "session", {**CALLER, "tracestate": "a=1"}, never) as headers:
        pass
    (span,) = await sent(sink)
    assert headers == {"traceparent": f"00-{span.trace_id}-{span.span_id}-01", "tracestate": "a=1"}
    assert span.parent_id == "00f067aa0ba902b7"


async def test_a_turns_span_has_its_outcome(start: Start, sink: OtlpSink) -> None:
    await start(tracing={"endpoint": sink.endpoint})
    with tracing.turn("well", "s", {}, never):
        pass
    with tracing.turn("swallowed", "s", {}, lambda: True):
        pass
    with pytest.raises(asyncio.CancelledError), tracing.turn("cancelled", "s", {}, lambda: True):
        raise asyncio.CancelledError
    with pytest.raises(KeyError), tracing.turn("failed", "s", {}, never):
        raise KeyError("x")
    spans = {span.attributes["agentscope.run_id"]: span for span in await sent(sink)}
    outcomes = {run: span.attributes["agentscope.outcome"] for run, span in spans.items()}
    assert outcomes == {"well": "ok", "swallowed": "cancelled", "cancelled": "cancelled", "failed": "error"}
    assert spans["failed"].attributes["error.type"] == "KeyError"
    assert [run for run, span in spans.items() if span.error] == ["failed"]
    assert len({span.attributes["agentscope.session"] for span in spans.values()}) == 1


@pytest.mark.parametrize("transport", ["sse", "streamable_http"])
async def test_a_link_to_an_mcp_server_creates_no_traces(
    start: Start, server: ModelServer, sink: OtlpSink, transport: str
) -> None:
    with McpProcess(transport) as tools:
        await start(
            models={"main": openai(server)},
            mcp_servers={"tools": tools.start().settings},
            tracing={"endpoint": sink.endpoint},
        )
        with tracing.turn("run", "s", {}, never):
            answer = await make_agent()(question('call echo {"text": "said"}'))
        spans = await sent(sink)
    assert "said" in text_of(answer)
    (turn,) = [span for span in spans if not span.parent_id]
    assert turn.name == "turn"
    assert {span.trace_id for span in spans} == {turn.trace_id}


async def test_a_second_start_exports_to_its_own_endpoint(start: Start, sink: OtlpSink) -> None:
    async with OtlpSink() as other:
        for each in (sink, other):
            await start(tracing={"endpoint": each.endpoint})
            with tracing.turn("run", "s", {}, never):
                pass
            await sent(each)
            assert [span.name for span in each.spans] == ["turn"]


@pytest.mark.timed
async def test_spans_do_not_follow_a_redirect(start: Start, sink: OtlpSink) -> None:
    """The exporter takes a redirect for an answer: only the supervisor warns, about its own spans."""
    async with OtlpSink() as other:
        sink.moved_to = other.endpoint
        await start(tracing={"endpoint": sink.endpoint})
        with tracing.turn("run", "s", {}, never):
            pass
        await sent(sink)
        assert sink.content_types, "they were sent"
        assert other.content_types == []


async def test_stop_does_not_wait_for_an_endpoint_that_hangs(
    start: Start, sink: OtlpSink, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "FLUSH_TIMEOUT", 0.2)
    monkeypatch.setattr(tracing, "EXPORT_TIMEOUT", 3.0)
    sink.hangs = True
    await start(tracing={"endpoint": sink.endpoint})
    with tracing.turn("run", "s", {}, never):
        pass
    began = time.monotonic()
    await runtime.shutdown()
    assert time.monotonic() - began < tracing.FLUSH_TIMEOUT + 2.0
    assert "the last spans are lost" in caplog.text
    for thread in threading.enumerate():
        if thread.name == "last spans":
            await asyncio.to_thread(thread.join)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_model_call_has_a_span(
    start: Start, server: ModelServer, sink: OtlpSink, stream: bool
) -> None:
    await start(models={"main": openai(server, stream=stream)}, tracing={"endpoint": sink.endpoint})
    async for _ in runtime.models.main.stream([question("hi there")]):
        pass
    with pytest.raises(Exception, match="fail 400"):
        await runtime.models.main([question("fail 400")])
    spans = [span for span in await sent(sink) if span.name == "chat gpt-4"]
    assert [span.error for span in spans] == [False, True]
    assert spans[0].attributes["gen_ai.usage.output_tokens"] == 3


async def test_an_abandoned_or_unread_stream_has_a_span(
    start: Start, server: ModelServer, sink: OtlpSink
) -> None:
    server.delay = 0.01
    await start(models={"main": openai(server)}, tracing={"endpoint": sink.endpoint})
    async with aclosing(runtime.models.main.stream([question("one two three")])) as chunks:
        async for _ in chunks:
            break
    await runtime.models.main([question("warm up")])  # never read
    await asyncio.sleep(0.05)  # a task of the loop closes the dropped stream
    spans = [span for span in await sent(sink) if span.name.startswith("chat")]
    assert len(spans) == 2
    if MAJOR == 2:  # 1.x treats a reader that stops as an error
        assert not [span for span in spans if span.error]
