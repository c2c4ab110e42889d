"""A platform that gives every kind of wrong answer, one after the other, while an instance is under load.

`test_platform` tests each lie by itself. Here clients send requests throughout, and every answer must be
correct. The measurements are printed (`pytest -s`).
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from reference_platform.lies import LIES
from tests.harness.client import call, invoke, new_session, texts
from tests.harness.instance import Instance
from tests.harness.platform_process import PlatformProcess
from tests.harness.waiting import eventually, wait_until

pytestmark = pytest.mark.fault("F44", "F78", "F80")

ID: Final = "chaos"
CLIENTS: Final = 4  # clients of each kind
TURNS: Final = 30  # turns that must be answered under each fault
SOON: Final = 60.0  # seconds, for conditions that take 1 to 2 s on an idle machine
WORDS: Final = ["one"] * 5
STORMS: Final = ("same_restart", "restart_without_version", "new_version_each_poll")
DOWN: Final = "down"
ALL: Final = (DOWN, *(lie for lie in LIES if lie not in STORMS), *STORMS)
SHORT: Final = ("garbage", DOWN, "new_version_each_poll")


@dataclass(slots=True)
class Load:
    """The number of correct answers, and the slowest one in seconds."""

    turns: int = 0
    streams: int = 0
    looks: int = 0
    slowest: float = 0.0


@asynccontextmanager
async def under_load(port: int) -> AsyncIterator[Load]:
    """Run clients while the block runs; the first wrong answer fails the block."""
    load, over = Load(), asyncio.Event()

    async def goes_on(one: Callable[[], Any]) -> None:
        while not over.is_set():
            began = time.monotonic()
            await one()
            load.slowest = max(load.slowest, time.monotonic() - began)

    async def whole(session: str) -> None:
        text = f"turn {load.turns}"
        answer = await invoke(port, session, text)
        assert answer.status == 200, answer.body
        assert text in answer.body.decode()
        load.turns += 1

    async def stream(session: str) -> None:
        assert await texts(port, session, [{"say": "one", "times": len(WORDS), "every": 0.02}]) == WORDS
        load.streams += 1

    async def look() -> None:
        answer = await call(port, "GET", "/readyz")
        assert answer.status == 200, answer.body
        load.looks += 1
        await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as clients:
        clients.create_task(goes_on(look))
        for _ in range(CLIENTS):
            for kind in (whole, stream):
                session = new_session()
                clients.create_task(goes_on(lambda kind=kind, session=session: kind(session)))
        try:
            yield load
        finally:
            over.set()


@pytest.fixture
def platform() -> Iterator[PlatformProcess]:
    with PlatformProcess(bait="http://127.0.0.1:9/latest/meta-data/") as platform:
        yield platform.start()


@pytest.mark.parametrize(
    "faults",
    [pytest.param(SHORT, id="short"), pytest.param(ALL, id="all", marks=pytest.mark.slow)],
)
@pytest.mark.timeout(1200)  # the delay between requests to a failing platform grows
async def test_a_failing_platform_affects_no_client(
    new_instance: Callable[..., Instance],
    make_project: Callable[..., Path],
    platform: PlatformProcess,
    faults: tuple[str, ...],
) -> None:
    section = {"endpoint": platform.endpoint, "instance_id": ID, "heartbeat_interval": 0.2}
    project = make_project(platform=section, supervisor={"soak": 0.1})
    instance = new_instance(project, workers=2, platform=True)
    await asyncio.to_thread(instance.start)
    await until(lambda: platform.instance(ID).get("polls", 0) > 1, "the baseline")

    async with under_load(instance.port) as load:
        began = time.monotonic()
        version = platform.ask(ID, "restart")
        await until(lambda: last_result(platform) == (version, "done"), "all workers are replaced")
        assert instance.generations() == [2, 2]
        print(f"\nfrom the restart signal to the last worker rolled: {time.monotonic() - began:.2f} s;")
        print(f"{load.turns} turns, {load.streams} streams, 0 failed, slowest {load.slowest:.2f} s")
        for fault in faults:
            await inject(fault, platform, load)
        deaths = (await call(instance.port, "GET", "/metrics")).body.decode()
    requests = instance.log.count("the platform requests an action")
    assert requests <= 2 + (time.monotonic() - began) // 60, "the first request, then one per minute"
    causes = re.findall(r'^agentscope_worker_deaths_total\{cause="(\w+)"\} (\d+)', deaths, re.MULTILINE)
    assert [cause for cause, count in causes if int(count)] == ["asked"]
    print(
        f"{len(faults)} faults in {time.monotonic() - began:.0f} s, {requests} rollouts; {load.turns} turns,"
    )
    print(f"{load.streams} streams, {load.looks} of /readyz: 0 failed, slowest {load.slowest:.2f} s")


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait in a thread: a request to the platform blocks, and the clients of this loop must go on."""
    await asyncio.to_thread(wait_until, condition, SOON, what)


def last_result(platform: PlatformProcess) -> tuple[str, str] | None:
    """Return version and result of the last action in the last heartbeat."""
    last = platform.instance(ID).get("metrics", {}).get("last_action")
    return (last["version"], last["result"]) if last else None


async def inject(fault: str, platform: PlatformProcess, load: Load) -> None:
    """Inject a fault until enough turns were answered, then give right answers until a heartbeat arrives."""
    if fault == DOWN:
        await asyncio.to_thread(platform.kill)
        await answered(load)
        await asyncio.to_thread(platform.start)
    else:
        before = platform.seen
        platform.lie(fault, "config" if fault in STORMS else None)
        met = ("config",) if fault in STORMS else tuple(before)
        await until(
            lambda: all(platform.seen[name] > before[name] for name in met), f"the instance has seen {fault}"
        )
        await answered(load)
        platform.lie(None)
    heard = platform.instance(ID).get("beats", 0)
    await until(lambda: platform.instance(ID).get("beats", 0) > heard, f"a heartbeat after {fault}")


async def answered(load: Load) -> None:
    """Wait until TURNS more turns have been answered."""
    before = load.turns + load.streams
    await eventually(lambda: load.turns + load.streams > before + TURNS, SOON, "turns are answered")
