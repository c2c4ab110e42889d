"""A Litestar app."""

from litestar import Litestar, Request, WebSocket, get, post, websocket
from litestar.response import ServerSentEvent
from litestar.types import ASGIApp, Receive, Scope, Send

up: list[bool] = []


async def start() -> None:
    up.append(True)


@post("/echo", status_code=200)
async def echo(request: Request) -> dict:
    return {"got": await request.json(), "up": up[0]}


@get("/sse")
async def sse() -> ServerSentEvent:
    async def events():
        for number in range(3):
            yield str(number)

    return ServerSentEvent(events())


@websocket("/ws")
async def ws(socket: WebSocket) -> None:
    await socket.accept()
    while True:
        await socket.send_text("echo " + await socket.receive_text())


def timing(app: ASGIApp) -> ASGIApp:
    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    return middleware


service = Litestar([echo, sse, ws], on_startup=[start], middleware=[timing])
