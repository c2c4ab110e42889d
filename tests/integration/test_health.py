"""What an operator and a platform see: the probes, the first page, the token, the footprint."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import psutil
import pytest

from agentscope_supervisor import FORM
from tests.harness.client import (
    JSON,
    Connection,
    Response,
    Stream,
    call,
    chunked,
    invoke,
    new_session,
    request,
    stop,
    turn_body,
)
from tests.harness.instance import Instance, environment
from tests.harness.projects import hooks
from tests.harness.waiting import wait_until

MAX_RSS_MIB: Final = 60 if FORM == "plain Python" else 62
"""Of a supervisor at rest. The compiled form also maps 1.7 MiB of its library. How much of each file is
mapped varies by half a MiB with what was read of it before."""

HEALTH_P99: Final = 0.020  # seconds, CONTRACT
NOISE: Final = 5  # factor that a busy machine is allowed


async def get(instance: Instance, path: str, **headers: str) -> Response:
    return await call(instance.port, "GET", path, headers=headers)


async def test_health_says_what_it_must(shared: Instance) -> None:
    response = await get(shared, "/health")
    assert response.status == 200
    health = response.json
    assert health["status"] == "healthy"
    assert health["instance_id"] is None, "there is no platform"
    assert health["uptime"] > 0
    assert [(worker["slot"], worker["state"]) for worker in health["workers"]] == [(0, "ready"), (1, "ready")]
    children = {process.pid for process in psutil.Process(shared.pid).children()}
    children -= {process.pid for process in shared.zygotes()}
    assert {worker["pid"] for worker in health["workers"]} == children
    later = await get(shared, "/health")
    assert later.json["uptime"] > health["uptime"]


@pytest.mark.parametrize("path", ["/readiness", "/readyz", "/liveness", "/livez", "/healthz", "/"])
async def test_probes_answer_200(shared: Instance, path: str) -> None:
    response = await get(shared, path)
    assert response.status == 200
    assert response.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize("path", ["/health", "/readiness", "/liveness", "/"])
async def test_probes_answer_head(shared: Instance, path: str) -> None:
    response = await call(shared.port, "HEAD", path)
    assert (response.status, response.body) == (200, b"")


async def test_the_first_page_says_what_this_is(shared: Instance) -> None:
    page = (await get(shared, "/")).json
    assert page["name"] == "agentscope-supervisor"
    assert page["version"]
    for link in page["links"].values():
        assert link.startswith("/")


async def test_query_strings_do_not_matter(shared: Instance) -> None:
    assert (await get(shared, "/health?verbose=1")).status == 200


@pytest.mark.fault("F07")
async def test_f07_health_is_quick_while_every_worker_is_blocked(
    start_instance: Callable[..., Instance],
) -> None:
    instance = start_instance()
    script = [{"say": "x"}, {"sleep": 0.1}, {"block": 3}]
    async with AsyncExitStack() as stack:
        blocked: dict[str, Stream] = {}
        while len(blocked) < 2:  # one session on each slot
            stream = await stack.enter_async_context(Stream(instance.port, new_session(), script))
            await stream.until(events=1)
            if blocked.setdefault(stream.worker, stream) is not stream:
                await stop(instance.port, run_id=stream.run_id)
        # Nobody can be asked whether both sleep by now; that they do is seen at the end.
        await asyncio.sleep(0.3)
        took = [await probe(instance, number) for number in range(300)]
        p99 = sorted(took)[int(len(took) * 0.99)]
        print(f"health with blocked workers: p99 {p99 * 1000:.1f} ms")
        assert not any(stream.has_arrived() for stream in blocked.values()), "the workers were blocked"
        assert p99 < HEALTH_P99 * NOISE
        for stream in blocked.values():
            assert [event.text for event in await stream.whole()] == ["x"]


async def probe(instance: Instance, number: int) -> float:
    """Seconds that a health route took to answer 200."""
    response = await get(instance, ("/health", "/readiness", "/liveness")[number % 3])
    assert response.status == 200
    return response.seconds


async def test_while_starting_nothing_is_ready_and_all_is_alive(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    project = make_project()
    hooks(project, startup=[{"wait_for": str(gate)}])
    instance = new_instance(project, workers=1).launch()
    instance.wait_listening()
    wait_until(lambda: answers(instance), 10, "it listens")
    unready = await get(instance, "/readiness")
    assert (unready.status, unready.code) == (503, "NOT_READY")
    assert int(unready.headers["retry-after"]) > 0
    assert (await get(instance, "/liveness")).status == 200
    assert instance.health()["status"] == "starting"
    # A turn that comes now waits for its slot, and is told so.
    async with Stream(instance.port, new_session(), "patience") as stream:
        await stream.until(comments=1)
        assert stream.comments[0].startswith("queued")
        gate.touch()
        assert [event.text for event in await stream.whole()] == ["patience"]
    instance.wait_ready()


def answers(instance: Instance) -> bool:
    try:
        return bool(instance.health())
    except OSError:
        return False


async def test_the_address_is_published_once_it_listens(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path]
) -> None:
    """Who finds instance.json may connect at once."""
    instance = new_instance(make_project(), workers=1).launch()
    instance.wait_listening()
    assert (await get(instance, "/liveness")).status == 200
    assert instance.address["pid"] == instance.pid
    assert instance.address["name"] == instance.name
    assert instance.address["project"] == str(instance.project)
    assert instance.address["host"] == "127.0.0.1"
    assert (instance.directory.stat().st_mode & 0o777) == 0o700
    assert instance.stop() == 0
    assert not (instance.directory / "instance.json").exists()


async def test_a_token_guards_all_but_the_probes(start_instance: Callable[..., Instance]) -> None:
    instance = start_instance(workers=1, server={"auth_token": "s3cret"})
    for path in ("/health", "/readiness", "/readyz", "/liveness", "/livez", "/healthz"):
        assert (await get(instance, path)).status == 200
    for given in (None, "s3cret", "Bearer wrong", "Bearer ", "Basic s3cret", "Bearer s3cret "):
        headers = JSON | ({"Authorization": given} if given is not None else {})
        refused = await call(
            instance.port, "POST", "/invoke", body=turn_body(new_session(), "x"), headers=headers
        )
        if given == "Bearer s3cret ":  # blanks around a header's value do not count
            assert refused.status == 200
            continue
        assert (refused.status, refused.code) == (401, "UNAUTHORIZED"), given
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert "s3cret" not in refused.body.decode()
    for method, path in (("GET", "/"), ("POST", "/stop"), ("GET", "/nothing")):
        assert (await call(instance.port, method, path)).status == 401
    response = await invoke(instance.port, new_session(), "in", headers={"Authorization": "Bearer s3cret"})
    assert response.status == 200
    whole = request("POST", "/stop", b'{"run_id": "x"}', JSON | {"Authorization": "Bearer s3cret"})
    async with Connection(instance.port) as connection:  # of two, somebody on the way may read the other
        await connection.send(whole.replace(b"\r\n", b"\r\nAuthorization: Bearer wrong\r\n", 1))
        assert (await connection.answer()).status == 400
    async with Connection(instance.port) as connection:  # a trailer is no header
        await connection.send(request("POST", "/stop", headers=JSON | {"Transfer-Encoding": "chunked"}))
        await connection.send(chunked(b'{"run_id": "x"}')[:-2] + b"Authorization: Bearer s3cret\r\n\r\n")
        assert (await connection.answer()).status == 401
    assert "s3cret" not in instance.log


# -- the footprint --------------------------------------------------------------------------------------


@pytest.mark.agentscope2
async def test_a_supervisor_at_rest_is_small(start_instance: Callable[..., Instance]) -> None:
    instance = start_instance()
    assert (await invoke(instance.port, new_session(), "x")).status == 200
    memory = psutil.Process(instance.pid).memory_full_info()
    print(f"supervisor at rest: RSS {memory.rss / 2**20:.1f} MiB, USS {memory.uss / 2**20:.1f} MiB")
    assert memory.rss < MAX_RSS_MIB * 2**20
    mapped = {mapping.path for mapping in psutil.Process(instance.pid).memory_maps()}
    assert any("/uvloop/" in path for path in mapped), "extension modules are seen here"
    for library in ("agentscope", "numpy", "tiktoken", "jiter"):
        assert not any(f"/{library}/" in path for path in mapped), f"{library} is in the supervisor"


@pytest.mark.timed
async def test_a_supervisor_at_rest_does_nothing(shared: Instance) -> None:
    process = psutil.Process(shared.pid)
    before, began = sum(process.cpu_times()[:2]), time.monotonic()
    await asyncio.sleep(2)  # what is measured is what it does when nothing happens
    share = (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began)
    print(f"supervisor at rest: {share:.1%} of a CPU")
    assert share < 0.05


FOREIGN: Final = {"agentscope", "agentscope_worker.runtime", "numpy", "openai", "mcp", "opentelemetry"}

FINDER: Final = "agentscope_worker.agentapp.finder"
"""The environment's `.pth` file imports it in every interpreter."""

UNUSED: Final = {
    "agentscope_supervisor.heartbeat.loop": "without a platform",
    "agentscope_supervisor.web.tracing": "without traces",
    "aiohttp.client": "without either: 4 MiB, with the CA certificates",
    "aiohttp.connector": "without either",
    "aiohttp.web": "the routes are in `web.app`: 1.3 MiB",
    "prometheus_client": "before the first GET /metrics: 1 MiB",
    "psutil": "on Linux: 3 MiB",
    "rich": "for commands only: 5 MiB",
    "watchfiles": "without --reload",
}
"""Modules that a supervisor does not need, and when."""

MOST_MODULES: Final = 640
"""Of a supervisor, with those of Python: 562 with Python 3.11. One takes 45 KiB on average."""


@pytest.mark.agentscope2
def test_a_supervisor_imports_only_what_it_needs() -> None:
    """In the order of a start: see `cli.launch`."""
    code = (
        "import sys, agentscope_supervisor.cli.main, agentscope_supervisor.http1.listener, uvloop\n"
        "import agentscope_supervisor.daemon\n"
        "print(*sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment()
    )
    modules = set(ran.stdout.split())
    assert {"agentscope_supervisor.daemon", "aiohttp.web_protocol"} <= modules
    assert not modules & (FOREIGN | UNUSED.keys())
    assert {name for name in modules if name.startswith("agentscope_worker.")} <= {
        "agentscope_worker.agentapp",
        FINDER,
    }
    assert len(modules) < MOST_MODULES


def test_a_worker_imports_no_part_of_the_supervisor() -> None:
    code = "import sys; from agentscope_worker import zygote; zygote.preload([]); print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, env=environment()
    )
    modules = set(ran.stdout.split())
    assert {"agentscope", "agentscope_worker.serve"} <= modules
    assert not modules & {"agentscope_supervisor", "aiohttp", "psutil", "yaml"}
