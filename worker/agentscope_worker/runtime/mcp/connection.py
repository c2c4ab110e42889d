"""One connection to an MCP server: its transport, the calls in flight on it, and why it was lost.

It owns what is seen of the connection below the MCP library, which answers nobody when a stream
breaks off with a call in flight: an HTTP client that tells at once. It must not connect again, which
is the business of `links` (read next). Written for mcp 1.x and 2.x: the one uses httpx, the other
httpx2, whose classes have the same names and are used here by those of httpx.
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

# Untyped, as their parameters are classes of httpx or of httpx2, and each release lacks some of the names.
_SSE: Final[Any] = sse
_STREAMABLE_HTTP: Final[Any] = streamable_http

PING_EVERY: Final = 15.0  # seconds; finds a server that is gone without a word
CLOSED: Final = "it has closed the connection"


class Connection:
    """One connection; a task of its own connects it, uses it and ends with it."""

    def __init__(self, settings: McpServerSettings, on_lost: Callable[[str], None]) -> None:
        self.lost: str | None = None
        self.refused = False  # it was lost by an answer that will be the same the next time
        self.client: Any = None  # the session, once it is connected
        self.connected_at = math.inf  # monotonic
        self.scope = anyio.CancelScope()  # of all that the attempt does
        self.look: Final = Event()
        self.tools_changed = False
        self._settings: Final = settings
        self._on_lost: Final = on_lost
        self._leaving = False
        self._calls: Final[set[anyio.CancelScope]] = set()

    def lose(self, reason: str) -> None:
        """Give it up: calls in flight fail now, and the task ends."""
        if self.lost is None:
            self.lost = reason
            self._on_lost(reason)
            for call in self._calls:
                call.cancel()
            self.scope.cancel()

    def leave(self) -> None:
        """End it in order, from `needs_a_look` on."""
        self._on_lost("the worker stops")
        for call in self._calls:
            call.cancel()
        self.lost = self.lost or "the worker stops"
        self._leaving = True
        self.look.set()

    @contextlib.contextmanager
    def in_flight(self, call: anyio.CancelScope) -> Iterator[None]:
        """Have `call` cancelled when the connection is lost."""
        self._calls.add(call)
        try:
            yield
        finally:
            self._calls.discard(call)

    async def needs_a_look(self) -> bool:
        """Wait until something may be wrong or a ping is due; False when it is time to leave."""
        with anyio.move_on_after(min(PING_EVERY, self._settings.sse_read_timeout / 3)):
            await self.look.wait()
        self.look.clear()
        return not self._leaving

    @contextlib.asynccontextmanager
    async def streams(self) -> AsyncIterator[Any]:
        """The two streams of the configured transport, and perhaps more."""
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
        else:  # before mcp 1.24
            async with _STREAMABLE_HTTP.streamablehttp_client(
                url, plain, *bounds, httpx_client_factory=self._http
            ) as streams:
                yield streams

    def _http(self, headers: Any = None, timeout: Any = None, auth: Any = None) -> httpx.AsyncClient:
        return _Http(self, headers=headers, timeout=timeout, auth=auth)

    # -- what its HTTP client sees --------------------------------------------------------------

    def on_status(self, request: httpx.Request, response: httpx.Response) -> None:
        """A request was answered with an error."""
        status, is_post = response.status_code, request.method == "POST"
        if is_post and status == 404 and self.client is not None and "mcp-session-id" in request.headers:
            # A restarted server, which does not know the session: the library tells the caller so. From 2.0
            # on it would rather tell what the body says, in words of the server, if the body is JSON.
            response.headers.pop("content-type", None)
        elif is_post or self._is_sse:
            self.refused = 400 <= status < 500 and status not in (408, 429)
            hint = "; see headers in agentapp.yaml" if status in (401, 403) else ""
            self.lose(f"it answers HTTP {status} {response.reason_phrase}{hint}")

    def on_failure(self, method: str, error: Exception) -> None:
        """A request was not answered, or its answer broke off."""
        if method == "POST" or self._is_sse:
            self.lose(without_secrets(f"{type(error).__name__}: {error}", self._settings))
        else:
            self.look.set()

    def on_end_of_events(self, method: str) -> None:
        """The server has ended a stream of events, which it does when it stops."""
        if method == "GET" and self._is_sse:
            self.lose(CLOSED)
        else:
            self.look.set()

    @property
    def _is_sse(self) -> bool:
        return self._settings.transport == "sse"


class _Http(httpx.AsyncClient):
    """An HTTP client that tells its connection what goes wrong."""

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
    """The body of an answer, watched for its end."""

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
    """One for all attempts: to read the certificates anew costs 20 ms and half a MB of fragments."""
    return httpx.create_ssl_context()


def without_secrets(text: str, settings: McpServerSettings) -> str:
    """`text`, which may go into a log, without what is secret in the URL and the headers.

    Some errors of HTTP clients quote the URL, or the header that cannot be sent.
    """
    parts = urlsplit(settings.url)
    headers = (value.get_secret_value() for value in settings.headers.values())
    for secret in (settings.url, parts.query, parts.password, *headers):
        text = text.replace(secret, "…") if secret else text
    return text
