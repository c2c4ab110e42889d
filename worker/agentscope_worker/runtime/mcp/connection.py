"""One connection to an MCP server: its transport, the calls in flight on it, and the reason of its loss.

Owns the observation of the connection below the MCP library: if a stream breaks off with a call in flight,
the library does not report it to the caller. An HTTP client of our own reports it at once. This module must
not reconnect; `links` (read next) does. Supports mcp 1.x, which uses httpx, and 2.x, which uses httpx2: the
classes have the same names, and are used here by the names of httpx.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import math
import ssl
from asyncio import Event
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anyio
from mcp.client import sse, streamable_http

if TYPE_CHECKING:
    import httpx

    from agentscope_protocol.config.settings import McpServerSettings
elif importlib.metadata.version("mcp").startswith("1."):
    import httpx
else:
    import httpx2 as httpx

# Untyped: the parameters are classes of httpx or of httpx2, and each release lacks some of the names.
_SSE: Final[Any] = sse
_STREAMABLE_HTTP: Final[Any] = streamable_http

PING_EVERY: Final = 15.0  # seconds; detects a server that is gone without closing the connection
CLOSED: Final = "the server closed the connection"


class Connection:
    """One connection. A task of its own opens it, uses it and ends with it."""

    def __init__(self, settings: McpServerSettings, on_lost: Callable[[str], None]) -> None:
        self.lost: str | None = None
        self.rejected = False  # the server's error response will be the same for the next attempt
        self.client: Any = None  # the MCP session, once it is connected
        self.connected_at = math.inf  # monotonic time
        self.scope = anyio.CancelScope()  # covers the whole attempt
        self.check_due: Final = Event()
        self.tools_changed = False
        self._settings: Final = settings
        self._on_lost: Final = on_lost
        self._leaving = False
        self._calls: Final[set[anyio.CancelScope]] = set()

    def lose(self, reason: str) -> None:
        """Give up the connection: calls in flight fail now, and its task ends."""
        if self.lost is None:
            self.lost = reason
            self._on_lost(reason)
            for call in self._calls:
                call.cancel()
            self.scope.cancel()

    def leave(self) -> None:
        """End the connection in order: `wait_for_check` returns False from now on."""
        self._on_lost("the worker is shutting down")
        for call in self._calls:
            call.cancel()
        self.lost = self.lost or "the worker is shutting down"
        self._leaving = True
        self.check_due.set()

    @contextlib.contextmanager
    def in_flight(self, call: anyio.CancelScope) -> Iterator[None]:
        """Cancel `call` if the connection is lost inside the block."""
        self._calls.add(call)
        try:
            yield
        finally:
            self._calls.discard(call)

    async def wait_for_check(self) -> bool:
        """Wait until the connection may have failed or a ping is due; returns False if it is to end."""
        with anyio.move_on_after(min(PING_EVERY, self._settings.sse_read_timeout / 3)):
            await self.check_due.wait()
        self.check_due.clear()
        return not self._leaving

    @contextlib.asynccontextmanager
    async def streams(self) -> AsyncIterator[Any]:
        """A tuple that begins with the read and the write stream of the configured transport."""
        url, headers = self._settings.url, self._settings.headers
        plain = {name: value.get_secret_value() for name, value in headers.items()}
        bounds = (self._settings.timeout, self._settings.sse_read_timeout)
        if self._settings.transport == "sse":
            async with _SSE.sse_client(url, plain, *bounds, httpx_client_factory=self._http) as streams:
                yield streams
        elif hasattr(_STREAMABLE_HTTP, "streamable_http_client"):
            async with (
                self._http(plain, httpx.Timeout(bounds[0], read=bounds[1])) as client,
                _STREAMABLE_HTTP.streamable_http_client(url, http_client=client) as streams,
            ):
                yield streams
        else:  # mcp releases before 1.24
            async with _STREAMABLE_HTTP.streamablehttp_client(
                url, plain, *bounds, httpx_client_factory=self._http
            ) as streams:
                yield streams

    def _http(self, headers: Any = None, timeout: Any = None, auth: Any = None) -> httpx.AsyncClient:
        return _Http(self, headers=headers, timeout=timeout, auth=auth)

    # -- reports of the HTTP client -----------------------------------------------------------

    def on_status(self, request: httpx.Request, response: httpx.Response) -> None:
        """Handle an HTTP error response."""
        status, is_post = response.status_code, request.method == "POST"
        if is_post and status == 404 and self.client is not None and "mcp-session-id" in request.headers:
            # The server has restarted and no longer knows the session; the library reports this to the
            # caller. From mcp 2.0 on, a JSON body would make it report the server's own text instead.
            response.headers.pop("content-type", None)
        elif is_post or self._is_sse:
            self.rejected = 400 <= status < 500 and status not in (408, 429)
            hint = "; see headers in agentapp.yaml" if status in (401, 403) else ""
            self.lose(f"the server responded with HTTP {status} {response.reason_phrase}{hint}")

    def on_failure(self, method: str, error: Exception) -> None:
        """Handle a request without a response, or a response that broke off."""
        if method == "POST" or self._is_sse:
            self.lose(without_secrets(f"{type(error).__name__}: {error}", self._settings))
        else:
            self.check_due.set()

    def on_end_of_events(self, method: str) -> None:
        """Handle the end of an event stream; a server ends its streams when it stops."""
        if method == "GET" and self._is_sse:
            self.lose(CLOSED)
        else:
            self.check_due.set()

    @property
    def _is_sse(self) -> bool:
        return self._settings.transport == "sse"


class _Http(httpx.AsyncClient):
    """An HTTP client that reports failures to its connection."""

    def __init__(self, connection: Connection, **options: Any) -> None:
        super().__init__(verify=_tls(), **options)
        self._connection = connection

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        try:
            response = await super().send(request, **options)
        except httpx.TransportError as error:
            self._connection.on_failure(request.method, error)
            raise
        if response.status_code >= 400:
            self._connection.on_status(request, response)
        elif isinstance(response.stream, httpx.AsyncByteStream) and not response.is_stream_consumed:
            is_events = response.headers.get("content-type", "").startswith("text/event-stream")
            response.stream = _Body(response.stream, self._connection, request.method, is_events)
        return response


class _Body(httpx.AsyncByteStream):
    """The body of a response; reports its end to the connection."""

    def __init__(
        self, body: httpx.AsyncByteStream, connection: Connection, method: str, is_events: bool
    ) -> None:
        self._body = body
        self._pieces = aiter(body)
        self._connection = connection
        self._method = method
        self._is_events = is_events

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._pieces)
        except httpx.TransportError as error:
            self._connection.on_failure(self._method, error)
            raise
        except StopAsyncIteration:
            if self._is_events:
                self._connection.on_end_of_events(self._method)
            raise

    async def aclose(self) -> None:
        await self._body.aclose()


@functools.cache
def _tls() -> ssl.SSLContext:
    """The TLS context for all attempts: loading the certificates each time takes 20 ms and fragments 0.5
    MB."""
    return httpx.create_ssl_context()


def without_secrets(text: str, settings: McpServerSettings) -> str:
    """`text` without the secrets of the URL and the headers, so that it may be logged.

    Some errors of HTTP clients quote the URL, or the header that cannot be sent.
    """
    parts = urlsplit(settings.url)
    headers = (value.get_secret_value() for value in settings.headers.values())
    for secret in (settings.url, parts.query, parts.password, *headers):
        text = text.replace(secret, "…") if secret else text
    return text
