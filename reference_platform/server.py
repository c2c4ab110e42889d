"""The platform over HTTP: the two routes for instances, a page for people, and the switch for wrong answers.

POST /api/instances/{id}/heartbeat    GET /api/instances/{id}/config       require the token, if one is set
GET  /   GET /state   POST /ask {"id", "action"}   POST /lie {"lie", "only"}    open to everyone
"""

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any, Final, Self

from aiohttp import web

from reference_platform.lies import LIES, METADATA
from reference_platform.registry import Beat, Registry

MAX_BODY: Final = 64 * 1024  # bytes of a heartbeat
STATUSES: Final = frozenset({"starting", "running", "degraded", "draining", "stopping"})
EXCHANGES: Final = ("heartbeat", "config")

_PAGE_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


class Platform:
    """The platform; `async with Platform() as platform` runs it on a free port.

    `token`: the bearer token that instances must send; None if they need none. `bait`: target of redirects.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, *, token: str | None = None, bait: str = METADATA
    ) -> None:
        self.host: Final = host
        self.port = port
        self.registry: Final = Registry()
        self.lies: Final[dict[str, str | None]] = dict.fromkeys(EXCHANGES)
        """Exchange -> the wrong answer to give, a name in `lies.LIES`; None: the right answer."""
        self.seen: Final[dict[str, int]] = dict.fromkeys(EXCHANGES, 0)
        """Exchange -> number of requests, including those that got a wrong answer."""
        self.refused = 0
        """Number of requests without the correct token."""
        self._token: Final = token
        self._bait: Final = bait
        self._runner: web.AppRunner | None = None

    @property
    def endpoint(self) -> str:
        """The value of `platform.endpoint` for instances."""
        return f"http://{self.host}:{self.port}/api"

    def tell_truth(self) -> None:
        """Give the right answers from now on."""
        self.lies.update(dict.fromkeys(EXCHANGES))

    async def start(self) -> None:
        """Listen; after a `stop`, on the same port as before."""
        app = web.Application(client_max_size=MAX_BODY)
        app.add_routes(
            [
                web.post("/api/instances/{id}/heartbeat", self._exchange("heartbeat", self._heartbeat)),
                web.get("/api/instances/{id}/config", self._exchange("config", self._config)),
                web.get("/", self._page),
                web.get("/state", self._state),
                web.post("/ask", self._ask),
                web.post("/lie", self._lie),
            ]
        )
        # A handler that hangs is cancelled when its client disconnects, or when the platform stops.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening; further connections are refused."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # -- for instances ------------------------------------------------------------------------

    def _exchange(
        self, name: str, truth: Callable[[web.Request], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def answer(request: web.Request) -> web.StreamResponse:
            self.seen[name] += 1
            lie = self.lies[name]
            if lie is not None:
                return await LIES[lie](request, self._bait)
            if not self._has_token(request):
                self.refused += 1
                return _error(401, "the request needs the instance's token")
            return await truth(request)

        return answer

    def _has_token(self, request: web.Request) -> bool:
        given = request.headers.get("Authorization", "")
        return self._token is None or hmac.compare_digest(
            given.encode("utf-8", "replace"), f"Bearer {self._token}".encode()
        )

    async def _heartbeat(self, request: web.Request) -> web.Response:
        body = await _object(request)
        status, metrics = body.get("status"), body.get("metrics")
        if not isinstance(status, str) or status not in STATUSES or not isinstance(metrics, dict):
            return _error(
                400, f"status must be one of {', '.join(sorted(STATUSES))}; metrics must be an object"
            )
        instance = self.registry.instance(request.match_info["id"])
        if instance is None:
            return _error(429, "there are too many instances")
        instance.add_beat(Beat(time.time(), status, metrics))
        return web.json_response({"status": "ok"})

    async def _config(self, request: web.Request) -> web.Response:
        instance = self.registry.instance(request.match_info["id"])
        if instance is None:
            return _error(429, "there are too many instances")
        return web.json_response(instance.config())

    # -- for people -----------------------------------------------------------------------------

    async def _page(self, request: web.Request) -> web.Response:
        text = (resources.files("reference_platform") / "page.html").read_text("utf-8")
        return web.Response(text=text, content_type="text/html", headers=_PAGE_HEADERS)

    async def _state(self, request: web.Request) -> web.Response:
        shown = [instance.shown() for instance in self.registry.instances.values()]
        return web.json_response(
            {
                "now": time.time(),
                "instances": shown,
                "lies": self.lies,
                "known_lies": list(LIES),
                "seen": self.seen,
            }
        )

    async def _ask(self, request: web.Request) -> web.Response:
        body = await _object(request)
        try:
            ask = self.registry.ask(str(body.get("id")), str(body.get("action")))
        except KeyError:
            return _error(404, "no such instance")
        except ValueError as error:
            return _error(400, str(error))
        return web.json_response({"action": ask.action, "version": ask.version})

    async def _lie(self, request: web.Request) -> web.Response:
        body = await _object(request)
        lie, only = body.get("lie"), body.get("only")
        if lie not in (None, *LIES) or only not in (None, *EXCHANGES):
            return _error(
                400,
                f"lie must be null or one of {', '.join(LIES)};"
                f" only must be null or one of {', '.join(EXCHANGES)}",
            )
        for name in EXCHANGES if only is None else (only,):
            self.lies[name] = lie
        return web.json_response(self.lies)


async def _object(request: web.Request) -> dict[str, Any]:
    """Return the JSON object in the body.

    The content type must be JSON, which a page of another site cannot send without permission (CORS).
    """
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="the content type must be application/json")
    try:
        value = json.loads(await request.read())
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise web.HTTPBadRequest(text="the body must be a JSON object")
    return value


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)


async def lie_in_turns(platform: Platform, seconds: float) -> None:
    """Give every kind of wrong answer in turn, forever.

    `seconds`: for how long each is given, and for how long the right answers in between.
    """
    while True:
        for lie in LIES:
            print(f"wrong answers: {lie}", flush=True)
            platform.lies.update(dict.fromkeys(EXCHANGES, lie))
            await asyncio.sleep(seconds)
            platform.tell_truth()
            print("right answers", flush=True)
            await asyncio.sleep(seconds)
