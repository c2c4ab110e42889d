"""The table of this server's own routes: which path has which handler, also beside a hosted app.

Where to read next: `app` has the entries of the table, `front_ends` those of the dialects.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from agentscope_supervisor.http1 import aiohttp_web as web
from agentscope_supervisor.web.access.tokens import EVERYTHING, NO_SCOPES, OPERATORS, USERS, Caller, Scopes
from agentscope_supervisor.web.dialects.dialect import Refuse
from agentscope_supervisor.web.request_record import RequestRecord

Found = tuple["Route | None", tuple[str, ...]]
"""A route, and the variable parts of the path."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as a handler gets it. `headers`: of the response. `caller`: of the request, once it is
    admitted. `at`: the variable parts of the path."""

    request: web.BaseRequest
    headers: dict[str, str]
    record: RequestRecord
    caller: Caller
    at: tuple[str, ...] = ()


READING: Final = ("GET", "HEAD")  # methods that change nothing

Handler = Callable[[Asked], Awaitable[web.StreamResponse]]
"""Answers a request. Raises: Refused."""

PlainHandler = Callable[[web.BaseRequest, dict[str, str]], Awaitable[web.StreamResponse]]
"""A handler that needs the request and the headers of its response only."""


@dataclass(frozen=True, slots=True)
class Access:
    """The scopes of which a caller needs one: to read, with GET or HEAD, and for other methods. Empty: the
    route requires no token."""

    reading: Scopes
    changing: Scopes

    def needs(self, method: str) -> Scopes:
        return self.reading if method in READING else self.changing


PUBLIC: Final = Access(NO_SCOPES, NO_SCOPES)
"""The platform's probes have no token, and neither has a browser before the sign-in."""
ANYBODY: Final = Access(EVERYTHING, EVERYTHING)
TURNS: Final = Access(USERS, USERS)
OF_AN_ID: Final = Access(frozenset({"use", "read", "operate"}), frozenset({"use", "operate"}))
"""One run, or one session: its id is known to those who may know of it."""
LISTS: Final = Access(OPERATORS, EVERYTHING)
"""All sessions: their ids let a client use those of others."""
SCRAPERS: Final = Access(frozenset({"metrics"}), frozenset({"metrics"}))
"""Requires a token only if one has this scope."""


@dataclass(frozen=True, slots=True)
class Route:
    """One path and its handler. A part of the path in braces matches any text without a slash; with `*` after
    its name, it matches slashes too."""

    path: str
    handler: Handler
    access: Access
    methods: tuple[str, ...] = ("GET", "HEAD")
    takes_ticket: bool = False  # of the run in its path, instead of the token
    refuse: Refuse | None = None  # the error response; None: the native one
    stays: bool = False  # beside a hosted app too, at the same path unless `server.prefix` is set

    @property
    def is_open(self) -> bool:
        """Whether it requires no token, or only if one has the scope for it."""
        return not self.access.reading or self.access is SCRAPERS


def plain(handler: PlainHandler) -> Handler:
    """A handler that needs the request and the headers of its response only."""
    return lambda asked: handler(asked.request, asked.headers)


class RouteTable:
    """The routes of the server. `prefix`: of their paths beside a hosted app."""

    def __init__(self, routes: Sequence[Route], prefix: str) -> None:
        self._prefix: Final = prefix
        self._fixed: Final = {route.path: route for route in routes if "{" not in route.path}
        self._below: Final = [(_pattern(route.path), route) for route in routes if "{" in route.path]

    def find(self, path: str, *, beside_app: bool) -> Found:
        """The route at a path; None: there is none, or the path belongs to the hosted app."""
        if not beside_app:
            return self._match(path)
        if self._prefix:
            below = path.removeprefix(self._prefix)
            is_below = below != path and below[:1] in ("", "/")
            return self._match(below or "/") if is_below else (None, ())
        route, at = self._match(path)
        return (route, at) if route is not None and route.stays else (None, ())

    def _match(self, path: str) -> Found:
        route = self._fixed.get(path)
        if route is not None:
            return route, ()
        for pattern, below in self._below:
            found = pattern.fullmatch(path)
            if found is not None:
                return below, found.groups()
        return None, ()


def _pattern(path: str) -> re.Pattern[str]:
    """The paths that a route with variable parts takes."""
    return re.compile(
        re.sub(r"\\\{\w+(\\\*)?\\\}", lambda part: "((?s:.*))" if part[1] else "([^/]*)", re.escape(path))
    )


def documented(route: Route) -> str:
    """The path of a route as the reference writes it."""
    return route.path.replace("*", "")


def label(route: Route | None) -> str:
    """The name of a request's route in the metrics: one of a fixed set, whatever paths clients request."""
    return "other" if route is None else documented(route).rstrip("/") or "/"
