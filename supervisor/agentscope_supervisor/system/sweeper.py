"""A timer for a sweep: a check of many objects that repeats while there is something to check.

One timer for all objects replaces one timer for each of them. The owner starts it when the first object
arrives; it ends by itself when a sweep finds nothing left to check. Knows nothing about the objects.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from agentscope_supervisor.system.event_queue import Event, Post


def _run_now(event: Event) -> None:
    event()


class Sweeper:
    """Calls `sweep` every `every` seconds for as long as it returns True.

    `post` puts the call into an event queue; by default it runs directly on the event loop. A sweep that
    raises is repeated too, so that one failure does not end the checks.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, every: float, sweep: Callable[[], bool], post: Post = _run_now
    ) -> None:
        self._loop: Final = loop
        self._every: Final = every
        self._sweep: Final = sweep
        self._post: Final = post
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def soon(self) -> None:
        """Schedule a sweep `every` seconds from now. Does nothing if one is scheduled, or after `close`."""
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(self._every, self._post, self._run)

    def close(self) -> None:
        """Cancel the scheduled sweep. No sweep runs afterwards."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _run(self) -> None:
        self._timer = None
        if self._closed:  # while the event was in the queue
            return
        again = True
        try:
            again = self._sweep()
        finally:
            if again:
                self.soon()
