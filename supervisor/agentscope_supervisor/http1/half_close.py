"""A peer that has sent its end: it has left, or only sends no more and waits for its answer.

TCP tells the two apart when something is sent: who has left resets the connection. So while an answer is
awaited, the peer is sent what a client must ignore, at growing intervals.
"""

import asyncio
import select
from collections.abc import Callable
from typing import Final

FIRST_LOOK: Final = 0.05  # seconds after which a half-closed peer is looked at; each time twice as long
LAST_LOOK: Final = 5.0  # but not longer

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
"""What may be sent before an answer, as often as one likes."""


def watch(loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, provoke: Callable[[], bool]) -> None:
    """Abort the connection once its peer turns out to have left. `provoke`: sends something, or closes the
    connection if nothing is awaited on it; returns whether the peer is to be looked at again."""
    loop.call_soon(_look, loop, transport, provoke, FIRST_LOOK)


def _look(
    loop: asyncio.AbstractEventLoop,
    transport: asyncio.Transport,
    provoke: Callable[[], bool],
    next_look: float,
) -> None:
    if transport.is_closing():
        return
    if _is_reset(transport):
        transport.abort()
    elif provoke():
        loop.call_later(next_look, _look, loop, transport, provoke, min(next_look * 2, LAST_LOOK))


def _is_reset(transport: asyncio.Transport) -> bool:
    """Whether the peer has reset the connection; the loop does not look after the end of what it sends."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), 0)
    return len(poll.poll(0)) > 0
