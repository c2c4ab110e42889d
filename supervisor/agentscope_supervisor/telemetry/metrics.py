"""What `GET /metrics` tells: counts kept here while the instance runs, and a look at it when it is asked.

They are the supervisor's; workers keep none. Nothing here holds a session, a user or a text: each label has a
handful of values, all named in this module or in the enums that it reads. The counts are plain numbers, as a
turn must not pay for locks that one thread does not need; `prometheus` gives them their form.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from agentscope_supervisor import __version__
from agentscope_supervisor.domain.errors import Failure
from agentscope_supervisor.runs.client_stream import Answer
from agentscope_supervisor.system.process_memory import MB, MemoryByPid, ProcessMemory
from agentscope_supervisor.telemetry.histogram import Histogram

LAG_EVERY: Final = 0.5  # seconds between two looks at the loop

# Seconds. A turn is a model's answer, seconds to minutes; a wait and a loop's lag are milliseconds.
# Sequences: a constant that mypyc sees to be a tuple of floats it takes for one never set (mypy 2.4).
_TURN: Final[Sequence[float]] = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_FIRST: Final[Sequence[float]] = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_WAIT: Final[Sequence[float]] = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)
_LAG: Final[Sequence[float]] = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


@dataclass(frozen=True, slots=True)
class Gauges:
    """The instance now."""

    running: int  # turns that a worker has
    waiting: int
    active_sessions: int
    workers: Mapping[str, int]  # by state
    rolling: bool
    platform_failures: Mapping[tuple[str, str], int]  # by exchange and kind


class GaugeSource(Protocol):
    """Who is looked at."""

    def gauges(self) -> Gauges:
        """The instance now; returns at once."""


Values = Iterable[tuple[Sequence[str], float]]
"""Values, each with those of its labels."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A metric as it is now. `name` is without what all begin with."""

    name: str
    text: str
    values: Values
    labels: tuple[str, ...] = ()
    may_sink: bool = False


@dataclass(frozen=True, slots=True)
class Spread:
    """A histogram as it is now."""

    name: str
    text: str
    histogram: Histogram


class Metrics:
    """The metrics of one instance. To be made on the event loop; `close` ends its look at that.

    `states`: those in which a worker process is counted; `causes`: of its end.
    """

    def __init__(
        self, source: GaugeSource, memory: ProcessMemory, states: Sequence[str], causes: Iterable[str]
    ) -> None:
        self._source: Final = source
        self._loop: Final = asyncio.get_running_loop()
        self._started: Final = time.time()
        self._states: Final = states
        self._requests: Final[Counter[tuple[str, int]]] = Counter()
        # From 0: a rate is known only of what was seen before.
        self._turns: Final = Counter[str]({"OK": 0})
        self._exits: Final = Counter[str](dict.fromkeys(causes, 0))
        self._rollouts: Final = Counter({"done": 0, "failed": 0})
        self._duration: Final = Histogram(_TURN)
        self._first: Final = Histogram(_FIRST)
        self._wait: Final = Histogram(_WAIT)
        self._lag: Final = Histogram(_LAG)
        self._events = self._bytes = self._starts = 0
        self._memory: Final = memory
        self._held: MemoryByPid = {}
        self._timer = self._arm()

    def close(self) -> None:
        """To be called last."""
        self._timer.cancel()

    async def collect(self) -> Iterator[Counted | Spread]:
        """All metrics, now."""
        self._held = await self._memory.measure()
        return self._collect()

    # -- what happened ------------------------------------------------------------------------

    def request(self, route: str, status: int) -> None:
        """A request was answered. `route`: one of a few."""
        self._requests[route, status] += 1

    def turn(self, answer: Answer, failure: Failure | None, now: float) -> None:
        """A turn is over."""
        self._turns[failure.code if failure is not None else "OK"] += 1
        self._duration.observe(now - answer.started_at)
        if answer.taken_at is not None:
            self._wait.observe(answer.taken_at - answer.started_at)
        if answer.first_at is not None:
            self._first.observe(answer.first_at - answer.started_at)
        self._events += answer.events
        self._bytes += answer.bytes

    def worker_started(self) -> None:
        """A worker process was worker_started."""
        self._starts += 1

    def worker_exited(self, cause: str) -> None:
        """A worker process has ended."""
        self._exits[cause] += 1

    def rollout_ended(self, *, succeeded: bool) -> None:
        """A rollout has ended."""
        self._rollouts["done" if succeeded else "failed"] += 1

    # -- how it is told -----------------------------------------------------------------------

    def _collect(self) -> Iterator[Counted | Spread]:
        gauges = self._source.gauges()
        yield _gauge("build_info", "The version that runs.", [((__version__,), 1)], "version")
        yield _gauge(
            "start_time_seconds", "When the instance was worker_started, since 1970.", [((), self._started)]
        )
        requests = (((route, str(status)), count) for (route, status), count in self._requests.items())
        yield _counter("http_requests", "Answers to requests.", requests, "route", "status")
        yield _counter("turns", "Ended turns: OK, or the code of their error.", _one(self._turns), "outcome")
        yield Spread("turn_duration_seconds", "From acceptance to the end of a turn.", self._duration)
        yield Spread(
            "turn_first_event_seconds", "From acceptance to the first event of a stream.", self._first
        )
        yield Spread("turn_wait_seconds", "From acceptance until a worker had it.", self._wait)
        now = {"running": gauges.running, "waiting": gauges.waiting}
        yield _gauge("turns_open", "Turns that have not ended.", _one(now), "state")
        yield _counter("events", "Events of streams, from workers.", [((), self._events)])
        yield _counter("event_bytes", "Bytes of these events.", [((), self._bytes)])
        yield _gauge("sessions_active", "Sessions with a turn in 300 s.", [((), gauges.active_sessions)])
        states = {state: gauges.workers.get(state, 0) for state in self._states}
        yield _gauge("workers", "Worker processes.", _one(states), "state")
        yield _counter("worker_starts", "Worker processes worker_started.", [((), self._starts)])
        yield _counter("worker_deaths", "Worker processes that ended.", _one(self._exits), "cause")
        yield _counter("rollouts", "Replacements of workers that have ended.", _one(self._rollouts), "result")
        yield _gauge("rollout_running", "1 while workers are being replaced.", [((), gauges.rolling)])
        yield Spread("event_loop_lag_seconds", "How late the supervisor's loop was.", self._lag)
        yield _gauge("memory_bytes", "ProcessMemory (PSS).", _one(_sizes(self._held)), "process")
        failures = gauges.platform_failures.items()
        yield _counter("platform_failures", "Exchanges that failed.", failures, "exchange", "kind")

    def _arm(self) -> asyncio.TimerHandle:
        due = self._loop.time() + LAG_EVERY
        return self._loop.call_at(due, self._look_at_lag, due)

    def _look_at_lag(self, due: float) -> None:
        self._lag.observe(max(0.0, self._loop.time() - due))
        self._timer = self._arm()


def _one(values: Mapping[str, float]) -> Values:
    """Values of one label."""
    return (((value,), number) for value, number in values.items())


def _sizes(held: MemoryByPid) -> dict[str, float]:
    """Bytes of this process, and of all others."""
    ours = held.get(os.getpid(), 0.0)
    return {"supervisor": ours * MB, "workers": (sum(held.values()) - ours) * MB}


def _counter(name: str, text: str, values: Values, *labels: str) -> Counted:
    return Counted(name, text, values, labels)


def _gauge(name: str, text: str, values: Values, *labels: str) -> Counted:
    return Counted(name, text, values, labels, may_sink=True)
