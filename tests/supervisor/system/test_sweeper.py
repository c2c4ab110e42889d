"""When a sweep runs and repeats, in virtual time."""

from collections.abc import Callable, Iterator

import pytest

from agentscope_supervisor.system.event_queue import EventQueue
from agentscope_supervisor.system.sweeper import Sweeper
from tests.fakes.machine import VirtualLoop


class Sweeps:
    """Records the times of sweeps. A sweep returns True while `left` is positive."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.at: list[float] = []
        self.left = 0
        self.during: Callable[[], None] = lambda: None

    def __call__(self) -> bool:
        self.at.append(self.loop.now - 1000.0)
        self.during()
        self.left -= 1
        return self.left > 0


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.close()


@pytest.fixture
def sweeps(loop: VirtualLoop) -> Sweeps:
    return Sweeps(loop)


def test_a_sweep_repeats_while_it_returns_true_and_can_be_started_again(
    loop: VirtualLoop, sweeps: Sweeps
) -> None:
    sweeper = Sweeper(loop, 2.0, sweeps)
    loop.pass_time(10.0)
    assert sweeps.at == [], "it is not started"
    sweeps.left = 3
    sweeper.soon()
    loop.pass_time(10.0)
    assert sweeps.at == [12.0, 14.0, 16.0]
    sweeper.soon()
    loop.pass_time(10.0)
    assert sweeps.at[3:] == [22.0]


def test_a_scheduled_sweep_is_not_scheduled_twice(loop: VirtualLoop, sweeps: Sweeps) -> None:
    sweeper = Sweeper(loop, 2.0, sweeps)
    sweeps.left = 2
    sweeps.during = sweeper.soon
    sweeper.soon()
    loop.pass_time(1.0)
    sweeper.soon()
    loop.pass_time(3.5)
    assert sweeps.at == [2.0, 4.0]


def test_a_sweep_that_raises_is_reported_and_repeated(loop: VirtualLoop, sweeps: Sweeps) -> None:
    def fail() -> None:
        if len(sweeps.at) == 1:
            raise ZeroDivisionError

    sweeps.during = fail
    Sweeper(loop, 2.0, sweeps).soon()
    loop.pass_time(10.0)
    assert sweeps.at == [2.0, 4.0]
    assert [type(context["exception"]) for context in loop.unhandled] == [ZeroDivisionError]


def test_no_sweep_runs_after_close(loop: VirtualLoop, sweeps: Sweeps) -> None:
    sweeper = Sweeper(loop, 2.0, sweeps)
    sweeper.close()
    sweeper.soon()
    other = Sweeper(loop, 2.0, sweeps)
    other.soon()
    other.close()
    sweeps.left, closes_itself = 5, Sweeper(loop, 2.0, sweeps)
    sweeps.during = closes_itself.close
    closes_itself.soon()
    loop.pass_time(10.0)
    assert sweeps.at == [2.0]


def test_a_sweep_in_the_queue_does_not_run_after_close(loop: VirtualLoop, sweeps: Sweeps) -> None:
    queue = EventQueue()
    sweeper = Sweeper(loop, 2.0, sweeps, queue.post)
    sweeper.soon()

    def close_after_the_timer() -> None:
        sweeper._timer, timer = None, sweeper._timer
        assert timer is not None
        queue.post(sweeper._run)
        sweeper.close()

    queue.post(close_after_the_timer)
    loop.pass_time(10.0)
    assert sweeps.at == []
