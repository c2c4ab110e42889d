"""One exchange that is open on a link: what its client sends to the worker, and what the worker answers.

`workers.link` reports the worker's frames to it; the route that serves the client is its listener. Makes no
decisions.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from agentscope_protocol.wire.errors import Code
from agentscope_protocol.wire.frames import CancelReason, Head


class Wire(Protocol):
    """The supervisor's end of the link, for one exchange at a time (`wire.requester.Requester`)."""

    def can_input(self, stream: int) -> bool: ...
    def input(self, stream: int, kind: int, payload: bytes) -> bool: ...
    def consumed(self, stream: int, size: int) -> None: ...
    def cancel(self, stream: int, reason: CancelReason) -> None: ...


class ExchangeListener(Protocol):
    """The route that serves the client. Called on the event loop; no method may raise."""

    def head(self, head: Head) -> None:
        """The response begins."""

    def message(self, kind: int, payload: bytes) -> None:
        """One message of the response. Call `OpenExchange.consumed` once for each, when the client has it."""

    def over(self, code: Code | None, message: str) -> None:
        """The exchange has ended; `code`: None: completely. Nothing follows."""

    def restarting(self) -> None:
        """The worker is being replaced or stopped. The exchange may go on until `over`."""


class OpenExchange:
    """An exchange with the worker `label` in `slot`, whose process has the number `process`."""

    __slots__ = (
        "_flush",
        "_listener",
        "_loop",
        "_stream",
        "_takes_input",
        "_wire",
        "_writable",
        "cancelled_for",
        "is_over",
        "label",
        "process",
        "slot",
    )

    def __init__(self, process: int, slot: int, label: str, listener: ExchangeListener) -> None:
        self.process: Final = process
        self.slot: Final = slot
        self.label: Final = label
        self._listener: Final = listener
        self._loop: Final = asyncio.get_running_loop()
        self._writable: asyncio.Future[None] | None = None
        self.cancelled_for: CancelReason | None = None
        self.is_over = False  # it has ended, or was cancelled
        self._takes_input = True

    def opened(self, wire: Wire, stream: int, flush: Callable[[], None]) -> None:
        """The link has opened its stream. `flush`: writes the link's output soon."""
        self._wire, self._stream, self._flush = wire, stream, flush

    # -- from the client ------------------------------------------------------------------------

    async def send(self, kind: int, payload: bytes) -> bool:
        """Send a message to the app, once there is credit. Returns whether the app may get further ones."""
        while self._takes_input:
            if self._wire.can_input(self._stream):
                self._wire.input(self._stream, kind, payload)
                self._flush()
                return True
            self._writable = self._loop.create_future()
            await self._writable
        return False

    def send_last(self, kind: int, payload: bytes) -> None:
        """Send the message that ends the input. Does nothing if the exchange or its input is over."""
        if self._takes_input:
            self._takes_input = False
            self._wire.input(self._stream, kind, payload)
            self._flush()

    def consumed(self, size: int) -> None:
        """The client has received one message of `size` bytes."""
        self._wire.consumed(self._stream, size)
        self._flush()

    def cancel(self, reason: CancelReason) -> None:
        """Ask the worker to end the exchange; `over` follows. The first reason is kept."""
        self.cancelled_for = self.cancelled_for or reason
        self._wire.cancel(self._stream, reason)
        self._end_input()
        self._flush()

    # -- from the worker ------------------------------------------------------------------------

    def writable(self) -> None:
        """There is credit for input again."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def head(self, head: Head) -> None:
        self._listener.head(head)

    def message(self, kind: int, payload: bytes) -> None:
        self._listener.message(kind, payload)

    def over(self, code: Code | None, message: str) -> None:
        self._end_input()
        self._listener.over(code, message)

    def restarting(self) -> None:
        self._listener.restarting()

    def _end_input(self) -> None:
        self.is_over, self._takes_input = True, False
        self.writable()
