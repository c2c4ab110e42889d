"""The record of one request: what metrics and traces get, however its response leaves."""

from typing import Any, Final
from unittest.mock import Mock

import pytest

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain.errors import ErrorCode, Failure
from agentscope_supervisor.domain.run import Run
from agentscope_supervisor.telemetry.metrics import Metrics
from agentscope_supervisor.web.dialects.native import NATIVE
from agentscope_supervisor.web.request_record import RequestRecord
from agentscope_supervisor.web.tracing import CLIENT_LEFT, RequestTrace, Tracing

pytestmark = pytest.mark.as_python

APP_ERROR: Final = Failure(ErrorCode.APP_ERROR, "no")
PARENT: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def sinks() -> tuple[Any, Any]:
    """Metrics and traces that remember what they were given."""
    tracing = Mock(Tracing)
    tracing.request.return_value = RequestTrace(None, "/invoke", 0.0)
    return Mock(Metrics), tracing


def test_a_request_is_recorded_with_its_status_its_failure_and_its_run() -> None:
    metrics, tracing = sinks()
    record = RequestRecord(metrics, tracing, "/invoke")
    record.trace({})
    record.status, record.failure = 500, APP_ERROR
    record.run = run = Run("r", "s", StreamKind.EVENTS, NATIVE, 0.0)
    record.over()
    metrics.request.assert_called_once_with("/invoke", 500)
    tracing.record.assert_called_once_with(tracing.request.return_value, 500, APP_ERROR, run)


def test_a_request_without_a_response_is_one_whose_client_left() -> None:
    metrics, tracing = sinks()
    record = RequestRecord(metrics, tracing, "/invoke")
    record.trace({})
    record.over()
    metrics.request.assert_called_once_with("/invoke", CLIENT_LEFT)
    assert tracing.record.call_args.args[1:] == (CLIENT_LEFT, None, None)


def test_a_request_that_is_not_traced_makes_no_spans() -> None:
    metrics, tracing = sinks()
    RequestRecord(metrics, tracing, "/health").over()
    tracing.record.assert_not_called()
    metrics.request.assert_called_once()


def test_without_metrics_and_traces_nothing_is_recorded() -> None:
    record = RequestRecord(None, None, "/invoke")
    assert record.trace({}) == {}
    record.over()


def test_with_traces_the_worker_gets_the_span_of_the_request_as_its_parent() -> None:
    _, tracing = sinks()
    headers = RequestRecord(None, tracing, "/invoke").trace({"traceparent": PARENT})
    assert headers == tracing.request.return_value.headers
    tracing.request.assert_called_once_with({"traceparent": PARENT}, "/invoke")


@pytest.mark.parametrize(
    "given, passed_on",
    [
        ({"traceparent": PARENT, "tracestate": "a=1"}, {"traceparent": PARENT, "tracestate": "a=1"}),
        ({"traceparent": PARENT}, {"traceparent": PARENT}),
        ({"traceparent": "", "other": "x"}, {}),
        ({"traceparent": "caf\u00e9", "tracestate": "\udce9"}, {}),
    ],
)
def test_without_traces_the_trace_context_of_the_client_is_passed_on(
    given: dict[str, str], passed_on: dict[str, str]
) -> None:
    assert RequestRecord(None, None, "/invoke").trace(given) == passed_on
