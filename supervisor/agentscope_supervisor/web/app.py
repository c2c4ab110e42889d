"""The HTTP side: the table of routes, who may take them, and a handler for each. Decides nothing on turns.

What a request may ask of the instance is `Instance`, which `daemon` provides. Health routes answer from what
the supervisor knows and never wait for a worker. Errors before the first byte are a status with a JSON body,
after it events; nothing that went wrong here reaches a client as a traceback. Around it:
`http1.aiohttp_connection` (what comes before a request is one), `auth`, `invoke` (turns), `respond` (how
answers leave), `responses`.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from aiohttp import web

from agentscope_protocol.config.settings import ServerSettings
from agentscope_supervisor import __version__
from agentscope_supervisor.domain import request as invocation
from agentscope_supervisor.domain.errors import ErrorCode, Failure
from agentscope_supervisor.domain.request import Refused, invalid, json_object
from agentscope_supervisor.domain.turn import Turn
from agentscope_supervisor.http1 import aiohttp_connection
from agentscope_supervisor.http1.aiohttp_connection import is_reserved
from agentscope_supervisor.http1.body import BodyReader
from agentscope_supervisor.http1.fast_connection import FastServer
from agentscope_supervisor.http1.listener import NO_PLACE, Listener
from agentscope_supervisor.http1.responses import error_response, json_response, request_id
from agentscope_supervisor.runs.recorder import Recorder
from agentscope_supervisor.telemetry.metrics import Metrics
from agentscope_supervisor.web.auth import Auth
from agentscope_supervisor.web.console import Console
from agentscope_supervisor.web.invoke import InvokeRoute, TurnsInstance, refuse_repeated
from agentscope_supervisor.web.respond import Delivery
from agentscope_supervisor.web.runs import RunRoutes
from agentscope_supervisor.web.sessions import SessionRoutes, session_of
from agentscope_supervisor.web.tracing import CLIENT_LEFT, Tracing

CLOSES_WITHIN: Final = 5.0  # seconds


class Instance(TurnsInstance, Protocol):
    """What requests may ask of the instance. All but the coroutine return at once."""

    def ahead(self, turn: Turn) -> int:
        """Turns of its session before a waiting turn."""

    def interrupt(self, *, session_id: str | None, run_id: str | None) -> int:
        """End the turns of a session, or one run; returns how many."""

    def health(self) -> dict[str, Any]:
        """The body of /health; `status` decides its HTTP status."""

    def unready(self) -> Failure | None:
        """Why a turn would not be accepted now; None: it would."""

    def session(self, session_id: str) -> dict[str, Any] | None:
        """A session as /sessions shows it; None: it has no turn, and had none lately."""

    async def sessions(self, after: str, limit: int) -> tuple[list[dict[str, Any]], str | None]:
        """A page of them, and after which id the next one begins."""


Handler = Callable[[web.BaseRequest, dict[str, str]], Awaitable[web.StreamResponse]]
"""Answers a request; the second argument: headers that its answer must have. Raises: Refused."""


@dataclass(frozen=True, slots=True)
class Route:
    """What is at one path."""

    handler: Handler
    methods: tuple[str, ...] = ("GET", "HEAD")
    is_open: bool = False  # needs no token: the platform's probes have none


class FrontDoor:
    """The HTTP server. `settings`, `desk` and `recorder` are all that it knows of the instance. `tracing`,
    `metrics`, `console`: None, off."""

    def __init__(
        self,
        settings: ServerSettings,
        desk: Instance,
        recorder: Recorder,
        tracing: Tracing | None = None,
        metrics: Metrics | None = None,
        console: Console | None = None,
    ) -> None:
        self._tracing: Final = tracing
        self._metrics: Final = metrics
        self._desk: Final = desk
        self._principal: Final = settings.principal
        self._gate: Final = Auth(settings, console)
        self._body: Final = BodyReader(settings)
        delivery = Delivery(settings.keepalive_interval, desk.ahead)
        self._views: Final = RunRoutes(recorder, delivery, desk.leave)
        self._sessions: Final = SessionRoutes(desk, recorder)
        self._entrance: Final = InvokeRoute(
            settings.principal, self._gate, self._body, desk, recorder, delivery, self._views, metrics
        )
        limits = aiohttp_connection.HttpLimits(settings.header_timeout, self._body.max_size)
        self._server: Final = aiohttp_connection.Server(self.handle, limits)
        direct = FastServer(self._entrance.direct, self._server, limits)
        self._direct: Final = direct if tracing is None else None  # a trace is the handler's to record
        self._max_connections: Final = settings.max_connections
        self._listener: Listener | None = None
        ready = Route(self._readiness, is_open=True)
        alive = Route(self._liveness, is_open=True)
        self._routes: Final[dict[str, Route]] = {
            "/": Route(self._welcome),
            "/invoke": Route(self._entrance.plain if tracing is None else self._traced_turn, ("POST",)),
            "/stop": Route(self._stop, ("POST",)),
            "/sessions": Route(self._sessions.page),
            "/health": Route(self._health, is_open=True),
            "/readiness": ready,
            "/readyz": ready,
            "/liveness": alive,
            "/livez": alive,
            "/healthz": alive,
        }
        if metrics is not None:
            self._routes["/metrics"] = Route(self._tell_metrics, is_open=True)
        if console is not None:
            self._routes["/console"] = Route(console.page, ("GET", "HEAD", "POST"), is_open=True)
            for name in console.assets:
                self._routes[f"/console/{name}"] = Route(console.asset, is_open=True)
            self._routes["/console/live"] = Route(console.live, ("GET",))
            self._routes["/console/restart"] = Route(console.restart, ("POST",))
            self._routes["/console/maintenance"] = Route(console.maintain, ("POST",))

    # -- life -------------------------------------------------------------------------------

    async def listen(self, sock: socket.socket) -> None:
        """Serve on a bound socket."""
        connect = self._server.connect if self._direct is None else self._direct.connect
        self._listener = Listener(sock, self._max_connections, connect)

    def leave(self) -> None:
        """Take no new connection; those that are there are answered."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def close(self) -> None:
        """Stop listening; answers under way may take some seconds to leave."""
        if self._listener is not None:
            self._listener.close()
        await asyncio.sleep(0)  # requests that have just come are taken up first
        async with asyncio.TaskGroup() as both:
            if self._direct is not None:
                both.create_task(self._direct.shutdown(CLOSES_WITHIN))
            self._server.pre_shutdown()
            both.create_task(self._server.shutdown(CLOSES_WITHIN))

    # -- one request ------------------------------------------------------------------------

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, whatever it is."""
        if self._metrics is None:
            return await self._answer(request)
        status = CLIENT_LEFT
        try:
            response = await self._answer(request)
            status = response.status
            return response
        except ConnectionError:  # the client's
            raise
        except Exception:
            status = aiohttp_connection.FAILED.status
            raise
        finally:
            self._metrics.request(self._label(request.path), status)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {"X-Request-Id": request_id(request.headers)}
        try:
            response = await self._route(request, headers)
        except Refused as refused:
            response = error_response(refused.failure, headers)
            if request.content.exception() is not None:  # where the next request begins is not known
                response.force_close()
        if is_reserved(request):
            response.force_close()
        return response

    async def _route(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        path = request.path
        route = self._routes.get(path) or self._route_below(path)
        if route is None or not route.is_open:
            if is_reserved(request):
                raise Refused(NO_PLACE)
            refuse_repeated(request, "Authorization")
            self._gate.admit(request.headers)
        if route is None:
            raise Refused(Failure(ErrorCode.NOT_FOUND, f"there is nothing at {path[:200]}"))
        if request.method not in route.methods:
            headers["Allow"] = ", ".join(route.methods)
            message = f"{path} takes {headers['Allow']}, not {request.method[:20]}"
            raise Refused(Failure(ErrorCode.METHOD_NOT_ALLOWED, message))
        return await route.handler(request, headers)

    def _route_below(self, path: str) -> Route | None:
        match path.split("/"):
            case ["", "sessions", *_]:
                return Route(self._session, ("GET", "HEAD", "DELETE"))
            case ["", "runs", run_id]:
                return Route(lambda _, headers: self._views.state(run_id, headers))
            case ["", "runs", run_id, "events"]:
                return Route(partial(self._views.events, run_id))
        return None

    def _label(self, path: str) -> str:
        """What stands for a path in the metrics: one of a few, whatever callers ask for."""
        if path in self._routes:
            return path
        match path.split("/"):
            case ["", "sessions", _, *_]:
                return "/sessions/{session_id}"
            case ["", "runs", _]:
                return "/runs/{run_id}"
            case ["", "runs", _, "events"]:
                return "/runs/{run_id}/events"
        return "other"

    # -- how the instance is ----------------------------------------------------------------

    async def _welcome(self, _: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        return json_response(_WELCOME, 200, headers)

    async def _health(self, _: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        health = self._desk.health()
        up = health["status"] in ("healthy", "degraded")
        return json_response(health, 200 if up else 503, headers)

    async def _readiness(self, _: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        failure = self._desk.unready()
        if failure is not None:
            raise Refused(failure)
        return json_response({"status": "ready"}, 200, headers)

    async def _liveness(self, _: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        return json_response({"status": "alive"}, 200, headers)

    async def _tell_metrics(self, _: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        assert self._metrics is not None, "the table of routes has it only then"
        from agentscope_supervisor.telemetry import prometheus  # 1 MB for those who ask

        body = prometheus.text(await self._metrics.collect())
        return web.Response(body=body, headers={**headers, "Content-Type": prometheus.CONTENT_TYPE})

    # -- turns and sessions -----------------------------------------------------------------

    async def _traced_turn(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        assert self._tracing is not None, "the table of routes has it only then"
        return await self._entrance.traced(request, headers, self._tracing)

    async def _session(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        session_id = session_of(request.rel_url.raw_path)
        if request.method == "DELETE":
            by_token = self._principal == "token"
            caller = self._gate.caller(request.headers) if by_token else ""
            return await self._sessions.delete(session_id, caller, request, headers)
        return await self._sessions.state(session_id, headers)

    async def _stop(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        fields = json_object(await self._body.read(request))
        session_id, run_id = fields.get("session_id"), fields.get("run_id")
        if (session_id is None) == (run_id is None):
            raise invalid("give either session_id or run_id")
        if session_id is not None:
            session_id = invocation.session_id(session_id)
        elif not isinstance(run_id, str):
            raise invalid("run_id must be a string")
        stopped = self._desk.interrupt(session_id=session_id, run_id=run_id)
        return json_response({"status": "success", "stopped": stopped}, 200, headers)


_WELCOME: Final = {
    "name": "agentscope-supervisor",
    "version": __version__,
    "links": {
        "invoke": "/invoke",
        "stop": "/stop",
        "runs": "/runs/{run_id}",
        "sessions": "/sessions",
        "health": "/health",
        "readiness": "/readiness",
        "liveness": "/liveness",
    },
}
