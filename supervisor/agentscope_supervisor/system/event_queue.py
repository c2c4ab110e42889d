"""The one queue of an instance: what happens is handled one event at a time, in order of arrival.

So that a decision is never asked in the middle of carrying out what it has just decided. What happens to
processes and turns comes through here; only a request has its answer at once: `turns.service` asks `ledger`,
and posts what is to be done.
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
    """To be used on one thread."""

    def __init__(self) -> None:
        self._events: Final[deque[Event]] = deque()
        self._handling = False

    def post(self, event: Event) -> None:
        """Handle an event now, or after those that are being handled."""
        self._events.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._events:
                try:
                    self._events.popleft()()
                except Exception:  # a bug of ours in one event must not be the end of all others
                    log.exception("event failed")
        finally:
            self._handling = False
