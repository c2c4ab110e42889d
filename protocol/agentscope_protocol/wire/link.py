"""The I/O of a link: an asyncio protocol over a `connection`, used by both sides.

It reads, hands events on, and writes; it decides nothing. What is sent in one turn of the event loop
leaves in one write. It never pauses reading: a slow stream is held back by its own credit.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar, cast

from agentscope_protocol.wire.connection import Event, Requester, Responder
from agentscope_protocol.wire.errors import RemoteProtocolError

End = TypeVar("End", Requester, Responder)

BROKE_THE_RULES: Final = "protocol error: "
"""What the reason of a loss begins with when the peer sent what is not legal."""


class Link(asyncio.Protocol, Generic[End]):
    """One end of a link on a connected stream socket.

    `on_event` gets each event; `on_lost` is called once, with the reason and the terminal events of
    what was open, when the peer is gone or has broken the rules. Both run on the event loop and must
    not raise. After sending through `connection` outside of them, call `flush_soon`.
    """

    def __init__(
        self,
        connection: End,
        on_event: Callable[[Event], None],
        on_lost: Callable[[str, Sequence[Event]], None],
    ) -> None:
        self.connection: End = connection
        self.peer_gone = False  # the peer's end is closed: it reads nothing any more
        self._on_event = on_event
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._flush_due = False

    def flush_soon(self) -> None:
        """Write what has been sent when the current turn of the event loop is over."""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def flush_early(self) -> None:
        """Write now what is first sent in a turn of the event loop, and the rest when the turn is over.

        What an App says before it blocks the loop, or dies, has left then; a burst costs one write more.
        """
        if not self._flush_due:
            self.flush()
        self.flush_soon()

    def flush(self) -> None:
        """Write what has been sent now."""
        # uvloop raises on a write to a closing transport; what would be written has no reader.
        if self._transport is not None and not self._transport.is_closing():
            output = self.connection.take_output()
            if output:
                self._transport.writelines(output)

    def close(self, reason: str) -> None:
        """Drop the link; `on_lost` is called before this returns, unless it was before."""
        if self.connection.closed:
            return
        unfinished = self.connection.close(reason)
        if self._transport is not None:
            self._transport.abort()
        self._on_lost(reason, unfinished)

    def _flush(self) -> None:
        self._flush_due = False
        self.flush()

    # -- asyncio calls these ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio.Transport without deriving from it.
        self._transport = cast(asyncio.Transport, transport)
        self.flush()

    def data_received(self, data: bytes) -> None:
        try:
            for event in self.connection.receive(data):
                self._on_event(event)
        except RemoteProtocolError as error:
            self.close(f"{BROKE_THE_RULES}{error}")
        self.flush()

    def eof_received(self) -> None:
        self.peer_gone = True
        self.close("the peer closed the link")

    def connection_lost(self, exc: Exception | None) -> None:
        # After our own `close` the peer may still read what was sent before.
        self.peer_gone = self.peer_gone or not self.connection.closed
        self.close("the link broke" if exc is None else f"the link broke: {exc}")
