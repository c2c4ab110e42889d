"""The record of one request in metrics and traces, however its response leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentscope_supervisor.domain.errors import Failure
from agentscope_supervisor.domain.run import Run
from agentscope_supervisor.http1.responses import Headers
from agentscope_supervisor.telemetry.metrics import Metrics

if TYPE_CHECKING:  # `daemon` imports it for instances with traces
    from agentscope_supervisor.web.tracing import RequestTrace, Tracing

CLIENT_LEFT: Final = 499
"""The status that is recorded when the client left before the response, as in nginx's log."""


class RequestRecord:
    """One request. Set what is known of it, then call `over`, once."""

    __slots__ = ("_metrics", "_trace", "_tracing", "failure", "route", "run", "status")

    def __init__(self, metrics: Metrics | None, tracing: Tracing | None, route: str) -> None:
        self.route: Final = route  # one of a few
        self.status = CLIENT_LEFT
        self.failure: Failure | None = None
        self.run: Run | None = None
        self._metrics: Final = metrics
        self._tracing: Final = tracing
        self._trace: RequestTrace | None = None

    def trace(self, headers: Headers) -> dict[str, str]:
        """Trace the request from now on, if traces are on. Returns the headers that make its span the parent
        of the worker's; without traces, those that the client sent."""
        if self._tracing is not None:
            self._trace = self._tracing.request(headers, self.route)
            return self._trace.headers
        passed_on: dict[str, str] = {}
        for name in ("traceparent", "tracestate"):
            value = headers.get(name)
            if value and value.isascii():  # any other value is no trace context, and would not pass the link
                passed_on[name] = value
        return passed_on

    def over(self) -> None:
        """The response was sent, or the client has left."""
        if self._metrics is not None:
            self._metrics.request(self.route, self.status)
        if self._tracing is not None and self._trace is not None:
            self._tracing.record(self._trace, self.status, self.failure, self.run)
