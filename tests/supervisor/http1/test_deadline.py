"""A deadline that moves often: it expires once, at the last time that was set."""

import asyncio
import weakref
from collections.abc import Callable

from agentscope_supervisor.http1.deadline import Deadline


class Timer(asyncio.TimerHandle):
    """A timer of `Clock`."""

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when_due, self.callback, self.is_cancelled = when, callback, False

    def cancel(self) -> None:
        self.is_cancelled = True


class Clock(asyncio.AbstractEventLoop):
    """A loop whose time passes when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:  # type: ignore[override]
        self.timers.append(Timer(when, callback))
        return self.timers[-1]

    def passes(self, until: float) -> None:
        before, self.now = self.now, until
        for timer in list(self.timers):
            if before < timer.when_due <= until and not timer.is_cancelled:
                timer.callback()


def deadline() -> tuple[Clock, Deadline, list[float]]:
    clock, expired = Clock(), list[float]()
    return clock, Deadline(clock, lambda: expired.append(clock.now)), expired


def test_it_expires_once() -> None:
    clock, made, expired = deadline()
    assert not made.is_set
    made.set(5.0)
    assert made.is_set
    clock.passes(4.9)
    assert expired == []
    clock.passes(5.0)
    assert (expired, made.is_set) == ([5.0], False)
    clock.passes(50.0)
    assert expired == [5.0]


def test_moving_it_later_costs_no_timer() -> None:
    clock, made, expired = deadline()
    for due in range(5, 100):
        made.set(float(due))
    assert len(clock.timers) == 1
    clock.passes(5.0)
    assert (expired, made.is_set, len(clock.timers)) == ([], True, 2)
    clock.passes(99.0)
    assert expired == [99.0]


def test_it_can_be_cleared_and_set_earlier() -> None:
    clock, made, expired = deadline()
    made.set(9.0)
    made.clear()
    made.clear()
    assert not made.is_set
    made.set(3.0)
    clock.passes(3.0)
    assert expired == [3.0]
    clock.passes(20.0)
    assert expired == [3.0], "the first timer was cancelled"


def test_it_can_be_set_again_when_it_has_expired() -> None:
    clock, made, expired = deadline()
    made.set(1.0)
    clock.passes(1.0)
    made.set(2.0)
    clock.passes(2.0)
    assert expired == [1.0, 2.0]


def test_a_closed_deadline_refers_to_its_owner_no_more() -> None:
    class Owner:
        def expired(self) -> None: ...

    owner = Owner()
    made = Deadline(Clock(), owner.expired)
    made.set(1.0)
    gone = weakref.ref(owner)
    made.close()
    del owner
    assert gone() is None
    assert not made.is_set
