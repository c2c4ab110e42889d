"""The same service with aiohttp: one process on the port that the command line names."""

import os
import sys

import uvloop
from agentscope.message import Msg, TextBlock
from aiohttp import web
from turns import turn

DONE = b'data: {"name":"assistant","content":"","role":"assistant","metadata":{"done":true}}\n\n'
HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}


async def invoke(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    session, asked = body.get("session_id"), body.get("message")
    if not isinstance(session, str) or not 1 <= len(session) <= 256 or not isinstance(asked, dict):
        raise web.HTTPBadRequest
    block = TextBlock(type="text", text=asked["content"])
    msg = Msg(name=asked.get("name", "user"), role=asked.get("role", "user"), content=[block])
    response = web.StreamResponse(headers=HEADERS)
    await response.prepare(request)
    async for each in turn(msg):
        await response.write(b"data: %b\n\n" % each.model_dump_json().encode())
    await response.write(DONE)
    return response


async def health(_: web.Request) -> web.Response:
    return web.json_response({"status": "healthy", "pid": os.getpid()})


app = web.Application()
app.add_routes([web.post("/invoke", invoke), web.get("/health", health)])
web.run_app(
    app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, loop=uvloop.new_event_loop(), backlog=4096
)
