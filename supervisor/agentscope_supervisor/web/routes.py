"""A route and a request, as the table of routes in `app` and the handlers in the other files know them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from agentscope_supervisor.http1 import aiohttp_web as web
from agentscope_supervisor.web.dialects.dialect import Refuse
from agentscope_supervisor.web.request_record import RequestRecord


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as a handler gets it. `headers`: of the response. `at`: the variable parts of the path."""

    request: web.BaseRequest
    headers: dict[str, str]
    record: RequestRecord
    at: tuple[str, ...] = ()


Handler = Callable[[Asked], Awaitable[web.StreamResponse]]
"""Answers a request. Raises: Refused."""

PlainHandler = Callable[[web.BaseRequest, dict[str, str]], Awaitable[web.StreamResponse]]
"""A handler that needs the request and the headers of its response only."""


@dataclass(frozen=True, slots=True)
class Route:
    """One path and its handler. A part of the path in braces matches any text without a slash; with `*` after
    its name, it matches slashes too."""

    path: str
    handler: Handler
    methods: tuple[str, ...] = ("GET", "HEAD")
    is_open: bool = False  # requires no token: the platform's probes have none
    takes_ticket: bool = False  # of the run in its path, instead of the token
    refuse: Refuse | None = None  # the error response; None: the native one


def plain(handler: PlainHandler) -> Handler:
    """A handler that needs the request and the headers of its response only."""
    return lambda asked: handler(asked.request, asked.headers)
