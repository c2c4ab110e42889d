"""The watch over event loops in virtual time: who is suspected, condemned, spared."""

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

EVERY = 0.5  # seconds between two looks
TIMEOUT = 30.0
SLEEPING, RUNNING, STARVED = (
    ProcessSample("S", 0.0),
    ProcessSample("R", 1.0),
    ProcessSample("R", 0.1, SPENT_ENOUGH - 0.1),
)


@dataclass
class Worker:
    """What the page and the kernel would say of one worker."""

    sample: ProcessSample = SLEEPING
    loop_turns: bool = True
    thread_turns: bool = True
    counters: Counters = field(default_factory=lambda: Counters(0, 0))

    def tick(self) -> None:
        loop, thread = self.counters.loop, self.counters.thread
        self.counters = Counters(loop + self.loop_turns, thread + self.thread_turns)


@dataclass
class Ward:
    """Workers under watch, and what came of it: (time, command)."""

    workers: dict[int, Worker]
    detector: HangDetector = field(default_factory=lambda: HangDetector(TIMEOUT))
    now: float = 0.0
    told: list[tuple[float, Command | Recovered]] = field(default_factory=list)

    def look(self, after: float = EVERY) -> None:
        self.now += after
        for worker in self.workers.values():
            worker.tick()
        pages = {number: worker.counters for number, worker in self.workers.items()}
        recovered, late = self.detector.observe(pages, self.now, EVERY)
        samples = {number: self.workers[number].sample for number in late}
        self.told += [(self.now, event) for event in [*recovered, *self.detector.judge(samples, self.now)]]

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds / EVERY)):
            self.look()

    def kinds(self) -> list[type]:
        return [type(event) for _, event in self.told]


@pytest.fixture
def ward() -> Ward:
    return Ward({1: Worker(), 2: Worker()})


def test_a_healthy_hour_is_quiet(ward: Ward) -> None:
    ward.pass_time(3600)
    assert ward.told == []


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
def test_a_loop_that_stands_is_suspected_once_then_condemned(
    ward: Ward, thread_turns: bool, sample: ProcessSample, kind: Kind
) -> None:
    ward.pass_time(10)
    worker = ward.workers[1]
    worker.loop_turns, worker.thread_turns, worker.sample = False, thread_turns, sample
    stood_since = ward.now
    ward.pass_time(TIMEOUT)
    (suspected_at, suspect), (condemned_at, condemn) = ward.told
    assert suspect == Suspect(1, SUSPECT_AFTER, kind)
    assert suspected_at - stood_since == SUSPECT_AFTER
    assert condemn == RequestKill(1, TIMEOUT, kind)
    assert condemned_at - stood_since == TIMEOUT


def test_a_disk_is_given_twice_the_time(ward: Ward) -> None:
    ward.pass_time(1)
    ward.workers[1] = Worker(ProcessSample("D", 0.0), False, False, ward.workers[1].counters)
    ward.pass_time(2 * TIMEOUT - EVERY)
    assert ward.kinds() == [Suspect]
    ward.pass_time(EVERY)
    assert ward.told[1][1] == RequestKill(1, 2 * TIMEOUT, Kind.DISK_WAIT)


def test_a_loop_that_turns_again_has_recovered(ward: Ward) -> None:
    ward.pass_time(1)
    ward.workers[1].loop_turns = False
    ward.pass_time(12)
    ward.workers[1].loop_turns = True
    ward.pass_time(5)
    assert ward.kinds() == [Suspect, Recovered]
    assert ward.told[1][1] == Recovered(1, 12 + EVERY)
    ward.workers[1].loop_turns = False
    ward.pass_time(SUSPECT_AFTER)
    assert ward.kinds() == [Suspect, Recovered, Suspect], "a second time is told again"


@pytest.mark.fault("F11")
def test_who_wants_the_cpu_and_does_not_get_it_is_spared(ward: Ward) -> None:
    ward.pass_time(1)
    for number, worker in ward.workers.items():
        ward.workers[number] = Worker(STARVED, False, False, worker.counters)
    ward.pass_time(10 * TIMEOUT - EVERY)
    assert ward.told == []
    ward.pass_time(EVERY + DUMP_WITHIN)
    assert ward.kinds() == [Suspect, Suspect, RequestKill, RequestKill], "it has answered nobody for too long"


def test_short_blocks_again_and_again_are_nobodys_concern(ward: Ward) -> None:
    for _ in range(100):
        ward.workers[1].loop_turns = False
        ward.pass_time(SUSPECT_AFTER - EVERY)
        ward.workers[1].loop_turns = True
        ward.pass_time(EVERY)
    assert ward.told == []


@pytest.mark.fault("F13")
def test_nobody_is_judged_for_the_time_that_the_supervisor_was_suspended(ward: Ward) -> None:
    ward.pass_time(10)
    for worker in ward.workers.values():
        worker.loop_turns = worker.thread_turns = False  # the machine slept, all of it
    ward.look(after=60)
    ward.pass_time(60 + GRACE - EVERY)
    for worker in ward.workers.values():
        worker.loop_turns = worker.thread_turns = True
    ward.pass_time(60)
    assert ward.told == []


def test_a_suspect_is_not_condemned_for_the_time_that_the_supervisor_was_late(ward: Ward) -> None:
    ward.pass_time(1)
    ward.workers[1].loop_turns = False
    ward.pass_time(6)
    ward.look(after=3)
    ward.pass_time(TIMEOUT)
    assert ward.kinds() == [Suspect], "its time counts from the end of the grace"
    ward.pass_time(2.5 + GRACE - EVERY)
    assert ward.kinds() == [Suspect, RequestKill]


def test_who_is_gone_is_forgotten(ward: Ward) -> None:
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
    assert ward.kinds() == [Suspect, Suspect], "a new process of that number is looked at afresh"


@pytest.mark.fault("F59")
def test_garbage_on_a_page_is_a_counter_that_changes_or_does_not(ward: Ward) -> None:
    pages: list[Callable[[int], Counters]] = [lambda i: Counters(2**64 - 1 - i, 0), lambda _: Counters(0, 0)]
    detector, late = HangDetector(TIMEOUT), []
    for look in range(20):
        _, late = detector.observe({n: page(look) for n, page in enumerate(pages)}, look * EVERY, EVERY)
    assert late == [1]


def test_every_state_of_ps_has_a_diagnosis() -> None:
    for state in "RSDTtZXIWPK?":
        for thread_old in (True, False):
            for cpu in (0.0, 1.0):
                assert diagnose(thread_old, ProcessSample(state, cpu)) in Kind
