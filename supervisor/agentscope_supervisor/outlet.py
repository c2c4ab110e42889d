"""The way of a stream's bytes to its client's transport: the last step of each event.

`http_protocol` and `http_direct` own the connection; `answer` writes here.
"""

import asyncio
from typing import Final


class Outlet:
    """The client's transport, with chunked framing where the client understands it. `is_blocked`: the
    client's socket takes less than is sent; its connection sets it."""

    __slots__ = ("_chunked", "_transport", "is_blocked")

    def __init__(self, transport: asyncio.Transport, is_blocked: bool, *, chunked: bool = True) -> None:
        self.is_blocked = is_blocked
        self._transport: Final = transport
        self._chunked: Final = chunked

    def write(self, data: bytes) -> None:
        # uvloop raises on a write to a closing transport; the handler hears of the end by itself.
        if not self._transport.is_closing():
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def is_full(self) -> bool:
        return self.is_blocked

    def cut(self) -> None:
        self._transport.abort()
