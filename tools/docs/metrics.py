"""docs/reference/metrics.md, from the metrics that an instance collects."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from agentscope_supervisor.domain.errors import ErrorCode
from agentscope_supervisor.telemetry import prometheus
from agentscope_supervisor.telemetry.metrics import Metrics
from agentscope_supervisor.workers.exit_reasons import Cause
from agentscope_supervisor.workers.lifecycle import ProcessState
from tools.docs.markdown import code, page, table
from tools.docs.nothing import NOTHING

INTRODUCTION: Final = """
`GET /metrics` returns the metrics of an instance in the Prometheus text format. The route needs no token;
`server.metrics: false` turns it off. No label contains a session, a user or a text of a request.

`configs/grafana-dashboard.json` is a Grafana dashboard with all of them. `configs/prometheus-alerts.yaml` has
alert rules.
"""

OPEN_LABELS: Final = {
    "version": "the version of this package",
    "route": "the route, or `other` for an unknown path",
    "status": "the HTTP status; 499 if the client disconnected before the response was complete",
    "outcome": f"`OK`, or an [error code](http-api.md#error-codes) such as `{ErrorCode.APP_ERROR.value}`",
    "model": "the name of a model; `other` after the first 20",
    "direction": "`input` or `output`",
    "exchange": "`heartbeat` or `config`",
    "kind": "the kind of failure, such as `timeout`",
}
"""Labels whose values an instance does not know before they occur."""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric. `name` has the suffix with which it is queried."""

    name: str
    type: str
    labels: str
    meaning: str


async def _collected() -> list[Any]:
    """The metrics of an instance at rest, as `prometheus.text` takes them."""
    states = [state.name.lower() for state in ProcessState if state is not ProcessState.GONE]
    metrics = Metrics(NOTHING, NOTHING, states, Cause)
    try:
        return [_kept(each) for each in metrics._collect()]
    finally:
        metrics.close()


def _kept(metric: Any) -> Any:
    """A metric whose values can be read more than once; a histogram has none."""
    return replace(metric, values=list(metric.values)) if hasattr(metric, "values") else metric


def rows() -> Iterator[Row]:
    """All metrics, in the order in which an instance returns them."""
    collected = asyncio.run(_collected())
    families = text_string_to_metric_families(prometheus.text(collected).decode())
    for metric, family in zip(collected, families, strict=True):
        suffix = "_total" if family.type == "counter" else ""
        labels = "; ".join(_label(metric, name) for name in getattr(metric, "labels", ()))
        yield Row(f"{family.name}{suffix}", family.type, labels, family.documentation)


def _label(metric: Any, name: str) -> str:
    if name in OPEN_LABELS:
        return f"`{name}`: {OPEN_LABELS[name]}"
    position = metric.labels.index(name)
    return f"`{name}`: {', '.join(code(key[position]) for key, _ in metric.values)}"


def text() -> str:
    """The page."""
    shown = [[code(row.name), row.type, row.labels, row.meaning] for row in rows()]
    return page("Metrics", INTRODUCTION, table(("name", "type", "labels", "meaning"), shown))
