"""The admission of requests to the routes: by the page, the token or ticket, the method, the body's type.

Where to read next: `routes` has what each route requires, the room `access` checks it, and `app` calls this
for each request.
"""

import asyncio
from typing import Final

from agentscope_supervisor.domain.errors import ErrorCode, Failure, Refused
from agentscope_supervisor.http1 import aiohttp_web as web
from agentscope_supervisor.http1.aiohttp_connection import address_of, is_reserved, let_in
from agentscope_supervisor.http1.listener import NO_PLACE
from agentscope_supervisor.web.access.auth import Auth
from agentscope_supervisor.web.access.tickets import Tickets
from agentscope_supervisor.web.access.tokens import EVERYTHING, Caller
from agentscope_supervisor.web.invoke import refuse_repeated, refuse_untyped
from agentscope_supervisor.web.routes import READING, SCRAPERS, Asked, Route


class Admission:
    """The admission of requests to the server's own routes."""

    def __init__(self, auth: Auth, tickets: Tickets) -> None:
        self._auth: Final = auth
        self._tickets: Final = tickets
        self._loop: Final = asyncio.get_running_loop()

    def preflight(self, asked: Asked, route: Route | None) -> web.StreamResponse | None:
        """The answer to a browser that asks whether a page may send a request; None: it is no preflight."""
        if route is None or is_reserved(asked.request):
            return None
        granted = self._auth.origins.preflight(asked.request.method, asked.request.headers, route.methods)
        return web.Response(status=204, headers=asked.headers | granted) if granted else None

    def is_open(self, route: Route) -> bool:
        """Whether the route requires no token."""
        return route.is_open and not (route.access is SCRAPERS and self._auth.tokens.guards_metrics)

    def admit(self, asked: Asked, route: Route | None) -> tuple[Route, Caller]:
        """The route, if the request may take it, and its caller. Raises: Refused."""
        request, caller = asked.request, asked.caller
        if route is None or not self.is_open(route):
            if is_reserved(request):
                raise Refused(NO_PLACE)
            refuse_repeated(request, "Authorization")
            if not (route is not None and route.takes_ticket and self._has_ticket(asked)):
                needed = EVERYTHING if route is None else route.access.needs(request.method)
                caller = self._auth.admit(request.headers, address_of(request), needed)
            let_in(request)
        elif request.method not in READING:
            self._auth.check_origin(request.headers)
        if route is None:
            raise Refused(Failure(ErrorCode.NOT_FOUND, f"there is nothing at {request.path[:200]}"))
        if request.method not in route.methods:
            allowed = asked.headers["Allow"] = ", ".join(route.methods)
            message = f"{request.path} takes {allowed}, not {request.method[:20]}"
            raise Refused(Failure(ErrorCode.METHOD_NOT_ALLOWED, message))
        if request.method == "POST":
            refuse_untyped(request)
        return route, caller

    def _has_ticket(self, asked: Asked) -> bool:
        """Whether the URL has a valid ticket for the run in it. Raises: Refused."""
        ticket = asked.request.query.get("ticket")
        if ticket is None or "Authorization" in asked.request.headers:
            return False
        self._auth.check_origin(asked.request.headers)
        if not self._tickets.is_valid(ticket, asked.at[0], self._loop.time()):
            reason = "the ticket has expired, or is not for this run: request a new one"
            raise self._auth.guesses.wrong(reason, address_of(asked.request))
        return True
