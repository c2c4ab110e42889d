"""`/console`: the developer's page, its stream of live data, and its two actions.

The page and its assets are static files in the folder `console_page`. They have no data of the instance, and
are served without a token. All live data is one stream of events, made from the handlers of the operator's
commands and from the log buffer. The chat on the page is an ordinary client of `/invoke`.

Where to read next: `console_auth` decides which requests are allowed.
"""

import asyncio
import contextlib
import logging
import secrets
from importlib import resources
from typing import Any, Final, Protocol

import orjson

from agentscope_protocol.config.settings import ServerSettings
from agentscope_supervisor.domain.errors import ErrorCode, Failure, Refused, invalid
from agentscope_supervisor.domain.request import json_object
from agentscope_supervisor.http1 import aiohttp_web as web
from agentscope_supervisor.http1.body import BodyReader
from agentscope_supervisor.http1.responses import Headers, json_response
from agentscope_supervisor.system.log_buffer import LogBuffer
from agentscope_supervisor.web.access.console_auth import SignIns
from agentscope_supervisor.web.access.origins import is_same_origin
from agentscope_supervisor.workers.revisions import ReloadRefused, Rolling

log = logging.getLogger(__name__)

EVERY: Final = 1.0  # seconds between two updates
MAX_WATCHERS: Final = 16  # open pages; one update takes about 1 ms
STALLED_AFTER: Final = 30.0  # seconds that a browser has to read an update; it reconnects by itself
MAX_BODY_MB: Final = 1 / 16  # of the console's own requests; the longest content is a token
SHOWN_LINES: Final = 200  # of the log, in the first update of a page
SHOWN_DEATHS: Final = 20
SHOWN_SESSIONS: Final = 100

PAGE: Final = "page.html"
TYPES: Final = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
    "txt": "text/plain",
}

# No foreign content, no inline scripts or styles, no embedding in a frame. `data:` is for pictures and sounds
# inside a message. Referrer-Policy is `same-origin` because a GET has no Origin: `console_auth` reads its
# Referer.
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self' data:; media-src data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_STREAM: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}


class ConsoleInstance(Protocol):
    """The operations on the instance that the console needs. `control.handlers` implements them."""

    async def status(self) -> dict[str, Any]: ...

    def sessions(self) -> list[dict[str, Any]]: ...

    def deaths(self) -> list[dict[str, Any]]: ...

    def reload(self) -> Rolling | ReloadRefused: ...

    def maintain(self, on: bool) -> None: ...


class Console:
    """The handlers of `/console` and below. `url`: of the instance. `close` ends the open streams."""

    def __init__(
        self,
        settings: ServerSettings,
        sign_ins: SignIns,
        instance: ConsoleInstance,
        log_buffer: LogBuffer,
        url: str,
    ) -> None:
        self._instance: Final = instance
        self._log_buffer: Final = log_buffer
        self.sign_ins: Final = sign_ins
        self._url: Final = f"{url}/console"
        self._body: Final = BodyReader(settings.model_copy(update={"max_body_mb": MAX_BODY_MB}))
        self._files: Final = {file.name: file.read_bytes() for file in _folder().iterdir()}
        self._watchers = 0
        self._closing: Final = asyncio.Event()
        self._loop: Final = asyncio.get_running_loop()

    @property
    def link(self) -> str:
        """The address of the console; without a token, a link that signs in one browser."""
        # A browser does not send the part after `#`, so that no proxy logs it.
        return self._url + (f"#token={self.sign_ins.link}" if self.sign_ins.takes_link else "")

    def announce(self) -> None:
        """Log the link."""
        log.info("console enabled", extra={"url": self.link})

    @property
    def assets(self) -> list[str]:
        """The names of the files that the page loads, each below `/console/`."""
        return [name for name in self._files if name != PAGE]

    def close(self) -> None:
        """End the streams; otherwise they would delay the shutdown of the HTTP server."""
        self._closing.set()

    def admits(self, headers: Headers) -> bool:
        """Whether the console's page sends this request, and its browser is signed in."""
        return self.sign_ins.is_in(headers, self._loop.time())

    # -- the page -----------------------------------------------------------------------------

    async def page(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        """GET /console: the page."""
        return self._file(PAGE, headers)

    async def asset(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        return self._file(request.path.rpartition("/")[2], headers)

    def _file(self, name: str, headers: dict[str, str]) -> web.Response:
        kind = TYPES[name.rpartition(".")[2]]
        return web.Response(
            body=self._files[name], content_type=kind, charset="utf-8", headers=headers | HEADERS
        )

    async def sign_in(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse | None:
        """POST /console: exchange the token, or the secret of the link, for a cookie. None: it is wrong.
        Raises: Refused."""
        if not is_same_origin(request.headers):
            reason = "only the console's own page may send this request"
            raise Refused(Failure(ErrorCode.FORBIDDEN, reason))
        token = json_object(await self._body.read(request)).get("token")
        if not isinstance(token, str):
            raise invalid("token must be a string")
        if not self.sign_ins.is_secret(token):
            return None
        value = secrets.token_urlsafe(24)
        headers["Set-Cookie"] = self.sign_ins.sign_in(value, request.headers, self._loop.time())
        if self.sign_ins.takes_link:
            self.sign_ins.link = secrets.token_urlsafe(24)
            self.announce()
        return web.Response(status=204, headers=headers)

    async def sign_out(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        """DELETE /console: end the sign-in of this browser. Raises: Refused."""
        self._check(request)
        headers["Set-Cookie"] = self.sign_ins.sign_out(request.headers)
        return web.Response(status=204, headers=headers)

    # -- live data ----------------------------------------------------------------------------

    async def live(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        """GET /console/live: a stream of the state of the instance and its log, one update every `EVERY`
        seconds, or slower if the browser reads slowly. Raises: Refused."""
        self._check(request)
        if self._watchers >= MAX_WATCHERS:
            raise Refused(Failure(ErrorCode.OVERLOADED, f"{MAX_WATCHERS} console pages are already open"))
        response = web.StreamResponse(headers=headers | _STREAM)
        self._watchers += 1
        try:
            await response.prepare(request)
            await self._show(response, request.headers)
            await response.write_eof()
        except TimeoutError:  # the browser does not read
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._watchers -= 1
        return response

    async def _show(self, response: web.StreamResponse, headers: Headers) -> None:
        """Raises: TimeoutError if the browser does not read."""
        deaths_seen: object = None
        at = self._log_buffer.end - SHOWN_LINES
        while not self._closing.is_set() and self.admits(headers):
            status = await self._instance.status()
            status["sessions"] = self._instance.sessions()[:SHOWN_SESSIONS]
            update = _event("status", orjson.dumps(status))
            if status["deaths"] != deaths_seen:
                deaths_seen = status["deaths"]
                update += _event("deaths", orjson.dumps(self._instance.deaths()[-SHOWN_DEATHS:]))
            lines, at = self._log_buffer.since(at)
            if lines:
                update += _event("log", b"[%b]" % b",".join(line.rstrip() for line in lines))
            async with asyncio.timeout(STALLED_AFTER):
                await response.write(update)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await self._closing.wait()

    # -- actions ------------------------------------------------------------------------------

    async def restart(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        """POST /console/restart: reload the configuration and replace the workers. Raises: Refused."""
        self._check(request)
        rollout = self._instance.reload()
        if isinstance(rollout, ReloadRefused):
            return json_response({"outcome": "refused", "reason": rollout.reason}, 200, headers)
        return json_response(
            {"outcome": "started", "edition": rollout.revision, "note": rollout.note}, 200, headers
        )

    async def maintain(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        """POST /console/maintenance: refuse new turns, or accept them again. Raises: Refused."""
        self._check(request)
        on = json_object(await self._body.read(request)).get("on")
        if not isinstance(on, bool):
            raise invalid("on must be true or false")
        self._instance.maintain(on)
        return json_response({"on": on}, 200, headers)

    def _check(self, request: web.BaseRequest) -> None:
        """Raises: Refused. The token alone does not suffice: the data names every session and its run."""
        if not self.admits(request.headers):
            reason = "sign in at /console first; programs use the commands or the HTTP API"
            raise Refused(Failure(ErrorCode.UNAUTHORIZED, reason))


def _folder() -> Any:
    return resources.files("agentscope_supervisor.web") / "console_page"


def _event(name: str, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)
