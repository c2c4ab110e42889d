"""Trace context in and out of headers, and spans as OTLP's JSON."""

import json

import pytest
from google.protobuf.json_format import Parse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from agentscope_supervisor.web.otlp import Context, Kind, Span, caller, encode

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_the_caller_is_read_and_written_alike() -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=1,b=2"}
    assert caller(headers) == Context(TRACE, PARENT, True, "a=1,b=2")
    assert Context(TRACE, PARENT, True, "a=1,b=2").headers() == headers
    assert Context(TRACE, PARENT, False).headers() == {"traceparent": f"00-{TRACE}-{PARENT}-00"}


@pytest.mark.parametrize("flags, sampled", [("00", False), ("01", True), ("02", False), ("03", True)])
def test_one_bit_of_the_flags_says_whether_it_is_sampled(flags: str, sampled: bool) -> None:
    found = caller({"traceparent": f"00-{TRACE}-{PARENT}-{flags}"})
    assert found is not None
    assert found.sampled is sampled


def test_a_later_version_may_say_more() -> None:
    assert caller({"traceparent": f"01-{TRACE}-{PARENT}-01-and-more"}) == Context(TRACE, PARENT)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "nonsense",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-01-more",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-01\n",
        f"00-{TRACE}x-{PARENT}-01",
    ],
)
def test_nonsense_is_nobody(bad: str) -> None:
    assert caller({"traceparent": bad, "tracestate": "a=1"}) is None
    assert caller({}) is None


def test_the_encoded_form_is_what_otlp_reads() -> None:
    """OpenTelemetry's own message takes it, but for the ids, which OTLP has in hexadecimal."""
    root = Span("root", Kind.SERVER, Context(TRACE, "a" * 16), "", 1, 2**60, {"s": "x", "n": 7, "b": True})
    child = Span("child", Kind.INTERNAL, Context(TRACE, "b" * 16, state="v=1"), "a" * 16, 2, 3, error="no")
    encoded = encode([root, child], {"service.name": "app"}, "scope", "1.0")
    message = Parse(json.dumps(encoded), ExportTraceServiceRequest())
    (resource,) = message.resource_spans
    assert resource.resource.attributes[0].value.string_value == "app"
    assert resource.scope_spans[0].scope.name == "scope"
    one, two = resource.scope_spans[0].spans
    assert (one.name, one.kind, one.start_time_unix_nano, one.end_time_unix_nano) == ("root", 2, 1, 2**60)
    values = {each.key: each.value for each in one.attributes}
    assert (values["s"].string_value, values["n"].int_value, values["b"].bool_value) == ("x", 7, True)
    assert one.status.code == 0
    assert (two.kind, two.trace_state, two.status.code, two.status.message) == (1, "v=1", 2, "no")
    first, second = encoded["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert (first["traceId"], first["spanId"], "parentSpanId" in first) == (TRACE, "a" * 16, False)
    assert (second["spanId"], second["parentSpanId"]) == ("b" * 16, "a" * 16)
