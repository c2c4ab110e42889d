"""The control socket: the server of the operator's commands, as JSON over HTTP on a Unix socket.

Queries are GET, actions are POST. The server checks the fields of a request and passes it to
`control.handlers`; it knows nothing else of the instance. Only root and the user that runs the instance are
served, whatever the file modes are. A client that sends garbage, sends nothing or never stops sending loses
its connection; the instance and other clients are not affected. `cli.instance_commands` has the commands.
"""

import asyncio
import inspect
import logging
import os
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

from agentscope_protocol.config.setting_types import MAX_WORKERS
from agentscope_supervisor.control.handlers import Handlers, Query
from agentscope_supervisor.domain.errors import ErrorCode, Failure, Refused, invalid
from agentscope_supervisor.domain.request import json_object
from agentscope_supervisor.http1 import aiohttp_web as web
from agentscope_supervisor.http1.aiohttp_connection import plain_request
from agentscope_supervisor.http1.request_errors import answer_to_error
from agentscope_supervisor.http1.responses import error_response, json_response
from agentscope_supervisor.system import log_setup
from agentscope_supervisor.system.log_buffer import LogBuffer
from agentscope_supervisor.workers.revisions import ReloadRefused, Rolling

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 64  # concurrent commands; a command that waits keeps its connection
MAX_FOLLOWERS: Final = 8  # clients that follow a log; each may buffer what `system.log_buffer` allows
MAX_BODY: Final = 64 * 1024  # bytes; the longest real request has about a hundred
MAX_LINE: Final = 8 * 1024  # bytes of a request line or of one header
REQUEST_WITHIN: Final = 5.0  # seconds for the request head, and again for the body

_SOL_LOCAL, _LOCAL_PEERCRED = 0, 1  # macOS sys/un.h; struct xucred starts with a version and the uid


Handler = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""Takes the fields of a query or a body; returns the value that is sent as JSON. Raises: Refused."""


class _Connection(web.RequestHandler):
    """One connection.

    It is closed if the peer may not connect, or if the request head does not arrive in time.
    """

    __slots__ = ("_timer",)

    def __init__(self, server: "_Server", **options: Any) -> None:
        super().__init__(server, **options)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self._manager is not None, "set by the base class"
        uid = peer_uid(transport.get_extra_info("socket"))
        if uid not in (None, 0, os.geteuid()):
            log.warning("control connection refused: not the user of the instance", extra={"uid": uid})
            self.force_close()
        elif len(self._manager.connections) > MAX_CONNECTIONS:
            log.warning("control connection refused: too many connections", extra={"most": MAX_CONNECTIONS})
            self.force_close()
        else:
            self._timer = self._loop.call_later(REQUEST_WITHIN, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.has_head()
        super().connection_lost(exc)

    def has_head(self) -> None:
        """Stop the timer: the request head has arrived."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        return answer_to_error(request, status, exc, {})


class _Server(web.Server):
    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        factory = partial(plain_request, MAX_BODY)
        super().__init__(handler, request_factory=factory, handler_cancellation=True)

    def __call__(self) -> web.RequestHandler:
        limits: dict[str, Any] = {"max_line_size": MAX_LINE, "max_field_size": MAX_LINE}
        loop = asyncio.get_running_loop()
        return _Connection(self, loop=loop, access_log=None, lingering_time=0.0, **limits)


class ControlServer:
    """Serves the operator's commands, one request per connection."""

    def __init__(self, handlers: Handlers, log_buffer: LogBuffer) -> None:
        self._handlers: Final = handlers
        self._log_buffer: Final = log_buffer
        self._followers = 0
        self._web: Final = _Server(self._handle)
        self._server: asyncio.Server | None = None
        self._routes: Final[Mapping[tuple[str, str], Handler]] = {
            **{("GET", path): _query(handler) for path, handler in handlers.queries.items()},
            ("POST", "/reload"): self._reload,
            ("POST", "/roll"): self._roll,
            ("POST", "/scale"): self._scale,
            ("POST", "/stop"): self._stop,
            ("POST", "/kill"): self._kill,
            ("POST", "/reset"): self._reset,
            ("POST", "/loglevel"): self._loglevel,
            ("POST", "/drain"): self._drain,
            ("POST", "/maintenance"): self._maintenance,
        }

    async def listen(self, sock: socket.socket) -> None:
        """Start to serve on a listening socket."""
        self._server = await asyncio.get_running_loop().create_unix_server(self._web, sock=sock)

    async def close(self) -> None:
        """Stop, and close the connections of clients that still wait."""
        if self._server is not None:
            self._server.close()
        await self._web.shutdown(timeout=0.1)

    # -- one request ------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            response = await self._route(request)
        except Refused as refused:
            response = error_response(refused.failure, {})
        response.force_close()
        return response

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        fields = await self._fields(request)
        if request.method == "GET" and request.path in ("/events", "/logs"):
            return await self._follow(request, fields, output=request.path == "/logs")
        handler = self._routes.get((request.method, request.path))
        if handler is None:
            raise Refused(
                Failure(ErrorCode.NOT_FOUND, f"no command at {request.method[:10]} {request.path[:100]}")
            )
        return json_response(await handler(fields), 200, {})

    async def _fields(self, request: web.BaseRequest) -> Mapping[str, Any]:
        assert isinstance(request.protocol, _Connection)
        request.protocol.has_head()
        try:
            async with asyncio.timeout(REQUEST_WITHIN):
                body = await request.read()
        except TimeoutError:
            message = f"the request body did not arrive within {REQUEST_WITHIN:g} s"
            raise Refused(Failure(ErrorCode.REQUEST_TIMEOUT, message)) from None
        except web.HTTPRequestEntityTooLarge:
            raise Refused(
                Failure(ErrorCode.PAYLOAD_TOO_LARGE, f"the request body exceeds {MAX_BODY} bytes")
            ) from None
        except web.PayloadAccessError as error:
            raise invalid(f"the request body could not be read: {error}") from None
        if request.method == "GET":
            return request.query
        return json_object(body or b"{}")

    # -- queries ----------------------------------------------------------------------------

    async def _follow(
        self, request: web.BaseRequest, fields: Mapping[str, Any], *, output: bool
    ) -> web.StreamResponse:
        """Send the last lines of the log and, with `follow`, each further line as it is written."""
        if self._followers >= MAX_FOLLOWERS:
            raise Refused(
                Failure(
                    ErrorCode.OVERLOADED, f"too many log followers: {MAX_FOLLOWERS} are connected already"
                )
            )
        last = str(fields.get("last", "0"))
        if not last.isdecimal():
            raise invalid("last must be a whole number")
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        self._followers += 1
        try:
            await response.prepare(request)
            await response.write(b"".join(self._log_buffer.last(int(last[:9]), output=output)))
            if "follow" in fields:
                async for lines in self._log_buffer.follow(output=output):
                    await response.write(b"".join(lines))
            await response.write_eof()
        finally:
            self._followers -= 1
        return response

    # -- actions ----------------------------------------------------------------------------

    async def _reload(self, fields: Mapping[str, Any]) -> Any:
        return await self._rollout(self._handlers.reload(), wait=_flag(fields, "wait"))

    async def _roll(self, fields: Mapping[str, Any]) -> Any:
        return await self._rollout(self._handlers.roll(), wait=_flag(fields, "wait"))

    async def _rollout(self, started: Rolling | ReloadRefused, *, wait: bool) -> Any:
        if isinstance(started, ReloadRefused):
            return {"outcome": "refused", "reason": started.reason}
        if not wait:
            return {"outcome": "started", "edition": started.revision, "note": started.note}
        ended = await self._handlers.outcome(started.revision)
        return {
            "outcome": "cut" if ended.cut else "failed" if ended.failure else "done",
            "edition": ended.revision,
            "reason": ended.failure,
            "note": started.note,
        }

    async def _scale(self, fields: Mapping[str, Any]) -> Any:
        slots = _number(fields, "slots", 1, MAX_WORKERS)
        self._handlers.scale(slots)
        return {"slots": slots}

    async def _stop(self, fields: Mapping[str, Any]) -> Any:
        self._handlers.stop(at_once=_flag(fields, "now"))
        return {}

    async def _kill(self, fields: Mapping[str, Any]) -> Any:
        return {"killed": self._handlers.kill(_text(fields, "worker"))}

    async def _reset(self, fields: Mapping[str, Any]) -> Any:
        self._handlers.reset(_number(fields, "slot", 0))
        return {}

    async def _loglevel(self, fields: Mapping[str, Any]) -> Any:
        level = _text(fields, "level")
        if level not in log_setup.LEVELS:
            raise invalid(f"level must be one of {', '.join(log_setup.LEVELS)}")
        logging.getLogger().setLevel(level.upper())
        return {}

    async def _drain(self, fields: Mapping[str, Any]) -> Any:
        self._handlers.maintain(True)
        if _flag(fields, "wait"):
            await self._handlers.idle()
        return {}

    async def _maintenance(self, fields: Mapping[str, Any]) -> Any:
        self._handlers.maintain(_flag(fields, "on"))
        return {}


def peer_uid(sock: socket.socket) -> int | None:
    """Return the uid of the process at the other end of a Unix socket; None if the system does not report it.

    Source: unix(7), SO_PEERCRED; on macOS unix(4), LOCAL_PEERCRED.
    """
    if sys.platform == "linux":
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[1])
    if sys.platform == "darwin":
        return int(struct.unpack("2I", sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, 76)[:8])[1])
    return None


def _flag(fields: Mapping[str, Any], key: str) -> bool:
    value = fields.get(key, False)
    if not isinstance(value, bool):
        raise invalid(f"{key} must be true or false")
    return value


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        raise invalid(f"{key} must be a string")
    return value


def _number(fields: Mapping[str, Any], key: str, least: int, most: int | None = None) -> int:
    value = fields.get(key)
    if type(value) is not int or value < least or (most is not None and value > most):
        bound = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise invalid(f"{key} must be a whole number {bound}")
    return value


def _query(handler: Query) -> Handler:
    """Adapt a query, which takes no fields."""

    async def respond(_: Mapping[str, Any]) -> Any:
        result = handler()
        return await result if inspect.isawaitable(result) else result

    return respond
