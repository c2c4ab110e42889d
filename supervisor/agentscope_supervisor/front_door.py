"""The HTTP side: the table of routes, who may take them, and a handler for each. Decides nothing on turns.

What a request may ask of the instance is `Desk`, which `daemon` provides. Health routes answer from what the
supervisor knows and never wait for a worker. Errors before the first byte are a status with a JSON body,
after it events; nothing that went wrong here reaches a client as a traceback. Around it: `http_protocol`
(what comes before a request is one), `request_body`, `delivery` (how an answer leaves), `responses`.
"""

import asyncio
import hashlib
import hmac
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final, Protocol

from aiohttp import web

from agentscope_protocol.frames import REQUEST_ID
from agentscope_protocol.settings import ServerSettings
from agentscope_supervisor import __version__, http_protocol, invocation
from agentscope_supervisor.answer import Answer
from agentscope_supervisor.console_routes import Console
from agentscope_supervisor.delivery import Delivery
from agentscope_supervisor.direct_answer import DirectAnswer
from agentscope_supervisor.http_direct import DirectConnection, DirectServer
from agentscope_supervisor.http_protocol import is_reserved
from agentscope_supervisor.invocation import Invocation, Refused, invalid, json_object
from agentscope_supervisor.listener import NO_PLACE, Listener
from agentscope_supervisor.metrics import Metrics
from agentscope_supervisor.outcomes import ErrorCode, Failure
from agentscope_supervisor.recorder import Recorder
from agentscope_supervisor.request_body import BodyReader
from agentscope_supervisor.responses import (
    Headers,
    closes,
    error_bytes,
    error_response,
    json_response,
    request_id,
)
from agentscope_supervisor.run_views import RunViews
from agentscope_supervisor.runs import Run
from agentscope_supervisor.session_views import SessionViews, session_of
from agentscope_supervisor.tracing import CLIENT_LEFT, RequestTrace, Tracing
from agentscope_supervisor.turn import Turn
from agentscope_supervisor.turn_head import TurnHead

CLOSES_WITHIN: Final = 5.0  # seconds
_TRACE_HEADERS: Final = ("traceparent", "tracestate")


class Desk(Protocol):
    """What requests may ask of the instance. All but the coroutine return at once."""

    def submit(self, request: Invocation, answer: Answer) -> Turn | Failure:
        """Accept a turn, whose answer will be settled once; or say why not."""

    def leave(self, turn: Turn) -> None:
        """The client of this turn has gone."""

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
        desk: Desk,
        recorder: Recorder,
        tracing: Tracing | None = None,
        metrics: Metrics | None = None,
        console: Console | None = None,
    ) -> None:
        self._console: Final = console
        self._tracing: Final = tracing
        self._metrics: Final = metrics
        self._desk: Final = desk
        self._principal: Final = settings.principal
        token = settings.auth_token
        self._token: Final = token.get_secret_value().encode() if token is not None else None
        # Of who has brought none: with a token he was let in as the console, and is the same caller.
        self._credentials: Final = f"Bearer {token.get_secret_value()}" if token is not None else ""
        self._body: Final = BodyReader(settings)
        self._recorder: Final = recorder
        self._delivery: Final = Delivery(settings.keepalive_interval, desk.ahead)
        self._views: Final = RunViews(recorder, self._delivery, desk.leave)
        self._sessions: Final = SessionViews(desk, recorder)
        self._loop: Final = asyncio.get_running_loop()
        limits = http_protocol.Limits(settings.header_timeout, self._body.max_size)
        self._server: Final = http_protocol.Server(self.handle, limits)
        # A trace is the handler's to record.
        self._direct: Final = DirectServer(self.take, self._server, limits) if tracing is None else None
        self._max_connections: Final = settings.max_connections
        self._listener: Listener | None = None
        ready = Route(self._readiness, is_open=True)
        alive = Route(self._liveness, is_open=True)
        self._routes: Final[dict[str, Route]] = {
            "/": Route(self._welcome),
            "/invoke": Route(self._invoke if tracing is None else self._traced_invoke, ("POST",)),
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
            status = http_protocol.FAILED.status
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
            _refuse_repeated(request, "Authorization")
            self._authorize(request.headers)
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

    def _authorize(self, headers: Headers) -> None:
        if self._token is not None:
            given = headers.get("authorization", "")
            is_right = hmac.compare_digest(given.encode("utf-8", "replace"), b"Bearer " + self._token)
            if not is_right and (self._console is None or not self._console.admits(headers)):
                message = "this needs the header Authorization: Bearer with the instance's token"
                raise Refused(Failure(ErrorCode.UNAUTHORIZED, message))

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
        from agentscope_supervisor import exposition  # 1 MB for those who ask

        body = exposition.text(await self._metrics.collect())
        return web.Response(body=body, headers={**headers, "Content-Type": exposition.CONTENT_TYPE})

    # -- turns ------------------------------------------------------------------------------

    def _caller(self, headers: Headers) -> str:
        return _fingerprint(headers.get("authorization", self._credentials))

    async def _session(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        session_id = session_of(request.rel_url.raw_path)
        if request.method == "DELETE":
            by_token = self._principal == "token"
            caller = self._caller(request.headers) if by_token else ""
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

    async def _traced_invoke(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        assert self._tracing is not None, "the table of routes has it only then"
        trace = self._tracing.request(request.headers)
        try:
            response = await self._invoke(request, headers, trace)
            trace.status = response.status
            return response
        except Refused as refused:
            trace.status, trace.failure = refused.failure.status, refused.failure
            raise
        finally:
            self._tracing.record(trace)

    def take(self, head: TurnHead, body: bytes, connection: DirectConnection) -> DirectAnswer | None:
        """Begin to answer a usual turn the direct way; None: it was refused, and told so."""
        headers = {"X-Request-Id": request_id(head.fields)}
        try:
            self._authorize(head.fields)
            asked = self._read(body, head.fields, headers["X-Request-Id"], None)
            answer = Answer(_new_run_id(), asked.form, self._loop.time())
            turn = self._desk.submit(asked, answer)
            if isinstance(turn, Failure):
                raise Refused(turn)
        except Refused as refused:
            connection.send(error_bytes(refused.failure, headers))
            if closes(refused.failure):
                connection.close()
            self._count(refused.failure.status)
            return None
        except Exception:
            self._count(http_protocol.FAILED.status)
            raise
        headers["X-Run-Id"] = answer.run_id
        self._delivery.watch(answer, turn)
        return DirectAnswer(connection, answer, turn, headers, self._over)

    def _over(self, direct: DirectAnswer, status: int) -> None:
        """An answer has gone the direct way, or its client has."""
        self._delivery.forget(direct.answer)
        if status == CLIENT_LEFT:
            self._desk.leave(direct.turn)
        self._count(status)

    def _count(self, status: int) -> None:
        if self._metrics is not None:
            self._metrics.request("/invoke", status)

    def _read(self, body: bytes, headers: Headers, request_id: str, trace: RequestTrace | None) -> Invocation:
        """What a request asks for. Raises: Refused."""
        passed_on = {REQUEST_ID: request_id}
        if trace is not None:
            passed_on |= trace.headers
        else:
            for name in _TRACE_HEADERS:
                value = headers.get(name)
                # What is no ASCII is no trace context, and would not pass the link.
                if value and value.isascii():
                    passed_on[name] = value
        return invocation.read(
            body,
            header_session=headers.get("x-session-id"),
            accepts_json="application/json" in headers.get("accept", ""),
            token=self._caller(headers),
            principal=self._principal,
            headers=passed_on,
            idempotency_key=headers.get("idempotency-key"),
        )

    async def _invoke(
        self, request: web.BaseRequest, headers: dict[str, str], trace: RequestTrace | None = None
    ) -> web.StreamResponse:
        body = await self._body.read(request)
        _refuse_repeated(request, "X-Session-Id", "Idempotency-Key")
        asked = self._read(body, request.headers, headers["X-Request-Id"], trace)
        answer = Answer(_new_run_id(), asked.form, self._loop.time())
        if asked.key is not None:
            match await self._recorder.claim(answer.run_id, asked):
                case Run() as run:
                    return await self._views.join(run, request, headers)
                case Failure() as failure:
                    raise Refused(failure)
        turn = self._desk.submit(asked, answer)
        if isinstance(turn, Failure):
            if asked.key is not None:
                self._recorder.release(answer.run_id, asked.key)
            raise Refused(turn)
        if trace is not None:
            trace.accepted(answer)
        headers["X-Run-Id"] = answer.run_id
        try:
            return await self._delivery.deliver(request, answer, turn, headers)
        except BaseException:
            answer.abandon()
            self._desk.leave(turn)
            raise


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


def _new_run_id() -> str:
    """Who knows it may read the run: it must not be guessed."""
    return os.urandom(16).hex()


def _refuse_repeated(request: web.BaseRequest, *names: str) -> None:
    """Of these headers a second one, read by somebody else on the way, would be a way in. Raises: Refused."""
    for name in names:
        if len(request.headers.getall(name, ())) > 1:
            raise invalid(f"the header {name} came more than once")


@lru_cache(maxsize=256)  # a few callers send most requests; a header has up to sixteen KiB
def _fingerprint(credentials: str) -> str:
    """What stands for a caller where turns are counted."""
    return hashlib.sha256(credentials.encode("utf-8", "surrogateescape")).hexdigest()[:16]
