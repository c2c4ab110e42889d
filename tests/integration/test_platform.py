"""An instance and its platform, when both do what they should: beats, asks, and what is told of them."""

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

pytestmark = pytest.mark.supervisor_only

ID = "shop/1 ü"  # one segment of the path, whatever it holds
TOKEN = "platform-token-0123456789"

StartWithPlatform = Callable[..., Instance]


@pytest.fixture
async def platform() -> AsyncIterator[Platform]:
    async with Platform(token=TOKEN) as platform:
        yield platform


@pytest.fixture
def sections(platform: Platform) -> dict[str, Any]:
    """What every agentapp.yaml here says."""
    section = {"endpoint": platform.endpoint + "/", "instance_id": ID, "token": TOKEN}
    return {"platform": section | {"heartbeat_interval": 0.2}, "supervisor": {"soak": 0.1}}


@pytest.fixture
def start(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path], sections: dict[str, Any]
) -> StartWithPlatform:
    """Starts an instance that speaks to the platform; returns once that has both seen and answered it."""

    def launch(workers: int = 2, **supervisor: Any) -> Instance:
        sections["supervisor"] |= supervisor
        instance = new_instance(make_project(**sections), workers=workers, platform=True)
        instance.launch()
        return instance

    return launch


async def settled(instance: Instance, platform: Platform) -> None:
    """Wait until it is ready, as the platform sees it too, and its baseline is taken."""
    await asyncio.to_thread(instance.wait_ready)
    await eventually(lambda: beats(platform) and last(platform).status == "running", 15, "a beat")
    await eventually(lambda: platform.registry.instances[ID].polls > 1, 15, "the baseline")


def beats(platform: Platform) -> list[Beat]:
    instance = platform.registry.instances.get(ID)
    return list(instance.beats) if instance is not None else []


def last(platform: Platform) -> Beat:
    return beats(platform)[-1]


def action(platform: Platform) -> dict[str, Any]:
    """What the last beat says of the last action; empty before there was one."""
    told: dict[str, Any] | None = last(platform).metrics["last_action"]
    return told or {}


async def outcome(platform: Platform, version: str, result: str) -> dict[str, Any]:
    """Wait until a beat tells this result of an ask."""

    def told() -> bool:
        now = action(platform)
        return (now.get("version"), now.get("result")) == (version, result)

    await eventually(told, 30, f"{version} is {result}")
    return action(platform)


async def test_beats_tell_how_the_instance_is(
    start: StartWithPlatform, platform: Platform, tmp_path: Path
) -> None:
    instance, gate = start(), tmp_path / "gate"
    await settled(instance, platform)
    assert beats(platform)[0].status == "starting", "the first leaves at once"
    for session in ("a", "a", "b"):
        assert (await invoke(instance.port, session, "hello")).status == 200
    async with Stream(instance.port, "c", [{"say": "here"}, {"wait_for": str(gate)}]) as stream:
        await stream.until(events=1)
        await eventually(lambda: last(platform).metrics["in_flight"] == 1, 10, "the turn is told")
        metrics = last(platform).metrics
        gate.touch()
        await stream.whole()
    assert metrics["active_sessions"] == 3
    assert metrics["total_requests"] == 4
    assert (metrics["workers"], metrics["restarts"], metrics["generation"]) == (2, 0, 1)
    assert (metrics["config_version"], metrics["last_action"]) == (None, None)
    assert isinstance(metrics["memory_usage_mb"], int)
    everything = [psutil.Process(instance.pid), *instance.processes()]  # the zygote too
    pss = sum(process.memory_full_info().pss for process in everything) / 2**20
    await eventually(
        lambda: abs(last(platform).metrics["memory_usage_mb"] - pss) < pss / 10, 10, "shared pages count once"
    )
    await eventually(lambda: last(platform).metrics["in_flight"] == 0, 10, "its end is told")
    (worker, _) = instance.ready_workers()
    psutil.Process(worker.pid).kill()
    await eventually(lambda: last(platform).metrics["restarts"] == 1, 10, "the death is told")
    await eventually(lambda: last(platform).status == "running", 15, "it is whole again")
    assert last(platform).metrics["generation"] == 2


async def test_requests_have_the_form_that_is_promised(
    start: StartWithPlatform, sections: dict[str, Any]
) -> None:
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
        await eventually(lambda: len(seen) == 2, 15, "a beat and a poll")
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


async def test_restart_replaces_all_workers_under_load_and_fails_no_turn(
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
        await eventually(lambda: answered > before + 20, 10, "turns go on")
        done.set()
    assert instance.generations() == [2, 2]
    assert last(platform).metrics["config_version"] == version
    assert platform.registry.instances[ID].ask is None, "the platform knows that it is over"
    polls = platform.registry.instances[ID].polls
    await eventually(lambda: platform.registry.instances[ID].polls > polls + 3, 10, "it polls on")
    assert instance.generations() == [2, 2]


async def test_what_the_first_poll_finds_is_not_acted_on(
    start: StartWithPlatform, platform: Platform
) -> None:
    known = platform.registry.instance(ID)
    assert known is not None
    platform.lies["heartbeat"] = "error_500"  # so that the start itself does not end the ask
    version = platform.registry.ask(ID, "restart").version
    instance = start(workers=1)
    await asyncio.to_thread(instance.wait_ready)
    await eventually(lambda: known.polls > 3, 10, "it is asked again and again")
    platform.tell_truth()
    await eventually(lambda: beats(platform) != [], 20, "the truth is told")
    assert instance.generations() == [1]
    assert (last(platform).metrics["config_version"], action(platform)) == (version, {})


async def test_reload_reads_the_file_and_tells_what_came_of_it(
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
    told = await outcome(platform, broken, "refused")
    assert "agentapp.yaml:2" in told["reason"]
    assert "server.prot" in told["reason"]
    assert "reload refused" in instance.log
    assert last(platform).metrics["config_version"] == version, "the old one serves"
    assert instance.ready_workers() == before

    configure(instance.project, **sections, sessions={"max_queue": 3})
    (instance.project / "app.py").write_text("raise RuntimeError('half an upload')\n", "utf-8")
    version = platform.registry.ask(ID, "reload").version
    told = await outcome(platform, version, "rolled_back")
    assert "half an upload" in told["reason"]
    assert instance.ready_workers() == before
    assert (await invoke(instance.port, new_session(), "hello")).status == 200


async def test_a_changed_file_is_rolled_out_by_reload_and_limits_of_that_are_told(
    start: StartWithPlatform, platform: Platform, sections: dict[str, Any]
) -> None:
    instance = start(workers=1)
    await settled(instance, platform)
    configure(instance.project, **sections, sessions={"max_queue": 3, "replay_ttl": 60})
    version = platform.registry.ask(ID, "reload").version
    told = await outcome(platform, version, "done")
    assert told["reason"].endswith(": sessions.replay_ttl"), "the supervisor reads it at its start only"
    assert instance.generations() == [2]


async def test_a_platform_that_restarts_containers_gets_an_exit_that_cuts_no_turn(
    start: StartWithPlatform, platform: Platform, tmp_path: Path
) -> None:
    instance, gate = start(workers=1, on_platform_restart="exit", drain_timeout=20), tmp_path / "gate"
    await settled(instance, platform)
    good = (instance.project / "agentapp.yaml").read_text("utf-8")
    (instance.project / "agentapp.yaml").write_text("server: 7\n", "utf-8")
    version = platform.registry.ask(ID, "restart").version
    assert "server" in (await outcome(platform, version, "refused"))["reason"]
    assert instance.running, "what would come after it could not start"
    (instance.project / "agentapp.yaml").write_text(good, "utf-8")
    async with Stream(instance.port, "c", [{"say": "on"}, {"wait_for": str(gate)}, {"say": "end"}]) as stream:
        await stream.until(events=1)
        version = platform.registry.ask(ID, "restart").version
        await outcome(platform, version, "leaving")
        await eventually(lambda: last(platform).status == "draining", 10, "beats go on in the drain")
        gate.touch()
        assert [event.text for event in await stream.whole()][-1] == "end"
    assert await asyncio.to_thread(instance.wait_exit, 15) == 0
    assert last(platform).status == "stopping"


async def test_the_last_beat_says_that_it_stops(start: StartWithPlatform, platform: Platform) -> None:
    instance = start(workers=1)
    await settled(instance, platform)
    assert await asyncio.to_thread(instance.stop) == 0
    assert last(platform).status == "stopping"
    assert platform.refused == 0, "the token was right"
    assert TOKEN not in instance.log


async def test_no_platform_sends_nothing(
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


async def test_health_names_the_instance_as_the_platform_does(
    start: StartWithPlatform, platform: Platform
) -> None:
    instance = start(workers=1)
    await settled(instance, platform)
    assert instance.health()["instance_id"] == ID
