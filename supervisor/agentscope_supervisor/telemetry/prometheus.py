"""The form in which `GET /metrics` tells the metrics: Prometheus's text, made by its own client library.

Imported when it is first asked for: an instance that nobody scrapes does not pay its 1 MB.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.core import (
    CollectorRegistry,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from agentscope_supervisor.telemetry.metrics import Counted, Spread

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

_PREFIX: Final = "agentscope_"


def text(metrics: Iterable[Counted | Spread]) -> bytes:
    """All of them, as `CONTENT_TYPE` says."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(metrics))
    return generate_latest(registry)


class _Once(Collector):
    def __init__(self, metrics: Iterable[Counted | Spread]) -> None:
        self._metrics: Final = metrics

    def collect(self) -> Iterator[Metric]:
        for metric in self._metrics:
            yield _spread(metric) if isinstance(metric, Spread) else _counted(metric)


def _counted(metric: Counted) -> Metric:
    kind = GaugeMetricFamily if metric.may_sink else CounterMetricFamily
    family = kind(f"{_PREFIX}{metric.name}", metric.text, labels=metric.labels)
    for key, value in sorted(metric.values):
        family.add_metric(key, value)
    return family


def _spread(metric: Spread) -> Metric:
    family = HistogramMetricFamily(f"{_PREFIX}{metric.name}", metric.text)
    histogram = metric.histogram
    family.add_metric([], buckets=histogram.cumulative(), sum_value=histogram.total)
    return family
