"""The metrics of `GET /metrics`: counters that are kept here, and gauges that are read for each request.

All metrics belong to the supervisor; workers keep none. A label must never contain a session, a user or any
text of a turn: each label has a few values, which this module or an enum defines, or names of models, whose
number is bounded. The counters are plain numbers, because one thread needs no locks. `prometheus` formats
them.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agentscope_supervisor import __version__
from agentscope_supervisor.domain.errors import Failure
from agentscope_supervisor.domain.run import Run
from agentscope_supervisor.system.process_memory import MB, MemoryByPid, ProcessMemory
from agentscope_supervisor.telemetry.histogram import Histogram

LAG_EVERY: Final = 0.5  # seconds between two measurements of the lag of the event loop

MAX_MODELS: Final = 20
"""Names of models that are counted by themselves. An App may make up names, and each one is a series."""

OTHER_MODEL: Final = "other"  # the name of the others

# Bounds in seconds. A turn takes as long as a model, seconds to minutes; a wait or a lag takes milliseconds.
# Typed as Sequence: mypyc treats a constant tuple of floats as never assigned (mypy 2.4).
_TURN: Final[Sequence[float]] = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_FIRST: Final[Sequence[float]] = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_WAIT: Final[Sequence[float]] = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)
_LAG: Final[Sequence[float]] = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


@dataclass(frozen=True, slots=True)
class Gauges:
    """The current values of the gauges."""

    running: int  # turns that run on a worker
    waiting: int  # turns that wait for a worker
    active_sessions: int
    workers: Mapping[str, int]  # by state
    rolling: bool
    platform_failures: Mapping[tuple[str, str], int]  # by exchange and kind


Values = Iterable[tuple[Sequence[str], float]]
"""Pairs of label values and the value of the metric."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """The current values of a counter or gauge. `name` is without the common prefix."""

    name: str
    text: str
    values: Values
    labels: tuple[str, ...] = ()
    may_decrease: bool = False  # a gauge


@dataclass(frozen=True, slots=True)
class Distribution:
    """The current state of a histogram. `name` is without the common prefix."""

    name: str
    text: str
    histogram: Histogram


class Metrics:
    """The metrics of one instance. Create it on the event loop; `close` stops the measurement of its lag.

    `gauges` returns the current gauges without blocking. `states` are the states of worker processes that are
    counted; `causes` are the causes of their exits.
    """

    def __init__(
        self,
        gauges: Callable[[], Gauges],
        memory: ProcessMemory,
        states: Sequence[str],
        causes: Iterable[str],
    ) -> None:
        self._gauges: Final = gauges
        self._loop: Final = asyncio.get_running_loop()
        self._started: Final = time.time()
        self._states: Final = states
        self._requests: Final[Counter[tuple[str, int]]] = Counter()
        # Starts at 0: Prometheus computes a rate only for a series that it has seen before.
        self._turns: Final = Counter[tuple[str, str]]({("native", "OK"): 0})
        self._exits: Final = Counter[str](dict.fromkeys(causes, 0))
        self._rollouts: Final = Counter({"done": 0, "failed": 0})
        self._calls: Final = Counter[str]()  # by model, as the two below
        self._tokens: Final = Counter[tuple[str, str]]()
        self._model_ms: Final = Counter[str]()
        self._duration: Final = Histogram(_TURN)
        self._first: Final = Histogram(_FIRST)
        self._wait: Final = Histogram(_WAIT)
        self._lag: Final = Histogram(_LAG)
        self._events = self._bytes = self._starts = 0
        self._memory: Final = memory
        self._memory_by_pid: MemoryByPid = {}
        self._timer = self._arm()

    def close(self) -> None:
        """Stop measuring. No other method may be called afterwards."""
        self._timer.cancel()

    async def collect(self) -> Iterator[Scalar | Distribution]:
        """Measure the memory and return the current metrics."""
        self._memory_by_pid = await self._memory.measure()
        return self._collect()

    # -- events -------------------------------------------------------------------------------

    def request(self, route: str, status: int) -> None:
        """Count an answered request. `route` must be one of a few fixed values."""
        self._requests[route, status] += 1

    def turn(self, run: Run, failure: Failure | None, now: float) -> None:
        """Count a turn that has ended, with its durations and its output."""
        self._turns[run.wire.name, failure.code if failure is not None else "OK"] += 1
        self._duration.observe(now - run.started_at)
        if run.taken_at is not None:
            self._wait.observe(run.taken_at - run.started_at)
        if run.first_at is not None:
            self._first.observe(run.first_at - run.started_at)
        for each in run.usage.models if run.usage is not None else ():
            name = each.model
            if name not in self._calls and len(self._calls) >= MAX_MODELS:
                name = OTHER_MODEL
            self._calls[name] += each.calls
            self._tokens[name, "input"] += each.input_tokens
            self._tokens[name, "output"] += each.output_tokens
            self._model_ms[name] += each.ms
        self._events += run.events
        self._bytes += run.bytes

    def worker_started(self) -> None:
        """Count a worker process that was started."""
        self._starts += 1

    def worker_exited(self, cause: str) -> None:
        """Count a worker process that has exited."""
        self._exits[cause] += 1

    def rollout_ended(self, *, succeeded: bool) -> None:
        """Count a rollout that has ended."""
        self._rollouts["done" if succeeded else "failed"] += 1

    # -- output -------------------------------------------------------------------------------

    def _collect(self) -> Iterator[Scalar | Distribution]:
        gauges = self._gauges()
        yield _gauge("build_info", "Version of the supervisor.", [((__version__,), 1)], "version")
        yield _gauge(
            "start_time_seconds", "When the instance was started, since 1970.", [((), self._started)]
        )
        requests = (((route, str(status)), count) for (route, status), count in self._requests.items())
        yield _counter("http_requests", "HTTP requests that were answered.", requests, "route", "status")
        yield _counter(
            "turns",
            "Turns that have ended, by the dialect of their client, and OK or their error code.",
            self._turns.items(),
            "dialect",
            "outcome",
        )
        yield Distribution(
            "turn_duration_seconds", "Time from acceptance of a turn to its end.", self._duration
        )
        yield Distribution(
            "turn_first_event_seconds", "Time from acceptance of a turn to its first event.", self._first
        )
        yield Distribution(
            "turn_wait_seconds", "Time from acceptance of a turn until a worker received it.", self._wait
        )
        now = {"running": gauges.running, "waiting": gauges.waiting}
        yield _gauge("turns_open", "Turns that have not ended.", _by_label(now), "state")
        yield _counter("events", "Events that workers have sent.", [((), self._events)])
        yield _counter("event_bytes", "Bytes of events that workers have sent.", [((), self._bytes)])
        yield _counter(
            "model_calls", "Model calls of turns that have ended.", _by_label(self._calls), "model"
        )
        yield _counter("model_tokens", "Tokens of these calls.", self._tokens.items(), "model", "direction")
        seconds = {model: ms / 1000 for model, ms in self._model_ms.items()}
        yield _counter("model_seconds", "Time of these calls.", _by_label(seconds), "model")
        yield _gauge(
            "sessions_active", "Sessions with a turn in the last 300 s.", [((), gauges.active_sessions)]
        )
        states = {state: gauges.workers.get(state, 0) for state in self._states}
        yield _gauge("workers", "Worker processes by state.", _by_label(states), "state")
        yield _counter("worker_starts", "Worker processes that were started.", [((), self._starts)])
        yield _counter("worker_deaths", "Worker processes that have exited.", _by_label(self._exits), "cause")
        yield _counter("rollouts", "Rollouts that have ended.", _by_label(self._rollouts), "result")
        yield _gauge("rollout_running", "1 while workers are being replaced.", [((), gauges.rolling)])
        yield Distribution("event_loop_lag_seconds", "Lag of the event loop of the supervisor.", self._lag)
        yield _gauge(
            "memory_bytes",
            "Memory of the processes (PSS).",
            _by_label(_sizes(self._memory_by_pid)),
            "process",
        )
        failures = gauges.platform_failures.items()
        yield _counter("platform_failures", "Failed requests to the platform.", failures, "exchange", "kind")

    def _arm(self) -> asyncio.TimerHandle:
        due = self._loop.time() + LAG_EVERY
        return self._loop.call_at(due, self._measure_lag, due)

    def _measure_lag(self, due: float) -> None:
        self._lag.observe(max(0.0, self._loop.time() - due))
        self._timer = self._arm()


def _by_label(values: Mapping[str, float]) -> Values:
    """Return the values of a metric with one label."""
    return (((value,), number) for value, number in values.items())


def _sizes(memory: MemoryByPid) -> dict[str, float]:
    """Return the bytes of this process, and those of all workers together."""
    ours = memory.get(os.getpid(), 0.0)
    return {"supervisor": ours * MB, "workers": (sum(memory.values()) - ours) * MB}


def _counter(name: str, text: str, values: Values, *labels: str) -> Scalar:
    return Scalar(name, text, values, labels)


def _gauge(name: str, text: str, values: Values, *labels: str) -> Scalar:
    return Scalar(name, text, values, labels, may_decrease=True)
