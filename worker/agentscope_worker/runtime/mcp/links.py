"""The link to one MCP server: connected while the worker runs, and reconnected after a loss.

Owns the time of each attempt, the result of a call, and the log messages. It must not use AgentScope's client
classes, which a single dead server can hang or leave cancelled forever, and must not know toolkits. Each
attempt to connect is one task, because a scope that the MCP library opens has to be closed by the same task.
Supports mcp 1.x and 2.x, which differ in names.

Read next: `tools` for the names and the order of a startup; `connection` is one connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import anyio
import mcp
from mcp.types import PaginatedRequestParams, ToolListChangedNotification

from agentscope_worker.runtime.mcp.connection import CLOSED, REQUEST_FAILED, Connection, without_secrets

if TYPE_CHECKING:
    from agentscope_protocol.config.settings import McpServerSettings

log = logging.getLogger(__name__)

FIRST_DELAY: Final = 0.1  # seconds before the first new attempt, for a server that only restarts
MAX_DELAY: Final = 4.0  # seconds; for the host of a dead server, an attempt is one refused connection
REFUSED_DELAY: Final = 60.0  # seconds; a wrong token stays wrong until an operator corrects it
REFUSED_AFTER: Final = 60.0  # seconds of rejections before REFUSED_DELAY; a restart of a gateway is shorter
STABLE_AFTER: Final = 2.0  # seconds a connection must last to reset the delays
CALL_WAIT: Final = 15.0  # seconds after a loss during which calls wait for the server: about one restart
EAGER_DELAY: Final = 1.0  # seconds; the maximum delay while calls wait
CLOSE_TIMEOUT: Final = 2.0  # seconds to close the session on the server, which is only a courtesy
RELOG_AFTER: Final = 300.0  # seconds before the same failure is logged again
MAX_PAGES: Final = 100  # of a server's tool list; an endless list must not exhaust the memory

_LIBRARY: Final[Any] = mcp  # untyped, because each major lacks some names of the other
_ERROR_RESPONSE: Final = _LIBRARY.McpError if hasattr(mcp, "McpError") else _LIBRARY.MCPError
_CLOSED: Final = "Connection closed"  # an error that the library creates itself
_FORGOTTEN: Final = "Session terminated"  # likewise, for the 404 of a server that has restarted
_LIBRARY_ERRORS: Final = {
    _CLOSED: CLOSED,
    _FORGOTTEN: "the server no longer knows the session, as after a restart",
}

# Whether the current task works for a link, which logs failures itself instead of the library's tracebacks.
# From mcp 2.0 on, the task that sends a request and reads its response runs in the context of the caller.
_works_for_link: contextvars.ContextVar[bool] = contextvars.ContextVar("mcp_link", default=False)


class CallFailed(Exception):
    """A tool could not be called or did not respond. The message is for the model, and contains no secret."""


class _NotSent(Exception):
    """The request certainly did not reach the tool, so that it may be sent again."""


class ServerLink:
    """The permanent connection to the server `name`. A tool only needs `call_tool`.

    `changed` is called after a change of `tools`, the server's list of tools. The list is kept while the
    server is disconnected.
    """

    def __init__(self, name: str, settings: McpServerSettings, changed: Callable[[], None]) -> None:
        self.name: Final = name
        self.settings: Final = settings
        self.tools: tuple[Any, ...] = ()
        self.tried: Final = asyncio.Event()  # the first attempt has ended, successfully or not
        self.connected: Final = asyncio.Event()
        self.failure = "the server has not responded yet"
        self._changed: Final = changed
        self._connection: Connection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._lost_at = -math.inf
        self._stopped = False
        self._logged: tuple[str, float] | None = None  # the last problem in the log, and its monotonic time

    def __deepcopy__(self, memo: dict[int, Any]) -> ServerLink:
        return self  # an agent may be copied together with its tools, but a connection cannot

    def start(self) -> None:
        """Connect, and keep reconnecting until `stop`."""
        self._keeper = asyncio.create_task(self._keep(), name=f"MCP server {self.name}")

    async def stop(self) -> None:
        """Close the connection; waiting calls fail. Takes little more than CLOSE_TIMEOUT."""
        self._stopped = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})

    # -- calls ------------------------------------------------------------------------------

    async def call_tool(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        read_timeout_seconds: object = None,
        **more: Any,
    ) -> Any:
        """The server's result for one call. The parameters are those that AgentScope's tools pass.

        The configured timeout limits the call; `read_timeout_seconds` is ignored. `more` is passed to the
        library, such as `progress_callback`, which AgentScope passes from 2.0.11 on. A call shortly after a
        loss of the connection waits for the reconnection. The call is sent a second time only if the first
        attempt certainly did not reach the tool.
        Raises: CallFailed, or the error with which the server responded.
        """
        with contextlib.suppress(_NotSent):
            return await self._call(await self._available(), name, arguments, more)
        try:
            return await self._call(await self._available(), name, arguments, more)
        except _NotSent:
            raise self._unavailable() from None

    async def _available(self) -> Connection:
        """The connection; waits for it if it was lost a moment ago."""
        remaining = self._lost_at + CALL_WAIT - time.monotonic()
        if remaining > 0 and not self.connected.is_set() and not self._stopped:
            with anyio.move_on_after(min(remaining, self.settings.timeout)):
                await self.connected.wait()
        if self._connection is None or not self.connected.is_set():
            raise self._unavailable()
        return self._connection

    async def _call(
        self, connection: Connection, name: str, arguments: dict[str, Any] | None, more: dict[str, Any]
    ) -> Any:
        if all(tool.name != name for tool in self.tools):
            # If it were sent, the library would request the complete list of tools afterwards.
            raise CallFailed(f"MCP server {self.name!r} no longer has a tool {name!r}")
        _check_sendable(name, arguments)
        with anyio.move_on_after(self.settings.timeout) as scope, connection.in_flight(scope):
            try:
                with _for_link():
                    return await connection.client.call_tool(name, arguments, **more)
            except (anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
                connection.lose(CLOSED)
                raise _NotSent from error
            except _ERROR_RESPONSE as error:
                if error.error.code == REQUEST_FAILED:
                    raise CallFailed(
                        f"MCP server {self.name!r} did not answer {name!r}: {error.error.message}"
                    ) from None
                if error.error.message not in _LIBRARY_ERRORS:
                    raise
                connection.lose(_LIBRARY_ERRORS[error.error.message])
                if error.error.message == _FORGOTTEN:
                    raise _NotSent from error
        if connection.lost is None:
            raise CallFailed(
                f"MCP server {self.name!r} did not answer {name!r} within {self.settings.timeout:g} s"
            )
        raise CallFailed(
            f"MCP server {self.name!r} was lost during {name!r}, which may have run: {connection.lost}"
        )

    def _unavailable(self) -> CallFailed:
        return CallFailed(f"MCP server {self.name!r} is not connected: {self.failure}")

    # -- the connection -----------------------------------------------------------------------

    async def _keep(self) -> None:
        """Connect again and again, until cancelled."""
        failures, rejected_since = 0, math.inf
        while True:
            connection = self._connection = Connection(self.settings, self._on_lost)
            attempt = asyncio.create_task(self._attempt(connection), name=f"MCP connection to {self.name}")
            try:
                await asyncio.wait({attempt})
            finally:
                await _end(attempt, connection)
            error = None if attempt.cancelled() else attempt.exception()
            if connection.lost is None:
                connection.lose(self._describe(error))
            self._log_once(f"is not connected: {self.failure}")
            self.tried.set()
            now = time.monotonic()
            was_stable = now - connection.connected_at >= STABLE_AFTER
            failures = 0 if was_stable else failures + 1
            if not connection.rejected:
                rejected_since = math.inf
            elif was_stable or rejected_since == math.inf:
                rejected_since = now
            stays_rejected = now - rejected_since >= REFUSED_AFTER
            await asyncio.sleep(_delay(failures, stays_rejected, now - self._lost_at < CALL_WAIT))

    async def _attempt(self, connection: Connection) -> None:
        """One connection, from connecting to its end. Runs in a task of its own."""

        async def on_message(message: Any) -> None:
            if isinstance(getattr(message, "root", message), ToolListChangedNotification):
                connection.tools_changed = True
                connection.check_due.set()

        with _for_link(), anyio.fail_after(self.settings.timeout) as connection.scope:
            async with (
                connection.streams() as streams,
                mcp.ClientSession(streams[0], streams[1], message_handler=on_message) as client,
            ):
                try:
                    await self._use(connection, client)
                except Exception as error:
                    # Reported here, because the library first closes its session, which a hung server delays.
                    connection.lose(self._describe(error))
                    raise

    async def _use(self, connection: Connection, client: mcp.ClientSession) -> None:
        """Initialize the session, and check the connection until it is to end."""
        await client.initialize()
        tools = await _list_tools(client)
        connection.scope.deadline = math.inf  # the deadline was for connecting
        connection.client, connection.connected_at = client, time.monotonic()
        self._on_connected(tools)
        while await connection.wait_for_check():
            if connection.tools_changed:
                await self._refresh(connection, client)
            with anyio.fail_after(self.settings.timeout):
                await _ping(client)

    async def _refresh(self, connection: Connection, client: mcp.ClientSession) -> None:
        """Request the list of tools again. If that fails, the old list stays until the next check."""
        connection.tools_changed = False
        try:
            with anyio.fail_after(self.settings.timeout):
                self._set_tools(await _list_tools(client))
        except (TimeoutError, _ERROR_RESPONSE) as error:
            if isinstance(error, _ERROR_RESPONSE) and error.error.message in _LIBRARY_ERRORS:
                raise
            connection.tools_changed = True
            self._log_once(f"has other tools, but does not list them: {self._describe(error)}")

    def _on_connected(self, tools: tuple[Any, ...]) -> None:
        log.info("MCP server %s is connected, with %d tools", self.name, len(tools))
        self._logged = None
        self.connected.set()
        self._set_tools(tools)
        self.tried.set()

    def _set_tools(self, tools: tuple[Any, ...]) -> None:
        if tools != self.tools:
            self.tools = tools
            self._changed()

    def _on_lost(self, reason: str) -> None:
        self.failure = reason
        if self.connected.is_set():
            self.connected.clear()
            self._lost_at = time.monotonic()

    def _log_once(self, problem: str) -> None:
        """Log the problem, unless the same problem was logged less than RELOG_AFTER ago."""
        now = time.monotonic()
        if self._logged is None or self._logged[0] != problem or now - self._logged[1] > RELOG_AFTER:
            self._logged = problem, now
            log.warning("MCP server %s %s; retrying", self.name, problem)

    def _describe(self, error: BaseException | None) -> str:
        """The reason for a loss in one phrase, without the secrets of the URL and the headers."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if error is None:
            return CLOSED
        if isinstance(error, _ERROR_RESPONSE) and error.error.message in _LIBRARY_ERRORS:
            return _LIBRARY_ERRORS[error.error.message]
        if isinstance(error, TimeoutError):
            return f"the server did not respond within {self.settings.timeout:g} s"
        return without_secrets(f"{type(error).__name__}: {error}", self.settings)


def _check_sendable(name: str, arguments: dict[str, Any] | None) -> None:
    """Raises: CallFailed if the arguments have no JSON form. The library would end the connection."""
    try:
        # Objects of other types are left to the library, which reports them to the caller.
        json.dumps(arguments, ensure_ascii=False, allow_nan=False, default=str).encode()
    except ValueError as error:  # half of a character pair, infinity, or an endless structure
        raise CallFailed(f"the arguments of {name!r} cannot be sent as JSON: {error}") from None


async def _list_tools(client: Any) -> tuple[Any, ...]:
    """All tools of a server, requested page by page."""
    tools: list[Any] = []
    cursor = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(params=PaginatedRequestParams(cursor=cursor))
        tools += page.tools
        cursor = page.nextCursor if hasattr(page, "nextCursor") else page.next_cursor
        if cursor is None:
            break
    return tuple(tools)


async def _ping(client: Any) -> None:
    try:
        await client.send_ping()
    except _ERROR_RESPONSE as error:  # a server may not support pings; an error response is sufficient
        if error.error.message in _LIBRARY_ERRORS:
            raise


async def _end(attempt: asyncio.Task[None], connection: Connection) -> None:
    """End `attempt`, in order if it ends within CLOSE_TIMEOUT; does nothing if it has ended."""
    if not attempt.done():
        connection.leave()
        if connection.client is not None:
            await asyncio.wait({attempt}, timeout=CLOSE_TIMEOUT)
    while not attempt.done():
        attempt.cancel()
        await asyncio.wait({attempt})
    if not attempt.cancelled():
        attempt.exception()  # retrieved, or asyncio would log it, also if the wait was cancelled


def _delay(failures: int, rejected: bool, eager: bool) -> float:
    """Seconds until the next attempt, randomized so that the workers of an instance do not all come at
    once."""
    if rejected:
        longest = REFUSED_DELAY
    else:
        # 16 exceeds every limit, and stays far below the overflow of a float.
        longest = min(EAGER_DELAY if eager else MAX_DELAY, FIRST_DELAY * 2 ** min(failures, 16))
    return random.uniform(longest / 2, longest)


@contextlib.contextmanager
def _for_link() -> Iterator[None]:
    """Suppress the library's log messages for work in this block."""
    before = _works_for_link.set(True)
    try:
        yield
    finally:
        _works_for_link.reset(before)


def _is_not_for_link(_: logging.LogRecord) -> bool:
    return not _works_for_link.get()


for _module in ("sse", "streamable_http"):
    logging.getLogger(f"mcp.client.{_module}").addFilter(_is_not_for_link)
