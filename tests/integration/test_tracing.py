"""Traces of whole instances: from the caller's traceparent over HTTP and queue to agent, model and tool."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from agentscope_worker.runtime.compat.majors import check_installation
from tests.conftest import StartInstance
from tests.fakes.model_server import ModelServer
from tests.fakes.otlp_sink import OtlpSink, Span, tree
from tests.harness import projects
from tests.harness.client import JSON, Stream, call, invoke, new_session, stop
from tests.harness.instance import Instance, free_port

pytestmark = pytest.mark.agentscope

MAJOR = check_installation()

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = f"00-{TRACE_ID}-00f067aa0ba902b7-01"

APP = """
    from agentscope.runtime import AgentApp, runtime
    from agentscope.message import Msg, TextBlock
    {imports}

    class App(AgentApp):
        async def __call__(self, msg, ctx):
            if ctx.metadata.get("model_only"):
                async for chunk in runtime.models.main.stream([msg]):
                    yield Msg(name="model", content=chunk.text, role="assistant")
                return
            async for chunk in an_agent().stream(msg):
                yield chunk
"""
AGENT = {
    1: """
    from agentscope.agent import ReActAgent
    from agentscope.tool import Toolkit, ToolResponse

    async def shout(word: str):
        return ToolResponse([TextBlock(type="text", text=word.upper())])

    def an_agent():
        tools = Toolkit()
        tools.register_tool_function(shout)
        return ReActAgent(name="Friday", sys_prompt="Help.", model=runtime.models.main, toolkit=tools)
    """,
    2: """
    from agentscope.agent import Agent
    from agentscope.tool import FunctionTool, ToolChunk, Toolkit

    async def shout(word: str):
        return ToolChunk(content=[TextBlock(text=word.upper())])

    def an_agent():
        tools = Toolkit(tools=[FunctionTool(shout, name="shout")])
        return Agent(name="Friday", system_prompt="Help.", model=runtime.models.main, toolkit=tools)
    """,
}


@asynccontextmanager
async def traced(folder: Path, endpoint: str, start: StartInstance) -> AsyncIterator[Instance]:
    """An instance whose App asks an agent with a tool, or the model; it traces to `endpoint`."""
    async with ModelServer() as server:
        project = projects.written(folder / "traced", APP.format(imports=AGENT[MAJOR]))
        projects.configure(
            project,
            models={
                "main": {"provider": "openai", "model": "gpt-4", "api_key": "k", "base_url": server.base_url}
            },
            tracing={"endpoint": endpoint},
        )
        instance = await asyncio.to_thread(start, project, workers=1)
        yield instance
        assert await asyncio.to_thread(instance.stop) == 0


@pytest.fixture
async def sink() -> AsyncIterator[OtlpSink]:
    async with OtlpSink() as running:
        yield running


def below(spans: list[Span], parent: Span) -> list[Span]:
    """The spans whose parent is that one, in the order in which they began."""
    return sorted((s for s in spans if s.parent_id == parent.span_id), key=lambda s: s.start_ns)


def one(spans: list[Span], name: str) -> Span:
    (span,) = [span for span in spans if span.name == name]
    return span


async def test_one_invoke_is_one_trace_from_http_to_model_and_tool(
    tmp_path: Path, sink: OtlpSink, start_instance: StartInstance, capsys: pytest.CaptureFixture[str]
) -> None:
    async with traced(tmp_path, sink.endpoint, start_instance) as instance:
        asked, trace = 'call shout {"word": "abc"}', {"traceparent": CALLER}
        response = await invoke(instance.port, new_session("ann"), asked, headers=trace)
        assert response.status == 200
    spans = await sink.until("POST /invoke", "wait", "turn")
    if os.environ.get("SHOW_TRACE"):  # how the tree in docs/guides/observability.md was made
        with capsys.disabled():
            print("\n" + tree(spans, TRACE_ID))
    assert {span.trace_id for span in spans} == {TRACE_ID}
    http = one(spans, "POST /invoke")
    assert http.parent_id == CALLER.split("-")[2]
    assert http.attributes["http.response.status_code"] == 200
    wait, turn = below(spans, http)
    assert (wait.name, wait.process, turn.name, turn.process) == ("wait", "supervisor", "turn", "0.1")
    assert {span.attributes["agentscope.run_id"] for span in (http, wait, turn)} == {
        response.headers["x-run-id"]
    }
    assert turn.attributes["agentscope.outcome"] == "ok"
    (agent,) = below(spans, turn)
    assert agent.name == "invoke_agent Friday"
    steps = [span.name for span in below(spans, agent) if not span.name.startswith("format")]
    assert steps == ["chat gpt-4", "execute_tool shout", "chat gpt-4"]
    assert set(sink.content_types) == {"application/json", "application/x-protobuf"}
    assert {span.service for span in spans} == {"traced"}
    ours = "".join(str(span.attributes) for span in (http, wait, turn))
    assert "abc" not in ours, "what was said is in AgentScope's spans only"
    assert "ann" not in ours


async def test_direct_model_calls_are_traced(
    tmp_path: Path, sink: OtlpSink, start_instance: StartInstance
) -> None:
    async with traced(tmp_path, sink.endpoint, start_instance) as instance:
        sessions = [new_session() for _ in range(5)]
        only = {"model_only": True}
        await asyncio.gather(*(invoke(instance.port, each, "hi", metadata=only) for each in sessions))
        failed = await invoke(instance.port, new_session(), "fail 400", metadata=only)
        assert failed.code == "APP_ERROR"
    spans = await sink.until(*["POST /invoke", "turn", "chat gpt-4"] * 6)
    roots = [span for span in spans if not span.parent_id]
    assert [span.name for span in roots] == ["POST /invoke"] * 6
    assert len({span.trace_id for span in spans}) == 6, "one trace for each request"
    calls = [span for span in spans if span.name == "chat gpt-4"]
    assert len(calls) == 6
    turns = {span.span_id: span for span in spans if span.name == "turn"}
    assert {span.parent_id for span in calls} == turns.keys()
    (bad,) = [span for span in calls if span.error]
    assert bad.events == ["exception"]
    assert turns[bad.parent_id].error
    if MAJOR == 2:  # these are ours
        assert [span.attributes["gen_ai.usage.output_tokens"] for span in calls if span is not bad] == [2] * 5
        assert "hi" not in "".join(str(span.attributes) for span in calls)


async def test_turns_that_end_badly_are_traced_and_those_not_sampled_are_not(
    sink: OtlpSink, start_instance: StartInstance
) -> None:
    instance = await asyncio.to_thread(start_instance, workers=1, tracing={"endpoint": sink.endpoint})
    port = instance.port
    unsampled = {"traceparent": CALLER[:-2] + "00", "tracestate": "vendor=1"}
    async with Stream(port, new_session(), [{"context": 1}], headers=unsampled) as stream:
        (event,) = await stream.whole()
    seen = json.loads(event.text)
    assert seen["trace"]["traceparent"].startswith(f"00-{TRACE_ID}-")
    assert seen["trace"]["traceparent"].endswith("-00")
    assert seen["trace"]["tracestate"] == "vendor=1"
    assert (await call(port, "POST", "/invoke", body=b"[]", headers=JSON)).status == 400
    assert (await invoke(port, new_session(), [{"raise": "no"}])).code == "APP_ERROR"
    session = new_session()
    async with Stream(port, session, [{"say": "1"}, {"sleep": 60}]) as stream:
        await stream.until(events=1)
        await stop(port, session_id=session)
        await stream.whole("INTERRUPTED")
    await sink.until("turn", "turn")  # what a worker that dies has not sent is lost
    assert (await invoke(port, new_session(), [{"exit": 1}])).code == "WORKER_LOST"
    assert psutil.Process(instance.pid).memory_full_info().uss < 60 * 2**20
    assert await asyncio.to_thread(instance.stop) == 0
    spans = await sink.until(*["POST /invoke"] * 4)
    assert TRACE_ID not in {span.trace_id for span in spans}
    https = [span for span in spans if span.name == "POST /invoke"]
    assert [
        (span.attributes["http.response.status_code"], span.attributes["error.type"], span.error)
        for span in https
    ] == [
        (400, "INVALID_REQUEST", False),
        (500, "APP_ERROR", True),
        (200, "INTERRUPTED", False),
        (502, "WORKER_LOST", True),
    ]
    assert [len([span for span in below(spans, http) if span.name == "wait"]) for http in https] == [
        0,
        1,
        1,
        1,
    ]
    turns = [span for span in spans if span.name == "turn"]
    assert [(span.attributes["agentscope.outcome"], span.events) for span in turns] == [
        ("error", ["exception"]),
        ("cancelled", []),
    ]


@pytest.mark.timed
@pytest.mark.parametrize("kind", ["hangs", "is down", "refuses"])
async def test_an_endpoint_that_takes_nothing_delays_nothing(
    sink: OtlpSink, start_instance: StartInstance, kind: str
) -> None:
    sink.hangs, sink.status = kind == "hangs", 503
    endpoint = sink.endpoint if kind != "is down" else f"http://127.0.0.1:{free_port()}/v1/traces"
    instance = await asyncio.to_thread(start_instance, workers=1, tracing={"endpoint": endpoint})
    if kind != "is down":
        request = asyncio.create_task(sink.came())
        await invoke(instance.port, new_session(), "first")
        await request
    slowest = 0.0
    for _ in range(100):
        slowest = max(slowest, (await invoke(instance.port, new_session(), "hi")).seconds)
    assert slowest < 5.0, "an export that hangs is given up after ten seconds"
    began = time.monotonic()
    assert await asyncio.to_thread(instance.stop) == 0
    assert time.monotonic() - began < 8.0
    lost = [line for line in instance.log.splitlines() if "spans are lost" in line and "in time" not in line]
    assert len(lost) <= 2, "one line of the supervisor, one of the worker"
