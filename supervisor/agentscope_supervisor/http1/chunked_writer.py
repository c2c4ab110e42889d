"""The writer of a stream: writes events to the client's transport, with chunked framing.

The connection owns the transport; `runs.client_stream` writes to it through this class. Each write is a
system call, so that the head of a response is sent with its first event, and its end with the last.
"""

import asyncio
from typing import Final

from agentscope_supervisor.runs.client_stream import Writer


class ChunkedWriter(Writer):
    """Writes to a transport, with chunked framing where the client understands it.

    `is_blocked`: whether the transport's write buffer is full; its connection sets it. `head`: of the
    response, sent with the first write. `end`: ends the response, sent with the last write. Nothing is
    written after that.
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
        # uvloop raises on a write to a closing transport; the connection reports its end by itself.
        if self._is_over or self._transport.is_closing():
            return
        if self._head:
            self._transport.write(self._head + self._framed(data))
            self._head = b""
        else:
            self._transport.write(self._framed(data))

    def write_last(self, data: bytes) -> None:
        if not self._is_over and not self._transport.is_closing():
            framed = self._framed(data) if data else b""  # an empty chunk would be the end
            self._transport.write(b"%b%b%b" % (self._head, framed, self._end))
        self._is_over = True

    def flush(self) -> None:
        if self._head and not self._transport.is_closing():
            self._transport.write(self._head)
            self._head = b""

    def is_full(self) -> bool:
        return self.is_blocked

    def cut(self) -> None:
        self._transport.abort()

    def _framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data
