"""The dashboard and the alerts: every expression is valid PromQL and uses existing metrics and labels."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import promql_parser
import pytest
import yaml

from agentscope_supervisor.workers.exit_reasons import EXPECTED
from tests.harness.client import call
from tests.harness.instance import Instance
from tests.integration.test_metrics import documented_labels

CONFIGS: Final = Path(__file__).parents[2] / "configs"
OF_PROMETHEUS: Final = {"job", "instance", "le"}  # labels that Prometheus adds, and the label of histograms
BUCKETS: Final = ("_bucket", "_count", "_sum")


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((CONFIGS / "grafana-dashboard.json").read_text("utf-8"))
    return loaded


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((CONFIGS / "prometheus-alerts.yaml").read_text("utf-8"))["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Yield title and expression of each panel and each alert, with Grafana's variables replaced."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m")
    for rule in rules():
        yield rule["alert"], rule["expr"]


def used_by(expression: str) -> tuple[set[str], set[tuple[str, str]]]:
    """Return the metrics of an expression, and the labels of each by which it filters or groups."""
    metrics, labels, groups = set(), set(), set()

    def look(node: object) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            metrics.add(node.name)
            labels.update((node.name, matcher.name) for matcher in node.matchers.matchers)
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            groups.update(node.modifier.labels)

    promql_parser.walk(promql_parser.parse(expression), look)
    return metrics, labels | {(metric, group) for metric in metrics for group in groups}


def of_family(metric: str) -> str:
    """Return the documented name of a metric: for a histogram, without the suffix of its series."""
    return next((metric.removesuffix(end) for end in BUCKETS if metric.endswith(end)), metric)


@pytest.mark.parametrize(("where", "expression"), [pytest.param(*each, id=each[0]) for each in expressions()])
def test_expressions_use_documented_metrics_and_labels(where: str, expression: str) -> None:
    known = documented_labels() | {"up": set()}
    metrics, labels = used_by(expression)
    assert metrics
    assert {of_family(metric) for metric in metrics} <= known.keys()
    wrong = [pair for pair in labels if pair[1] not in known[of_family(pair[0])] | OF_PROMETHEUS]
    assert wrong == []


async def test_an_instance_exports_every_used_metric(shared: Instance) -> None:
    text = (await call(shared.port, "GET", "/metrics")).body.decode()
    exported = set(re.findall(r"^(?:# TYPE )?(\w+)", text, re.MULTILINE)) | {"up"}
    metrics = set[str]().union(*(used_by(expression)[0] for _, expression in expressions()))
    assert metrics <= exported


def test_the_dashboard_shows_every_metric() -> None:
    panels = [
        expression for where, expression in expressions() if where not in {rule["alert"] for rule in rules()}
    ]
    shown = {of_family(metric) for expression in panels for metric in used_by(expression)[0]}
    assert shown == documented_labels().keys()


def test_the_dashboard_has_a_valid_layout() -> None:
    loaded = dashboard()
    ids = [panel["id"] for panel in loaded["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in loaded["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, f"{panel['title']} overlaps another panel"
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["fieldConfig"]["defaults"]["unit"]
    variables = {each["name"] for each in loaded["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(loaded["panels"]))) - {"__rate_interval"}
    assert used == variables


def test_alerts_name_their_instance() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert "$labels.instance" in rule["annotations"]["summary"]
        metrics, labels = used_by(rule["expr"])
        assert metrics == {"up"} or {(metric, "instance") for metric in metrics} <= labels


def test_expected_exits_of_workers_are_not_counted_as_failures() -> None:
    """Recycled workers would raise an alert."""
    filters = [re.search(r'worker_deaths_total\{[^}]*cause!."([^"]*)"', each) for _, each in expressions()]
    excluded = [set(found[1].split("|")) for found in filters if found]
    assert excluded == [EXPECTED] * 2, "one panel and one alert"
