"""What is done to each candidate, and which numbers come of it.

A scenario is a script for the turns (see apps/turns.py), a load (see load.c), and a function that puts the
two together and returns figures: numbers by name, of which medians are taken over the rounds. `COLUMNS`
says what the names mean.
"""

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.candidates import SESSION, Running
from tests.benchmarks.load import Failed, Load, Options, Usage, drive

Figures = dict[str, float]
Script = Mapping[str, Any]

MANY: Final = 100_000  # sessions
ENDLESS: Final = 10_000_000  # events: more than any window lets through
EVERY: Final = 0.02  # seconds between two events of a paced stream
BLOCKED_SESSION: Final = 9_000_000_000  # numbers beyond those of the load beside it
BLOCKS_SOON: Final = 0.3  # seconds after its first message that the blocking turn blocks for certain
ANSWERS_WITHIN: Final = 10.0  # seconds; for one request that the harness itself sends


@dataclass(frozen=True, slots=True)
class Column:
    """`scale`: what the figure is multiplied with for people; `less_is_better`: for ratios and plots."""

    heading: str
    digits: int = 0
    scale: float = 1.0
    less_is_better: bool = False


COLUMNS: Final[Mapping[str, Column]] = {
    "turns": Column("turns/s"),
    "events": Column("events/s"),
    "megabytes": Column("MB/s"),
    "p50": Column("turn p50, ms", 2, less_is_better=True),
    "p99": Column("turn p99, ms", 1, less_is_better=True),
    "event_p50": Column("event p50, ms", 1, less_is_better=True),
    "event_p99": Column("event p99, ms", 1, less_is_better=True),
    "rate": Column("of the full rate, %", 0, 100),
    "front_turn": Column("front, µs/turn", 0, 1e6, less_is_better=True),
    "workers_turn": Column("workers, µs/turn", 0, 1e6, less_is_better=True),
    "front_event": Column("front, µs/event", 1, 1e6, less_is_better=True),
    "workers_event": Column("workers, µs/event", 1, 1e6, less_is_better=True),
    "front_cores": Column("front, cores", 2, less_is_better=True),
    "workers_cores": Column("workers, cores", 2, less_is_better=True),
    "load_cores": Column("load, cores", 2, less_is_better=True),
    "front_rest": Column("front at rest, MB", less_is_better=True),
    "workers_rest": Column("workers at rest, MB", less_is_better=True),
    "front_memory": Column("front, MB", 0, less_is_better=True),
    "workers_memory": Column("workers, MB", 0, less_is_better=True),
    "stream": Column("KiB/stream", 1, less_is_better=True),
    "front_stream": Column("front, KiB/stream", 1, less_is_better=True),
    "workers_stream": Column("workers, KiB/stream", 1, less_is_better=True),
    "front_session": Column("front, KiB/session", 2, less_is_better=True),
    "workers_session": Column("workers, KiB/session", 2, less_is_better=True),
    "open": Column("open"),
    "sessions": Column("sessions"),
    "health_p50": Column("/health p50, ms", 1, less_is_better=True),
    "health_p99": Column("/health p99, ms", 1, less_is_better=True),
    "health_longest": Column("longest wait for /health, ms", 1, less_is_better=True),
    "health_answered": Column("/health answered"),
    "clients": Column("clients served"),
    "failures": Column("failures", 0, less_is_better=True),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a cell is measured, and how long."""

    binary: Path  # of the load
    folder: Path
    seconds: float

    def load(self, running: Running, request: bytes, options: Options) -> Load:
        return Load(self.binary, self.folder, running.port, request, options)


@dataclass(frozen=True, slots=True)
class Scenario:
    """`shows`: the columns of its table, of which the first is compared and plotted. `times`: how much longer
    than others it is measured, at most. `fresh`: in processes that have done nothing else."""

    title: str
    measure: Callable[["Scenario", Setting, Running], Figures] = field(repr=False)
    shows: Sequence[str]
    script: Script = field(default_factory=dict)
    options: Options = field(default_factory=Options)
    fresh: bool = False
    times: float = 1.0

    def expected(self, seconds: float) -> float:
        """Seconds that a cell takes, about, without a start."""
        return self.options.ramp + self.options.warm_up + seconds * self.times + 1


def counted(result: Mapping[str, Any], usage: Mapping[str, Usage]) -> Figures:
    """The figures of one load."""
    seconds, turns, events = result["seconds"], result["requests"], result["events"]
    figures = {
        "turns": turns / seconds,
        "events": events / seconds,
        "megabytes": result["bytes"] / seconds / 1e6,
        "open": result["open"],
        "clients": result["served"],
        "load_cores": result["cpu"] / seconds,
        "failures": result["failed_connects"] + result["cut"] + result["refused"],
    }
    if turns:
        figures |= {"p50": result["request"]["p50"], "p99": result["request"]["p99"]}
    if result["event"]["count"]:
        figures |= {"event_p50": result["event"]["p50"], "event_p99": result["event"]["p99"]}
    for role, used in usage.items():
        figures[f"{role}_cores"] = used.cores
        figures[f"{role}_rest"] = used.before
        figures[f"{role}_memory"] = used.after
        figures[f"{role}_stream"] = (used.after - used.before) * 1024 / max(result["open"], 1)
        if turns:
            figures[f"{role}_turn"] = used.cores * seconds / turns
        if events:
            figures[f"{role}_event"] = used.cores * seconds / events
    return figures


def steady(scenario: Scenario, setting: Setting, running: Running) -> Figures:
    """One load."""
    options = replace(scenario.options, seconds=setting.seconds * scenario.times)
    request = running.request(scenario.script)
    figures = counted(*drive(setting.load(running, request, options), running.roles))
    if not figures["events"] and "hold" not in scenario.script:
        raise Failed(f"no event came ({figures['failures']:.0f} failures)")
    return figures


def paced(scenario: Scenario, setting: Setting, running: Running) -> Figures:
    """Streams at a fixed rate: which share of it arrives."""
    figures = steady(scenario, setting, running)
    figures["rate"] = figures["events"] / (scenario.options.connections / EVERY)
    return figures


def idle(scenario: Scenario, setting: Setting, running: Running) -> Figures:
    """Streams that are open and silent: what each of them holds."""
    figures = steady(scenario, setting, running)
    figures["stream"] = sum(figures[f"{role}_stream"] for role in running.roles)
    if figures["open"] < scenario.options.connections:
        raise Failed(f"{figures['open']:.0f} of {scenario.options.connections} streams opened")
    return figures


def sessions(scenario: Scenario, setting: Setting, running: Running) -> Figures:
    """Each turn in a session that is new: what a session leaves behind."""
    options = replace(scenario.options, seconds=setting.seconds * scenario.times)
    result, usage = drive(setting.load(running, running.request(scenario.script), options), running.roles)
    figures = counted(result, usage)
    figures["sessions"] = turns = float(result["requests"])
    for role, used in usage.items():
        figures[f"{role}_session"] = (used.after - used.before) * 1024 / max(turns, 1)
    return figures


def beside_blocked(scenario: Scenario, setting: Setting, running: Running) -> Figures:
    """One turn blocks the event loop that runs it; clients that were there before go on asking."""
    seconds = setting.seconds * scenario.times
    options = replace(scenario.options, seconds=seconds)
    asks_health = Options(think=0.05, reconnect=True, seconds=seconds, open_within=0)
    blocks = running.request({"block": seconds + options.warm_up + 1})
    with ExitStack() as stack:
        sock = socket.create_connection(("127.0.0.1", running.port), ANSWERS_WITHIN)
        blocking = stack.enter_context(closing(sock))
        health = setting.load(running, running.health(), asks_health)

        def block() -> None:
            blocking.sendall(blocks.replace(SESSION.encode(), b"%d" % BLOCKED_SESSION))
            wait_for(blocking, b"data:")
            time.sleep(BLOCKS_SOON)
            stack.enter_context(health)

        load = setting.load(running, running.request({}), options)
        figures = counted(*drive(load, running.roles, once_open=block))
        health.wait("end")
        answers = health.result()
        wait_for(blocking, b"0\r\n\r\n", seconds + ANSWERS_WITHIN)
    figures["health_answered"] = answers["requests"]
    figures["health_longest"] = max(answers["request"]["most"], answers["longest_wait"])
    if answers["requests"]:
        figures["health_p50"], figures["health_p99"] = answers["request"]["p50"], answers["request"]["p99"]
    return figures


def beside_slow(scenario: Scenario, setting: Setting, running: Running) -> Figures:
    """Readers of 20 KB a second on streams without end, and others who ask for short turns."""
    slow = Options(50, seconds=setting.seconds + 2, ramp=0.5, read_rate=20_000, base=BLOCKED_SESSION)
    stream = running.request({"events": ENDLESS, "pause": 0, "size": 1000})
    with setting.load(running, stream, slow) as readers:
        readers.wait("begin")
        return steady(scenario, setting, running)


def wait_for(sock: socket.socket, what: bytes, within: float = ANSWERS_WITHIN) -> None:
    """Read until this has come. Raises: Failed."""
    sock.settimeout(within)
    got = b""
    try:
        while what not in got:
            piece = sock.recv(65536)
            if not piece:
                raise Failed(f"the blocking turn was cut off: {got[-100:]!r}")
            got += piece
    except TimeoutError:
        raise Failed(f"the blocking turn has not sent {what!r} within {within:g} s") from None


SHORT: Final = ("turns", "p50", "p99", "front_turn", "workers_turn", "load_cores", "failures")
STREAM: Final = ("events", "turns", "p99", "front_event", "workers_event", "load_cores", "failures")
PACED: Final = ("event_p99", "event_p50", "rate", "front_event", "workers_event", "front_cores", "failures")
IDLE: Final = (
    "stream",
    "front_stream",
    "workers_stream",
    "front_memory",
    "workers_memory",
    "front_cores",
    "workers_cores",
)
MEMORY: Final = ("front_memory", "workers_memory")

BURST: Final = {"events": 200}
TICK: Final = {"events": 200, "pause": 0}
STEADY_STREAM: Final = {"events": ENDLESS, "pause": EVERY}
REAL: Final = {"form": "real"}

LOAD: Final = Options(64, warm_up=0.5)
STREAMS: Final = Options(16, warm_up=0.5)
HUNDRED: Final = Options(100, warm_up=1, ramp=0.5, stamps=True)
THOUSAND: Final = Options(1000, warm_up=1, ramp=1, stamps=True)

SCENARIOS: Final[Mapping[str, Scenario]] = {
    "short": Scenario("Short turns, 64 clients: one message and done", steady, SHORT, {}, LOAD),
    "client": Scenario(
        "One client, short turns", steady, ("p50", *SHORT[0:1], *SHORT[2:]), {}, replace(LOAD, connections=1)
    ),
    "burst": Scenario(
        "Burst, 16 clients: 200 messages as fast as they are taken, prebuilt", steady, STREAM, BURST, STREAMS
    ),
    "burst-real": Scenario("Burst, real messages: each made anew", steady, STREAM, BURST | REAL, STREAMS),
    "tick": Scenario(
        "Tick, 16 clients: 200 messages, each from its own turn of the loop, prebuilt",
        steady,
        STREAM,
        TICK,
        STREAMS,
    ),
    "tick-real": Scenario("Tick, real messages", steady, STREAM, TICK | REAL, STREAMS),
    "paced-100": Scenario("100 streams, a message every 20 ms each", paced, PACED, STEADY_STREAM, HUNDRED),
    "paced-1000": Scenario(
        "1 000 streams, a message every 20 ms each", paced, PACED, STEADY_STREAM, THOUSAND
    ),
    "paced-1000-real": Scenario("1 000 streams, real messages", paced, PACED, STEADY_STREAM | REAL, THOUSAND),
    "cpu": Scenario(
        "CPU work, 16 clients: 10 ms of Python in each turn", steady, SHORT, {"cpu": 0.01}, STREAMS
    ),
    "big": Scenario(
        "Big messages, 8 clients: 20 of 100 KiB",
        steady,
        ("megabytes", *STREAM),
        {"events": 20, "size": 102_400},
        Options(8, warm_up=0.5),
    ),
    "blocked": Scenario(
        "One worker's event loop is blocked; 32 clients with short turns",
        beside_blocked,
        (
            *("health_longest", "health_p50", "health_p99", "health_answered"),
            *("clients", "turns", "p50", "p99"),
        ),
        {},
        Options(32, think=0.01, warm_up=1),
    ),
    "slow": Scenario(
        "50 slow readers of streams without end; 32 clients with short turns",
        beside_slow,
        (*SHORT, *MEMORY),
        {},
        Options(32, warm_up=0.5),
        fresh=True,
    ),
    "idle-1000": Scenario(
        "1 000 open, silent streams", idle, IDLE, {"hold": 600}, Options(1000, ramp=1), fresh=True
    ),
    "idle-5000": Scenario(
        "5 000 open, silent streams",
        idle,
        IDLE,
        {"hold": 600},
        Options(5000, ramp=4, open_within=30),
        fresh=True,
    ),
    "sessions": Scenario(
        "100 000 sessions, a short turn in each",
        sessions,
        ("turns", "p99", "sessions", "front_session", "workers_session", *MEMORY, "failures"),
        {},
        Options(50, sessions=MANY, requests=MANY),
        fresh=True,
        times=8,
    ),
}
