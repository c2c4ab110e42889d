"""One connection to an MCP server: its transport, the calls in flight on it, and the reason of its loss.

Owns the observation of the connection below the MCP library. If a stream breaks off with a call in flight,
the library does not report it to the caller. If the server refuses one request, the library ends the whole
connection. An HTTP client of our own reports the first at once, and answers a refused request itself with an
error, so that only this request fails. This module must not reconnect; `links` (read next) does. Supports
mcp 1.x, which uses httpx, and 2.x, which uses httpx2: the classes have the same names, and are used here by
the names of httpx.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import math
import ssl
from asyncio import Event
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anyio
from mcp import types
from mcp.client import sse, streamable_http
from mcp.shared.message import SessionMessage
from mcp.types import METHOD_NOT_FOUND

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
_TYPES: Final[Any] = types

PING_EVERY: Final = 15.0  # seconds; detects a server that is gone without closing the connection
CLOSED: Final = "the server closed the connection"
TRANSIENT: Final = (408, 413, 425, 429)  # client errors that say nothing about the next request
REQUEST_FAILED: Final = (
    -32099
)  # JSON-RPC code of a request that failed with an HTTP error or without a response
MAX_ERROR: Final = 64 * 1024  # bytes of an error response that are searched for a JSON-RPC error
MAX_REDIRECTS: Final = 5
MAX_IDLE: Final = 20  # open connections without a request; the default of httpx


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
        self._inlet: Any = None  # sse only: passes a message to the library as if the server had sent it

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
        if self._is_sse:
            async with (
                _SSE.sse_client(url, plain, *bounds, httpx_client_factory=self._http) as streams,
                _with_inlet(streams[0]) as (self._inlet, incoming),
            ):
                yield incoming, streams[1]
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

    async def on_status(self, request: httpx.Request, response: httpx.Response) -> httpx.Response:
        """Handle a response that is no success; returns the response that the library gets.

        A refused request fails alone. The connection is lost if the response says that its session is gone,
        if the server rejects a ping, or while connecting.
        """
        status, message = response.status_code, _message_of(request)
        is_final = status < 500 and status not in TRANSIENT
        if request.method != "POST" and not self._is_sse:
            return response  # the library goes on without a stream for the server's own messages
        if status == 404 and self.client is not None and "mcp-session-id" in request.headers:
            # The server has restarted and no longer knows the session; the library reports this to the
            # caller. From mcp 2.0 on, a JSON body would make it report the server's own text instead.
            response.headers.pop("content-type", None)
            return response
        error = await _error_in(response)
        is_gone = status in (404, 410) and (error is None or self._is_sse)
        is_unknown_method = error is not None and error["code"] == METHOD_NOT_FOUND  # pings are optional
        is_rejected_ping = is_final and message.get("method") == "ping" and not is_unknown_method
        if self.client is None or is_gone or is_rejected_ping:
            self.rejected = is_final
            self.lose(_describe(response))
            return response
        if is_final:
            self.check_due.set()  # the ping shows whether the server still accepts this session
        await response.aclose()
        return await self._fail(request, error or _failure(_describe(response)))

    async def on_failure(self, request: httpx.Request, error: Exception) -> httpx.Response | None:
        """Handle a request without a response; returns the response that the library gets instead, if any."""
        if self._is_of_request(request, error):
            self.check_due.set()
            return await self._fail(request, _failure(f"no response ({type(error).__name__})"))
        self._lose_or_check(request, error)
        return None

    def on_broken_body(self, request: httpx.Request, error: Exception) -> bytes | None:
        """Handle a response that broke off; returns the end of the body that the library gets, if any."""
        if self._is_of_request(request, error):
            self.check_due.set()
            return _reply(request, _failure("the response stopped before its end"))
        self._lose_or_check(request, error)
        return None

    def on_end_of_events(self, method: str) -> None:
        """Handle the end of an event stream; a server ends its streams when it stops."""
        if method == "GET" and self._is_sse:
            self.lose(CLOSED)
        else:
            self.check_due.set()

    def _is_of_request(self, request: httpx.Request, error: Exception) -> bool:
        """Whether only `request` has failed: its response is late, which says nothing about the others."""
        is_late = isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout)
        return is_late and request.method == "POST" and self.client is not None

    def _lose_or_check(self, request: httpx.Request, error: Exception) -> None:
        if request.method == "POST" or self._is_sse:
            self.lose(without_secrets(f"{type(error).__name__}: {error}", self._settings))
        else:
            self.check_due.set()

    async def _fail(self, request: httpx.Request, error: Mapping[str, Any]) -> httpx.Response:
        """Make the library report `error` to the sender of `request`.

        The library itself ends the connection after any failed request (mcp 1.x, and the transport sse).
        """
        reply = _reply(request, error)
        if reply is None:  # a notification, which has no sender that waits
            return httpx.Response(202, request=request)
        if not self._is_sse:
            headers = {"content-type": "application/json"}
            return httpx.Response(200, headers=headers, content=reply, request=request)
        if self._inlet is not None:
            with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
                await self._inlet.send(_session_message(reply))
        return httpx.Response(202, request=request)

    @property
    def _is_sse(self) -> bool:
        return self._settings.transport == "sse"


class _Http(httpx.AsyncClient):
    """An HTTP client that reports failures to its connection."""

    def __init__(self, connection: Connection, **options: Any) -> None:
        # Each call in flight holds a connection: with the default limit of 100, further calls and the pings
        # would wait for the slowest calls.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=MAX_IDLE)
        super().__init__(verify=_tls(), limits=limits, **options)
        self._connection = connection

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        try:
            response = await super().send(request, **options)
            for _ in range(MAX_REDIRECTS):
                redirected = _redirected_within_origin(response)
                if redirected is None:
                    break
                await response.aclose()
                response = await super().send(redirected, **options)
        except httpx.TransportError as error:
            answer = await self._connection.on_failure(request, error)
            if answer is None:
                raise
            return answer
        if response.status_code >= 300:
            return await self._connection.on_status(request, response)
        if isinstance(response.stream, httpx.AsyncByteStream) and not response.is_stream_consumed:
            is_events = response.headers.get("content-type", "").startswith("text/event-stream")
            response.stream = _Body(response.stream, self._connection, request, is_events)
        return response


class _Body(httpx.AsyncByteStream):
    """The body of a response; reports its end to the connection."""

    def __init__(
        self, body: httpx.AsyncByteStream, connection: Connection, request: httpx.Request, is_events: bool
    ) -> None:
        self._body = body
        self._pieces = aiter(body)
        self._connection = connection
        self._request = request
        self._is_events = is_events

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._pieces)
        except httpx.TransportError as error:
            end = self._connection.on_broken_body(self._request, error)
            if end is None:
                raise
            # An event that broke off ends before it; after a part of a JSON text, the end is invalid too.
            return b"\n\nevent: message\ndata: " + end + b"\n\n" if self._is_events else end
        except StopAsyncIteration:
            if self._is_events:
                self._connection.on_end_of_events(self._request.method)
            raise

    async def aclose(self) -> None:
        await self._body.aclose()


def _redirected_within_origin(response: httpx.Response) -> httpx.Request | None:
    """The request that follows a redirect, if the redirect keeps the method and the origin.

    The headers of the settings are for the configured server only. New releases of the library follow the
    same redirects themselves; releases before 1.30 leave redirects to the client.
    """
    following = response.next_request
    if following is None:
        return None
    old, new = response.request.url, following.url
    is_upgrade = (old.scheme, new.scheme) == ("http", "https") and old.port is None and new.port is None
    is_same_origin = old.host == new.host and (is_upgrade or (old.scheme, old.port) == (new.scheme, new.port))
    if not is_same_origin or following.method != response.request.method:
        return None
    return following if new.userinfo in (b"", old.userinfo) else None


def _describe(response: httpx.Response) -> str:
    status = response.status_code
    text = f"the server responded with HTTP {status} {response.reason_phrase}"
    if response.next_request is not None:
        place = response.next_request.url.copy_with(userinfo=b"", query=None, fragment=None)
        return f"{text} to {place}, which is not followed; see url in agentapp.yaml"
    return f"{text}; see headers in agentapp.yaml" if status in (401, 403) else text


def _message_of(request: httpx.Request) -> dict[str, Any]:
    """The JSON-RPC message that `request` carries; empty if it has none."""
    message = json.loads(request.content) if request.method == "POST" else {}
    return message if isinstance(message, dict) else {}


def _reply(request: httpx.Request, error: Mapping[str, Any]) -> bytes | None:
    """The JSON-RPC response with `error` to the message in `request`; None if it expects no response."""
    message = _message_of(request)
    if "method" not in message or "id" not in message:
        return None
    return json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}).encode()


def _failure(reason: str) -> dict[str, Any]:
    return {"code": REQUEST_FAILED, "message": reason}


async def _error_in(response: httpx.Response) -> dict[str, Any] | None:
    """The JSON-RPC error in the body of `response`, such as one for invalid parameters, if any."""
    if not response.headers.get("content-type", "").lower().startswith("application/json"):
        return None
    body = b""
    try:
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > MAX_ERROR:
                return None
        message = json.loads(body)
    except (httpx.HTTPError, httpx.StreamError, ValueError, RecursionError):
        return None
    match message:
        case {"jsonrpc": "2.0", "error": {"code": int(), "message": str()} as error}:
            return dict(error)
    return None


def _session_message(reply: bytes) -> Any:
    """The library's form of a JSON-RPC message that a server has sent."""
    if hasattr(_TYPES.JSONRPCMessage, "model_validate_json"):
        return SessionMessage(_TYPES.JSONRPCMessage.model_validate_json(reply))
    return SessionMessage(_TYPES.JSONRPCError.model_validate_json(reply))  # from mcp 2.0 on


@contextlib.asynccontextmanager
async def _with_inlet(source: Any) -> AsyncIterator[tuple[Any, Any]]:
    """A stream to put further messages in, and a stream of these and of the messages of `source`."""
    inlet, merged = anyio.create_memory_object_stream[Any](0)

    async def forward() -> None:
        async with inlet:
            with contextlib.suppress(anyio.BrokenResourceError):  # the session has ended
                async for message in source:
                    await inlet.send(message)

    async with source, merged, anyio.create_task_group() as group:
        group.start_soon(forward)
        yield inlet, merged
        group.cancel_scope.cancel()


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
