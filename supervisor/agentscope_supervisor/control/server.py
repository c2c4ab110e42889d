"""The control socket: where the operator's commands are answered, as JSON over HTTP on a Unix socket.

What is asked is a GET, what is done a POST; both go to `Operations`, which is all that this knows of the
instance. Only the user of the instance and root are served, whatever the modes of files say; who sends
garbage, or nothing, or does not stop sending, loses the connection and costs nobody anything.
`cli.instance_commands` has the commands.
"""

import asyncio
import logging
import os
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, Final, Protocol

from aiohttp import web

from agentscope_protocol.config.setting_types import MAX_WORKERS
from agentscope_supervisor.domain.errors import ErrorCode, Failure
from agentscope_supervisor.domain.request import Refused, invalid, json_object
from agentscope_supervisor.http1.aiohttp_connection import answer_to_error, plain_request
from agentscope_supervisor.http1.responses import error_response, json_response
from agentscope_supervisor.system import log_setup
from agentscope_supervisor.system.log_buffer import LogBuffer
from agentscope_supervisor.workers.revisions import Outcome, ReloadRefused, Rolling

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 64  # commands at once; those that wait for something hold theirs
MAX_FOLLOWERS: Final = 8  # each may hold as many lines as `system.log_buffer` lets wait
MAX_BODY: Final = 64 * 1024  # bytes; the longest request there is has a hundred
MAX_LINE: Final = 8 * 1024  # bytes of a request line or a header
REQUEST_WITHIN: Final = 5.0  # seconds for the head of a request, and for its body; ours take one write

_SOL_LOCAL, _LOCAL_PEERCRED = 0, 1  # sys/un.h of macOS; xucred begins with a version and the uid


class Operations(Protocol):
    """What the operator may ask of the instance. All but the coroutines return at once. Raise: Refused."""

    def deaths(self) -> list[dict[str, Any]]:
        """The last ones, oldest first."""

    def sessions(self) -> list[dict[str, Any]]:
        """Those with open turns."""

    def reload(self) -> Rolling | ReloadRefused:
        """Read the file again and replace all workers."""

    def roll(self) -> Rolling | ReloadRefused:
        """Replace all workers, with the settings they have."""

    def scale(self, slots: int) -> None:
        """Have this many slots, at least 1."""

    def reset(self, slot: int) -> None:
        """Close the breaker of a slot and start it at once."""

    def kill(self, worker: str) -> str:
        """SIGKILL to "<slot>.<generation>", or to all processes of "<slot>"; who was killed."""

    def stop(self, *, at_once: bool) -> None:
        """End the instance; turns may finish unless it is to be at once."""

    def maintain(self, on: bool) -> None:
        """Refuse new turns, or take them again."""

    async def status(self) -> dict[str, Any]:
        """All that is known of the instance and its slots."""

    async def stacks(self) -> list[dict[str, Any]]:
        """Where the supervisor and each worker is."""

    async def outcome(self, edition: int) -> Outcome:
        """Wait for the end of a rollout."""

    async def idle(self) -> None:
        """Wait until no turn is open."""


Handler = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""Takes the fields of a query or a body, returns what becomes JSON. Raises: Refused."""


class _Connection(web.RequestHandler):
    """One connection, from a peer that may; dropped if the head of its request does not come in time."""

    __slots__ = ("_timer",)

    def __init__(self, server: "_Server", **options: Any) -> None:
        super().__init__(server, **options)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self._manager is not None, "it has just been made"
        uid = peer_uid(transport.get_extra_info("socket"))
        if uid not in (None, 0, os.geteuid()):
            log.warning("control refused to another user", extra={"uid": uid})
            self.force_close()
        elif len(self._manager.connections) > MAX_CONNECTIONS:
            log.warning("control refused, too many connections", extra={"most": MAX_CONNECTIONS})
            self.force_close()
        else:
            self._timer = self._loop.call_later(REQUEST_WITHIN, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.has_head()
        super().connection_lost(exc)

    def has_head(self) -> None:
        """The head of the request is here."""
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
    """Serves the operator's commands, one request on each connection."""

    def __init__(self, desk: Operations, journal: LogBuffer) -> None:
        self._desk: Final = desk
        self._journal: Final = journal
        self._followers = 0
        self._web: Final = _Server(self._handle)
        self._server: asyncio.Server | None = None
        self._routes: Final[Mapping[tuple[str, str], Handler]] = {
            ("GET", "/status"): self._status,
            ("GET", "/deaths"): self._deaths,
            ("GET", "/sessions"): self._sessions,
            ("GET", "/stacks"): self._stacks,
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
        """Serve on a listening socket."""
        self._server = await asyncio.get_running_loop().create_unix_server(self._web, sock=sock)

    async def close(self) -> None:
        """Stop; who waits for something is cut off."""
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
            raise Refused(Failure(ErrorCode.NOT_FOUND, f"no command at {request.path[:100]}"))
        return json_response(await handler(fields), 200, {})

    async def _fields(self, request: web.BaseRequest) -> Mapping[str, Any]:
        assert isinstance(request.protocol, _Connection)
        request.protocol.has_head()
        try:
            async with asyncio.timeout(REQUEST_WITHIN):
                body = await request.read()
        except TimeoutError:
            message = f"the body did not come within {REQUEST_WITHIN:g} s"
            raise Refused(Failure(ErrorCode.REQUEST_TIMEOUT, message)) from None
        except web.HTTPRequestEntityTooLarge:
            raise Refused(Failure(ErrorCode.PAYLOAD_TOO_LARGE, f"more than {MAX_BODY} bytes")) from None
        except web.PayloadAccessError as error:
            raise invalid(f"the body could not be read: {error}") from None
        if request.method == "GET":
            return request.query
        return json_object(body or b"{}")

    # -- what is asked ----------------------------------------------------------------------

    async def _status(self, _: Mapping[str, Any]) -> Any:
        return await self._desk.status()

    async def _deaths(self, _: Mapping[str, Any]) -> Any:
        return self._desk.deaths()

    async def _sessions(self, _: Mapping[str, Any]) -> Any:
        return self._desk.sessions()

    async def _stacks(self, _: Mapping[str, Any]) -> Any:
        return await self._desk.stacks()

    async def _follow(
        self, request: web.BaseRequest, fields: Mapping[str, Any], *, output: bool
    ) -> web.StreamResponse:
        """The last lines of the log, then, if they are to be followed, those that come."""
        if self._followers >= MAX_FOLLOWERS:
            raise Refused(Failure(ErrorCode.OVERLOADED, f"{MAX_FOLLOWERS} follow the log already"))
        last = str(fields.get("last", "0"))
        if not last.isdecimal():
            raise invalid("last must be a whole number")
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        self._followers += 1
        try:
            await response.prepare(request)
            await response.write(b"".join(self._journal.last(int(last[:9]), output=output)))
            if "follow" in fields:
                async for lines in self._journal.follow(output=output):
                    await response.write(b"".join(lines))
            await response.write_eof()
        finally:
            self._followers -= 1
        return response

    # -- what is done -----------------------------------------------------------------------

    async def _reload(self, fields: Mapping[str, Any]) -> Any:
        return await self._rollout(self._desk.reload(), wait=_flag(fields, "wait"))

    async def _roll(self, fields: Mapping[str, Any]) -> Any:
        return await self._rollout(self._desk.roll(), wait=_flag(fields, "wait"))

    async def _rollout(self, begun: Rolling | ReloadRefused, *, wait: bool) -> Any:
        if isinstance(begun, ReloadRefused):
            return {"outcome": "refused", "reason": begun.reason}
        if not wait:
            return {"outcome": "started", **asdict(begun)}
        ended = await self._desk.outcome(begun.edition)
        return {
            "outcome": "cut" if ended.cut else "failed" if ended.failure else "done",
            "edition": ended.edition,
            "reason": ended.failure,
            "note": begun.note,
        }

    async def _scale(self, fields: Mapping[str, Any]) -> Any:
        slots = _number(fields, "slots", 1, MAX_WORKERS)
        self._desk.scale(slots)
        return {"slots": slots}

    async def _stop(self, fields: Mapping[str, Any]) -> Any:
        self._desk.stop(at_once=_flag(fields, "now"))
        return {}

    async def _kill(self, fields: Mapping[str, Any]) -> Any:
        return {"killed": self._desk.kill(_text(fields, "worker"))}

    async def _reset(self, fields: Mapping[str, Any]) -> Any:
        self._desk.reset(_number(fields, "slot", 0))
        return {}

    async def _loglevel(self, fields: Mapping[str, Any]) -> Any:
        level = _text(fields, "level")
        if level not in log_setup.LEVELS:
            raise invalid(f"level must be one of {', '.join(log_setup.LEVELS)}")
        logging.getLogger().setLevel(level.upper())
        return {}

    async def _drain(self, fields: Mapping[str, Any]) -> Any:
        self._desk.maintain(True)
        if _flag(fields, "wait"):
            await self._desk.idle()
        return {}

    async def _maintenance(self, fields: Mapping[str, Any]) -> Any:
        self._desk.maintain(_flag(fields, "on"))
        return {}


def peer_uid(sock: socket.socket) -> int | None:
    """The user at the other end of a Unix socket; None where the system does not say.

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
        bound = f"at least {least}" if most is None else f"from {least} to {most}"
        raise invalid(f"{key} must be a whole number, {bound}")
    return value
