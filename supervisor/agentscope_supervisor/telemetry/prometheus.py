"""Formats the metrics of `GET /metrics` as Prometheus text, with the Prometheus client library.

Imported on the first request: the library takes 1 MB, which an instance that is never scraped saves. The
metrics themselves are in `metrics`.
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

from agentscope_supervisor.telemetry.metrics import Distribution, Scalar

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

_PREFIX: Final = "agentscope_"


def text(metrics: Iterable[Scalar | Distribution]) -> bytes:
    """Return the metrics in the format `CONTENT_TYPE`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(metrics))
    return generate_latest(registry)


class _Once(Collector):
    def __init__(self, metrics: Iterable[Scalar | Distribution]) -> None:
        self._metrics: Final = metrics

    def collect(self) -> Iterator[Metric]:
        for metric in self._metrics:
            yield _distribution(metric) if isinstance(metric, Distribution) else _scalar(metric)


def _scalar(metric: Scalar) -> Metric:
    kind = GaugeMetricFamily if metric.may_decrease else CounterMetricFamily
    family = kind(f"{_PREFIX}{metric.name}", metric.text, labels=metric.labels)
    for key, value in sorted(metric.values):
        family.add_metric(key, value)
    return family


def _distribution(metric: Distribution) -> Metric:
    family = HistogramMetricFamily(f"{_PREFIX}{metric.name}", metric.text)
    histogram = metric.histogram
    family.add_metric([], buckets=histogram.cumulative(), sum_value=histogram.total)
    return family
