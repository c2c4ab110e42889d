"""Spans as values, W3C trace context from and to headers, and the JSON encoding of OTLP. Pure.

Replaces the OpenTelemetry SDK, which would double the memory of a supervisor.

Where to read next: `tracing` creates these spans and sends them.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED: Final = 1  # bit of the flags

Value = str | int | bool


class Kind(IntEnum):
    """The `kind` of a span, as OTLP numbers it."""

    INTERNAL = 1
    SERVER = 2


@dataclass(frozen=True, slots=True)
class Context:
    """The identity of a span. The ids have 32 and 16 digits, in lower-case hexadecimal."""

    trace_id: str
    span_id: str
    sampled: bool = True
    state: str = ""  # the header tracestate, passed on unchanged

    def headers(self) -> dict[str, str]:
        """The W3C headers that make this span the parent of the request that carries them."""
        headers = {"traceparent": f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"}
        return headers | {"tracestate": self.state} if self.state else headers


@dataclass(frozen=True, slots=True)
class Span:
    """A span that has ended. Times in nanoseconds since 1970. `error`: a description for a person."""

    name: str
    kind: Kind
    context: Context
    parent_id: str  # "" for a root
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Value] = field(default_factory=dict)
    error: str | None = None


def caller(headers: Mapping[str, str]) -> Context | None:
    """The span of the caller of a request; None: the header is missing or invalid.

    https://www.w3.org/TR/trace-context/#traceparent-header
    """
    match = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not (int(trace_id, 16) and int(span_id, 16)):
        return None
    return Context(trace_id, span_id, bool(int(flags, 16) & _SAMPLED), headers.get("tracestate", ""))


def encode(spans: Iterable[Span], resource: Mapping[str, Value], scope: str, version: str) -> dict[str, Any]:
    """An ExportTraceServiceRequest as JSON values.

    https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding (ids in hexadecimal, int64 as strings)
    """
    scoped = {"scope": {"name": scope, "version": version}, "spans": [_span(span) for span in spans]}
    return {"resourceSpans": [{"resource": {"attributes": _attributes(resource)}, "scopeSpans": [scoped]}]}


def _span(span: Span) -> dict[str, Any]:
    parent = {"parentSpanId": span.parent_id} if span.parent_id else {}
    state = {"traceState": span.context.state} if span.context.state else {}
    return {
        "traceId": span.context.trace_id,
        "spanId": span.context.span_id,
        **parent,
        **state,
        "name": span.name,
        "kind": int(span.kind),
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(span.end_ns),
        "attributes": _attributes(span.attributes),
        "status": {} if span.error is None else {"code": 2, "message": span.error},
    }


def _attributes(attributes: Mapping[str, Value]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: Value) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}
