"""The limits of output that clients do not read: a minimum rate, and bytes of all connections together.

A connection is blocked while its transport holds more than the socket takes. Its peer must then read 1 KB/s;
otherwise the connection is cut. So are the ones without progress for the longest time when all blocked
connections hold more than `MAX_OUTPUT`. Whatever writes a response, both kinds of connections report here.
"""

import asyncio
from typing import Final, Protocol

from agentscope_supervisor.system.sweeper import Sweeper

MAX_OUTPUT: Final = 128 * 1024 * 1024
"""Bytes: eight answers of the maximum size. A whole answer takes the same again, as the result of its run."""
MIN_RATE: Final = 1024  # bytes per second, on average over RATE_WINDOW
RATE_WINDOW: Final = 60.0
"""Seconds. The kernel drops a peer that reads nothing after as long: see TCP_USER_TIMEOUT in `listener`."""
SWEEP_EVERY: Final = 0.5  # seconds between two looks at the blocked connections


class Blocked(Protocol):
    """A connection, for this module."""

    def unsent(self) -> int:
        """Bytes that its transport holds."""

    def cut(self) -> None:
        """Drop the connection, and what its client has not read."""


class _Progress:
    """Of one blocked connection."""

    __slots__ = ("in_time_at", "in_time_size", "moved_at", "size", "total")

    def __init__(self, size: int, now: float) -> None:
        self.total: Final = size  # bytes; the transport lets go of them together
        self.size = size  # bytes that are left
        self.moved_at = now  # when some were last taken
        self.in_time_size = size  # bytes that were left when the present window began
        self.in_time_at = now


class OutputLimits:
    """The blocked connections. `max_output`, `rate_window`: as the constants."""

    def __init__(self, max_output: int = MAX_OUTPUT, rate_window: float = RATE_WINDOW) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._max: Final = max_output
        self._window: Final = rate_window
        self._blocked: Final[dict[Blocked, _Progress]] = {}
        self._total = 0
        self._sweeper: Final = Sweeper(self._loop, min(SWEEP_EVERY, rate_window / 4), self._sweep)

    @property
    def total(self) -> int:
        """Bytes of all blocked connections."""
        return self._total

    def blocked(self, connection: Blocked) -> None:
        """The transport of this connection holds more than the socket takes."""
        self.unblocked(connection)
        progress = self._blocked[connection] = _Progress(connection.unsent(), self._loop.time())
        self._total += progress.total
        while self._total > self._max:
            self._cut(min(self._blocked, key=self._moved_at))
        self._sweeper.soon()

    def unblocked(self, connection: Blocked) -> None:
        """The socket has taken all but a little, or the connection is lost."""
        progress = self._blocked.pop(connection, None)
        if progress is not None:
            self._total -= progress.total

    def _moved_at(self, connection: Blocked) -> float:
        return self._blocked[connection].moved_at

    def _cut(self, connection: Blocked) -> None:
        self.unblocked(connection)
        connection.cut()

    def _sweep(self) -> bool:
        now = self._loop.time()
        for connection, progress in list(self._blocked.items()):
            size = connection.unsent()
            if size < progress.size:
                progress.size, progress.moved_at = size, now
            if progress.in_time_size - size >= MIN_RATE * self._window:
                progress.in_time_size, progress.in_time_at = size, now
            elif now - progress.in_time_at >= self._window:
                self._cut(connection)
        return bool(self._blocked)
