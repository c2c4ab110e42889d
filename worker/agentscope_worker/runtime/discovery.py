"""Which object is hosted: the class `App`, an AgentApp of agentscope-runtime, or an ASGI app. Pure.

Owns the order of preference and what counts as an ASGI app. A value counts by the parameters of its call,
not by its framework, so no framework is imported here. `loading` imports the project and calls this module.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from types import FunctionType, ModuleType
from typing import Any, Final

from agentscope_worker.runtime.application import AgentApp

EXPECTED: Final = (
    "app.py must define class App(AgentApp), with AgentApp imported from agentscope.runtime, or an ASGI app "
    "such as FastAPI() with the name app"
)

USUAL_NAMES: Final = ("app", "application")
"""The names of ASGI apps that servers look for, in this order."""

APPLICATIONS: Final = frozenset(
    {
        "starlette.applications.Starlette",  # FastAPI derives from it
        "quart.app.Quart",
        "litestar.app.Litestar",
        "django.core.handlers.asgi.ASGIHandler",
        "sanic.app.Sanic",
        "blacksheep.server.application.Application",
    }
)
"""Classes of complete apps. Routers, mounts and middleware are ASGI apps too, but usually parts of one."""

OTHERS: Final = {
    "flask.app.Flask": "a WSGI app; wrap it: app = asgiref.wsgi.WsgiToAsgi(app)",
    "django.core.handlers.wsgi.WSGIHandler": "a WSGI app; use django.core.asgi.get_asgi_application()",
    "aiohttp.web_app.Application": "an app of aiohttp's own server, which is no ASGI app",
}
"""Classes of web apps that cannot be hosted, and what to do instead."""

FACTORIES: Final = ("create_app", "make_app", "get_app", "build_app")
"""Usual names of functions that return an app."""


class Kind(Enum):
    """How an app is hosted."""

    APP = auto()  # a class that derives from agentscope.runtime.AgentApp
    AGENT_APP = auto()  # an AgentApp of agentscope-runtime
    ASGI = auto()


@dataclass(frozen=True, slots=True)
class Found:
    """The object to host. `name`: its place for messages, such as `app` or `service.main:app`."""

    kind: Kind
    value: Any
    name: str


class NotFound(Exception):
    """There is no app to host, or no single one. The message continues one that names the file."""


class NothingFound(NotFound):
    """No value is an app."""


def choose(names: Mapping[str, object], served: object = None) -> Found:
    """The app among the global names of app.py. `served`: what app.py passed to a server, if it did.

    Raises: NotFound, with a list of the values that look like an app.
    """
    app = names.get("App")
    if kind_of(app) is Kind.APP:
        return Found(Kind.APP, app, "App")
    if served is not None:
        return _served(names, served)
    found: dict[int, Found] = {}
    for name, value, kind in _candidates(names):
        found.setdefault(id(value), Found(kind, value, name))
    usual = [found[id(names[name])] for name in USUAL_NAMES if name in names and id(names[name]) in found]
    agent_apps = [each for each in found.values() if each.kind is Kind.AGENT_APP]
    complete = [each for each in found.values() if _classes(each.value) & APPLICATIONS]
    usual_agent_app = [each for each in usual if each.kind is Kind.AGENT_APP]
    best = usual_agent_app[:1] or agent_apps or usual[:1] or complete or list(found.values())
    if not best:
        raise NothingFound(_nothing(names))
    if len(best) > 1:
        raise NotFound(_several(best))
    return best[0]


def kind_of(value: object) -> Kind | None:
    """How a value is hosted; None if it cannot be."""
    if isinstance(value, type):
        return Kind.APP if issubclass(value, AgentApp) else None
    if any(each.startswith("agentscope_runtime.") and each.endswith(".AgentApp") for each in _classes(value)):
        return Kind.AGENT_APP
    return Kind.ASGI if _takes_scope(value) else None


def is_factory(value: object) -> bool:
    """Whether a value is a function that can be called without arguments."""
    if not isinstance(value, FunctionType):
        return False
    return not any(
        each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        for each in inspect.signature(value).parameters.values()
    )


def description(value: object) -> str:
    """Words for a value, with the reason if it is a web app that cannot be hosted."""
    for each in _classes(value):
        if each in OTHERS:
            return f"a {type(value).__name__}, which is {OTHERS[each]}"
    if isinstance(value, type):
        return f"the class {value.__name__}, not an object of it"
    return "a function" if inspect.isroutine(value) else f"a {type(value).__name__} object"


def _served(names: Mapping[str, object], served: object) -> Found:
    name = next((name for name, value in names.items() if value is served), "the app of its server")
    kind = kind_of(served)
    if kind is None or kind is Kind.APP:
        raise NotFound(f"it starts a server with {description(served)}; {EXPECTED}")
    return Found(kind, served, name)


def _candidates(names: Mapping[str, object]) -> Iterator[tuple[str, object, Kind]]:
    own = names.get("__name__")
    for name, value in names.items():
        if isinstance(value, type | ModuleType):
            continue
        if isinstance(value, FunctionType) and value.__module__ != own:
            continue  # a part of a library that app.py has imported
        if (kind := kind_of(value)) is not None:
            yield name, value, kind


def _takes_scope(value: object) -> bool:
    # The class is asked, not the object: a proxy, such as Quart's `request`, is bound only in a request.
    call: Callable[..., Any] | None
    call = value if inspect.isroutine(value) else getattr(type(value), "__call__", None)  # noqa: B004
    if call is None:
        return False
    try:
        names = list(inspect.signature(call).parameters)
    except (TypeError, ValueError):  # it is written in C
        return False
    return [each for each in names if each != "self"][:3] == ["scope", "receive", "send"]


def _classes(value: object) -> set[str]:
    return {f"{each.__module__}.{each.__qualname__}" for each in type(value).__mro__}


def _several(group: list[Found]) -> str:
    listed = ", ".join(f"{each.name} ({type(each.value).__name__})" for each in group)
    return (
        f"it has several ASGI apps: {listed}; name one of them app, or set `app: app:{group[0].name}` in "
        "agentapp.yaml"
    )


def _nothing(names: Mapping[str, object]) -> str:
    others = [
        f"{name} is {description(value)}" for name, value in names.items() if _classes(value) & OTHERS.keys()
    ]
    others += [
        f"{name} is a function: if it returns the app, set `app: app:{name}` in agentapp.yaml"
        for name in FACTORIES
        if is_factory(names.get(name))
    ]
    return f"there is no class App; {EXPECTED}" + "".join(f"; {each}" for each in others)
