"""Waiting for what another process does: a condition and a deadline, never a fixed time.

A deadline is there to fail a test, not to pace it: it is several times what is expected, and costs nothing
where the condition comes in time. Used by everything in `tests.harness` and by the tests themselves.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

LOOK_EVERY: Final = 0.01  # seconds; nothing here is measured finer


def wait_until(condition: Callable[[], T], within: float, what: str) -> T:
    """The first true value of `condition`; blocks the calling thread.

    `within`: seconds. Raises: AssertionError, naming `what`, when it stays false.
    """
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(LOOK_EVERY)
    return value


async def eventually(condition: Callable[[], T], within: float, what: str) -> T:
    """As `wait_until`, while the loop of the test goes on."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        await asyncio.sleep(LOOK_EVERY)
    return value


async def eventually_so(condition: Callable[[], Awaitable[T]], within: float, what: str) -> T:
    """As `eventually`, for a condition that has to be asked for."""
    deadline = time.monotonic() + within
    while not (value := await condition()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        await asyncio.sleep(LOOK_EVERY)
    return value
