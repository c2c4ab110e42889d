"""A FastAPI app that is wrapped in middleware, and whose script starts uvicorn with its name."""

from contextlib import asynccontextmanager

import uvicorn
from fastapi import Depends, FastAPI, Request, WebSocket
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import StreamingResponse


@asynccontextmanager
async def lifespan(app):
    app.state.up = True
    yield


api = FastAPI(lifespan=lifespan)


def is_up(request: Request) -> bool:
    return request.app.state.up


@api.post("/echo")
def echo(data: dict, up: bool = Depends(is_up)):
    return {"got": data, "up": up}


@api.get("/sse")
def sse():
    def events():
        for number in range(3):
            yield f"data: {number}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@api.websocket("/ws")
async def ws(websocket: WebSocket):
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text("echo " + text)


app = GZipMiddleware(api, minimum_size=1000)

if __name__ == "__main__":
    uvicorn.run("app:app", reload=True)
