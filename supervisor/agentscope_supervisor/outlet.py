"""The way of a stream's bytes to its client's transport: the last step of each event.

`http_protocol` and `http_direct` own the connection; `answer` writes here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from agentscope_supervisor.http_protocol import Protocol


class Outlet:
    """The client's transport, with chunked framing where the client understands it. `request`: that it
    answers, if aiohttp has made one."""

    __slots__ = ("_chunked", "_connection", "request")

    def __init__(
        self, connection: Protocol, *, chunked: bool = True, request: web.BaseRequest | None = None
    ) -> None:
        self.request = request
        self._connection = connection
        self._chunked = chunked
        connection.outlet = self

    def write(self, data: bytes) -> None:
        transport = self._connection.transport
        # uvloop raises on a write to a closing transport; the handler hears of the end by itself.
        if transport is not None and not transport.is_closing():
            transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def is_full(self) -> bool:
        return self._connection._paused  # `writing_paused`, asked for each event

    def cut(self) -> None:
        if self._connection.transport is not None:
            self._connection.transport.abort()
