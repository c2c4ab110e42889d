"""The way of a stream's bytes to its client's transport: the last step of each event.

`aiohttp_connection` and `fast_connection` own the connection; `runs.client_stream` writes here. Each write is
a system call, so that the head of a response waits for its first event, and its end leaves with the last.
"""

import asyncio
from typing import Final


class ChunkedWriter:
    """The client's transport, with chunked framing where the client understands it.

    `is_blocked`: the client's socket takes less than is sent; its connection sets it. `head`: of the
    response, if it is not out; it leaves with what is first written. `end`: what ends the response, if that
    is not for others to do; it leaves with what is last written. After that nothing is written.
    """

    __slots__ = ("_chunked", "_end", "_head", "_is_over", "_transport", "is_blocked")

    def __init__(
        self,
        transport: asyncio.Transport,
        is_blocked: bool,
        *,
        chunked: bool = True,
        head: bytes = b"",
        end: bytes = b"",
    ) -> None:
        self.is_blocked = is_blocked
        self._transport: Final = transport
        self._chunked: Final = chunked
        self._head = head
        self._end: Final = end
        self._is_over = False

    def write(self, data: bytes) -> None:
        # uvloop raises on a write to a closing transport; the handler hears of the end by itself.
        if self._is_over or self._transport.is_closing():
            return
        if self._head:
            self._transport.write(self._head + self._framed(data))
            self._head = b""
        else:
            self._transport.write(self._framed(data))

    def write_last(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"%b%b%b" % (self._head, self._framed(data), self._end))
        self._is_over = True

    def is_full(self) -> bool:
        return self.is_blocked

    def cut(self) -> None:
        self._transport.abort()

    def _framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data
