"""The helpers of agentscope-runtime's API: ResponseBuilder, the client of `/process`, and tracing."""

import asyncio
import http.server
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from agentscope_runtime.engine.helpers.agent_api_builder import ResponseBuilder
from agentscope_runtime.engine.helpers.agent_api_client import (
    HTTPAgentAPIClient,
    create_simple_text_request,
    extract_text_from_event,
    parse_sse_line,
)
from agentscope_runtime.engine.tracing import TraceType, get_tracer, trace
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.worker.agentapp.test_events import RECORDED, recorded


def test_a_response_of_one_text_has_the_recorded_events() -> None:
    builder = ResponseBuilder(session_id="s")
    events = [each.model_dump() for each in builder.generate_streaming_response(["Hello", " World!"])]
    kinds = [(each["object"], each["status"]) for each in events]
    assert kinds == [(each["object"], each["status"]) for each in recorded("text")]
    assert events[-1]["output"][0]["content"][0]["text"] == "Hello World!"


def test_builders_of_other_contents() -> None:
    message = ResponseBuilder().create_message_builder(message_type="plugin_call")
    data = message.create_content_builder("data")
    data.set_data({"a": "x", "n": 1, "deep": {"l": [1]}, "flag": True})
    for delta in ({"a": "y", "n": 2}, {"deep": {"l": [2]}, "flag": False, "new": None}):
        assert data.add_data_delta(delta).delta
    data.complete()
    image = message.create_content_builder("image")
    image.set_image_url("https://example.org/a.png")
    image.complete()
    first, second = message.complete().content
    assert first.data == {"a": "xy", "n": 3, "deep": {"l": [1, 2]}, "flag": False, "new": None}
    assert (second.index, second.image_url) == (1, "https://example.org/a.png")
    with pytest.raises(ValueError, match="only a content of type text"):
        image.add_text_delta("x")
    with pytest.raises(ValueError, match="Unsupported content type: nothing"):
        message.create_content_builder("nothing")


@pytest.fixture
def url() -> Iterator[str]:
    """A server that sends the recorded answer to a request with a token."""
    lines = (RECORDED / "text.jsonl").read_text("utf-8")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200 if self.headers["Authorization"] == "Bearer x" else 401)
            self.end_headers()
            body = "".join(f"data: {line}\n\n" for line in ['{"no": "event"}', *lines.splitlines()])
            self.wfile.write(f": comment\n\n{body}data: no json\n\n".encode())

        def log_message(self, *_: Any) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/process"
        server.shutdown()
        thread.join()


async def test_the_client_yields_events(url: str) -> None:
    request = create_simple_text_request("Hello", session_id="s", model="m")
    assert (request.session_id, request.model) == ("s", "m")
    client = HTTPAgentAPIClient(url, token="x")
    events = await asyncio.to_thread(lambda: list(client.stream(request)))
    assert events == [each async for each in client.astream(request)]
    texts = [text for each in events if (text := extract_text_from_event(each))]
    assert texts == ["Hello", " World!", "Hello World!", "Hello World!"]
    assert [type(each).__name__ for each in events[:3]] == ["AgentResponse", "AgentResponse", "Message"]
    import httpx

    with pytest.raises(httpx.HTTPStatusError):
        await asyncio.to_thread(lambda: list(HTTPAgentAPIClient(url).stream(request)))
    assert parse_sse_line("event: x") == ("event", "x")
    assert parse_sse_line(": comment") == (None, None)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(otel, "get_tracer", lambda name: provider.get_tracer(name))
    return exporter


async def test_traced_functions_have_spans(spans: InMemorySpanExporter) -> None:
    @trace(TraceType.LLM, trace_name="ask")
    async def ask(trace_event: Any = None) -> str:
        trace_event.on_log("asked", model="m")
        return "yes"

    @trace(TraceType.TOOL)
    async def stream() -> AsyncIterator[int]:
        yield 1
        raise ValueError("no more")

    @trace()
    def numbers() -> Iterator[int]:
        yield 1

    @trace("own")
    def plain() -> int:
        return 2

    assert await ask() == "yes"
    with pytest.raises(ValueError, match="no more"):
        [each async for each in stream()]
    assert (list(numbers()), plain()) == ([1], 2)
    with get_tracer().event(TraceType.RAG, {"query": "q"}) as event:
        event.on_end({"found": 3})
    found = {span.name: span for span in spans.get_finished_spans()}
    assert {name: span.attributes["agentscope.trace_type"] for name, span in found.items()} == {
        "ask": "LLM",
        "stream": "TOOL",
        "numbers": "OTHER",
        "plain": "own",
        "RAG": "RAG",
    }
    assert found["ask"].events[0].name == "asked"
    assert not found["stream"].status.is_ok
    assert (found["RAG"].attributes["query"], found["RAG"].attributes["found"]) == ("q", 3)


def test_types_of_traces_can_be_added() -> None:
    TraceType.add_type("OWN", "own")
    assert TraceType.OWN == "own"
    with pytest.raises(ValueError, match="already exists"):
        TraceType.add_type("OWN", "again")
    del TraceType.OWN
