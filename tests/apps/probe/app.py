"""A FastAPI app with middleware, uploads, background tasks, streams, WebSockets and a mounted app.

`tests/contracts/test_uvicorn.py` asks it the same under uvicorn and in a worker.
"""

import asyncio
import contextvars
import hashlib
import threading
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import BackgroundTasks, FastAPI, Form, Request, UploadFile, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.middleware.base import BaseHTTPMiddleware

BIG = Path(__file__).with_name("big.bin")
BIG_SIZE = 16 * 1024 * 1024

variable = contextvars.ContextVar("variable", default="unset")
log, ran, gone = [], [], []
made = 0


@asynccontextmanager
async def lifespan(app):
    BIG.write_bytes(b"".join(bytes([number]) * 1024 * 1024 for number in range(16)))
    log.append("startup")
    app.state.x = "from-lifespan"
    yield {"shared": "lifespan-state"}


class Timing(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        variable.set("set-in-middleware")
        response = await call_next(request)
        response.headers["x-timing"] = "yes"
        return response


class Pure:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        # Not through the middleware below, which reads the body, and hides a disconnect.
        if direct := {"/duplex": duplex, "/wait_disconnect": wait_disconnect}.get(scope.get("path")):
            await direct(scope, receive, send)
            return
        scope.setdefault("state", {})["pure"] = 1

        async def with_cookies(message):
            if message["type"] == "http.response.start":
                cookies = [(b"x-pure", b"1"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
                message["headers"] = [*message["headers"], *cookies]
            await send(message)

        await self.app(scope, receive, with_cookies)


async def wait_disconnect(scope, receive, send):
    request = Request(scope, receive)
    await request.body()
    while not await request.is_disconnected():  # noqa: ASYNC110 - what an app does
        await asyncio.sleep(0.02)
    gone.append("is_disconnected")


async def duplex(scope, receive, send):
    """Answer each piece of the body when it arrives."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    more = True
    while more:
        message = await receive()
        more = message["more_body"]
        if message["body"]:
            body = b"got %d\n" % len(message["body"])
            await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body"})


app = FastAPI(lifespan=lifespan)
app.add_middleware(
    CORSMiddleware,
    allow_origins=["http://ok"],
    allow_credentials=True,
    allow_methods=["*"],
    allow_headers=["*"],
)
app.add_middleware(Timing)
app.add_middleware(GZipMiddleware, minimum_size=100_000)
app.add_middleware(Pure)


@app.get("/state")
async def state(request: Request):
    own = request.state
    return {"app": request.app.state.x, "shared": own.shared, "pure": own.pure, "log": log}


@app.get("/sync")
def sync():
    return {"in_main": threading.current_thread() is threading.main_thread(), "var": variable.get()}


@app.get("/async")
async def as_async():
    return {"in_main": threading.current_thread() is threading.main_thread(), "var": variable.get()}


@app.get("/scope")
async def scope(request: Request):
    names = ("type", "http_version", "scheme", "method", "path", "raw_path", "query_string", "root_path")
    shown = {name: request.scope[name] for name in names}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in shown.items()} | {
        "base_url": str(request.base_url),
        "url_for": str(request.url_for("state")),
        "client_host": request.client.host,
        "has_port": request.client.port > 0,
        "server_host": request.scope["server"][0],
        "spec": request.scope["asgi"]["spec_version"],
    }


@app.get("/path/{p:path}")
async def path(p: str, request: Request):
    return {"p": p, "raw": request.scope["raw_path"].decode()}


@app.get("/headers")
async def headers(request: Request):
    shown = (b"x-a", b"x-uni", b"x-forwarded", b"cookie")
    pairs = [pair for pair in request.scope["headers"] if pair[0].startswith(shown)]
    return sorted([name.decode(), value.decode("latin-1")] for name, value in pairs)


@app.post("/background")
async def background(tasks: BackgroundTasks):
    async def later():
        await asyncio.sleep(0.3)
        ran.append("background")

    tasks.add_task(later)
    return {"ran": ran}


@app.get("/background")
async def background_work():
    return ran


@app.post("/upload")
async def upload(file: UploadFile, note: Annotated[str, Form()] = ""):
    digest, size = hashlib.sha256(), 0
    while piece := await file.read(1 << 20):
        digest.update(piece)
        size += len(piece)
    return {"size": size, "digest": digest.hexdigest(), "note": note, "name": file.filename}


@app.post("/stream_in")
async def stream_in(request: Request):
    pieces = [len(piece) async for piece in request.stream() if piece]
    return {"size": sum(pieces), "more_than_one": len(pieces) > 1}


@app.post("/early")
async def early():
    return JSONResponse({"refused": True}, status_code=413)


@app.get("/big")
async def big():
    return FileResponse(BIG)


@app.get("/flood")
async def flood():
    async def pieces():
        global made
        made = 0
        for _ in range(2000):
            made += 1
            yield b"x" * 65536

    return StreamingResponse(pieces(), media_type="application/octet-stream")


@app.get("/made")
async def flood_made():
    return made


@app.get("/sse")
async def sse(n: int = 5, gap: float = 0.05):
    async def events():
        try:
            for number in range(n):
                yield f"data: {number}\n\n"
                await asyncio.sleep(gap)
        except asyncio.CancelledError:
            gone.append("cancelled")
            raise
        finally:
            gone.append("finally")

    return StreamingResponse(events(), media_type="text/event-stream")


@app.get("/gone")
async def what_is_gone():
    found = list(gone)
    gone.clear()
    return found


@app.get("/sync_gen")
def sync_gen():
    def lines():
        for number in range(3):
            yield f"{number}\n"

    return StreamingResponse(lines(), media_type="text/plain")


@app.get("/boom")
async def boom():
    raise ValueError("boom")


@app.get("/boom_mid")
async def boom_mid():
    async def pieces():
        yield b"one"
        await asyncio.sleep(0.05)
        raise ValueError("mid")

    return StreamingResponse(pieces())


@app.get("/empty")
async def empty():
    return Response(status_code=204)


@app.get("/redirect")
async def redirect():
    return RedirectResponse("/state")


@app.get("/length")
async def length():
    return Response(b"x" * 10, headers={"content-length": "10", "x-l": "1"})


@app.get("/gzipped")
async def gzipped():
    return Response(b"x" * 200_000)


@app.api_route("/any", methods=["PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "GET"])
async def with_any_method(request: Request):
    return {"method": request.method}


@app.websocket("/ws")
async def ws(socket: WebSocket, token: str = ""):
    if token == "no":
        await socket.close(code=4001)
        return
    offered = socket.scope["subprotocols"]
    await socket.accept(subprotocol="chat" if "chat" in offered else None, headers=[(b"x-ws", b"1")])
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                gone.append(f"ws {message['code']}")
                break
            if message.get("text") == "close":
                await socket.close(code=4002, reason="asked")
                break
            if message.get("text") == "boom":
                raise ValueError("ws boom")
            if message.get("text") is not None:
                await socket.send_text("echo " + message["text"])
            else:
                await socket.send_bytes(message["bytes"][::-1])
    finally:
        gone.append("ws finally")


mounted = FastAPI()


@mounted.get("/hello")
async def hello(request: Request):
    return {"root_path": request.scope["root_path"], "path": request.scope["path"]}


app.mount("/sub", mounted)
