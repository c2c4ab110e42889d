"""Which object of app.py is hosted, and what the errors list."""

import types
from collections.abc import Callable
from typing import Any

import pytest

from agentscope_worker.runtime import discovery
from agentscope_worker.runtime.application import AgentApp
from agentscope_worker.runtime.discovery import Found, Kind, NotFound, choose, kind_of


def a_class(name: str, module: str, base: type = object, **members: Any) -> type:
    return type(name, (base,), {"__module__": module, "__qualname__": name, **members})


class Router:
    """An ASGI app that is usually a part of another."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class Proxy:
    """Like the request of Quart and Flask, which exists only while there is a request."""

    def __call__(self, *arguments: Any) -> Any: ...

    def __getattr__(self, name: str) -> Any:
        if name in ("__signature__", "__wrapped__"):
            raise RuntimeError("working outside of request context")
        raise AttributeError(name)


FastAPI = a_class("FastAPI", "fastapi.applications", a_class("Starlette", "starlette.applications", Router))
RuntimeApp = a_class("AgentApp", "agentscope_runtime.engine.app.agent_app", FastAPI)
Flask = a_class("Flask", "flask.app", __call__=lambda self, environ, start_response: [])


class App(AgentApp):
    async def __call__(self, msg: Any, ctx: Any) -> Any:
        yield msg


async def plain(scope: Any, receive: Any, send: Any) -> None: ...


async def other(scope: Any, receive: Any, send: Any, more: int = 0) -> None: ...


def create_app() -> Any: ...


def needs(more: int) -> Any: ...


def chosen(names: dict[str, Any], served: Any = None) -> tuple[str, Kind]:
    found = choose({"__name__": __name__, **names}, served)
    assert served is not None or found.value is names[found.name]
    return found.name, found.kind


def refusal(names: dict[str, Any], served: Any = None) -> str:
    with pytest.raises(NotFound) as raised:
        choose({"__name__": __name__, **names}, served)
    return str(raised.value)


@pytest.mark.parametrize(
    "names, expected",
    [
        ({"App": App, "app": FastAPI(), "agent": RuntimeApp()}, ("App", Kind.APP)),
        ({"agent": RuntimeApp(), "app": FastAPI()}, ("agent", Kind.AGENT_APP)),
        ({"first": RuntimeApp(), "app": RuntimeApp()}, ("app", Kind.AGENT_APP)),
        ({"application": FastAPI(), "app": FastAPI()}, ("app", Kind.ASGI)),
        ({"other": FastAPI(), "application": FastAPI()}, ("application", Kind.ASGI)),
        ({"api": FastAPI(), "router": Router()}, ("api", Kind.ASGI)),
        ({"api": FastAPI(), "app": Router()}, ("app", Kind.ASGI)),
        ({"serve": plain}, ("serve", Kind.ASGI)),
        ({"serve": other, "request": Proxy(), "json": types, "Router": Router}, ("serve", Kind.ASGI)),
        ({"App": FastAPI, "app": FastAPI()}, ("app", Kind.ASGI)),
    ],
)
def test_the_order_of_preference(names: dict[str, Any], expected: tuple[str, Kind]) -> None:
    assert chosen(names) == expected


def test_an_app_with_two_names_counts_once() -> None:
    api = FastAPI()
    assert chosen({"api": api, "service": api}) == ("api", Kind.ASGI)


def test_functions_of_libraries_do_not_count() -> None:
    assert "there is no class App" in refusal({"__name__": "elsewhere", "imported": plain})


def test_what_is_served_is_the_app() -> None:
    names = {"admin": FastAPI(), "public": FastAPI()}
    assert chosen(names, names["public"]) == ("public", Kind.ASGI)
    assert chosen(names, RuntimeApp()) == ("the app of its server", Kind.AGENT_APP)
    assert choose({"App": App}, FastAPI()) == Found(Kind.APP, App, "App")


def test_several_apps_are_listed() -> None:
    assert refusal({"admin": FastAPI(), "public": FastAPI()}) == (
        "it has several ASGI apps: admin (FastAPI), public (FastAPI); name one of them app, or set "
        "`app: app:admin` in agentapp.yaml"
    )
    assert "one (AgentApp), two (AgentApp)" in refusal({"one": RuntimeApp(), "two": RuntimeApp()})


def test_what_looks_like_an_app_is_named() -> None:
    assert refusal({}) == f"there is no class App; {discovery.EXPECTED}"
    message = refusal({"site": Flask(), "create_app": create_app, "get_app": needs})
    assert "site is a Flask, which is a WSGI app; wrap it" in message
    assert "create_app is a function: if it returns the app, set `app: app:create_app`" in message
    assert "get_app" not in message


@pytest.mark.parametrize(
    "served, said",
    [
        (Flask(), "a Flask, which is a WSGI app"),
        (App, "the class App, not an object of it"),
        (3, "a int object"),
    ],
)
def test_something_else_that_is_served_is_rejected(served: Any, said: str) -> None:
    assert f"it starts a server with {said}" in refusal({}, served)


@pytest.mark.parametrize(
    "value", [None, 3, "app:app", create_app, needs, FastAPI, print, {}.get, Flask(), Proxy()]
)
def test_other_values_are_no_apps(value: Any) -> None:
    assert kind_of(value) is None


@pytest.mark.parametrize(
    "value, expected",
    [(create_app, True), (lambda *a, **b: None, True), (needs, False), (plain, False), (FastAPI, False)],
)
def test_a_factory_needs_no_arguments(value: Callable[..., Any], expected: bool) -> None:
    assert discovery.is_factory(value) is expected


def test_a_function_is_described() -> None:
    assert discovery.description(needs) == "a function"
