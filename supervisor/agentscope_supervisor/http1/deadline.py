"""A deadline that moves often and expires seldom, with one timer: for the time limits of a connection."""

import asyncio
from collections.abc import Callable
from typing import Final


class Deadline:
    """Calls `expired` once the deadline has passed. Moving it later costs no new timer."""

    __slots__ = ("_due", "_expired", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[], None]) -> None:
        self._loop: Final = loop
        self._expired: Callable[[], None] | None = expired
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_set(self) -> bool:
        return self._timer is not None

    def set(self, due: float) -> None:
        """Expire at `due`, in the loop's time. An earlier one than before needs `clear` first."""
        self._due = due
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._look)

    def clear(self) -> None:
        """Do not expire."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Never expire again, and let go of the callback, which refers to the owner."""
        self.clear()
        self._expired = None

    def _look(self) -> None:
        self._timer = None
        if self._loop.time() < self._due:
            self.set(self._due)
        else:
            assert self._expired is not None, "a closed deadline has no timer"
            self._expired()
