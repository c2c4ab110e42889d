"""A client that has sent its end: it has left, or it sends no more and waits for its response.

TCP tells the two apart when something is sent: a client that has left resets the connection. So while a
response is awaited, the client is sent something that it must ignore, at growing intervals.
"""

import asyncio
import select
from collections.abc import Callable
from typing import Final

FIRST_PROBE: Final = 0.05  # seconds after the end; each interval is twice as long as the one before
LONGEST_INTERVAL: Final = 5.0  # seconds


class HalfClose:
    """The watch of one connection over its half-closed client.

    `probe`: sends something that the client ignores, or closes the connection if no response is awaited on
    it; returns whether to probe again.
    """

    __slots__ = ("_loop", "_probe", "has_begun")

    def __init__(self, loop: asyncio.AbstractEventLoop, probe: Callable[[], bool]) -> None:
        self._loop: Final = loop
        self._probe: Final = probe
        self.has_begun = False  # the client has sent its end

    def begin(self, transport: asyncio.Transport) -> None:
        """The client has sent its end. uvloop may report it twice."""
        if not self.has_begun:
            self.has_begun = True
            self._loop.call_soon(self._look, transport, FIRST_PROBE)

    def _look(self, transport: asyncio.Transport, interval: float) -> None:
        if transport.is_closing():
            return
        if _is_reset(transport):
            transport.abort()
        elif self._probe():
            self._loop.call_later(interval, self._look, transport, min(interval * 2, LONGEST_INTERVAL))


def _is_reset(transport: asyncio.Transport) -> bool:
    """Whether the client has reset the connection: the loop does not report it after the client's end."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), 0)
    return len(poll.poll(0)) > 0
