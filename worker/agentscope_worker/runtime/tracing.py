"""Tracing in a worker: where spans go, the span of each turn, and of model calls that nobody else traces.

AgentScope makes its own spans of agents, models and tools, when it is told to (`compat.majors`); they hold
whole prompts and answers. Those made here never do. The caller's trace, as the supervisor passes it on, is
the parent of a turn's span, and everything that the App does in its turn is below that. Who is not sampled by
the caller is not sampled here.

Spans are sent by a thread of OpenTelemetry's SDK over OTLP/HTTP, in batches, from a bounded queue: an
endpoint that is down or hangs costs spans, never time; the end of a worker waits `FLUSH_WITHIN` for the last
ones. The SDK is imported only when tracing is on. The usual variables of its exporter are heeded
(OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME, …). The spans of HTTP and of waiting are the supervisor's.
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

QUEUED = 2048  # spans that wait to be sent; what comes when it is full is dropped
SEND_EVERY = 1.0  # seconds between two sendings
SEND_WITHIN = 5.0  # seconds for one, what is tried again included
FLUSH_WITHIN = 1.0  # seconds for the last ones at the end of a worker
COMPLAIN_EVERY = 60.0  # seconds between two log lines about an endpoint that takes nothing

_SCOPE = "agentscope_worker"
# What the exporter says of each failure, with the URL; `_Exporter` says it seldom, and without.
_EXPORTER_LOG = "opentelemetry.exporter.otlp.proto.http.trace_exporter"

_tracer: Tracer | None = None
_processor: BatchSpanProcessor | None = None


def start(endpoint: str, service: str, worker: str) -> None:
    """Send spans to `endpoint` from now on. `service`, `worker`: who sends them, for who reads them."""
    global _tracer, _processor
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    logging.getLogger(_EXPORTER_LOG).setLevel(logging.CRITICAL)

    class _Exporter(SpanExporter):
        """The SDK's exporter; what it could not send is counted, and told seldom."""

        def __init__(self) -> None:
            # Any: some of its methods have no annotations, and `mypy --strict` refuses to call them.
            self._sender: Any = OTLPSpanExporter(endpoint=endpoint, timeout=SEND_WITHIN)
            self._lost, self._complained = 0, float("-inf")

        def export(self, spans: Any) -> SpanExportResult:
            result: SpanExportResult = self._sender.export(spans)
            if result is not SpanExportResult.SUCCESS:
                self._lost += len(spans)
                if time.monotonic() - self._complained >= COMPLAIN_EVERY:
                    self._complained = time.monotonic()
                    log.warning("%d spans are lost: tracing.endpoint did not take them", self._lost)
                    self._lost = 0
            return result

        def shutdown(self) -> None:
            self._sender.shutdown()

    _processor = BatchSpanProcessor(_Exporter(), QUEUED, SEND_EVERY * 1000)
    provider = _provider(service, worker)
    provider.add_span_processor(_processor)
    _tracer = provider.get_tracer(_SCOPE)
    seam().trace(True)


async def stop() -> None:
    """Make no more spans, and send those that there are, within `FLUSH_WITHIN`."""
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
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(flushed.set)

    # Not in the loop's pool of threads, whose end would be waited for.
    threading.Thread(target=flush, name="last spans", daemon=True).start()
    try:
        async with asyncio.timeout(FLUSH_WITHIN):
            await flushed.wait()
    except TimeoutError:
        log.warning("the last spans are lost: tracing.endpoint did not take them in time")


def _provider(service: str, worker: str) -> TracerProvider:
    """The provider of this process; OpenTelemetry takes one only, and that for ever."""
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    found = trace.get_tracer_provider()
    if isinstance(found, TracerProvider):  # an author's own, or that of an earlier start
        return found
    name = os.environ.get("OTEL_SERVICE_NAME") or service
    provider = TracerProvider(resource=Resource.create({"service.name": name, "service.instance.id": worker}))
    trace.set_tracer_provider(provider)
    return provider


# -- turns ------------------------------------------------------------------------------------------


def turn(
    run_id: str, session_id: str, headers: Mapping[str, str], is_cancelled: Callable[[], bool]
) -> contextlib.AbstractContextManager[dict[str, str]]:
    """The span of one turn, around all of it; to be used in the turn's own task.

    Gives the W3C headers with which the App can make others part of its trace: those of this span, or
    `headers`, the caller's, as they came when tracing is off. `is_cancelled` is asked at the end, because
    AgentScope may have swallowed the cancellation.
    """
    if _tracer is None:
        return contextlib.nullcontext(dict(headers))
    return _span_of_turn(_tracer, run_id, session_id, headers, is_cancelled)


@contextlib.contextmanager
def _span_of_turn(
    tracer: Tracer,
    run_id: str,
    session_id: str,
    headers: Mapping[str, str],
    is_cancelled: Callable[[], bool],
) -> Iterator[dict[str, str]]:
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    w3c = TraceContextTextMapPropagator()
    attributes = {
        "agentscope.run_id": run_id,
        "agentscope.session": session_digest(session_id),
    }
    with tracer.start_as_current_span(
        "turn",
        context=w3c.extract(headers),
        kind=SpanKind.CONSUMER,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        passed_on: dict[str, str] = {}
        w3c.inject(passed_on)
        try:
            yield passed_on
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
    """Nothing that begins here has a span, nor what the tasks do that are made here; for what is of no turn.

    Of mcp 2.x, say, which makes a span of each request to a server: each ping would be a trace of its own.
    """
    if _tracer is None:
        yield
        return
    from opentelemetry import context, trace

    # The usual sampler heeds the parent, and this one is not sampled. 1: an id that is lawful.
    nobody = trace.NonRecordingSpan(trace.SpanContext(trace_id=1, span_id=1, is_remote=False))
    before = context.attach(trace.set_span_in_context(nobody))
    try:
        yield
    finally:
        context.detach(before)


# -- model calls ------------------------------------------------------------------------------------


async def model_call(model: Any, call: Callable[[], Awaitable[Any]]) -> Any:
    """What `call()` gives, a call of `model`; in a span, where AgentScope makes none.

    The span of a streamed answer ends with the answer, or when its reader leaves.
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
        return _to_its_end(span, response)
    _end(span, response)
    return response


async def _to_its_end(span: Span, responses: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    last = None
    try:
        async with contextlib.aclosing(responses):
            async for last in responses:
                yield last
    except GeneratorExit:  # the reader has enough
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
