"""`@trace` and `Tracer`: spans of OpenTelemetry around the functions of a project.

The provider is the one of the process; in a worker `tracing.endpoint` configures it. Arguments and results
are not recorded.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from opentelemetry import trace as otel


class TraceType(str):
    """The kind of what a span is about; `add_type` adds another."""

    LLM: TraceType
    TOOL: TraceType
    AGENT_STEP: TraceType
    MEMORY: TraceType
    SEARCH: TraceType
    AIGC: TraceType
    RAG: TraceType
    INTENTION: TraceType
    PLUGIN: TraceType
    FUNCTION_CALL: TraceType
    AGENT: TraceType
    PLANNING: TraceType
    CHAIN: TraceType
    RETRIEVER: TraceType
    RERANKER: TraceType
    EMBEDDING: TraceType
    TASK: TraceType
    GUARDRAIL: TraceType
    REWRITER: TraceType
    OTHER: TraceType

    __slots__ = ()

    @classmethod
    def add_type(cls, name: str, value: str) -> None:
        """Raises: ValueError if the name is taken."""
        if hasattr(cls, name):
            raise ValueError(f"TraceType {name} already exists")
        setattr(cls, name, cls(value))


for _name in TraceType.__annotations__:
    setattr(TraceType, _name, TraceType(_name))


class TraceEvent:
    """An open span."""

    def __init__(self, span: otel.Span) -> None:
        self.span = span

    def on_log(self, message: str, **attributes: Any) -> None:
        self.span.add_event(message, _attributes(attributes))

    log = on_log

    def set_attribute(self, key: str, value: Any) -> None:
        self.span.set_attributes(_attributes({key: value}))

    def on_end(self, payload: Mapping[str, Any] | None = None, **attributes: Any) -> None:
        self.span.set_attributes(_attributes({**(payload or {}), **attributes}))


class Tracer:
    @contextlib.contextmanager
    def event(
        self, trace_type: str, payload: Mapping[str, Any] | None = None, **attributes: Any
    ) -> Iterator[TraceEvent]:
        """A span around the block, with `payload` as attributes. An exception is recorded in it."""
        given = _attributes({"agentscope.trace_type": trace_type, **(payload or {}), **attributes})
        with otel.get_tracer(__name__).start_as_current_span(str(trace_type), attributes=given) as span:
            yield TraceEvent(span)

    def log(self, message: str, **attributes: Any) -> None:
        otel.get_current_span().add_event(message, _attributes(attributes))


_TRACER = Tracer()


def get_tracer(*_: Any, **__: Any) -> Tracer:
    return _TRACER


def trace(
    trace_type: str | None = None, *, trace_name: str | None = None, **_: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: a span around each call; of a generator, until it ends.

    A function that takes `trace_event` gets the open span as a TraceEvent.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        name = trace_name or function.__name__
        takes_event = "trace_event" in inspect.signature(function).parameters

        @contextlib.contextmanager
        def span(arguments: dict[str, Any]) -> Iterator[None]:
            kind = _attributes({"agentscope.trace_type": trace_type or TraceType.OTHER})
            with otel.get_tracer(__name__).start_as_current_span(name, attributes=kind) as opened:
                if takes_event:
                    arguments.setdefault("trace_event", TraceEvent(opened))
                yield

        # Generators do not make their span the current one: they suspend between two items.
        @contextlib.contextmanager
        def detached(arguments: dict[str, Any]) -> Iterator[None]:
            opened = otel.get_tracer(__name__).start_span(name)
            opened.set_attributes(_attributes({"agentscope.trace_type": trace_type or TraceType.OTHER}))
            if takes_event:
                arguments.setdefault("trace_event", TraceEvent(opened))
            with _ending(opened):
                yield

        @functools.wraps(function)
        async def stream(*args: Any, **kwargs: Any) -> Any:
            with detached(kwargs):
                async with contextlib.aclosing(function(*args, **kwargs)) as items:
                    async for item in items:
                        yield item

        @functools.wraps(function)
        def generate(*args: Any, **kwargs: Any) -> Any:
            with detached(kwargs):
                yield from function(*args, **kwargs)

        @functools.wraps(function)
        async def run(*args: Any, **kwargs: Any) -> Any:
            with span(kwargs):
                return await function(*args, **kwargs)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with span(kwargs):
                return function(*args, **kwargs)

        if inspect.isasyncgenfunction(function):
            return stream
        if inspect.isgeneratorfunction(function):
            return generate
        return run if inspect.iscoroutinefunction(function) else call

    return decorate


@contextlib.contextmanager
def _ending(span: otel.Span) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        span.record_exception(error)
        span.set_status(otel.StatusCode.ERROR, f"{type(error).__name__}: {error}")
        raise
    finally:
        span.end()


def _attributes(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value if isinstance(value, (bool, int, float)) else str(value) for key, value in values.items()
    }
