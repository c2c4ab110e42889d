"""An instance with a working platform: heartbeats, requests of the platform, and reported results."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from reference_platform.registry import Beat
from reference_platform.server import Platform
from tests.harness.client import Stream, invoke, new_session
from tests.harness.instance import Instance
from tests.harness.projects import configure
from tests.harness.waiting import eventually

ID = "shop/1 ü"  # always one segment of the path, whatever it contains
TOKEN = "platform-token-0123456789"

StartWithPlatform = Callable[..., Instance]


@pytest.fixture
async def platform() -> AsyncIterator[Platform]:
    async with Platform(token=TOKEN) as platform:
        yield platform


@pytest.fixture
def sections(platform: Platform) -> dict[str, Any]:
    """The sections that every agentapp.yaml in this module has."""
    section = {"endpoint": platform.endpoint + "/", "instance_id": ID, "token": TOKEN}
    return {"platform": section | {"heartbeat_interval": 0.2}, "supervisor": {"soak": 0.1}}


@pytest.fixture
def start(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path], sections: dict[str, Any]
) -> StartWithPlatform:
    """Returns a function that starts an instance with the platform."""

    def launch(workers: int = 2, **supervisor: Any) -> Instance:
        sections["supervisor"] |= supervisor
        instance = new_instance(make_project(**sections), workers=workers, platform=True)
        instance.launch()
        return instance

    return launch


async def settled(instance: Instance, platform: Platform) -> None:
    """Wait until the instance is ready, the platform has seen that, and the first polls are answered."""
    await asyncio.to_thread(instance.wait_ready)
    await eventually(lambda: beats(platform) and last(platform).status == "running", 15, "a heartbeat")
    await eventually(lambda: platform.registry.instances[ID].polls > 1, 15, "the baseline")


def beats(platform: Platform) -> list[Beat]:
    instance = platform.registry.instances.get(ID)
    return list(instance.beats) if instance is not None else []


def last(platform: Platform) -> Beat:
    return beats(platform)[-1]


def action(platform: Platform) -> dict[str, Any]:
    """Return the last action in the last heartbeat; empty if there was none."""
    reported: dict[str, Any] | None = last(platform).metrics["last_action"]
    return reported or {}


async def outcome(platform: Platform, version: str, result: str) -> dict[str, Any]:
    """Wait until a heartbeat reports this result of a request."""

    def reported() -> bool:
        now = action(platform)
        return (now.get("version"), now.get("result")) == (version, result)

    await eventually(reported, 30, f"{version} is {result}")
    return action(platform)


async def test_heartbeats_report_the_state_of_the_instance(
    start: StartWithPlatform, platform: Platform, tmp_path: Path
) -> None:
    instance, gate = start(), tmp_path / "gate"
    await settled(instance, platform)
    assert beats(platform)[0].status == "starting", "the first heartbeat is sent at once"
    for session in ("a", "a", "b"):
        assert (await invoke(instance.port, session, "hello")).status == 200
    async with Stream(instance.port, "c", [{"say": "here"}, {"wait_for": str(gate)}]) as stream:
        await stream.until(events=1)
        await eventually(lambda: last(platform).metrics["in_flight"] == 1, 30, "the turn is reported")
        metrics = last(platform).metrics
        gate.touch()
        await stream.whole()
    assert metrics["active_sessions"] == 3
    assert metrics["total_requests"] == 4
    assert (metrics["workers"], metrics["restarts"], metrics["generation"]) == (2, 0, 1)
    assert (metrics["config_version"], metrics["last_action"]) == (None, None)
    assert isinstance(metrics["memory_usage_mb"], int)
    everything = [psutil.Process(instance.pid), *instance.processes()]  # including the zygote
    pss = sum(process.memory_full_info().pss for process in everything) / 2**20
    await eventually(
        lambda: abs(last(platform).metrics["memory_usage_mb"] - pss) < pss / 10, 10, "shared pages count once"
    )
    await eventually(lambda: last(platform).metrics["in_flight"] == 0, 30, "the end of the turn is reported")
    (worker, _) = instance.ready_workers()
    psutil.Process(worker.pid).kill()
    await eventually(lambda: last(platform).metrics["restarts"] == 1, 30, "the restart is reported")
    await eventually(lambda: last(platform).status == "running", 15, "the instance is healthy again")
    assert last(platform).metrics["generation"] == 2


async def test_requests_have_the_documented_form(start: StartWithPlatform, sections: dict[str, Any]) -> None:
    seen: dict[str, tuple[str, dict[str, str], bytes]] = {}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        seen.setdefault(line.split(" ")[0], (line, headers, body))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        sections["platform"]["endpoint"] = f"http://127.0.0.1:{port}/v1/api/?tenant=7"
        instance = start(workers=1)
        await eventually(lambda: len(seen) == 2, 15, "a heartbeat and a poll")
        await asyncio.to_thread(instance.destroy)
    line, headers, body = seen["POST"]
    assert line == "POST /v1/api/instances/shop%2F1%20%C3%BC/heartbeat?tenant=7 HTTP/1.1"
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert headers["content-type"] == "application/json"
    assert headers["accept-encoding"] == "identity"
    beat = json.loads(body)
    assert set(beat) == {"status", "timestamp", "metrics"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", beat["timestamp"])
    line, headers, body = seen["GET"]
    assert line == "GET /v1/api/instances/shop%2F1%20%C3%BC/config?tenant=7 HTTP/1.1"
    assert (headers["authorization"], body) == (f"Bearer {TOKEN}", b"")


async def test_restart_replaces_all_workers_under_load_without_a_failed_turn(
    start: StartWithPlatform, platform: Platform
) -> None:
    instance, done, answered = start(), asyncio.Event(), 0
    await settled(instance, platform)

    async def load(session: str) -> None:
        nonlocal answered
        while not done.is_set():
            response = await invoke(instance.port, session, "hello")
            assert response.status == 200, response.body
            answered += 1
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(load(new_session("load")))
        version = platform.registry.ask(ID, "restart").version
        await outcome(platform, version, "rolling")
        await outcome(platform, version, "done")
        before = answered
        await eventually(lambda: answered > before + 20, 30, "turns go on")
        done.set()
    assert instance.generations() == [2, 2]
    assert last(platform).metrics["config_version"] == version
    assert platform.registry.instances[ID].ask is None, "the platform has ended the request"
    polls = platform.registry.instances[ID].polls
    await eventually(lambda: platform.registry.instances[ID].polls > polls + 3, 30, "the polls continue")
    assert instance.generations() == [2, 2]


async def test_a_request_in_the_first_answer_is_not_carried_out(
    start: StartWithPlatform, platform: Platform
) -> None:
    known = platform.registry.instance(ID)
    assert known is not None
    platform.lies["heartbeat"] = "error_500"  # a heartbeat with status starting would end the request
    version = platform.registry.ask(ID, "restart").version
    instance = start(workers=1)
    await asyncio.to_thread(instance.wait_ready)
    await eventually(lambda: known.polls > 3, 30, "the request is answered several times")
    platform.tell_truth()
    await eventually(lambda: beats(platform) != [], 20, "a heartbeat is accepted")
    assert instance.generations() == [1]
    assert (last(platform).metrics["config_version"], action(platform)) == (version, {})


async def test_reload_reads_the_file_and_reports_the_result(
    start: StartWithPlatform, platform: Platform, sections: dict[str, Any]
) -> None:
    instance = start(workers=1)
    await settled(instance, platform)
    before = instance.ready_workers()

    version = platform.registry.ask(ID, "reload").version
    assert (await outcome(platform, version, "done"))["reason"] == "nothing has changed"
    assert last(platform).metrics["config_version"] == version

    (instance.project / "agentapp.yaml").write_text("server:\n  prot: 1\n", "utf-8")
    broken = platform.registry.ask(ID, "reload").version
    refused = await outcome(platform, broken, "refused")
    assert "agentapp.yaml:2" in refused["reason"]
    assert "server.prot" in refused["reason"]
    assert "reload refused" in instance.log
    assert last(platform).metrics["config_version"] == version, "the previous configuration is active"
    assert instance.ready_workers() == before

    configure(instance.project, **sections, sessions={"max_queue": 3})
    (instance.project / "app.py").write_text("raise RuntimeError('half an upload')\n", "utf-8")
    version = platform.registry.ask(ID, "reload").version
    failed = await outcome(platform, version, "rolled_back")
    assert "half an upload" in failed["reason"]
    assert instance.ready_workers() == before
    assert (await invoke(instance.port, new_session(), "hello")).status == 200


async def test_reload_rolls_out_a_changed_file_and_names_keys_that_need_a_restart(
    start: StartWithPlatform, platform: Platform, sections: dict[str, Any]
) -> None:
    instance = start(workers=1)
    await settled(instance, platform)
    configure(instance.project, **sections, sessions={"max_queue": 3, "replay_ttl": 60})
    version = platform.registry.ask(ID, "reload").version
    done = await outcome(platform, version, "done")
    assert done["reason"].endswith(": sessions.replay_ttl"), "the supervisor reads this key only at its start"
    assert instance.generations() == [2]


async def test_with_on_platform_restart_exit_the_instance_drains_and_exits(
    start: StartWithPlatform, platform: Platform, tmp_path: Path
) -> None:
    instance, gate = start(workers=1, on_platform_restart="exit", drain_timeout=20), tmp_path / "gate"
    await settled(instance, platform)
    good = (instance.project / "agentapp.yaml").read_text("utf-8")
    (instance.project / "agentapp.yaml").write_text("server: 7\n", "utf-8")
    version = platform.registry.ask(ID, "restart").version
    assert "server" in (await outcome(platform, version, "refused"))["reason"]
    assert instance.running, "the next instance could not start"
    (instance.project / "agentapp.yaml").write_text(good, "utf-8")
    async with Stream(instance.port, "c", [{"say": "on"}, {"wait_for": str(gate)}, {"say": "end"}]) as stream:
        await stream.until(events=1)
        version = platform.registry.ask(ID, "restart").version
        await outcome(platform, version, "leaving")
        await eventually(
            lambda: last(platform).status == "draining", 10, "heartbeats continue during the drain"
        )
        gate.touch()
        assert [event.text for event in await stream.whole()][-1] == "end"
    assert await asyncio.to_thread(instance.wait_exit, 15) == 0
    assert last(platform).status == "stopping"


async def test_the_last_heartbeat_has_status_stopping(start: StartWithPlatform, platform: Platform) -> None:
    instance = start(workers=1)
    await settled(instance, platform)
    assert await asyncio.to_thread(instance.stop) == 0
    assert last(platform).status == "stopping"
    assert platform.refused == 0, "the token is correct"
    assert TOKEN not in instance.log


async def test_with_no_platform_no_request_is_sent(
    new_instance: Callable[..., Instance],
    make_project: Callable[..., Path],
    platform: Platform,
    sections: dict[str, Any],
) -> None:
    instance = new_instance(make_project(**sections), workers=1)
    await asyncio.to_thread(instance.start)
    assert (await invoke(instance.port, new_session(), "hello")).status == 200
    assert await asyncio.to_thread(instance.stop) == 0
    assert platform.seen == {"heartbeat": 0, "config": 0}


async def test_health_has_the_instance_id_of_the_platform(
    start: StartWithPlatform, platform: Platform
) -> None:
    instance = start(workers=1)
    await settled(instance, platform)
    assert instance.health()["instance_id"] == ID
