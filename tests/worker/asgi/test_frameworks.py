"""One small app in each framework: found, started, asked over HTTP and WebSocket, stopped."""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentscope_protocol.wire.frames import End, MessageKind
from agentscope_worker.runtime.asgi_app import AsgiApp
from agentscope_worker.runtime.loading import load_app
from tests.worker.asgi.front import Front

APPS = Path(__file__).parents[2] / "apps" / "frameworks"


@pytest.fixture(autouse=True)
def fresh_module() -> Iterator[None]:
    before = list(sys.path)
    yield
    sys.modules.pop("app", None)
    sys.path[:] = before


def hosted(framework: str) -> AsgiApp:
    app = load_app(APPS / framework)
    assert isinstance(app, AsgiApp)
    return app


@pytest.mark.parametrize("framework", ["starlette", "fastapi", "quart", "litestar", "django"])
def test_an_app_of_the_framework_is_hosted(framework: str) -> None:
    # As in a worker: the file is imported while no loop runs.
    asyncio.run(_checked(hosted(framework), has_websockets=framework != "django"))


async def _checked(app: AsgiApp, *, has_websockets: bool) -> None:
    await app.on_startup()
    front = Front(app)
    data = json.dumps({"a": "b" * 100_000}).encode()
    length, kind = ("content-length", str(len(data))), ("content-type", "application/json")
    echo = front.request("POST", "/echo", headers=[("host", "example.org"), length, kind], body=None)
    echo.send(MessageKind.BODY, data[:60_000])
    echo.send(MessageKind.LAST, data[60_000:])
    await echo.ended()
    assert echo.status == 200, echo.body
    assert json.loads(echo.body) == {"got": json.loads(data), "up": True}
    events = await front.request(path="/sse", headers=[("host", "example.org")]).ended()
    assert events.headers["content-type"].startswith("text/event-stream")
    assert events.body.replace(b"\r\n", b"\n").split(b"\n\n")[:3] == [b"data: 0", b"data: 1", b"data: 2"]
    assert (await front.request(path="/none", headers=[("host", "example.org")]).ended()).status == 404
    if has_websockets:
        socket = await front.websocket("/ws", headers=[("host", "example.org")]).begun()
        assert socket.status == 101
        socket.send(MessageKind.TEXT, b"hi")
        assert (await socket.has(1)).pieces == [b"echo hi"]
        socket.close(1000)
        await socket.ended()
    assert isinstance(events.end, End)
    await front.exchanges.stop(asked=True, within=5)
    await app.on_shutdown()
