"""The HTTP server: the table of routes, and the steps that every request takes. Decides nothing about turns.

A route is one line in the table; its handler is in the file of its family. Errors before the first byte are a
status with a JSON body, after it events; no error reaches a client as a traceback. If the project has a
hosted app, all other paths belong to it.

Where to read next: `routes` for the table, `invoke` for turns, `hosted` for a hosted app, `health`, `runs`,
`sessions` and `console` for the other families, `auth` for tokens, `http1.aiohttp_connection` for what comes
before a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Coroutine
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from agentscope_protocol.config.protocol_settings import ProtocolsSettings
from agentscope_protocol.config.settings import ServerSettings
from agentscope_supervisor.domain.errors import ErrorCode, Failure, Refused, invalid, refusal
from agentscope_supervisor.domain.request import json_object, session_id
from agentscope_supervisor.exchanges.heads import is_blocked
from agentscope_supervisor.exchanges.service import ExchangeService
from agentscope_supervisor.http1 import aiohttp_connection, request_errors
from agentscope_supervisor.http1 import aiohttp_web as web
from agentscope_supervisor.http1.aiohttp_connection import address_of, is_reserved, let_in
from agentscope_supervisor.http1.body import BodyReader
from agentscope_supervisor.http1.connection_table import GRACE
from agentscope_supervisor.http1.fast_connection import FastServer
from agentscope_supervisor.http1.listener import NO_PLACE, Listener
from agentscope_supervisor.http1.responses import error_response, json_response, refusal_response, request_id
from agentscope_supervisor.runs.recorder import Recorder
from agentscope_supervisor.telemetry.metrics import Metrics
from agentscope_supervisor.turns.service import TurnService
from agentscope_supervisor.turns.session_table import SessionTable
from agentscope_supervisor.web.access.auth import Auth, WrongToken
from agentscope_supervisor.web.access.tickets import Tickets
from agentscope_supervisor.web.access.tokens import Tokens
from agentscope_supervisor.web.admission import Admission
from agentscope_supervisor.web.api_docs import ASSETS, ApiDocs
from agentscope_supervisor.web.console import Console
from agentscope_supervisor.web.front_ends import chosen, routes_of
from agentscope_supervisor.web.health import HealthRoutes
from agentscope_supervisor.web.hosted import HostedRoute, Opening, is_handshake
from agentscope_supervisor.web.invoke import InvokeRoute, refuse_repeated
from agentscope_supervisor.web.request_record import RequestRecord
from agentscope_supervisor.web.respond import OpenResponses
from agentscope_supervisor.web.routes import (
    ANYBODY,
    LISTS,
    OF_AN_ID,
    PUBLIC,
    READING,
    SCRAPERS,
    Asked,
    Route,
    RouteTable,
    documented,
    label,
    plain,
)
from agentscope_supervisor.web.runs import RunRoutes
from agentscope_supervisor.web.sessions import SessionRoutes, session_in_path
from agentscope_supervisor.workers.condition import Condition

if TYPE_CHECKING:  # `daemon` imports it for instances with traces
    from agentscope_supervisor.web.tracing import Tracing

CLOSES_WITHIN: Final = 5.0  # seconds that responses may take to leave when the instance ends

HOSTED: Final = "hosted"  # the name of all routes of a hosted app in the metrics
_NOT_READY: Final = refusal(ErrorCode.NOT_READY, "no worker has been ready yet")


class FrontDoor:
    """The HTTP server of one instance. `tracing`, `metrics`, `console`: None, off."""

    def __init__(
        self,
        settings: ServerSettings,
        tokens: Tokens,
        turns: TurnService,
        exchanges: ExchangeService,
        table: SessionTable,
        condition: Condition,
        recorder: Recorder,
        tracing: Tracing | None = None,
        metrics: Metrics | None = None,
        console: Console | None = None,
        protocols: ProtocolsSettings | None = None,
    ) -> None:
        self._turns: Final = turns
        self._exchanges: Final = exchanges
        self._hosted: Final = HostedRoute(settings, exchanges)
        self._tracing: Final = tracing
        self._metrics: Final = metrics
        self._principal: Final = settings.principal
        self._auth: Final = Auth(settings, tokens, console.sign_ins if console is not None else None)
        tickets = Tickets(os.urandom(32))
        self._admission: Final = Admission(self._auth, tickets)
        self._body: Final = BodyReader(settings)
        responses = OpenResponses(settings.keepalive_interval, turns.ahead)
        self._runs: Final = RunRoutes(recorder, turns, responses, tickets)
        self._sessions: Final = SessionRoutes(table, turns, recorder)
        self._invoke: Final = InvokeRoute(
            settings.principal,
            self._auth,
            self._body,
            turns,
            recorder,
            responses,
            self._runs,
            metrics,
            tracing,
        )
        limits = aiohttp_connection.HttpLimits(
            settings.header_timeout, self._body.max_size, settings.max_head_kb * 1024
        )
        self._server: Final = aiohttp_connection.Server(self.handle, limits)
        self._fast: Final = FastServer(
            self._invoke.fast, self._server, limits, delays=self._auth.guesses.check_after
        )
        exchanges.on_hosted = self._app_found
        self._max_connections: Final = settings.max_connections
        self._listener: Listener | None = None
        self._protocols: Final = protocols or ProtocolsSettings()
        paths = {each.wire.name: each.path for each in chosen(self._protocols)}
        self._methods: Final[dict[str, tuple[str, ...]]] = {}  # of each path, as the reference writes it
        self.routes: Final = self._table_of_routes(HealthRoutes(condition, paths), recorder, console)
        self._table: Final = RouteTable(self.routes, settings.prefix)

    def _table_of_routes(
        self, health: HealthRoutes, recorder: Recorder, console: Console | None
    ) -> list[Route]:
        routes = [
            Route("/", plain(health.welcome), ANYBODY),
            *routes_of(
                self._protocols,
                self._invoke,
                self._runs,
                recorder,
                self._turns,
                lambda: self._auth.tokens.is_required,
            ),
            Route("/stop", self._stop, OF_AN_ID, ("POST",)),
            Route("/runs", self._list_runs, OF_AN_ID, stays=True),
            Route("/runs/{run_id}", self._run, OF_AN_ID, stays=True),
            Route("/runs/{run_id}/events", self._events, OF_AN_ID, takes_ticket=True, stays=True),
            Route("/runs/{run_id}/ticket", self._ticket, OF_AN_ID, ("POST",), stays=True),
            Route("/sessions", plain(self._sessions.page), LISTS),
            Route("/sessions/{session_id*}/messages", self._messages, OF_AN_ID),
            Route("/sessions/{session_id*}", self._session, OF_AN_ID, ("GET", "HEAD", "DELETE")),
            Route("/health", plain(health.health), PUBLIC, stays=True),
            *(Route(path, plain(health.readiness), PUBLIC, stays=True) for path in ("/readiness", "/readyz")),
            *(
                Route(path, plain(health.liveness), PUBLIC, stays=True)
                for path in ("/liveness", "/livez", "/healthz")
            ),
        ]
        api = ApiDocs(self._methods)
        routes.append(Route("/openapi.json", plain(api.document), ANYBODY))
        if self._metrics is not None:
            routes.append(Route("/metrics", plain(self._show_metrics), SCRAPERS, stays=True))
        if console is not None:
            show = partial(self._show_console, console)
            of_console = [
                Route("/console", plain(show), PUBLIC, ("GET", "HEAD", "POST", "DELETE")),
                *(Route(f"/console/{name}", plain(console.asset), PUBLIC) for name in console.assets),
                Route("/console/live", plain(console.live), ANYBODY, ("GET",)),
                Route("/console/restart", plain(console.restart), ANYBODY, ("POST",)),
                Route("/console/maintenance", plain(console.maintain), ANYBODY, ("POST",)),
            ]
            routes += [replace(route, stays=True) for route in of_console]
            paths = ("/docs", *(f"/docs/{name}" for name in ASSETS))
            routes += [Route(path, plain(api.page), PUBLIC) for path in paths]
        self._methods.update((documented(route), route.methods) for route in routes)
        return routes

    def _app_found(self) -> None:
        """A worker has reported what it hosts."""
        if self._exchanges.hosted:
            self._fast.leave_all()  # POST /invoke belongs to the app
        else:
            self._fast.take_all()

    # -- life -------------------------------------------------------------------------------

    def take_over(self, tokens: Tokens) -> None:
        """Admit callers by other tokens from now on."""
        self._auth.take_over(tokens)

    async def listen(self, sock: socket.socket, *, is_shared: bool = False) -> None:
        """Serve on a bound socket. `is_shared`: another process has it too."""
        self._listener = Listener(sock, self._max_connections, self._fast.connect, is_shared=is_shared)

    def leave(self) -> None:
        """Accept no new connection; requests on the open ones are answered."""
        if self._listener is not None:
            self._listener.close()

    async def close(self) -> None:
        """Stop listening, and wait up to `CLOSES_WITHIN` for the responses in progress."""
        self.leave()
        if self._listener is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._listener.last_requests(), GRACE)
        async with asyncio.TaskGroup() as both:
            both.create_task(self._fast.shutdown(CLOSES_WITHIN))
            self._server.pre_shutdown()
            both.create_task(self._server.shutdown(CLOSES_WITHIN))

    # -- one request ------------------------------------------------------------------------

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, whatever it is."""
        # The path as it was sent: a proxy's rules see it so, and must not be evaded by another spelling.
        path = request.rel_url.raw_path
        route, at = self._table.find(path, beside_app=bool(self._exchanges.hosted))
        is_hosted = route is None and self._exchanges.hosted != ""
        record = RequestRecord(self._metrics, self._tracing, HOSTED if is_hosted else label(route))
        headers = {"X-Request-Id": request_id(request.headers), **self._auth.origins.headers(request.headers)}
        asked = Asked(request, headers, record, self._auth.tokens.common, at)
        try:
            answering = self._serve_hosted(asked, path) if is_hosted else self._serve_own(asked, route)
            response = await self._answer(asked, route, answering)
            record.status = response.status
            return response
        except ConnectionError:  # the client's
            raise
        except Exception:
            record.status = request_errors.FAILED.status
            raise
        finally:
            record.over()

    async def _serve_own(self, asked: Asked, route: Route | None) -> web.StreamResponse:
        """The response of this server's own route. Raises: Refused."""
        if is_handshake(asked.request):
            raise invalid("websockets are not supported")
        early = self._admission.preflight(asked, route)
        if early is not None:
            return early
        route, caller = self._admission.admit(asked, route)
        if route.refuse is not None and self._exchanges.hosted is None:
            # Until the first worker is ready, a hosted app may have a route of the same path.
            await self._exchanges.known()
            if self._exchanges.hosted:
                return await self._serve_hosted(asked, asked.request.rel_url.raw_path)
        return await route.handler(replace(asked, caller=caller))

    async def _serve_hosted(self, asked: Asked, path: str) -> web.StreamResponse:
        """The response of the hosted app. Raises: Refused."""
        request, hosted = asked.request, self._exchanges.hosted
        if is_reserved(request):
            raise Refused(NO_PLACE)
        refuse_repeated(request, "Authorization")
        drops_token = self._auth.admit_hosted(request.method, request.headers, address_of(request))
        let_in(request)
        if hosted is None:
            raise Refused(_NOT_READY)
        if is_blocked(hosted, path):
            message = "this route is not served: use `agentscope-supervisor stop`, or the console"
            raise Refused(Failure(ErrorCode.FORBIDDEN, message))
        fields = {"X-Request-Id": asked.headers["X-Request-Id"]}  # the app has its own CORS
        opening = Opening(request, fields, asked.record, drops_token)
        if is_handshake(request):
            # Imported late: aiohttp's part for WebSockets takes 3 MB, and most apps have none.
            from agentscope_supervisor.web.hosted_websocket import WebSocketRoute

            return await WebSocketRoute(self._hosted).serve(opening)
        return await self._hosted.serve(opening)

    async def _answer(
        self, asked: Asked, route: Route | None, answering: Coroutine[Any, Any, web.StreamResponse]
    ) -> web.StreamResponse:
        request = asked.request
        if route is None or not self._admission.is_open(route) or request.method not in READING:
            delay = self._auth.guesses.check_after(address_of(request))
            if delay:
                await asyncio.sleep(delay)
        try:
            response = await answering
        except Refused as refused:
            if isinstance(refused, WrongToken):
                await asyncio.sleep(refused.delay)
            failure = asked.record.failure = refused.failure
            if route is not None and route.refuse is not None:
                response = refusal_response(failure, route.refuse(failure, b""), asked.headers)
            else:
                response = error_response(failure, asked.headers)
            # In these cases, where the next request begins is not known.
            if request.content.exception() is not None or is_handshake(request):
                response.force_close()
        if is_reserved(request):
            response.force_close()
        return response

    # -- handlers that need more than the request ---------------------------------------------

    async def _run(self, asked: Asked) -> web.StreamResponse:
        return await self._runs.state(asked.at[0], asked.headers)

    async def _events(self, asked: Asked) -> web.StreamResponse:
        return await self._runs.events(asked.at[0], asked.request, asked.headers)

    async def _ticket(self, asked: Asked) -> web.StreamResponse:
        return await self._runs.ticket(asked.at[0], asked.headers)

    async def _list_runs(self, asked: Asked) -> web.StreamResponse:
        if "session_id" not in asked.request.query and "operate" not in asked.caller.scopes:
            # Ids of sessions and runs let a client use those of others.
            reason = "the list of all runs is for the operator; add ?session_id= for one session"
            raise Refused(Failure(ErrorCode.FORBIDDEN, reason))
        return await self._runs.page(asked.request, asked.headers)

    async def _messages(self, asked: Asked) -> web.StreamResponse:
        return await self._runs.of_session(session_in_path(asked.at[0]), asked.request, asked.headers)

    async def _show_console(
        self, console: Console, request: web.BaseRequest, headers: dict[str, str]
    ) -> web.StreamResponse:
        if request.method in READING:
            return await console.page(request, headers)
        if request.method == "DELETE":
            return await console.sign_out(request, headers)
        response = await console.sign_in(request, headers)
        if response is None:
            reason = "this is not the instance's token, or the link was used before"
            raise self._auth.guesses.wrong(reason, address_of(request))
        self._auth.guesses.right(address_of(request))
        return response

    async def _session(self, asked: Asked) -> web.StreamResponse:
        request, headers = asked.request, asked.headers
        session = session_in_path(asked.at[0])
        if request.method == "DELETE":
            caller = asked.caller.key if self._principal == "token" else ""
            return await self._sessions.delete(session, caller, request, headers)
        return await self._sessions.state(session, headers)

    async def _stop(self, asked: Asked) -> web.StreamResponse:
        fields = json_object(await self._body.read(asked.request))
        session, run_id = fields.get("session_id"), fields.get("run_id")
        if (session is None) == (run_id is None):
            raise invalid("give either session_id or run_id")
        if session is not None:
            session = session_id(session)
        elif not isinstance(run_id, str):
            raise invalid("run_id must be a string")
        stopped = self._turns.interrupt(session_id=session, run_id=run_id)
        return json_response({"status": "success", "stopped": stopped}, 200, asked.headers)

    async def _show_metrics(self, _: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        assert self._metrics is not None, "the table of routes has it only then"
        from agentscope_supervisor.telemetry import prometheus  # 1 MB, only for instances that are asked

        body = prometheus.text(await self._metrics.collect())
        return web.Response(body=body, headers={**headers, "Content-Type": prometheus.CONTENT_TYPE})
