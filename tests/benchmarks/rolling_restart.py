"""Rolling restarts under load, ours and those of uvicorn and gunicorn; and a worker whose loop is blocked.

    python -m tests.benchmarks.rolling_restart [--peers FOLDER] [--restarts 50]      (make bench-restarts)

`--peers` is the folder of the environments of uvicorn and gunicorn, which are made there; without it only
ours is measured. Each server has two workers and the same clients: some keep their connection, some make a
new one for each request, some have streams of a second. A request has failed if it was sent and no whole
answer came; a client that is told that its connection closes, or sees it closed before it sends, makes
another, and that is no failure. To be run on a machine that does nothing else. Prints tables in Markdown.
"""

import argparse
import asyncio
import contextlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from tests.benchmarks.peers import Environments
from tests.harness import projects
from tests.harness.client import JSON, Connection, call, invoke, request, session_in, turn_body
from tests.harness.instance import Instance, environment, free_port
from tests.harness.waiting import wait_until

CLIENTS: Final = 6  # of each kind
PAUSE: Final = 0.02  # seconds between two requests of a client
ANSWER_WITHIN: Final = 20.0
RESTART_WITHIN: Final = 60.0
BETWEEN: Final = 0.5  # seconds from the end of a restart to the next
BLOCKED: Final = 10.0  # seconds
STREAM: Final = [{"say": "on", "times": 10, "every": 0.1}]

# The same answers as those of tests/apps/scripted, for servers that know no App.
PEER_APP: Final = """
import asyncio, json

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    streams = json.loads(body or b"{}").get("stream", True)
    kind = b"text/event-stream" if streams else b"application/json"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    for number in range(10 if streams else 0):
        data = json.dumps({"content": "on"})
        await send({"type": "http.response.body", "body": f"data: {data}\\n\\n".encode(), "more_body": True})
        await asyncio.sleep(0.1)
    last = b'data: {"metadata": {"done": true}}\\n\\n' if streams else b'{"messages": []}'
    await send({"type": "http.response.body", "body": last})
"""


@dataclass(slots=True)
class Server:
    """One that is measured. `workers`: the pids of those that serve."""

    name: str
    port: int
    master: psutil.Process
    workers: Callable[[], set[int]]


@dataclass(slots=True)
class Seen:
    """What the clients of one server saw."""

    requests: int = 0
    failed: list[str] = field(default_factory=list)
    streams: int = 0
    cut: list[str] = field(default_factory=list)


# -- servers -------------------------------------------------------------------------------------


@contextmanager
def ours(folder: Path) -> Iterator[Server]:
    project = projects.scripted(folder / "project", supervisor={"soak": 0.1})
    with Instance(project, folder, workers=2) as instance:
        instance.start()

        def workers() -> set[int]:
            return {worker.pid for worker in instance.workers()}

        yield Server("agentscope-supervisor", instance.port, psutil.Process(instance.pid), workers)


@contextmanager
def peer(folder: Path, command: Sequence[str]) -> Iterator[Server]:
    (folder / "peer.py").write_text(PEER_APP, "utf-8")
    port = free_port()
    command = [part.format(port=port) for part in command]
    with (folder / "peer.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment())
    master = psutil.Process(process.pid)

    def workers() -> set[int]:
        found = set()
        for each in master.children():
            with contextlib.suppress(psutil.Error):  # it has just ended
                # The resource tracker of multiprocessing serves nobody.
                if "resource_tracker" not in " ".join(each.cmdline()):
                    found.add(each.pid)
        return found

    def answers() -> bool:
        try:
            return asyncio.run(call(port, "POST", "/invoke", body=b"{}", headers=JSON)).status == 200
        except OSError:
            return False

    try:
        wait_until(answers, 20.0, f"{command[0]} answers")
        wait_until(lambda: len(workers()) == 2, 20.0, "two workers")
        yield Server(Path(command[0]).name, port, master, workers)
    finally:
        for each in [*master.children(recursive=True), master]:
            each.kill()
        process.wait()


def peers(folder: Path) -> dict[str, Sequence[str]]:
    environments = Environments(folder)
    uvicorn, gunicorn = (str(environments.bin(name) / name) for name in ("uvicorn", "gunicorn"))
    return {
        "uvicorn": [uvicorn, "peer:app", "--workers", "2", "--port", "{port}", "--log-level", "warning"],
        "gunicorn": [gunicorn, "peer:app", "-w", "2", "-k", "asgi", "-b", "127.0.0.1:{port}"],
    }


# -- clients -------------------------------------------------------------------------------------


async def keeps_its_connection(server: Server, name: str, seen: Seen, goes_on: Callable[[], bool]) -> None:
    body = turn_body(name, "hello", stream=False)
    while goes_on():
        async with Connection(server.port) as connection:
            while goes_on() and not connection.reader.at_eof():
                if not await whole_answer(connection, body, seen):
                    break
                await asyncio.sleep(PAUSE)


async def makes_new_connections(server: Server, name: str, seen: Seen, goes_on: Callable[[], bool]) -> None:
    body = turn_body(name, "hello", stream=False)
    while goes_on():
        try:
            async with Connection(server.port) as connection:
                await whole_answer(connection, body, seen)
        except OSError as error:
            seen.requests += 1
            seen.failed.append(f"connect: {error!r}")
        await asyncio.sleep(PAUSE)


async def whole_answer(connection: Connection, body: bytes, seen: Seen) -> bool:
    """One request; whether the connection may be used for another."""
    seen.requests += 1
    try:
        async with asyncio.timeout(ANSWER_WITHIN):
            await connection.send(request("POST", "/invoke", body, JSON))
            answer = await connection.answer()
    except (OSError, EOFError, TimeoutError) as error:
        seen.failed.append(repr(error))
        return False
    if answer.status != 200:
        seen.failed.append(f"{answer.status} {answer.body[:80]!r}")
    return answer.headers.get("connection", "").lower() != "close"


async def streams(server: Server, name: str, seen: Seen, goes_on: Callable[[], bool]) -> None:
    body = turn_body(name, STREAM)
    while goes_on():
        seen.streams += 1
        try:
            async with asyncio.timeout(ANSWER_WITHIN), Connection(server.port) as connection:
                await connection.send(request("POST", "/invoke", body, JSON))
                head = await connection.head()
                events = b"".join([piece async for piece in connection.body(head)])
            if head.status != 200 or b'"done"' not in events or b'data: {"error"' in events:
                seen.cut.append(f"{head.status} {events[-120:]!r}")
        except (OSError, EOFError, TimeoutError) as error:
            seen.cut.append(repr(error))
        await asyncio.sleep(PAUSE)


# -- restarts ------------------------------------------------------------------------------------


async def restarts(server: Server, times: int) -> tuple[Seen, list[float]]:
    seen, took, over = Seen(), [], asyncio.Event()

    def goes_on() -> bool:
        return not over.is_set()

    async with asyncio.TaskGroup() as group:
        for kind in (keeps_its_connection, makes_new_connections, streams):
            for number in range(CLIENTS):
                group.create_task(kind(server, f"{kind.__name__}-{number}", seen, goes_on))
        for _ in range(times):
            before, began = await asyncio.to_thread(server.workers), time.monotonic()
            server.master.send_signal(signal.SIGHUP)
            while True:
                after = await asyncio.to_thread(server.workers)
                if len(after) == 2 and not after & before:
                    break
                assert time.monotonic() < began + RESTART_WITHIN, f"{server.name} does not restart"
                await asyncio.sleep(0.02)
            took.append(time.monotonic() - began)
            await asyncio.sleep(BETWEEN)
        over.set()
    return seen, took


def measure_restarts(folder_of_peers: Path | None, times: int) -> None:
    print("| server | restarts | requests | failed | streams | cut | time of a restart, s |")
    print("|---|---|---|---|---|---|---|")
    commands = peers(folder_of_peers) if folder_of_peers is not None else {}
    for name in ["ours", *commands]:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            server = stack.enter_context(ours(folder) if name == "ours" else peer(folder, commands[name]))
            seen, took = asyncio.run(restarts(server, times))
        print(
            f"| {server.name} | {len(took)} | {seen.requests:,} | {len(seen.failed)} | {seen.streams:,} "
            f"| {len(seen.cut)} | {statistics.median(took):.1f} |",
            flush=True,
        )
        for why in (*seen.failed[:2], *seen.cut[:2]):
            print(f"  {server.name}: {why}", file=sys.stderr)


# -- a blocked worker ----------------------------------------------------------------------------


async def latencies(port: int, session: str | None, until: Callable[[], bool]) -> list[float]:
    """Of /health, or of turns of a session; in milliseconds."""
    found = []
    while not until():
        if session is None:
            answer = await call(port, "GET", "/health")
        else:
            answer = await invoke(port, session, "hello")
        assert answer.status == 200
        found.append(answer.seconds * 1000)
        await asyncio.sleep(PAUSE)
    return found


async def blocked(port: int) -> None:
    print("\n| one of two workers | `/health` p50 / p99, ms | a turn in the other slot p50 / p99, ms |")
    print("|---|---|---|")
    first, other = await session_in(port, 0), await session_in(port, 1)
    for name, steps in (("waits", [{"sleep": BLOCKED}]), ("blocks its loop", [{"block": BLOCKED}])):
        turn = asyncio.create_task(invoke(port, first, [*steps, {"say": "done"}], within=60))
        await asyncio.sleep(0.2)
        health, turns = await asyncio.gather(
            latencies(port, None, turn.done), latencies(port, other, turn.done)
        )
        assert (await turn).status == 200
        print(f"| {name} for {BLOCKED:g} s | {quantiles(health)} | {quantiles(turns)} |", flush=True)


def quantiles(values: list[float]) -> str:
    ordered = sorted(values)
    return f"{statistics.median(ordered):.1f} / {ordered[int(len(ordered) * 0.99)]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, metavar="FOLDER")
    parser.add_argument("--restarts", type=int, default=50)
    options = parser.parse_args()
    measure_restarts(options.peers, options.restarts)
    with tempfile.TemporaryDirectory() as folder:
        project = projects.scripted(Path(folder) / "project")
        with Instance(project, Path(folder), workers=2) as instance:
            asyncio.run(blocked(instance.start().port))


if __name__ == "__main__":
    main()
