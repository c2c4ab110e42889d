"""A plain ASGI app without a framework: each path does one thing that a test asks for."""

import asyncio
import hashlib
import json
import os
from pathlib import Path
from urllib.parse import parse_qs

GO = Path("go")
GONE: list[str] = []
"""What the app has noticed of clients that left, in this process."""


async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await socket(scope, receive, send)
        return
    query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
    path = scope["path"]
    handler = ROUTES.get(path, echo)
    await handler(scope, receive, send, query)


async def reply(send, body, status=200, headers=()):
    if not isinstance(body, bytes):
        body, headers = json.dumps(body).encode(), [(b"content-type", b"application/json"), *headers]
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def pieces(receive):
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            GONE.append("upload")
            return
        yield message["body"]
        if not message["more_body"]:
            return


async def echo(scope, receive, send, query):
    """The request as the app sees it."""
    body = b"".join([piece async for piece in pieces(receive)])
    seen = {
        "method": scope["method"],
        "path": scope["path"],
        "query": scope["query_string"].decode(),
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
        "client": scope["client"],
        "scheme": scope["scheme"],
        "body": body.decode("latin-1"),
        "pid": os.getpid(),
    }
    await reply(send, seen, int(query.get("status", "200")), [(b"X-Two", b"1"), (b"X-Two", b"2")])


async def digest(scope, receive, send, query):
    """Size and hash of an upload."""
    size, sha = 0, hashlib.sha256()
    async for piece in pieces(receive):
        size += len(piece)
        sha.update(piece)
    await reply(send, {"size": size, "sha": sha.hexdigest()})


async def told_to_go():
    while not GO.exists():  # noqa: ASYNC110, ASYNC240 - another process creates it
        await asyncio.sleep(0.05)


async def stalled(scope, receive, send, query):
    """Reads nothing of an upload until the file `go` exists."""
    await told_to_go()
    await digest(scope, receive, send, query)


async def early(scope, receive, send, query):
    """Responds without reading the body."""
    await reply(send, b"early", 403)


async def chunks(scope, receive, send, query):
    """One message for each of `n` lines of `size` bytes; `gap` seconds apart."""
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
    )
    size = int(query.get("size", "0"))
    for number in range(int(query["n"])):
        line = b"data: %d\n\n" % number
        await send({"type": "http.response.body", "body": line.ljust(size, b"."), "more_body": True})
        MADE[0] += 1
        if "gap" in query:
            await asyncio.sleep(float(query["gap"]))
    await send({"type": "http.response.body", "body": b""})


MADE = [0]
SILENT = [0]


async def state(scope, receive, send, query):
    await reply(send, {"gone": GONE, "made": MADE[0], "silent": SILENT[0], "pid": os.getpid()})


async def waits(scope, receive, send, query):
    """Ends when the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
    GONE.append("waits")


async def holds(scope, receive, send, query):
    """Begins a response, and completes it when the file `go` exists. With `length`: with Content-Length."""
    headers = [(b"content-length", b"9")] if "length" in query else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    await told_to_go()
    await send({"type": "http.response.body", "body": b"last"})


async def silent(scope, receive, send, query):
    """Never responds."""
    SILENT[0] += 1
    try:
        await asyncio.sleep(3600)
    finally:
        SILENT[0] -= 1


async def bad(scope, receive, send, query):
    """A response that cannot be sent."""
    headers = {"break": [(b"x-a", b"1\r\nx-b: 2")], "name": [(b"x a", b"1")]}[query["what"]]
    await reply(send, b"", 200, headers)


async def wrong_length(scope, receive, send, query):
    """A body that is shorter or longer than its Content-Length."""
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", query["says"].encode())],
        }
    )
    await send({"type": "http.response.body", "body": b"12345"})


async def boom(scope, receive, send, query):
    if "late" in query:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
    raise RuntimeError("boom")


async def die(scope, receive, send, query):
    os._exit(3)


async def task(scope, receive, send, query):
    """Begins something that lives in this process, and names it."""
    name = f"task-{os.getpid()}-{len(TASKS)}"
    TASKS.add(name)
    await reply(send, {"task": name, "pid": os.getpid()}, 200, [(b"x-learn", name.encode())])


TASKS: set[str] = set()


async def socket(scope, receive, send):
    path = scope["path"]
    assert (await receive())["type"] == "websocket.connect"
    if path == "/ws/no":
        await send({"type": "websocket.close"})
        return
    if path == "/ws/denied":
        await send({"type": "websocket.http.response.start", "status": 429, "headers": [(b"x-why", b"busy")]})
        await send({"type": "websocket.http.response.body", "body": b"later"})
        return
    accept = {"type": "websocket.accept", "headers": [(b"x-ws", b"yes")]}
    if "chat" in scope["subprotocols"]:
        accept["subprotocol"] = "chat"
    await send(accept)
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            GONE.append(f"ws {message['code']}")
            return
        match message.get("text"):
            case "close":
                await send({"type": "websocket.close", "code": 4001, "reason": "bye"})
                return
            case "boom":
                raise RuntimeError("boom")
            case "pid":
                await send({"type": "websocket.send", "text": str(os.getpid())})
            case "die":
                os._exit(3)
            case "flood":
                while True:
                    await send({"type": "websocket.send", "bytes": bytes(10_000)})
                    MADE[0] += 1
            case None:
                await send({"type": "websocket.send", "bytes": message["bytes"]})
            case text:
                await send({"type": "websocket.send", "text": text})


ROUTES = {
    "/digest": digest,
    "/stalled": stalled,
    "/early": early,
    "/chunks": chunks,
    "/state": state,
    "/waits": waits,
    "/holds": holds,
    "/silent": silent,
    "/bad": bad,
    "/wrong_length": wrong_length,
    "/boom": boom,
    "/die": die,
    "/task": task,
}
