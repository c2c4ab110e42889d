"""Strangers attack an instance that has a token, while clients that hold the token have conversations.

    python -m tests.security.siege [--minutes 10]      (make siege MINUTES=10)

Every turn of the clients must be answered in full, the supervisor's memory must stay below a bound, and the
log must stay short. Strangers run in a process of their own, so that their work does not slow the clients
down. Each kind of attack is one function in `ATTACKS`; it runs in a loop with the connections that it says.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import multiprocessing
import random
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from tests.harness import projects
from tests.harness.client import JSON, Connection, call, new_session, request, turn_body
from tests.harness.instance import Instance
from tests.harness.waiting import wait_until

TOKEN: Final = "a-token-for-the-siege"
CLIENTS: Final = 4  # that hold the token; one conversation each
MAX_RSS_MB: Final = 200  # of the supervisor, at any time
MAX_LOG_LINES: Final = 60  # a minute
ANSWER_WITHIN: Final = 60.0  # seconds for one turn of a client
SETTINGS: Final = {"auth_token": TOKEN, "max_connections": 400, "header_timeout": 5}

Attack = Callable[[int, random.Random], Awaitable[None]]

_EVIL: Final = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}


# --- strangers ------------------------------------------------------------------------------------


async def long_heads(port: int, rng: random.Random) -> None:
    """1.9 MB of head."""
    async with Connection(port) as connection:
        await connection.send(b"POST /invoke HTTP/1.1\r\nHost: t\r\n")
        for _ in range(rng.randint(1, 29)):
            await connection.send(b"X-A: " + b"a" * 65_536 + b"\r\n")
        await connection.is_closed(1.0)


async def slow_heads(port: int, rng: random.Random) -> None:
    """A head that arrives byte by byte."""
    async with Connection(port) as connection:
        for byte in b"POST /invoke HTTP/1.1\r\nHost: t\r\n":
            await connection.send(bytes([byte]))
            await asyncio.sleep(rng.uniform(0.05, 0.5))


async def idle(port: int, rng: random.Random) -> None:
    """A connection that takes a place and sends nothing."""
    async with Connection(port) as connection:
        await connection.is_closed(rng.uniform(1, 20))


async def guesses(port: int, rng: random.Random) -> None:
    """Another token with each request."""
    headers = {**JSON, "Authorization": f"Bearer {rng.getrandbits(64):x}"}
    path = rng.choice(["/invoke", "/sessions", "/stop", "/runs/x", "/console", "/%69nvoke"])
    await call(port, "POST", path, body=turn_body("s", "hi"), headers=headers)


async def web_pages(port: int, rng: random.Random) -> None:
    """A page on another site sends what a browser lets it send without a preflight."""
    kind = rng.choice(["text/plain", "application/x-www-form-urlencoded", ""])
    headers = {**_EVIL, **({"Content-Type": kind} if kind else {})}
    await call(port, "POST", "/invoke", body=turn_body("s", "hi"), headers=headers)


async def paths(port: int, rng: random.Random) -> None:
    """Spellings of routes that a balancer may let through."""
    path = rng.choice(
        ["/%6detrics", "//metrics", "/metrics%0A", "/./sessions", "/invoke/../sessions", "/%2e"]
    )
    await call(port, "GET", path)


async def bodies(port: int, rng: random.Random) -> None:
    """Bodies that are expensive to parse, or never end."""
    body = rng.choice([b"[" + b"{}," * 300_000 + b"{}]", b'{"a":' * 100_000, b'"' + b"\\u0000" * 100_000])
    async with Connection(port) as connection:
        await connection.send(request("POST", "/invoke", body, JSON))
        await connection.is_closed(2.0)


async def broken_chunks(port: int, rng: random.Random) -> None:
    """Framing that is no HTTP."""
    broken = rng.choice([b"zz\r\n", b"-1\r\n", b"5\r\nab\r\n", b"\xff\xff\r\n", b"5;" + b"a" * 10_000])
    async with Connection(port) as connection:
        head = b"POST /invoke HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
        await connection.send(head + b"Transfer-Encoding: chunked\r\n\r\n" + broken)
        await connection.is_closed(1.0)


async def unread_answers(port: int, rng: random.Random) -> None:
    """Many requests whose answers are never read."""
    async with Connection(port, receive_buffer=4096) as connection:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(rng.uniform(1, 10)):
                await connection.send(request("GET", "/", b"") * 500)
                await asyncio.sleep(5)


ATTACKS: Final[dict[Attack, int]] = {  # -> connections at the same time
    long_heads: 40,
    slow_heads: 40,
    idle: 150,
    guesses: 4,
    web_pages: 2,
    paths: 2,
    bodies: 4,
    broken_chunks: 4,
    unread_answers: 20,
}


async def _repeat(attack: Attack, port: int, rng: random.Random, until: float) -> None:
    while time.monotonic() < until:
        # A stranger who is cut off comes again.
        with contextlib.suppress(
            OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError
        ):
            async with asyncio.timeout(30):
                await attack(port, rng)
        await asyncio.sleep(rng.uniform(0.01, 0.2))


async def _strangers(port: int, seconds: float, seed: str) -> None:
    until = time.monotonic() + seconds
    await asyncio.gather(
        *(
            _repeat(attack, port, random.Random(f"{seed} {attack.__name__} {number}"), until)
            for attack, count in ATTACKS.items()
            for number in range(count)
        )
    )


def strangers(port: int, seconds: float, seed: str) -> None:
    """The process of the strangers."""
    logging.disable()  # asyncio logs each write to a connection that the instance has closed
    asyncio.run(_strangers(port, seconds, seed))


# --- clients --------------------------------------------------------------------------------------


@dataclass
class Result:
    """What the clients and the supervisor saw."""

    turns: int = 0
    failed: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of each turn
    rss_mb: float = 0.0  # the highest of the supervisor
    log_lines: int = 0

    def faults(self, minutes: float) -> list[str]:
        """What does not hold."""
        found = [f"{len(self.failed)} turns failed: {', '.join(self.failed[:3])}"] if self.failed else []
        if not self.turns:
            found.append("no turn was answered")
        if self.rss_mb > MAX_RSS_MB:
            found.append(f"the supervisor used {self.rss_mb:.0f} MB, more than {MAX_RSS_MB}")
        if self.log_lines > MAX_LOG_LINES * max(minutes, 1):
            found.append(f"{self.log_lines} log lines, more than {MAX_LOG_LINES} a minute")
        return found

    def __str__(self) -> str:
        middle = statistics.median(self.seconds or [0]) * 1000
        slowest = max(self.seconds, default=0) * 1000
        return (
            f"{self.turns} turns answered, {len(self.failed)} failed; median {middle:.0f} ms, slowest "
            f"{slowest:.0f} ms; supervisor at most {self.rss_mb:.0f} MB; {self.log_lines} log lines"
        )


async def _client(port: int, result: Result, until: float) -> None:
    session, count = new_session("siege"), 0
    headers = {**JSON, "Authorization": f"Bearer {TOKEN}"}
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                body = turn_body(session, [{"count": 1}], stream=False)
                answer = await call(port, "POST", "/invoke", body=body, headers=headers)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            result.failed.append(f"{type(error).__name__}: {error}")
            continue
        count += 1
        if answer.status == 200 and f'"{count}"' in json.dumps(answer.json["messages"]):
            result.turns += 1
        else:
            result.failed.append(f"{answer.status} {answer.body[:200]!r}")
        result.seconds.append(time.monotonic() - began)
        await asyncio.sleep(0.05)


async def _watch(instance: Instance, result: Result, until: float) -> None:
    process = psutil.Process(instance.pid)
    while time.monotonic() < until:
        result.rss_mb = max(result.rss_mb, process.memory_info().rss / 1e6)
        await asyncio.sleep(0.1)


async def _clients(instance: Instance, seconds: float) -> Result:
    result, until = Result(), time.monotonic() + seconds
    clients = (_client(instance.port, result, until) for _ in range(CLIENTS))
    await asyncio.gather(_watch(instance, result, until), *clients)
    return result


def run(folder: Path, seconds: float, seed: str) -> Result:
    """Attack an instance for `seconds`."""
    project = projects.scripted(folder / "project", server=SETTINGS)
    with Instance(project, folder, name="siege").start() as instance:
        lines = len(instance.log.splitlines())
        spawning = multiprocessing.get_context("spawn")
        attackers = spawning.Process(target=strangers, args=(instance.port, seconds, seed))
        attackers.start()
        try:
            wait_until(lambda: _connections(instance) > 50, 30, "the strangers have come")
            result = asyncio.run(_clients(instance, seconds))
        finally:
            attackers.terminate()
            attackers.join()
        result.log_lines = len(instance.log.splitlines()) - lines
    return result


def _connections(instance: Instance) -> int:
    """Established connections of the supervisor."""
    found = psutil.Process(instance.pid).net_connections(kind="tcp")
    return sum(each.status == psutil.CONN_ESTABLISHED and each.family == socket.AF_INET for each in found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(10**6)))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        result = run(Path(name), options.minutes * 60, options.seed)
    print(result)
    for fault in (faults := result.faults(options.minutes)):
        print(f"FAILED: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
