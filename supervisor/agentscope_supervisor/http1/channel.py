"""The response to one request, written to its connection: one interface for both kinds of connections.

`fast_connection` and `aiohttp_channel` implement it, so that a response is made once, whatever way its
request came (`web.respond`). The connection owns the socket; a channel knows how a response is framed.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from agentscope_supervisor.domain.errors import Failure, Refusal
from agentscope_supervisor.http1.chunked_writer import ChunkedWriter
from agentscope_supervisor.http1.responses import closes, error_body, error_fields, head_bytes, header_lines

_T = TypeVar("_T")

try:
    from mypy_extensions import mypyc_attr
except ImportError:  # mypyc reads the decorator in the source; nothing needs it at runtime

    def mypyc_attr(*attrs: str, **kwattrs: object) -> Callable[[_T], _T]:
        return lambda decorated: decorated


_CHUNKED: Final = "Transfer-Encoding: chunked\r\n"
_CLOSE: Final = "Connection: close\r\n"
_KEEP_ALIVE: Final = "Connection: keep-alive\r\n"
_JSON: Final = header_lines({"Content-Type": "application/json"})
LAST_CHUNK: Final = b"0\r\n\r\n"  # RFC 9112, section 7.1
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
"""An interim response. A server may send any number of them before the final one (RFC 9110, section 15.2)."""


@mypyc_attr(allow_interpreted_subclasses=True)  # tests have their own
class Exchange:
    """The maker of a response: the connection reports to it. No method may raise."""

    __slots__ = ()

    def resumed(self) -> None:
        """The client's socket takes more again."""
        raise NotImplementedError

    def lost(self) -> None:
        """The client has left."""
        raise NotImplementedError

    def probe(self) -> bool:
        """Send something that the client ignores, to learn whether it is still there. Returns whether it was
        sent: a response that has not begun has nothing to send."""
        raise NotImplementedError


class Channel:
    """The way to the client of one request. One call of `respond`, `fail`, `refuse` or `stream`, then one of
    `done`."""

    loop: asyncio.AbstractEventLoop
    is_closing: bool  # the connection ends with this response
    is_http_1_0: bool
    status: int  # that was sent; before, 200
    writing_paused: bool  # the client's socket takes less than is sent

    __slots__ = ("is_closing", "is_http_1_0", "loop", "status", "writing_paused")

    def __init__(self, loop: asyncio.AbstractEventLoop, *, is_http_1_0: bool = False) -> None:
        self.loop = loop
        self.is_closing = self.writing_paused = False
        self.is_http_1_0 = is_http_1_0
        self.status = 200

    def respond(self, fields: Mapping[str, str], lines: str, body: bytes) -> None:
        """Send a whole response with status 200. `lines`: `header_lines` beside `fields`."""
        self.status = 200
        lines = f"{lines}Content-Length: {len(body)}\r\n{self._connection_line()}"
        self.send(head_bytes(200, fields, lines, self.is_http_1_0) + body)

    def fail(
        self, failure: Failure, fields: Mapping[str, str], more: Mapping[str, object] | None = None
    ) -> None:
        """Send a whole response with an error. `more`: fields beside the error in the body."""
        self.refuse(failure, Refusal(failure.status, error_body(failure, more)), fields)

    def refuse(self, failure: Failure, refusal: Refusal, fields: Mapping[str, str]) -> None:
        """Send a whole response with an error, in the form of a dialect."""
        if closes(failure):
            self.close()
        self.status = refusal.status
        lines = f"{_JSON}Content-Length: {len(refusal.body)}\r\n{self._connection_line()}"
        sent = {**fields, **error_fields(failure), **refusal.headers}
        self.send(head_bytes(refusal.status, sent, lines, self.is_http_1_0) + refusal.body)

    def stream(self, fields: Mapping[str, str], lines: str) -> ChunkedWriter:
        """Begin a response with status 200 in pieces. Its head leaves with the first of them."""
        self.status = 200
        if self.is_http_1_0:  # knows no chunks: the end of the connection is the end of the response
            self.close()
            return self.writer(head_bytes(200, fields, lines, True), b"")
        lines = f"{lines}{_CHUNKED}{self._connection_line()}"
        return self.writer(head_bytes(200, fields, lines), LAST_CHUNK)

    def head(self, status: int, lines: bytes) -> bytes:
        """The head of a response of a hosted app. `lines`: the status line and the headers."""
        self.status = status
        return b"%b%b\r\n" % (lines, self._connection_line().encode("ascii"))

    def _connection_line(self) -> str:
        if self.is_http_1_0:
            return "" if self.is_closing else _KEEP_ALIVE
        return _CLOSE if self.is_closing else ""

    # -- what a connection provides -----------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Write to the client, if it is there."""
        raise NotImplementedError

    def writer(self, head: bytes, end: bytes) -> ChunkedWriter:
        """A writer on the connection's transport; chunked if `end` is not empty."""
        raise NotImplementedError

    def close(self) -> None:
        """End the connection after the response."""
        raise NotImplementedError

    def done(self) -> None:
        """The whole response was written."""
        raise NotImplementedError

    def abort(self) -> None:
        """Drop the connection, and what the client has not read."""
        raise NotImplementedError
