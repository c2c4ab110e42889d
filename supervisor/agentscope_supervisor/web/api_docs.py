"""`/openapi.json`, and `/docs`: a page that shows it and sends requests.

`openapi.json` in this folder is generated from the tables of the reference (`tools.docs`). The response has
only the routes that this instance serves. The page consists of static files in the folder `docs_page`. It
loads nothing from elsewhere, and is an ordinary client of the routes that it shows.
"""

import asyncio
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Final

import orjson

from agentscope_supervisor.http1 import aiohttp_web as web
from agentscope_supervisor.web.console import HEADERS, PAGE, TYPES

ASSETS: Final = ("docs.css", "docs.js")


class ApiDocs:
    """The handlers of /openapi.json and /docs. `routes`: the methods of each served path."""

    def __init__(self, routes: Mapping[str, Sequence[str]]) -> None:
        self._routes: Final = routes
        self._document: bytes | None = None

    async def document(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        """GET /openapi.json."""
        if self._document is None:
            self._document = await asyncio.to_thread(_served, self._routes)
        return web.Response(body=self._document, content_type="application/json", headers=headers)

    async def page(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        """GET /docs and its assets."""
        name = request.path.rpartition("/")[2]
        file = name if name in ASSETS else PAGE
        kind = TYPES[file.rpartition(".")[2]]
        body = await asyncio.to_thread(_read, f"docs_page/{file}")
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers | HEADERS)


def _served(routes: Mapping[str, Sequence[str]]) -> bytes:
    document: dict[str, Any] = orjson.loads(_read("openapi.json"))
    paths: dict[str, Any] = {}
    for path, operations in document["paths"].items():
        methods = {method.lower() for method in routes.get(path, ())}
        served = {method: each for method, each in operations.items() if method in methods}
        if served:
            paths[path] = served
    return orjson.dumps(document | {"paths": paths, "servers": [{"url": "/"}]})


def _read(name: str) -> bytes:
    return (resources.files("agentscope_supervisor.web") / name).read_bytes()
