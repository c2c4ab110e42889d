"""Tracing in a worker: the export of spans, one span per turn, and spans of model calls without one.

AgentScope creates its own spans of agents, models and tools when tracing is on (`compat.majors`); they
contain complete prompts and responses. The spans created here never do. The parent of a turn's span is the
caller's trace, as the supervisor passes it on, and everything that the App does in the turn is below that
span. If the caller's trace is not sampled, the turn is not sampled either.

A thread of OpenTelemetry's SDK sends the spans over OTLP/HTTP, in batches, from a bounded queue. An endpoint
that is down or hangs loses spans and delays nothing; at shutdown the worker waits `FLUSH_TIMEOUT` for the
last spans. The SDK is imported only if tracing is on. The exporter's environment variables apply
(OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME, …). The supervisor creates the spans of HTTP and of queueing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from agentscope_protocol.wire.log_lines import session_digest
from agentscope_worker.runtime.compat.majors import seam

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import Span, Tracer

log = logging.getLogger(__name__)

MAX_QUEUED = 2048  # spans waiting to be sent; further spans are dropped
EXPORT_INTERVAL = 1.0  # seconds between two batches
EXPORT_TIMEOUT = 5.0  # seconds for one batch, retries included
FLUSH_TIMEOUT = 1.0  # seconds for the last spans at the shutdown of a worker
WARNING_INTERVAL = 60.0  # seconds between two warnings about lost spans

_SCOPE = "agentscope_worker"
# The exporter logs every failure with the URL; `_Exporter` logs less often, and without the URL.
_EXPORTER_LOG = "opentelemetry.exporter.otlp.proto.http.trace_exporter"

_tracer: Tracer | None = None
_processor: BatchSpanProcessor | None = None


def start(endpoint: str, service: str, worker: str) -> None:
    """Export spans to `endpoint` from now on. `service`, `worker`: name and instance of the span's
    resource."""
    global _tracer, _processor
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    logging.getLogger(_EXPORTER_LOG).setLevel(logging.CRITICAL)

    class _Exporter(SpanExporter):
        """The SDK's exporter, with a rate-limited warning for lost spans."""

        def __init__(self) -> None:
            # Any: some of its methods are not annotated, and `mypy --strict` rejects calls to them.
            self._sender: Any = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT)
            self._lost, self._warned_at = 0, float("-inf")

        def export(self, spans: Any) -> SpanExportResult:
            result: SpanExportResult = self._sender.export(spans)
            if result is not SpanExportResult.SUCCESS:
                self._lost += len(spans)
                if time.monotonic() - self._warned_at >= WARNING_INTERVAL:
                    self._warned_at = time.monotonic()
                    log.warning("%d spans are lost: tracing.endpoint did not accept them", self._lost)
                    self._lost = 0
            return result

        def shutdown(self) -> None:
            self._sender.shutdown()

    _processor = BatchSpanProcessor(_Exporter(), MAX_QUEUED, EXPORT_INTERVAL * 1000)
    provider = _provider(service, worker)
    provider.add_span_processor(_processor)
    _tracer = provider.get_tracer(_SCOPE)
    seam().trace(True)


async def stop() -> None:
    """Stop creating spans, and send the queued ones within `FLUSH_TIMEOUT`."""
    global _tracer, _processor
    processor: Any = _processor  # Any: as above
    _tracer = _processor = None
    if processor is None:
        return
    seam().trace(False)
    loop = asyncio.get_running_loop()
    flushed = asyncio.Event()

    def flush() -> None:
        processor.shutdown()
        with contextlib.suppress(RuntimeError):  # the loop is closed by now
            loop.call_soon_threadsafe(flushed.set)

    # Not in the loop's thread pool: the exit of the loop would wait for it.
    threading.Thread(target=flush, name="last spans", daemon=True).start()
    try:
        async with asyncio.timeout(FLUSH_TIMEOUT):
            await flushed.wait()
    except TimeoutError:
        log.warning("the last spans are lost: tracing.endpoint did not accept them in time")


def _provider(service: str, worker: str) -> TracerProvider:
    """The tracer provider of this process; OpenTelemetry allows one per process, set once."""
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    found = trace.get_tracer_provider()
    if isinstance(found, TracerProvider):  # set by the author, or by an earlier start
        return found
    name = os.environ.get("OTEL_SERVICE_NAME") or service
    provider = TracerProvider(resource=Resource.create({"service.name": name, "service.instance.id": worker}))
    trace.set_tracer_provider(provider)
    return provider


# -- turns ------------------------------------------------------------------------------------------


def turn(
    run_id: str,
    session_id: str,
    headers: Mapping[str, str],
    is_cancelled: Callable[[], bool],
    name: str = "turn",
) -> contextlib.AbstractContextManager[dict[str, str]]:
    """The span of one turn or exchange, with this name, as a context manager; enter it in its own task.

    Yields the W3C headers with which the App can extend the trace: those of this span, or the caller's
    `headers` unchanged if tracing is off. `is_cancelled` is called at the end of the turn, because AgentScope
    may have swallowed the cancellation.
    """
    if _tracer is None:
        return contextlib.nullcontext(dict(headers))
    return _span_of_turn(_tracer, name, run_id, session_id, headers, is_cancelled)


@contextlib.contextmanager
def _span_of_turn(
    tracer: Tracer,
    name: str,
    run_id: str,
    session_id: str,
    headers: Mapping[str, str],
    is_cancelled: Callable[[], bool],
) -> Iterator[dict[str, str]]:
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    w3c = TraceContextTextMapPropagator()
    attributes = {}
    if run_id:
        attributes["agentscope.run_id"] = run_id
    if session_id:
        attributes["agentscope.session"] = session_digest(session_id)
    with tracer.start_as_current_span(
        name,
        context=w3c.extract(headers),
        kind=SpanKind.CONSUMER,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        propagated: dict[str, str] = {}
        w3c.inject(propagated)
        try:
            yield propagated
        except BaseException as error:
            if is_cancelled():
                span.set_attribute("agentscope.outcome", "cancelled")
            else:
                span.set_attribute("agentscope.outcome", "error")
                _record(span, error)
            raise
        span.set_attribute("agentscope.outcome", "cancelled" if is_cancelled() else "ok")


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Create no spans inside the block, nor in tasks created there; for work that belongs to no turn.

    mcp 2.x, for example, creates a span for each request to a server: each ping would be a trace of its own.
    """
    if _tracer is None:
        yield
        return
    from opentelemetry import context, trace

    # The default sampler follows the parent, and this parent is not sampled. 1 is a valid id.
    unsampled = trace.NonRecordingSpan(trace.SpanContext(trace_id=1, span_id=1, is_remote=False))
    before = context.attach(trace.set_span_in_context(unsampled))
    try:
        yield
    finally:
        context.detach(before)


# -- model calls ------------------------------------------------------------------------------------


async def model_call(model: Any, call: Callable[[], Awaitable[Any]]) -> Any:
    """Await `call()`, a call of `model`, and return its result; creates a span if AgentScope does not.

    The span of a streamed response ends with the stream, or when its reader closes it.
    """
    if _tracer is None or seam().traces_model_call():
        return await call()
    from opentelemetry.trace import SpanKind

    attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": model.model}
    with _tracer.start_as_current_span(
        f"chat {model.model}",
        kind=SpanKind.CLIENT,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
        end_on_exit=False,
    ) as span:
        try:
            response = await call()
        except BaseException as error:
            _record(span, error)
            span.end()
            raise
    if isinstance(response, AsyncGenerator):
        return _until_end(span, response)
    _end(span, response)
    return response


async def _until_end(span: Span, responses: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    last = None
    try:
        async with contextlib.aclosing(responses):
            async for last in responses:
                yield last
    except GeneratorExit:  # the reader closed the stream
        raise
    except BaseException as error:
        _record(span, error)
        raise
    finally:
        _end(span, last)


def _end(span: Span, response: Any) -> None:
    usage = getattr(response, "usage", None)
    if usage is not None:
        span.set_attribute("gen_ai.usage.input_tokens", usage.input_tokens)
        span.set_attribute("gen_ai.usage.output_tokens", usage.output_tokens)
    span.end()


def _record(span: Span, error: BaseException) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", type(error).__qualname__)
    span.set_status(StatusCode.ERROR, type(error).__name__)
    span.record_exception(error)
