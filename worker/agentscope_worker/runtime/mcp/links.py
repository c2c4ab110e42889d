"""The link to one MCP server: connected as long as the worker lives, and again when it was lost.

It owns when to connect, what becomes of a call, and what the log says. It must not use the client
classes of AgentScope, which one dead server can hang or leave cancelled for ever, and knows nothing
of toolkits; `tools` (read next) has the names and the order of a start, `connection` one
connection. Each attempt to connect is one task, because the scopes that the MCP library opens
live and die with the task that entered them. Written for mcp 1.x and 2.x, which differ in names.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import anyio
import mcp
from mcp.types import PaginatedRequestParams, ToolListChangedNotification

from agentscope_worker.runtime.mcp.connection import CLOSED, Connection, without_secrets

if TYPE_CHECKING:
    from agentscope_protocol.config.settings import McpServerSettings

log = logging.getLogger(__name__)

FIRST_DELAY: Final = 0.1  # seconds to the first new attempt: a server that was only restarted
MAX_DELAY: Final = 10.0  # seconds; an attempt costs a dead server's host one refused connection
REFUSED_DELAY: Final = 60.0  # seconds; a wrong token stays wrong until a person mends it
STEADY: Final = 2.0  # seconds that a connection must last for the delays to begin anew
PATIENCE: Final = 15.0  # seconds after a loss that calls wait for the server: about a restart
EAGER_DELAY: Final = 1.0  # seconds; the longest delay while calls wait
CLOSE_WITHIN: Final = 2.0  # seconds for taking leave of a server; it is only a courtesy
REPEAT_AFTER: Final = 300.0  # seconds until the log tells the same failure again
MAX_PAGES: Final = 100  # of a server's list of tools: one that never ends must not fill the memory

_LIBRARY: Final[Any] = mcp  # untyped, since each major lacks names of the other
_ANSWERED: Final = _LIBRARY.McpError if hasattr(mcp, "McpError") else _LIBRARY.MCPError
_CLOSED: Final = "Connection closed"  # an error that the library makes itself
_FORGOTTEN: Final = "Session terminated"  # likewise, of the 404 of a server that was restarted
_LIBRARY_SAYS: Final = {
    _CLOSED: CLOSED,
    _FORGOTTEN: "it has forgotten the session, as after a restart",
}

# Whether the current task serves a link, which itself logs what the library would log as tracebacks. From
# mcp 2.0 on, the task that sends a request and reads its answer is of the context of the one that calls.
_serves_link: contextvars.ContextVar[bool] = contextvars.ContextVar("mcp_link", default=False)


class CallFailed(Exception):
    """A tool could not be called, or did not answer; the message is for the model. It holds no secret."""


class _NotSent(Exception):
    """The request has provably not reached the tool, so that it may be sent again."""


class Link:
    """The kept connection to the server `name`; `call_tool` is all that a tool needs of it.

    `changed` is called when `tools`, the server's list of them, has changed. It stays as it was
    while the server is away.
    """

    def __init__(self, name: str, settings: McpServerSettings, changed: Callable[[], None]) -> None:
        self.name: Final = name
        self.settings: Final = settings
        self.tools: tuple[Any, ...] = ()
        self.tried: Final = asyncio.Event()  # the first attempt has ended, well or not
        self.connected: Final = asyncio.Event()
        self.failure = "it has not answered yet"
        self._changed: Final = changed
        self._connection: Connection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._lost_at = -math.inf
        self._stopped = False
        self._told: tuple[str, float] | None = None  # the last failure in the log, and when

    def __deepcopy__(self, memo: dict[int, Any]) -> Link:
        return self  # an agent may be copied along with its tools; a connection cannot

    def start(self) -> None:
        """Begin to connect, and go on until `stop`."""
        self._keeper = asyncio.create_task(self._keep(), name=f"MCP server {self.name}")

    async def stop(self) -> None:
        """Close the connection; calls that wait on it fail. Takes at most about CLOSE_WITHIN."""
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
        """The server's result for one call; the parameters are those that AgentScope's tools pass.

        The configured timeout bounds the call, whatever `read_timeout_seconds` says; `more` is the
        library's business, as `progress_callback` is, which AgentScope passes from 2.0.11 on. A call made
        shortly after the connection was lost waits for it. It is sent a second time only when the
        first provably did not reach the tool.
        Raises: CallFailed, or the error with which the server answered.
        """
        with contextlib.suppress(_NotSent):
            return await self._call(await self._available(), name, arguments, more)
        try:
            return await self._call(await self._available(), name, arguments, more)
        except _NotSent:
            raise self._unavailable() from None

    async def _available(self) -> Connection:
        """The connection, waited for if it was lost a moment ago."""
        patience = self._lost_at + PATIENCE - time.monotonic()
        if patience > 0 and not self.connected.is_set() and not self._stopped:
            with anyio.move_on_after(min(patience, self.settings.timeout)):
                await self.connected.wait()
        if self._connection is None or not self.connected.is_set():
            raise self._unavailable()
        return self._connection

    async def _call(
        self, connection: Connection, name: str, arguments: dict[str, Any] | None, more: dict[str, Any]
    ) -> Any:
        if all(tool.name != name for tool in self.tools):
            # Sent nevertheless, the library would ask for the whole list of tools after it.
            raise CallFailed(f"MCP server {self.name!r} has no tool {name!r} any more")
        with anyio.move_on_after(self.settings.timeout) as scope, connection.in_flight(scope):
            try:
                with _served():
                    return await connection.client.call_tool(name, arguments, **more)
            except (anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
                connection.lose(CLOSED)
                raise _NotSent from error
            except _ANSWERED as error:
                if error.error.message not in _LIBRARY_SAYS:
                    raise
                connection.lose(_LIBRARY_SAYS[error.error.message])
                if error.error.message == _FORGOTTEN:
                    raise _NotSent from error
        if connection.lost is None:
            raise CallFailed(
                f"MCP server {self.name!r} did not answer {name!r} within {self.settings.timeout:g} s"
            )
        raise CallFailed(
            f"MCP server {self.name!r} went away during {name!r}, which may have been done: {connection.lost}"
        )

    def _unavailable(self) -> CallFailed:
        return CallFailed(f"MCP server {self.name!r} is not connected: {self.failure}")

    # -- the connection -----------------------------------------------------------------------

    async def _keep(self) -> None:
        """Connect again and again, until cancelled."""
        failures = 0
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
            self._tell()
            self.tried.set()
            now = time.monotonic()
            failures = 0 if now - connection.connected_at >= STEADY else failures + 1
            await asyncio.sleep(_delay(failures, connection.refused, now - self._lost_at < PATIENCE))

    async def _attempt(self, connection: Connection) -> None:
        """One connection from its first byte to its last, in a task of its own."""

        async def on_message(message: Any) -> None:
            if isinstance(getattr(message, "root", message), ToolListChangedNotification):
                connection.tools_changed = True
                connection.look.set()

        with _served(), anyio.fail_after(self.settings.timeout) as connection.scope:
            async with (
                connection.streams() as streams,
                mcp.ClientSession(streams[0], streams[1], message_handler=on_message) as client,
            ):
                try:
                    await self._use(connection, client)
                except Exception as error:
                    # Here, since the library takes its leave first, which a server that hangs delays.
                    connection.lose(self._describe(error))
                    raise

    async def _use(self, connection: Connection, client: mcp.ClientSession) -> None:
        """Greet the server, and look after the connection until it is time to leave."""
        await client.initialize()
        tools = await _list_tools(client)
        connection.scope.deadline = math.inf  # it was for connecting
        connection.client, connection.connected_at = client, time.monotonic()
        self._on_connected(tools)
        while await connection.needs_a_look():
            with anyio.fail_after(self.settings.timeout):
                if connection.tools_changed:
                    connection.tools_changed = False
                    self._take(await _list_tools(client))
                else:
                    await _ping(client)

    def _on_connected(self, tools: tuple[Any, ...]) -> None:
        log.info("MCP server %s is connected, with %d tools", self.name, len(tools))
        self._told = None
        self.connected.set()
        self._take(tools)
        self.tried.set()

    def _take(self, tools: tuple[Any, ...]) -> None:
        if tools != self.tools:
            self.tools = tools
            self._changed()

    def _on_lost(self, reason: str) -> None:
        self.failure = reason
        if self.connected.is_set():
            self.connected.clear()
            self._lost_at = time.monotonic()

    def _tell(self) -> None:
        """Log the failure, unless the log has told the same a while ago."""
        now = time.monotonic()
        if self._told is None or self._told[0] != self.failure or now - self._told[1] > REPEAT_AFTER:
            self._told = self.failure, now
            log.warning("MCP server %s is not connected: %s; it is tried again", self.name, self.failure)

    def _describe(self, error: BaseException | None) -> str:
        """`error` in words, without the secrets that are in the URL and the headers."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if error is None:
            return CLOSED
        if isinstance(error, _ANSWERED) and error.error.message in _LIBRARY_SAYS:
            return _LIBRARY_SAYS[error.error.message]
        if isinstance(error, TimeoutError):
            return f"it did not answer within {self.settings.timeout:g} s"
        return without_secrets(f"{type(error).__name__}: {error}", self.settings)


async def _list_tools(client: Any) -> tuple[Any, ...]:
    """All tools of a server, page by page."""
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
    except _ANSWERED as error:  # a server need not know pings; that it answers is enough
        if error.error.message in _LIBRARY_SAYS:
            raise


async def _end(attempt: asyncio.Task[None], connection: Connection) -> None:
    """Have `attempt` end, in order if it can within CLOSE_WITHIN; does nothing if it has ended."""
    if not attempt.done():
        connection.leave()
        if connection.client is not None:
            await asyncio.wait({attempt}, timeout=CLOSE_WITHIN)
    while not attempt.done():
        attempt.cancel()
        await asyncio.wait({attempt})
    if not attempt.cancelled():
        attempt.exception()  # seen, or asyncio logs it, also when the wait for it was cancelled


def _delay(failures: int, refused: bool, eager: bool) -> float:
    """Seconds until the next attempt; the workers of an instance must not all come at once."""
    if refused:
        longest = REFUSED_DELAY
    else:
        # 16: enough for every bound, and far from what a float can hold
        longest = min(EAGER_DELAY if eager else MAX_DELAY, FIRST_DELAY * 2 ** min(failures, 16))
    return random.uniform(longest / 2, longest)


@contextlib.contextmanager
def _served() -> Iterator[None]:
    """The library logs nothing of what is done here."""
    before = _serves_link.set(True)
    try:
        yield
    finally:
        _serves_link.reset(before)


def _is_not_ours(_: logging.LogRecord) -> bool:
    return not _serves_link.get()


for _module in ("sse", "streamable_http"):
    logging.getLogger(f"mcp.client.{_module}").addFilter(_is_not_ours)
