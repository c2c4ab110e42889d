"""GET /metrics: its form, that each metric moves, and that no caller can make it grow."""

import asyncio
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from agentscope_supervisor.workers.exit_reasons import Cause
from tests.harness.client import Stream, call, invoke, new_session, streamed
from tests.harness.instance import Instance, free_port
from tests.harness.waiting import eventually

PAGE: Final = Path(__file__).parents[2] / "docs" / "guides" / "observability.md"
TOKEN: Final = "instance-token"
AUTHORIZED: Final = {"Authorization": f"Bearer {TOKEN}"}

Samples = dict[str, dict[tuple[str, ...], float]]
"""By name: values by those of the labels, in the order of their names, buckets of histograms left out."""


async def samples(port: int) -> Samples:
    response = await call(port, "GET", "/metrics")
    assert (response.status, response.headers["content-type"]) == (
        200,
        "text/plain; version=0.0.4; charset=utf-8",
    )
    found: Samples = {}
    for family in text_string_to_metric_families(response.body.decode()):
        assert family.documentation.endswith(".")
        assert family.type in ("counter", "gauge", "histogram")
        for sample in family.samples:
            if not sample.name.endswith("_bucket"):
                labels = tuple(sample.labels[name] for name in sorted(sample.labels))
                found.setdefault(sample.name, {})[labels] = sample.value
    return found


def documented() -> dict[str, str]:
    """The table of metrics in the guide: name -> type."""
    rows = re.findall(r"^\| (`agentscope_[^|]*) \| (\w+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    return {name: kind for names, kind in rows for name in re.findall(r"`(\w+)`", names)}


def documented_labels() -> dict[str, set[str]]:
    """The same table: name -> its labels."""
    rows = re.findall(r"^\| (`agentscope_[^|]*) \| \w+ \|([^|]*)\|", PAGE.read_text("utf-8"), re.MULTILINE)
    names = re.compile(r"(?:^ |, )`(\w+)`(?=[ ,:]|$)")
    return {
        name: set(
            names.findall(told.partition(":")[0].partition(" (")[0]) + re.findall(r", `(\w+)` \(", told)
        )
        for metrics, told in rows
        for name in re.findall(r"`(\w+)`", metrics)
    }


async def test_the_guide_lists_each_metric(shared: Instance) -> None:
    text = (await call(shared.port, "GET", "/metrics")).body.decode()
    found = {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in text_string_to_metric_families(text)
    }
    assert found == documented()


async def test_each_metric_moves(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path], tmp_path: Path
) -> None:
    nobody = {"endpoint": f"http://127.0.0.1:{free_port()}", "instance_id": "a", "heartbeat_interval": 1}
    project = make_project(platform=nobody, supervisor={"soak": 0.1}, server={"auth_token": TOKEN})
    instance = new_instance(project, workers=2, platform=True).launch()
    await asyncio.to_thread(instance.wait_ready)
    port, gate = instance.port, tmp_path / "gate"
    before = await samples(port)
    assert before["agentscope_turns_total"] == {("native", "OK"): 0}
    assert before["agentscope_workers"][("ready",)] == 2

    async def turn(session: str, script: object) -> int:
        return (await invoke(port, session, script, headers=AUTHORIZED)).status

    assert len(await streamed(port, "a", [{"say": "one"}, {"say": "two"}], headers=AUTHORIZED)) == 2
    assert await turn("b", [{"raise": "no"}]) == 500
    assert (await invoke(port, "c", "no token")).status == 401
    for number in range(50):
        assert (await call(port, "GET", f"/nothing/{number}", headers=AUTHORIZED)).status == 404
        assert (await call(port, "GET", f"/runs/{number}", headers=AUTHORIZED)).status == 404
    for path in ("/runs/a/events", "/runs/b/events", "/runs/a/b"):
        assert (await call(port, "GET", path, headers=AUTHORIZED)).status == 404
    steps = [{"say": "here"}, {"wait_for": str(gate)}]
    async with Stream(port, "a", steps, headers=AUTHORIZED) as running:
        await running.until(events=1)
        waits = asyncio.create_task(turn("a", "later"))
        await eventually(lambda: instance.health()["turns"]["open"] == 2, 30, "one runs, one waits")
        during = await samples(port)
        gate.touch()
        assert await waits == 200
        await running.whole()
    assert during["agentscope_turns_open"] == {("running",): 1, ("waiting",): 1}

    psutil.Process(instance.ready_workers()[0].pid).kill()
    await eventually(lambda: instance.generations() == [2, 1], 30, "its replacement is ready")
    instance.signal(signal.SIGHUP)
    await eventually(lambda: "rollout done" in instance.log, 30, "all are replaced")
    await eventually(lambda: "platform exchange failed" in instance.log, 30, "nobody is there")
    after = await samples(port)

    assert after["agentscope_turns_total"] == {("native", "APP_ERROR"): 1, ("native", "OK"): 3}
    requests = after["agentscope_http_requests_total"]
    assert requests[("/invoke", "200")] == 3
    assert requests[("/invoke", "500")] == requests[("/invoke", "401")] == 1
    assert requests[("other", "404")] == 51, "a caller cannot make labels"
    assert requests[("/runs/{run_id}", "404")] == 50
    assert requests[("/runs/{run_id}/events", "404")] == 2
    for name in ("turn_duration_seconds", "turn_wait_seconds"):
        assert after[f"agentscope_{name}_count"] == {(): 4}
        assert after[f"agentscope_{name}_sum"][()] > 0
    assert after["agentscope_turn_first_event_seconds_count"] == {(): 2}
    assert after["agentscope_events_total"] == {(): 3}
    assert after["agentscope_event_bytes_total"][()] > 300
    assert after["agentscope_sessions_active"] == {(): 2}
    assert after["agentscope_worker_starts_total"] == {(): 5}
    deaths = {cause: count for (cause,), count in after["agentscope_worker_deaths_total"].items()}
    assert set(deaths) == {str(cause) for cause in Cause}
    assert {cause: count for cause, count in deaths.items() if count} == {"asked": 2, "signal": 1}
    assert after["agentscope_rollouts_total"] == {("done",): 1, ("failed",): 0}
    assert after["agentscope_rollout_running"] == {(): 0}
    lags = "agentscope_event_loop_lag_seconds_count"
    assert after[lags][()] > before[lags][()]
    assert after["agentscope_memory_bytes"][("supervisor",)] > 1e7
    assert after["agentscope_memory_bytes"][("workers",)] > 1e7
    failures = after["agentscope_platform_failures_total"]
    assert failures[("heartbeat", "connection")] > 0
    assert failures[("config", "connection")] > 0


BASE_UNITS: Final = ("_seconds", "_bytes")
OTHER_UNITS: Final = (
    "_ms",
    "_milliseconds",
    "_minutes",
    "_hours",
    "_kb",
    "_mb",
    "_kilobytes",
    "_megabytes",
    "_percent",
)
FEW: Final = 30  # values of one label, whatever clients do; the codes of errors are the most, two dozen


async def test_the_form_is_what_promtool_checks_for(shared: Instance) -> None:
    session = new_session()
    for number in range(2 * FEW):
        await call(shared.port, "GET", f"/{session}/{number}")
    assert (await invoke(shared.port, session, "hello")).status == 200
    text = (await call(shared.port, "GET", "/metrics")).body.decode()
    lines = text.splitlines()
    assert text.endswith("\n")
    assert session not in text
    said = [line.split(maxsplit=3)[1:3] for line in lines if line.startswith("#")]
    names = [name for kind, name in said if kind == "TYPE"]
    assert said == [[kind, name] for name in names for kind in ("HELP", "TYPE")], (
        "each once, one after the other"
    )
    series = [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]
    assert len(series) == len(set(series)), "each series once"
    for family in text_string_to_metric_families(text):
        check_family(family)


def check_family(family: Metric) -> None:
    name = family.name
    assert re.fullmatch(r"agentscope_[a-z0-9]+(_[a-z0-9]+)*", name)
    assert not re.search(r"_(counter|gauge|histogram|summary|total|count|sum|bucket|info_info)$", name)
    assert not name.endswith(OTHER_UNITS)
    if re.search(r"duration|lag|wait|memory|bytes|time", name):
        assert name.endswith(BASE_UNITS), "what has a unit ends in a base unit"
    assert len(family.samples) <= 10 * FEW, name
    values: dict[str, set[str]] = {}
    for sample in family.samples:
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
        assert sample.name.removeprefix(name) in endings
        assert sample.timestamp is None
        assert sample.value >= 0
        assert ("le" in sample.labels) == sample.name.endswith("_bucket")
        for label, value in sample.labels.items():
            values.setdefault(label, set()).add(value)
    assert values.keys() - {"le"} <= documented_labels()[name + "_total" * (family.type == "counter")]
    assert all(len(each) <= FEW for each in values.values()), values
    if family.type == "histogram":
        told = {sample.name.removeprefix(name): sample.value for sample in family.samples}
        buckets = [sample for sample in family.samples if sample.name.endswith("_bucket")]
        assert [float(each.labels["le"]) for each in buckets] == sorted(
            float(each.labels["le"]) for each in buckets
        )
        assert [each.value for each in buckets] == sorted(each.value for each in buckets)
        assert (buckets[-1].labels["le"], buckets[-1].value) == ("+Inf", told["_count"])


async def test_metrics_can_be_taken_away(start_instance: Callable[..., Instance]) -> None:
    instance = start_instance(workers=1, server={"metrics": False})
    response = await call(instance.port, "GET", "/metrics")
    assert (response.status, response.code) == (404, "NOT_FOUND")
    assert (await invoke(instance.port, new_session(), "hello")).status == 200
