"""The wrong answers that this platform can give on purpose, by name. None of them ends by itself.

Each lie is a handler that answers in place of the real one; `LIES` has them all. A lie that needs an address
uses the cloud's metadata service, or the bait that a test has set up.
"""

import asyncio
import contextlib
import functools
import gzip
import itertools
import json
import os
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

METADATA: Final = "http://169.254.169.254/latest/meta-data/"
"""The metadata service of most clouds. A client that follows a redirect to it may leak credentials."""

HUGE: Final = 100 * 1024 * 1024  # bytes
PIECE: Final = bytes(64 * 1024)
MAX_HEADERS: Final = 64 * 1024 * 1024  # bytes of headers after which the platform closes the connection

Lie = Callable[[web.Request, str], Awaitable[web.StreamResponse]]

_count = itertools.count(1)


async def _for_ever() -> None:
    await asyncio.Event().wait()


async def reset(request: web.Request, bait: str) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def hang(request: web.Request, bait: str) -> web.StreamResponse:
    await _for_ever()
    return web.Response()


async def hang_after_headers(request: web.Request, bait: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "100"})
    await response.prepare(request)
    await _for_ever()
    return response


async def trickle(request: web.Request, bait: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    for byte in itertools.cycle(b'{"updated": false}   '):
        await response.write(bytes([byte]))
        await asyncio.sleep(1)
    return response


async def error_500(request: web.Request, bait: str) -> web.StreamResponse:
    return web.Response(status=500, text="<h1>Internal Server Error</h1>", content_type="text/html")


async def too_many_429(request: web.Request, bait: str) -> web.StreamResponse:
    return web.Response(status=429, headers={"Retry-After": "86400"})


async def garbage(request: web.Request, bait: str) -> web.StreamResponse:
    return web.Response(body=os.urandom(2000), content_type="application/json")


async def wrong_types(request: web.Request, bait: str) -> web.StreamResponse:
    shapes: tuple[object, ...] = (
        [],
        "restart",
        7,
        None,
        {"updated": "yes", "action": ["restart"], "version": {"a": 1}},
    )
    return web.json_response(shapes[next(_count) % len(shapes)])


async def huge(request: web.Request, bait: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        for _ in range(HUGE // len(PIECE)):
            await response.write(PIECE)
    return response


async def redirect(request: web.Request, bait: str) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": bait})


@functools.cache
def _bomb() -> bytes:
    return gzip.compress(bytes(HUGE), 9)


async def bomb(request: web.Request, bait: str) -> web.StreamResponse:
    """100 MB compressed to 100 kB."""
    body = await asyncio.to_thread(_bomb)
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    return web.Response(body=body, headers=headers)


async def endless_headers(request: web.Request, bait: str) -> web.StreamResponse:
    transport = request.transport
    assert transport is not None
    transport.write(b"HTTP/1.1 200 OK\r\n")
    line = b"X-More: %s\r\n" % (b"m" * 1000)
    for _ in range(MAX_HEADERS // len(line)):
        if transport.is_closing():
            break
        transport.write(line)
        await asyncio.sleep(0)
    transport.abort()
    return web.Response()


async def not_http(request: web.Request, bait: str) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.write(b"220 mail.example.com ESMTP ready\r\n" * 50)
    await _for_ever()
    return web.Response()


async def same_restart(request: web.Request, bait: str) -> web.StreamResponse:
    return web.json_response({"updated": True, "action": "restart", "version": "for ever"})


async def restart_without_version(request: web.Request, bait: str) -> web.StreamResponse:
    return web.json_response({"updated": True, "action": "restart"})


async def new_version_each_poll(request: web.Request, bait: str) -> web.StreamResponse:
    answer = {"updated": True, "action": "restart", "version": f"storm-{next(_count)}"}
    return web.Response(text=json.dumps(answer), content_type="application/json")


LIES: Final[dict[str, Lie]] = {
    lie.__name__: lie
    for lie in (
        reset,
        hang,
        hang_after_headers,
        trickle,
        error_500,
        too_many_429,
        garbage,
        wrong_types,
        huge,
        redirect,
        bomb,
        endless_headers,
        not_http,
        same_restart,
        restart_without_version,
        new_version_each_poll,
    )
}
