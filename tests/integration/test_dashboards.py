"""The dashboard and the alerts that are shipped: each expression is PromQL, and asks for what there is."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import promql_parser
import pytest
import yaml

from tests.harness.client import call
from tests.harness.instance import Instance
from tests.integration.test_metrics import documented_labels

pytestmark = pytest.mark.supervisor_only

CONFIGS: Final = Path(__file__).parents[2] / "configs"
OF_PROMETHEUS: Final = {"job", "instance", "le"}  # labels that it adds, or that every histogram has
BUCKETS: Final = ("_bucket", "_count", "_sum")


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((CONFIGS / "grafana-dashboard.json").read_text("utf-8"))
    return loaded


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((CONFIGS / "prometheus-alerts.yaml").read_text("utf-8"))["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """What each panel and each alert asks for, with Grafana's own variables filled in."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m")
    for rule in rules():
        yield rule["alert"], rule["expr"]


def asked(expression: str) -> tuple[set[str], set[tuple[str, str]]]:
    """The metrics of an expression, and the labels of each that it chooses or groups by."""
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
    """The name in the table of metrics of what Prometheus calls so."""
    return next((metric.removesuffix(end) for end in BUCKETS if metric.endswith(end)), metric)


@pytest.mark.parametrize(("where", "expression"), [pytest.param(*each, id=each[0]) for each in expressions()])
def test_expressions_ask_for_metrics_and_labels_that_there_are(where: str, expression: str) -> None:
    known = documented_labels() | {"up": set()}
    metrics, labels = asked(expression)
    assert metrics
    assert {of_family(metric) for metric in metrics} <= known.keys()
    wrong = [pair for pair in labels if pair[1] not in known[of_family(pair[0])] | OF_PROMETHEUS]
    assert wrong == []


async def test_each_name_is_one_that_an_instance_tells(shared: Instance) -> None:
    text = (await call(shared.port, "GET", "/metrics")).body.decode()
    told = set(re.findall(r"^(?:# TYPE )?(\w+)", text, re.MULTILINE)) | {"up"}
    metrics = set[str]().union(*(asked(expression)[0] for _, expression in expressions()))
    assert metrics <= told


def test_the_dashboard_shows_every_metric() -> None:
    panels = [
        expression for where, expression in expressions() if where not in {rule["alert"] for rule in rules()}
    ]
    shown = {of_family(metric) for expression in panels for metric in asked(expression)[0]}
    assert shown == documented_labels().keys()


def test_the_dashboard_is_one_that_grafana_can_lay_out() -> None:
    loaded = dashboard()
    ids = [panel["id"] for panel in loaded["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in loaded["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, f"{panel['title']} lies over another"
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["fieldConfig"]["defaults"]["unit"]
    variables = {each["name"] for each in loaded["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(loaded["panels"]))) - {"__rate_interval"}
    assert used == variables


def test_alerts_say_of_whom_they_speak() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert "$labels.instance" in rule["annotations"]["summary"]
        metrics, labels = asked(rule["expr"])
        assert metrics == {"up"} or {(metric, "instance") for metric in metrics} <= labels
