"""Memory over time under a steady load, and with 100 000 sessions.

    python -m tests.benchmarks.memory_line [--minutes 10]        (make bench-memory MINUTES=10)

First an instance gets a short turn in each of 100 000 sessions; then it rests. Another one is under a mix of
load for the minutes that were asked for: short turns of ever new sessions, bursts, and streams that their
clients leave. Every ten seconds the memory and the descriptors of each of its processes are taken. At the
end the first is asked again, if by then it has forgotten its sessions: they count as active for five minutes.
Writes docs/performance/memory.md with its plot, about a minute and a half after the minutes.
"""

import argparse
import re
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Self

import psutil

from agentscope_supervisor.turns.active_sessions import ACTIVE_FOR
from tests.benchmarks import memory_page
from tests.benchmarks.__main__ import DOCS, ENDS, end
from tests.benchmarks.candidates import CANDIDATES, SESSION, Running, ours
from tests.benchmarks.goals import OURS
from tests.benchmarks.load import Failed, Load, Options, build, by_role, drive, memory
from tests.benchmarks.memory_page import Mix, Sample, Sessions
from tests.benchmarks.peers import Environments
from tests.benchmarks.results import machine
from tests.benchmarks.scenarios import BURST, ENDLESS, MANY, wait_for
from tests.harness.instance import FORKS

NEW: Final = 10**8  # sessions of each connection: more than it gets to
SHORT: Final = Options(32, think=0.02, sessions=32 * NEW)
BURSTS: Final = Options(4, think=0.2, sessions=4 * NEW, base=4 * 10**9)
LEFT: Final = 6 * 10**9  # the first session of the streams that are left
LEAVE_EVERY: Final = 0.1  # seconds between two of them

ALL_WITHIN: Final = 200.0  # seconds for 100 000 turns; 30 on two idle cores
CLIENTS: Final = 50  # that have the sessions' turns
FEW: Final = Options(CLIENTS, requests=2000, base=9 * 10**9, seconds=60)
FORGETS_WITHIN: Final = 3.0  # seconds after a turn in which the supervisor looks for what is too old
EVERY: Final = 10.0  # seconds between two samples
FEWEST: Final = 12  # samples, however short it is
RESTS: Final[Mapping[str, Any]] = {
    "replay_max_mb": 0,
    "idle_after": ACTIVE_FOR - 20,  # so that nothing of them is known longer than they count as active
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where the load is built and writes its files."""

    binary: Path
    folder: Path

    def load(self, running: Running, script: Mapping[str, Any], options: Options) -> Load:
        return Load(self.binary, self.folder, running.port, running.request(script), options)


class Leavers:
    """Clients that open a stream, read its first event, and go. Use as a context manager."""

    def __init__(self, running: Running) -> None:
        self._running: Final = running
        self._over: Final = threading.Event()
        self._thread: Final = threading.Thread(target=self._run)
        self.left = self.failures = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        request = self._running.request({"events": ENDLESS, "pause": 0.01})
        while not self._over.wait(LEAVE_EVERY):
            try:
                with closing(socket.create_connection(("127.0.0.1", self._running.port), 10)) as sock:
                    sock.sendall(request.replace(SESSION.encode(), b"%d" % (LEFT + self.left)))
                    wait_for(sock, b"data:")
                    self.left += 1
            except (Failed, OSError):
                self.failures += 1


def processes(running: Running) -> dict[str, list[psutil.Process]]:
    """All of an instance, by name."""
    (supervisor,), workers = running.roles["front"], running.roles["workers"]
    zygotes = [
        each for each in supervisor.children() if each not in workers and FORKS in " ".join(each.cmdline())
    ]
    named = {f"worker {number}": [worker] for number, worker in enumerate(workers)}
    return {"supervisor": [supervisor], **({"zygote": zygotes} if zygotes else {}), **named}


def sample(running: Running, at: float) -> Sample:
    """Raises: Failed, if a process has ended."""
    there = processes(running)
    sizes, open_files = by_role(there, memory), by_role(there, lambda process: process.num_fds())
    return Sample(at, sizes, {name: round(count) for name, count in open_files.items()})


def under_load(place: Place, running: Running, seconds: float) -> tuple[list[Sample], Mix]:
    """The line. Raises: Failed; OSError."""
    samples = [sample(running, -1.0)]
    every = min(EVERY, seconds / FEWEST)
    with ExitStack() as stack:
        loads = [
            stack.enter_context(place.load(running, script, replace(options, seconds=seconds)))
            for script, options in (({}, SHORT), (BURST, BURSTS))
        ]
        leavers = stack.enter_context(Leavers(running))
        for load in loads:
            load.wait("begin")
        began = time.monotonic()
        for number in range(round(seconds / every)):
            time.sleep(max(0.0, began + number * every - time.monotonic()))
            samples.append(sample(running, time.monotonic() - began))
            tell(samples[-1])
        count = active(running)
        for load in loads:
            load.wait("end")
        results = [load.result() for load in loads]
    failures = leavers.failures + sum(
        result[what] for result in results for what in ("failed_connects", "cut", "refused")
    )
    short, bursts = (result["requests"] for result in results)
    return samples, Mix(seconds, short, bursts, leavers.left, failures, count)


def tell(taken: Sample) -> None:
    sizes = ", ".join(f"{name} {size:.1f}" for name, size in taken.megabytes.items())
    print(f"{taken.at:6.0f} s  {sizes} MB", flush=True)


def active(running: Running) -> int:
    """Sessions that the instance counts as active; it forgets the others when it is asked."""
    with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/metrics", timeout=30) as response:
        match = re.search(r"^agentscope_sessions_active (\d+)", response.read().decode(), re.MULTILINE)
    if match is None:
        raise Failed("/metrics does not tell the sessions")
    return int(match[1])


def at_rest(place: Place, running: Running) -> Mapping[str, float]:
    """MB by process, some turns later and without any."""
    drive(place.load(running, {}, FEW), {})
    time.sleep(FORGETS_WITHIN)
    active(running)
    return by_role(processes(running), memory)


def with_sessions(place: Place, running: Running, count: int) -> Mapping[str, float]:
    """MB by process once so many sessions had a turn. Raises: Failed."""
    options = Options(CLIENTS, sessions=count, requests=count, seconds=ALL_WITHIN)
    result, _ = drive(place.load(running, {}, options), {})
    if result["requests"] < count:
        raise Failed(f"only {result['requests']} turns in {ALL_WITHIN:g} s")
    return by_role(processes(running), memory)


def measure(minutes: float, count: int) -> tuple[list[Sample], Mix, Sessions]:
    """All of it. Raises: AssertionError, Failed, OSError, psutil.Error."""
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="memory-"))) for _ in range(3)]
        place, environments = Place(build(folders[0]), folders[0]), Environments(folders[0])
        resting = stack.enter_context(ours(2, sessions=RESTS)(folders[1], environments))
        rest = at_rest(place, resting)
        known = with_sessions(place, resting, count)
        began = time.monotonic()
        print(f"{count} sessions: supervisor {rest['supervisor']:.1f}, then {known['supervisor']:.1f} MB")
        with CANDIDATES[OURS].start(folders[2], environments) as running:
            samples, mix = under_load(place, running, minutes * 60)
        is_over = time.monotonic() - began > ACTIVE_FOR
        forgotten = at_rest(place, resting) if is_over else None
        if is_over and (still := active(resting)) > CLIENTS:
            raise Failed(f"{still} sessions are not forgotten")
        return samples, mix, Sessions(count, rest, known, forgotten)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.memory_line",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--sessions", type=int, default=MANY, help=f"a multiple of {CLIENTS}")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder to write the page into")
    asked = parser.parse_args()
    for each in ENDS:
        signal.signal(each, end)
    try:
        samples, mix, sessions = measure(asked.minutes, asked.sessions)
    except KeyboardInterrupt:
        print("\ninterrupted; nothing is written")
        return 130
    except (AssertionError, Failed, OSError, psutil.Error) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("agentscope-supervisor", "agentscope", "aiohttp", "uvloop")
    )
    about = f"{machine()}. {versions}. {time.strftime('%d %B %Y')}."
    (asked.docs / memory_page.PLOT).parent.mkdir(parents=True, exist_ok=True)
    (asked.docs / memory_page.PLOT).write_text(memory_page.plot(samples), "utf-8")
    (asked.docs / memory_page.PAGE).write_text(memory_page.page(samples, mix, sessions, about), "utf-8")
    print(memory_page.over_time(samples))
    print(memory_page.of_sessions(sessions))
    return 0


if __name__ == "__main__":
    sys.exit(main())
