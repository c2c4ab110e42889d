"""A small MCP server with both HTTP transports, for tests and manual experiments.

Its tools: `echo`, `add`, `pid`, `fail` (always an error), `slow` (responds after the given number of seconds)
and `grow` (adds a tool, and notifies the client). A tool of any other name returns the server's name.
`/stats` returns the received requests as JSON. `POST /tools` with a JSON list of names adds and removes tools
at run time. `POST /refuse` with {"status": 413, "what": "slow"} refuses calls of a tool, as a gateway does;
`what` may also be a JSON-RPC method, or "" for every request. `{}` ends it. With `--token`, every request
needs `Authorization: Bearer TOKEN`. Run it as

    python -m tests.fakes.mcp_server --transport sse --port 9001

and use the printed URL in a project:

    mcp_servers: {tools: {url: "http://127.0.0.1:9001/sse", transport: sse}}

SIGINT and SIGTERM stop it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

try:
    from mcp.server.mcpserver import Context, MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
except ImportError:  # mcp 1.x
    from mcp.server.fastmcp import Context
    from mcp.server.fastmcp import FastMCP as MCPServer
    from mcp.server.fastmcp.exceptions import ToolError

TOOLS: Final = ("echo", "add", "slow", "fail", "pid", "grow")
PATHS: Final = {"sse": "/sse", "streamable_http": "/mcp"}
GRACE: Final = 1  # seconds that calls may continue at shutdown


class McpServer(MCPServer[None]):
    """The library's own server with these tools; counts the requests."""

    def __init__(self, name: str, tools: tuple[str, ...] = TOOLS, delay: float = 0.0) -> None:
        """`delay`: seconds before each response to a call."""
        super().__init__(name, log_level="CRITICAL")
        self._delay = delay
        self._asked: Counter[str] = Counter()
        self._running: Counter[str] = Counter()
        self._offer(tools)
        self.custom_route("/stats", ["GET"])(self._tell)
        self.custom_route("/tools", ["POST"])(self._change)

    async def list_tools(self) -> list[Any]:
        self._asked["list_tools"] += 1
        return await super().list_tools()

    async def call_tool(self, name: str, arguments: dict[str, Any], *context: Any) -> Any:
        self._asked[name] += 1
        self._running[name] += 1
        try:
            await asyncio.sleep(self._delay)
            return await super().call_tool(name, arguments, *context)
        finally:
            self._running[name] -= 1

    def _offer(self, names: tuple[str, ...]) -> None:
        for tool in self._tool_manager.list_tools():
            self.remove_tool(tool.name)
        for name in names:
            self.add_tool(getattr(self, f"_{name}", self._own_name), name=name, description=f"{name}, a tool")

    async def _echo(self, text: str) -> str:
        return text

    async def _add(self, a: int, b: int) -> int:
        return a + b

    async def _slow(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return f"slept {seconds:g} s"

    async def _fail(self, text: str = "no such luck") -> str:
        raise ToolError(text)  # mcp 2.x hides the text of any other exception from the client

    async def _pid(self) -> str:
        return str(os.getpid())

    async def _grow(self, name: str, context: Context[Any, Any]) -> str:
        self.add_tool(self._own_name, name=name)
        await context.session.send_tool_list_changed()
        return name

    async def _own_name(self) -> str:
        return self.name

    async def _tell(self, _: Request) -> Response:
        return JSONResponse({"asked": dict(self._asked), "running": dict(+self._running)})

    async def _change(self, request: Request) -> Response:
        self._offer(tuple(await request.json()))
        return JSONResponse({})


class Guarded:
    """An ASGI application behind a bearer token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or dict(scope["headers"]).get(b"authorization") == self._expected:
            await self._app(scope, receive, send)
            return
        refusal = JSONResponse({"error": "unauthorized"}, 401, {"WWW-Authenticate": "Bearer"})
        await refusal(scope, receive, send)


class Refusing:
    """An ASGI application behind a gateway that can refuse requests; see `POST /refuse` above."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._refused: dict[str, Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in ("/stats", "/tools"):
            await self._app(scope, receive, send)
        elif scope["path"] == "/refuse":
            self._refused = await Request(scope, receive).json()
            await JSONResponse({})(scope, receive, send)
        elif not self._refused:
            await self._app(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()
        asked = json.loads(body) if body else {}
        if self._refused["what"] in ("", asked.get("method"), asked.get("params", {}).get("name")):
            refusal = Response("<h1>refused</h1>", self._refused["status"], media_type="text/html")
            await refusal(scope, receive, send)
            return
        pending = [{"type": "http.request", "body": body}]

        async def again() -> Any:
            return pending.pop() if pending else await receive()

        await self._app(scope, again, send)


class _Announced(uvicorn.Server):
    """A server that calls `ready` with its port once it accepts connections."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[int], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready(self.servers[0].sockets[0].getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--transport", choices=PATHS, default="sse")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free port; its URL is printed")
    parser.add_argument("--name", default="fake", help="what tools of other names answer")
    parser.add_argument("--tools", default=",".join(TOOLS), help="names, with commas")
    parser.add_argument("--token", help="wanted as Authorization: Bearer")
    parser.add_argument("--held", action="store_true", help="listen only when stdin has ended")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer to a call")
    options = parser.parse_args()
    server = McpServer(options.name, tuple(filter(None, options.tools.split(","))), options.delay)
    app: ASGIApp = server.sse_app() if options.transport == "sse" else server.streamable_http_app()
    app = Refusing(app)
    if options.token:
        app = Guarded(app, options.token)
    config = uvicorn.Config(
        app, options.host, options.port, log_level="critical", timeout_graceful_shutdown=GRACE
    )
    address = f"http://{options.host}:%d{PATHS[options.transport]}"
    if options.held:
        print("held", flush=True)
        sys.stdin.read()
    _Announced(config, lambda port: print(address % port, flush=True)).run()


if __name__ == "__main__":
    main()
