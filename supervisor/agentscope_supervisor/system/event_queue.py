"""The event queue of an instance: handles one event at a time, in order of arrival.

The queue ensures that no decision is requested while the commands of an earlier decision are carried out.
Events about processes and turns go through the queue. A new request is the exception, because it needs its
answer at once: `turns.service` asks `ledger` directly and posts the resulting commands.
"""

import logging
from collections import deque
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

Event = Callable[[], None]
Post = Callable[[Event], None]
"""Puts an event into the queue."""


class EventQueue:
    """A queue of callables. Not thread-safe: use it from one thread."""

    def __init__(self) -> None:
        self._events: Final[deque[Event]] = deque()
        self._handling = False

    def post(self, event: Event) -> None:
        """Handle `event` now, or after the events that are in the queue. An exception is logged."""
        self._events.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._events:
                try:
                    self._events.popleft()()
                except Exception:  # a bug in one event must not stop the events after it
                    log.exception("event failed")
        finally:
            self._handling = False
