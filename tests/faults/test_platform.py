"""A platform that is down, slow or sends wrong answers (F78 to F80, F44) does not affect turns."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from agentscope_protocol.config.settings import PlatformSettings
from agentscope_supervisor.heartbeat.client import FailureKind, PlatformClient, PlatformError
from reference_platform.lies import LIES
from tests.harness.client import Stream, invoke, new_session, texts
from tests.harness.instance import Instance
from tests.harness.platform_process import PlatformProcess
from tests.harness.projects import scripted
from tests.harness.waiting import eventually

ID: Final = "one"
STORMS: Final = frozenset({"same_restart", "restart_without_version", "new_version_each_poll"})
PEAK_GROWTH: Final = 24 * 1024  # kB; a supervisor that kept a large answer would grow by four times as much
QUICK: Final = 1.0  # seconds for an answer of /health on a busy machine


@pytest.fixture(scope="module")
def bait() -> Iterator[socket.socket]:
    """A server to which redirects lead, and which must never get a connection."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        yield sock


@pytest.fixture(scope="module")
def platform(bait: socket.socket) -> Iterator[PlatformProcess]:
    with PlatformProcess(bait=f"http://127.0.0.1:{bait.getsockname()[1]}/latest/meta-data/") as platform:
        yield platform.start()


def sections(endpoint: str, **supervisor: Any) -> dict[str, Any]:
    section = {"endpoint": endpoint, "instance_id": ID, "heartbeat_interval": 0.2, "token": "tok-9911"}
    return {"platform": section, "supervisor": {"soak": 0.1, **supervisor}}


@pytest.fixture(scope="module")
def instance(platform: PlatformProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """One instance for all lies that request no action; none of them may change it."""
    folder = tmp_path_factory.mktemp("platform")
    project = scripted(folder / "project", **sections(platform.endpoint))
    with Instance(project, folder, workers=1, platform=True) as instance:
        instance.start()
        before = instance.ready_workers()
        yield instance
        assert instance.ready_workers() == before
        assert "tok-9911" not in instance.log


def beats(platform: PlatformProcess, instance_id: str = ID) -> int:
    """Return the number of heartbeats that the platform has accepted."""
    return int(platform.instance(instance_id).get("beats", 0))


def peak_kb(pid: int) -> int:
    """Return the peak memory of a process since `forget_peak`."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


async def assert_serves(instance: Instance) -> None:
    """Check that health answers quickly and a new turn gets its answer."""
    began = time.monotonic()
    assert (await asyncio.to_thread(instance.health))["status"] == "healthy"
    assert time.monotonic() - began < QUICK
    assert await texts(instance.port, new_session(), "as ever") == ["as ever"]


async def until_true_again(platform: PlatformProcess) -> None:
    """Wait until both exchanges have succeeded after the last lie."""
    before = await asyncio.to_thread(platform.instance, ID)
    now = before

    def again() -> bool:
        nonlocal now
        now = platform.instance(ID)
        return bool(now.get("beats", 0) > before.get("beats", 0) and now["polls"] > before.get("polls", 0))

    await eventually(again, 30, "heartbeats and polls succeed again")


@pytest.mark.timed
@pytest.mark.parametrize("lie", sorted(LIES.keys() - STORMS))
@pytest.mark.fault("F78")
async def test_f78_a_wrong_answer_does_not_affect_turns(
    instance: Instance, platform: PlatformProcess, bait: socket.socket, tmp_path: Path, lie: str
) -> None:
    await until_true_again(platform)
    gate = tmp_path / "gate"
    steps = [{"say": "first"}, {"wait_for": str(gate)}, {"say": "last"}]
    async with Stream(instance.port, new_session(), steps) as stream:
        await stream.until(events=1)
        forget_peak(instance.pid)
        before, peak = platform.seen, peak_kb(instance.pid)
        platform.lie(lie)
        # The second request of an exchange follows the failure or timeout of the first.
        await eventually(
            lambda: all(count >= before[name] + 2 for name, count in platform.seen.items()),
            20,
            "each exchange got a wrong answer and tries again",
        )
        await assert_serves(instance)
        assert peak_kb(instance.pid) - peak < PEAK_GROWTH
        platform.lie(None)
        gate.touch()
        assert [event.text for event in await stream.whole()] == ["first", "last"]
    await until_true_again(platform)
    with pytest.raises(BlockingIOError):
        bait.accept()


@pytest.mark.fault("F78")
async def test_f78_failures_are_logged_at_intervals_and_the_recovery_once(instance: Instance) -> None:
    log = await asyncio.to_thread(lambda: instance.log)
    complaints = [line for line in log.splitlines() if "platform exchange failed" in line]
    # Once a minute for each of the two exchanges.
    first, last = (int(line[3:5]) for line in (log.splitlines()[0], log.splitlines()[-1]))
    minutes = (last - first) % 60 + 1
    assert 1 <= len(complaints) <= 2 * minutes
    assert "platform exchange recovered" in log


@pytest.mark.timed
@pytest.mark.fault("F78")
async def test_f78_a_platform_that_starts_after_the_instance_gets_heartbeats(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path]
) -> None:
    with PlatformProcess() as platform:
        project = make_project(**sections(platform.endpoint))
        instance = new_instance(project, workers=1, platform=True).launch()
        await eventually(lambda: "platform exchange failed" in instance.log, 15, "a request has failed")
        await asyncio.to_thread(platform.start)  # at once: the delay between requests grows
        await asyncio.to_thread(instance.wait_ready)
        await assert_serves(instance)
        await eventually(lambda: beats(platform) > 0, 70, "the platform gets a heartbeat")
        platform.kill()
        await assert_serves(instance)
        await asyncio.to_thread(platform.start)
        await eventually(lambda: beats(platform) > 0, 70, "a heartbeat after the restart of the platform")


@pytest.mark.timed
@pytest.mark.parametrize("lie", ["hang", "hang_after_headers", "trickle", "reset", "huge"])
@pytest.mark.fault("F78")
async def test_f78_a_stop_does_not_wait_for_the_platform(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path], lie: str
) -> None:
    with PlatformProcess() as platform:
        platform.start()
        instance = new_instance(make_project(**sections(platform.endpoint)), workers=1, platform=True)
        await asyncio.to_thread(instance.start)
        platform.lie(lie)
        before = platform.seen["heartbeat"]
        await eventually(lambda: platform.seen["heartbeat"] > before, 30, "a heartbeat got a wrong answer")
        began = time.monotonic()
        assert await asyncio.to_thread(instance.stop) == 0
        assert time.monotonic() - began < 8, "two seconds for the platform, some for the worker"


SLOW_LOOKUPS: Final = """
import socket, time
real = socket.getaddrinfo
def slow(host, *rest, **more):
    if host == "slow.invalid":
        time.sleep(6)
        raise socket.gaierror(socket.EAI_AGAIN, "the resolver hung")
    return real(host, *rest, **more)
socket.getaddrinfo = slow
"""


@pytest.mark.timed
@pytest.mark.fault("F79")
async def test_f79_a_hanging_resolver_delays_neither_turns_nor_a_stop(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "patch").mkdir()
    (tmp_path / "patch" / "sitecustomize.py").write_text(SLOW_LOOKUPS, "utf-8")
    project = make_project(**sections("http://slow.invalid/api"))
    variables = {"PYTHONPATH": str(tmp_path / "patch")}
    instance = new_instance(project, workers=1, platform=True, variables=variables)
    await asyncio.to_thread(instance.start)
    await eventually(lambda: "platform exchange failed" in instance.log, 20, "a lookup has timed out")
    await assert_serves(instance)
    assert psutil.Process(instance.pid).num_threads() < 20, "hanging lookups do not accumulate"
    began = time.monotonic()
    assert await asyncio.to_thread(instance.stop) == 0
    assert time.monotonic() - began < 8


@pytest.mark.fault("F79")
async def test_f79_hanging_lookups_do_not_block_the_shared_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    hung = asyncio.Event()
    loop, release = asyncio.get_running_loop(), threading.Event()

    def hang(*_: object) -> Any:
        loop.call_soon_threadsafe(hung.set)
        release.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "the resolver hung")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    names = [f"slow{number}.invalid" for number in range(6)]
    clients = [PlatformClient(PlatformSettings(endpoint=f"http://{n}", instance_id="a")) for n in names]
    try:
        beats_sent = [asyncio.create_task(client.beat(b"{}", 1.0)) for client in clients]
        await asyncio.wait_for(hung.wait(), 5)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "at once"), 5) == "at once"
        assert not any(sent.done() for sent in beats_sent), "the lookups still hang"
        for sent in beats_sent:
            with pytest.raises(PlatformError) as raised:
                await sent
            assert raised.value.kind is FailureKind.TIMEOUT
    finally:
        release.set()
        for client in clients:
            await client.close()


@pytest.mark.fault("F79")
async def test_f79_the_lookups_of_one_client_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    started, release = [], threading.Event()

    def hang(host: str, *_: object) -> Any:
        started.append(host)
        release.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "the resolver hung")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    client = PlatformClient(PlatformSettings(endpoint="http://slow.invalid", instance_id="a"))
    try:
        for _ in range(4):
            with pytest.raises(PlatformError):
                await client.beat(b"{}", 0.2)
        assert 1 <= len(started) <= 2
    finally:
        release.set()
        await client.close()


@pytest.mark.fault("F44", "F80")
async def test_f44_f80_a_repeated_request_is_carried_out_once_and_a_storm_once_a_minute(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path]
) -> None:
    with PlatformProcess() as platform:
        platform.start()
        instance = new_instance(make_project(**sections(platform.endpoint)), workers=2, platform=True)
        await asyncio.to_thread(instance.start)
        await eventually(lambda: platform.instance(ID).get("polls", 0) > 1, 30, "the baseline")
        began = time.monotonic()
        platform.lie("same_restart", "config")
        await eventually(lambda: instance.generations() == [2, 2], 40, "the request is carried out")
        for lie in ("same_restart", "restart_without_version", "new_version_each_poll"):
            platform.lie(lie, "config")
            before = platform.seen["config"]
            await eventually(lambda before=before: platform.seen["config"] > before + 10, 20, "ten polls")
            assert (await invoke(instance.port, new_session(), "hello")).status == 200
        if time.monotonic() - began < 55:  # later, the next rollout may have started
            assert instance.generations() == [2, 2]
        requests = [line for line in instance.log.splitlines() if "the platform requests an action" in line]
        assert len(requests) == 1 + int((time.monotonic() - began) // 60)
        metrics = platform.instance(ID)["metrics"]
        assert (metrics["last_action"]["version"], metrics["config_version"]) == ("for ever", "for ever")
