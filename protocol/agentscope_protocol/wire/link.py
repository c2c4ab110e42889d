"""The I/O of a link: an asyncio protocol on top of an `endpoint`, used by both sides.

It reads, passes events to its owner, and writes; it makes no decisions. All output of one iteration of the
event loop leaves in one write. It never pauses reading: credit throttles slow streams individually.

Read next: `endpoint`.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar, cast

from agentscope_protocol.wire.endpoint import Event
from agentscope_protocol.wire.errors import RemoteProtocolError
from agentscope_protocol.wire.requester import Requester
from agentscope_protocol.wire.responder import Responder

End = TypeVar("End", Requester, Responder)

PROTOCOL_ERROR: Final = "protocol error: "
"""Prefix of the `on_lost` reason when the peer has violated the protocol."""


class Link(asyncio.Protocol, Generic[End]):
    """One end of a link on a connected stream socket.

    `on_event` receives each event. `on_lost` is called once, when the peer is gone or has violated the
    protocol, with the reason and one terminal event for each open stream. Both run on the event loop and must
    not raise. One exception: `on_event` may raise RemoteProtocolError, which drops the link. After sending
    through `connection` outside of these callbacks, call `flush_soon`.
    """

    def __init__(
        self,
        connection: End,
        on_event: Callable[[Event], None],
        on_lost: Callable[[str, Sequence[Event]], None],
    ) -> None:
        self.connection: End = connection
        self.peer_gone = False  # the peer's end is closed: it no longer reads
        self._on_event = on_event
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._flush_due = False

    def flush_soon(self) -> None:
        """Write pending output at the end of the current iteration of the event loop."""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def flush_early(self) -> None:
        """Write the first output of an event loop iteration now, and the rest at the end of the iteration.

        The first message then leaves even if the App blocks the loop or crashes right after it. A burst of
        messages costs one additional write.
        """
        if not self._flush_due:
            self.flush()
        self.flush_soon()

    def flush(self) -> None:
        """Write pending output now."""
        # uvloop raises on a write to a closing transport; such output has no reader anyway.
        if self._transport is not None and not self._transport.is_closing():
            output = self.connection.take_output()
            if output:
                self._transport.writelines(output)

    def close(self, reason: str) -> None:
        """Drop the link. `on_lost` is called before this returns, unless the link is closed already."""
        if self.connection.closed:
            return
        unfinished = self.connection.close(reason)
        if self._transport is not None:
            self._transport.abort()
        self._on_lost(reason, unfinished)

    def _flush(self) -> None:
        self._flush_due = False
        self.flush()

    # -- asyncio callbacks --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports implement asyncio.Transport without deriving from it.
        self._transport = cast(asyncio.Transport, transport)
        self.flush()

    def data_received(self, data: bytes) -> None:
        try:
            for event in self.connection.receive(data):
                self._on_event(event)
        except RemoteProtocolError as error:
            self.close(f"{PROTOCOL_ERROR}{error}")
        self.flush()

    def eof_received(self) -> None:
        self.peer_gone = True
        self.close("the peer closed the link")

    def connection_lost(self, exc: Exception | None) -> None:
        # After our own `close`, the peer may still read output that was sent before.
        self.peer_gone = self.peer_gone or not self.connection.closed
        self.close("the link broke" if exc is None else f"the link broke: {exc}")
