"""Detection of blocked event loops in virtual time: suspects, kills, and workers that are not judged."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from agentscope_supervisor.workers.hang_detection import (
    DUMP_WITHIN,
    GRACE,
    SPENT_ENOUGH,
    SUSPECT_AFTER,
    Command,
    Counters,
    HangDetector,
    Kind,
    ProcessSample,
    Recovered,
    RequestKill,
    Suspect,
    diagnose,
)

EVERY = 0.5  # seconds between two checks
TIMEOUT = 30.0
SLEEPING, RUNNING, STARVED = (
    ProcessSample("S", 0.0),
    ProcessSample("R", 1.0),
    ProcessSample("R", 0.1, SPENT_ENOUGH - 0.1),
)


@dataclass
class Worker:
    """The page of one worker, and what the kernel reports about it."""

    sample: ProcessSample = SLEEPING
    loop_turns: bool = True
    thread_turns: bool = True
    counters: Counters = field(default_factory=lambda: Counters(0, 0))

    def tick(self) -> None:
        loop, thread = self.counters.loop, self.counters.thread
        self.counters = Counters(loop + self.loop_turns, thread + self.thread_turns)


@dataclass
class Ward:
    """Watched workers, and the events with their times."""

    workers: dict[int, Worker]
    detector: HangDetector = field(default_factory=lambda: HangDetector(TIMEOUT))
    now: float = 0.0
    events: list[tuple[float, Command | Recovered]] = field(default_factory=list)

    def check(self, after: float = EVERY) -> None:
        self.now += after
        for worker in self.workers.values():
            worker.tick()
        counters = {number: worker.counters for number, worker in self.workers.items()}
        recovered, late = self.detector.observe(counters, self.now, EVERY)
        samples = {number: self.workers[number].sample for number in late}
        self.events += [(self.now, event) for event in [*recovered, *self.detector.judge(samples, self.now)]]

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds / EVERY)):
            self.check()

    def kinds(self) -> list[type]:
        return [type(event) for _, event in self.events]


@pytest.fixture
def ward() -> Ward:
    return Ward({1: Worker(), 2: Worker()})


def test_healthy_workers_cause_no_events(ward: Ward) -> None:
    ward.pass_time(3600)
    assert ward.events == []


@pytest.mark.parametrize(
    "thread_turns, sample, kind",
    [
        (True, SLEEPING, Kind.BLOCKING_CALL),
        (True, RUNNING, Kind.PYTHON_LOOP),
        (False, RUNNING, Kind.LOCK_HELD),
        (False, ProcessSample("R", 0.1, SPENT_ENOUGH), Kind.LOCK_HELD),
        (False, ProcessSample("T", 0.0), Kind.STOPPED),
        (True, ProcessSample("t", 0.0), Kind.STOPPED),
        (False, SLEEPING, Kind.DEADLOCK),
    ],
)
def test_a_blocked_loop_is_suspect_once_and_then_killed(
    ward: Ward, thread_turns: bool, sample: ProcessSample, kind: Kind
) -> None:
    ward.pass_time(10)
    worker = ward.workers[1]
    worker.loop_turns, worker.thread_turns, worker.sample = False, thread_turns, sample
    blocked_since = ward.now
    ward.pass_time(TIMEOUT)
    (suspected_at, suspect), (killed_at, kill) = ward.events
    assert suspect == Suspect(1, SUSPECT_AFTER, kind)
    assert suspected_at - blocked_since == SUSPECT_AFTER
    assert kill == RequestKill(1, TIMEOUT, kind)
    assert killed_at - blocked_since == TIMEOUT


def test_a_worker_in_disk_sleep_gets_twice_the_timeout(ward: Ward) -> None:
    ward.pass_time(1)
    ward.workers[1] = Worker(ProcessSample("D", 0.0), False, False, ward.workers[1].counters)
    ward.pass_time(2 * TIMEOUT - EVERY)
    assert ward.kinds() == [Suspect]
    ward.pass_time(EVERY)
    assert ward.events[1][1] == RequestKill(1, 2 * TIMEOUT, Kind.DISK_WAIT)


def test_a_loop_that_runs_again_has_recovered(ward: Ward) -> None:
    ward.pass_time(1)
    ward.workers[1].loop_turns = False
    ward.pass_time(12)
    ward.workers[1].loop_turns = True
    ward.pass_time(5)
    assert ward.kinds() == [Suspect, Recovered]
    assert ward.events[1][1] == Recovered(1, 12 + EVERY)
    ward.workers[1].loop_turns = False
    ward.pass_time(SUSPECT_AFTER)
    assert ward.kinds() == [Suspect, Recovered, Suspect], "a second block is reported again"


@pytest.mark.fault("F11")
def test_a_starved_worker_gets_ten_times_the_timeout(ward: Ward) -> None:
    ward.pass_time(1)
    for number, worker in ward.workers.items():
        ward.workers[number] = Worker(STARVED, False, False, worker.counters)
    ward.pass_time(10 * TIMEOUT - EVERY)
    assert ward.events == []
    ward.pass_time(EVERY + DUMP_WITHIN)
    assert ward.kinds() == [Suspect, Suspect, RequestKill, RequestKill], (
        "both were blocked for ten times the timeout"
    )


def test_repeated_short_blocks_cause_no_events(ward: Ward) -> None:
    for _ in range(100):
        ward.workers[1].loop_turns = False
        ward.pass_time(SUSPECT_AFTER - EVERY)
        ward.workers[1].loop_turns = True
        ward.pass_time(EVERY)
    assert ward.events == []


@pytest.mark.fault("F13")
def test_no_worker_is_judged_for_a_suspension_of_the_supervisor(ward: Ward) -> None:
    ward.pass_time(10)
    for worker in ward.workers.values():
        worker.loop_turns = worker.thread_turns = False  # the whole machine was suspended
    ward.check(after=60)
    ward.pass_time(60 + GRACE - EVERY)
    for worker in ward.workers.values():
        worker.loop_turns = worker.thread_turns = True
    ward.pass_time(60)
    assert ward.events == []


def test_a_suspect_is_not_killed_for_a_delay_of_the_supervisor(ward: Ward) -> None:
    ward.pass_time(1)
    ward.workers[1].loop_turns = False
    ward.pass_time(6)
    ward.check(after=3)
    ward.pass_time(TIMEOUT)
    assert ward.kinds() == [Suspect], "the timeout starts at the end of the grace time"
    ward.pass_time(2.5 + GRACE - EVERY)
    assert ward.kinds() == [Suspect, RequestKill]


def test_an_exited_worker_is_forgotten(ward: Ward) -> None:
    ward.pass_time(1)
    ward.workers[1].loop_turns = False
    ward.pass_time(6)
    del ward.workers[1]
    ward.pass_time(1)
    ward.workers[1] = Worker()
    ward.workers[1].loop_turns = False
    ward.pass_time(SUSPECT_AFTER)
    assert ward.kinds() == [Suspect]
    ward.pass_time(EVERY)
    assert ward.kinds() == [Suspect, Suspect], "a new worker with this number starts without a history"


@pytest.mark.fault("F59")
def test_garbage_on_a_page_counts_as_a_changing_or_constant_counter(ward: Ward) -> None:
    pages: list[Callable[[int], Counters]] = [lambda i: Counters(2**64 - 1 - i, 0), lambda _: Counters(0, 0)]
    detector, late = HangDetector(TIMEOUT), []
    for check in range(20):
        _, late = detector.observe({n: page(check) for n, page in enumerate(pages)}, check * EVERY, EVERY)
    assert late == [1]


def test_every_state_of_ps_has_a_diagnosis() -> None:
    for state in "RSDTtZXIWPK?":
        for thread_old in (True, False):
            for cpu in (0.0, 1.0):
                assert diagnose(thread_old, ProcessSample(state, cpu)) in Kind
