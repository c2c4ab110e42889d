"""Waiting for another process: a condition and a deadline, never a fixed time.

A deadline fails a test and does not pace it: it is several times the expected duration, and costs nothing if
the condition is met in time. The whole harness and the tests use these functions.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

LOOK_EVERY: Final = 0.01  # seconds; no test measures more finely
LOOK_AT_LEAST_EVERY: Final = 0.1  # seconds
LOOKING: Final = 0.25  # share of a CPU that a condition may cost while a test waits for it


def _pause(began: float) -> float:
    """Seconds until the next look, after one that began at `began`: an expensive look repeats later."""
    cost = time.monotonic() - began
    return min(max(LOOK_EVERY, cost * (1 / LOOKING - 1)), LOOK_AT_LEAST_EVERY)


def wait_until(condition: Callable[[], T], within: float, what: str) -> T:
    """Return the first true value of `condition`; blocks the calling thread.

    `within`: seconds. Raises: AssertionError, which names `what`, if the condition stays false.
    """
    deadline = (began := time.monotonic()) + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(_pause(began))
        began = time.monotonic()
    return value


async def eventually(condition: Callable[[], T], within: float, what: str) -> T:
    """The same as `wait_until`, while the event loop of the test runs."""
    deadline = (began := time.monotonic()) + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        await asyncio.sleep(_pause(began))
        began = time.monotonic()
    return value


async def eventually_so(condition: Callable[[], Awaitable[T]], within: float, what: str) -> T:
    """The same as `eventually`, for an asynchronous condition."""
    deadline = time.monotonic() + within
    while not (value := await condition()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        await asyncio.sleep(LOOK_EVERY)
    return value
