"""The supervisor's spans of one request, and the bounds of what waits to be sent."""

import asyncio

import pytest

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain.errors import ErrorCode, Failure
from agentscope_supervisor.domain.run import Run
from agentscope_supervisor.domain.usage import ModelUsage, Usage
from agentscope_supervisor.web import tracing
from agentscope_supervisor.web.dialects.native import NATIVE
from agentscope_supervisor.web.otlp import Context, Kind, caller
from agentscope_supervisor.web.tracing import CLIENT_LEFT, RequestTrace, Tracing
from tests.fakes.otlp_sink import OtlpSink

PARENT = Context("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", True, "a=1")


def run(taken_at: float | None = None) -> Run:
    made = Run("run", "session", StreamKind.EVENTS, NATIVE, 10.0)
    if taken_at is not None:
        made.take("0.1", lambda size: None, taken_at)
    return made


def test_a_request_and_its_wait() -> None:
    trace = RequestTrace(PARENT, "/invoke", 10.0)
    http, wait = trace.over(11.0, 200, None, run(10.25))
    assert (http.kind, http.parent_id, http.context.trace_id) == (
        Kind.SERVER,
        PARENT.span_id,
        PARENT.trace_id,
    )
    assert (wait.parent_id, wait.context.trace_id) == (http.context.span_id, PARENT.trace_id)
    assert caller(trace.headers) == http.context
    assert http.end_ns - http.start_ns == 1_000_000_000
    assert (wait.start_ns, wait.end_ns - wait.start_ns) == (http.start_ns, 250_000_000)
    assert http.attributes["agentscope.worker"] == "0.1"
    assert http.attributes["http.response.status_code"] == 200
    assert (http.error, wait.error) == (None, None)


def test_the_span_of_a_request_has_the_tokens_of_its_turn() -> None:
    turn = run(10.25)
    turn.usage = Usage((ModelUsage("gpt-4", 1, 2, 3, 4), ModelUsage("other", 1, 10, 20, 30)))
    http, _ = RequestTrace(PARENT, "/invoke", 10.0).over(11.0, 200, None, turn)
    used = {name: value for name, value in http.attributes.items() if name.startswith("gen_ai.")}
    assert used == {
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 23,
        "gen_ai.response.model": "gpt-4",
    }


def test_without_a_caller_it_is_a_root() -> None:
    one, other = RequestTrace(None, "/invoke", 0.0), RequestTrace(None, "/invoke", 0.0)
    (span,) = one.over(1.0, 200, None, None)
    assert span.parent_id == ""
    assert one.headers != other.headers


def test_what_the_caller_does_not_sample_makes_no_spans() -> None:
    trace = RequestTrace(Context(PARENT.trace_id, PARENT.span_id, sampled=False), "/invoke", 0.0)
    assert trace.over(1.0, 200, None, run(0.5)) == []
    assert trace.headers["traceparent"].endswith("-00")


def test_a_turn_that_no_worker_took() -> None:
    trace = RequestTrace(None, "/invoke", 10.0)
    waiting = run()
    waiting.end(Failure(ErrorCode.NOT_READY, "no"), 12.0)
    http, wait = trace.over(12.0, 503, None, waiting)
    assert http.attributes["error.type"] == "NOT_READY"
    assert http.error == "NOT_READY"
    assert wait.error
    assert wait.end_ns == http.end_ns


def test_a_client_that_left() -> None:
    (http,) = RequestTrace(None, "/invoke", 0.0).over(1.0, CLIENT_LEFT, None, None)
    assert http.attributes["http.response.status_code"] == CLIENT_LEFT
    assert http.attributes["error.type"] == "client_left"
    assert http.error is None


def test_a_request_that_was_refused() -> None:
    (http,) = RequestTrace(None, "/invoke", 0.0).over(
        1.0, 400, Failure(ErrorCode.INVALID_REQUEST, "no"), None
    )
    assert http.attributes["error.type"] == "INVALID_REQUEST"
    assert http.error is None, "the caller did it wrong, not the server"


async def test_what_waits_to_be_sent_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "QUEUED", 3)
    sender = Tracing("http://127.0.0.1:9/v1/traces", "app")
    for _ in range(5):
        sender.record(sender.request({}, "/invoke"), 200, None, None)
    assert len(sender._queue) == 3
    assert sender._dropped == 2
    assert sender._sending is not None
    sender._sending.cancel()
    await asyncio.wait([sender._sending])


def test_headers_for_the_endpoint_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Basic%20abc, x-key = 1,nonsense")
    assert tracing._headers_of_environment() == {"Authorization": "Basic abc", "x-key": "1"}
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-other=2")
    assert tracing._headers_of_environment() == {"x-other": "2"}


async def test_spans_do_not_follow_a_redirect(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The key of the collector would go to another server."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=secret")
    async with OtlpSink() as sink, OtlpSink() as other:
        sink.moved_to = other.endpoint
        made = Tracing(sink.endpoint, "app")
        made.record(made.request({}, "/invoke"), 200, None, None)
        await made.close()
        assert sink.content_types, "they were sent"
        assert other.content_types == []
    assert "spans are lost" in caplog.text
