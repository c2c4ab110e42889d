"""A Starlette app that is made in a function and ends with a server, as a script."""

import asyncio
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute


@asynccontextmanager
async def lifespan(app):
    yield {"up": True}


async def echo(request):
    return JSONResponse({"got": await request.json(), "up": request.state.up})


async def sse(request):
    async def events():
        for number in range(3):
            yield f"data: {number}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def ws(websocket):
    await websocket.accept()
    while True:
        await websocket.send_text("echo " + await websocket.receive_text())


async def main():
    routes = [Route("/echo", echo, methods=["POST"]), Route("/sse", sse), WebSocketRoute("/ws", ws)]
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes, lifespan=lifespan), port=5001))
    await server.serve()


asyncio.run(main())
