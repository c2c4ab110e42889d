"""`/console`: one page for the developer, what it shows of the instance as it happens, and its two buttons.

The page and what belongs to it are files in the folder `console`; they hold no data and anybody may have
them. All that it shows comes as one stream of events, from the desk of the operator's commands and from the
log; the chat is an ordinary client of `/invoke`. Who is let in is `console_auth`' to say.
"""

import asyncio
import contextlib
from importlib import resources
from typing import Any, Final, Protocol

import orjson
from aiohttp import web

from agentscope_protocol.config.settings import ServerSettings
from agentscope_supervisor.domain.errors import ErrorCode, Failure, Refused, invalid
from agentscope_supervisor.domain.request import json_object
from agentscope_supervisor.http1.body import BodyReader
from agentscope_supervisor.http1.responses import Headers, json_response
from agentscope_supervisor.system.log_buffer import LogBuffer
from agentscope_supervisor.web import console_auth
from agentscope_supervisor.web.console_auth import ConsoleCookie
from agentscope_supervisor.workers.revisions import ReloadRefused, Rolling

EVERY: Final = 1.0  # seconds between two looks at the instance
MAX_WATCHERS: Final = 16  # pages at once; each look costs about a millisecond
STALLED_AFTER: Final = 30.0  # seconds in which a browser must take what was sent; it comes back by itself
MAX_BODY_MB: Final = 1 / 16  # of the console's own requests, of which the longest is a token
SHOWN_LINES: Final = 200  # of the log, to a page that begins
SHOWN_DEATHS: Final = 20
SHOWN_SESSIONS: Final = 100

PAGE: Final = "page.html"
TYPES: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

# Nothing from elsewhere, nothing inline, in nobody's frame. A GET has no Origin: its Referer proves the page.
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
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
    """What the console asks of the instance; `control.handlers` has it."""

    async def status(self) -> dict[str, Any]: ...

    def sessions(self) -> list[dict[str, Any]]: ...

    def deaths(self) -> list[dict[str, Any]]: ...

    def reload(self) -> Rolling | ReloadRefused: ...

    def maintain(self, on: bool) -> None: ...


class Console:
    """The handlers of `/console` and below. `close` ends the streams of open pages."""

    def __init__(self, settings: ServerSettings, desk: ConsoleInstance, journal: LogBuffer) -> None:
        self._desk: Final = desk
        self._journal: Final = journal
        token = settings.auth_token
        self._pass: Final = ConsoleCookie(token.get_secret_value().encode()) if token is not None else None
        self._body: Final = BodyReader(settings.model_copy(update={"max_body_mb": MAX_BODY_MB}))
        self._files: Final = {file.name: file.read_bytes() for file in _folder().iterdir()}
        self._watchers = 0
        self._closing: Final = asyncio.Event()

    @property
    def assets(self) -> list[str]:
        """Names of the files that the page asks for, each below `/console/`."""
        return [name for name in self._files if name != PAGE]

    def close(self) -> None:
        """End the streams; they would hold up the end of the instance."""
        self._closing.set()

    def admits(self, headers: Headers) -> bool:
        """Whether a request needs no token, as the console's page sends it with the cookie for one."""
        return self._pass is not None and self._pass.is_held(headers)

    # -- the page -----------------------------------------------------------------------------

    async def page(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        """GET: the page. POST: the token for a cookie. Raises: Refused."""
        if request.method == "POST":
            return await self._log_in(request, headers)
        return self._file(PAGE, headers)

    async def asset(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        return self._file(request.path.rpartition("/")[2], headers)

    def _file(self, name: str, headers: dict[str, str]) -> web.Response:
        kind = TYPES[name.rpartition(".")[2]]
        return web.Response(
            body=self._files[name], content_type=kind, charset="utf-8", headers=headers | HEADERS
        )

    async def _log_in(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        if not console_auth.is_same_origin(request.headers):
            raise _forbidden("only the console's own page may ask this")
        token = json_object(await self._body.read(request)).get("token")
        if not isinstance(token, str):
            raise invalid("token must be a string")
        if self._pass is not None:
            if not self._pass.is_token(token):
                raise Refused(Failure(ErrorCode.UNAUTHORIZED, "this is not the instance's token"))
            headers["Set-Cookie"] = self._pass.cookie(request.headers)
        return web.Response(status=204, headers=headers)

    # -- what it shows ------------------------------------------------------------------------

    async def live(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        """The instance as it is and what is logged, without end, at the pace at which it is read.

        Raises: Refused.
        """
        self._check(request)
        if self._watchers >= MAX_WATCHERS:
            raise Refused(Failure(ErrorCode.OVERLOADED, f"{MAX_WATCHERS} consoles are open already"))
        response = web.StreamResponse(headers=headers | _STREAM)
        self._watchers += 1
        try:
            await response.prepare(request)
            await self._show(response)
            await response.write_eof()
        except TimeoutError:  # it is not read
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._watchers -= 1
        return response

    async def _show(self, response: web.StreamResponse) -> None:
        """Raises: TimeoutError if the browser does not read."""
        deaths_seen: object = None
        at = self._journal.end - SHOWN_LINES
        while not self._closing.is_set():
            status = await self._desk.status()
            status["sessions"] = self._desk.sessions()[:SHOWN_SESSIONS]
            told = _event("status", orjson.dumps(status))
            if status["deaths"] != deaths_seen:
                deaths_seen = status["deaths"]
                told += _event("deaths", orjson.dumps(self._desk.deaths()[-SHOWN_DEATHS:]))
            lines, at = self._journal.since(at)
            if lines:
                told += _event("log", b"[%b]" % b",".join(line.rstrip() for line in lines))
            async with asyncio.timeout(STALLED_AFTER):
                await response.write(told)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await self._closing.wait()

    # -- what it does -------------------------------------------------------------------------

    async def restart(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        """Read the file and replace the workers. Raises: Refused."""
        self._check(request)
        begun = self._desk.reload()
        if isinstance(begun, ReloadRefused):
            return json_response({"outcome": "refused", "reason": begun.reason}, 200, headers)
        return json_response(
            {"outcome": "started", "edition": begun.revision, "note": begun.note}, 200, headers
        )

    async def maintain(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        """Take no new turns, or take them again. Raises: Refused."""
        self._check(request)
        on = json_object(await self._body.read(request)).get("on")
        if not isinstance(on, bool):
            raise invalid("on must be true or false")
        self._desk.maintain(on)
        return json_response({"on": on}, 200, headers)

    def _check(self, request: web.BaseRequest) -> None:
        """With a token, the front door has asked for it."""
        if self._pass is None:
            why = console_auth.local_refusal(_peer(request), request.headers)
            if why:
                raise _forbidden(why)


def _folder() -> Any:
    return resources.files("agentscope_supervisor.web") / "console_page"


def _peer(request: web.BaseRequest) -> str:
    """The address of who is connected; empty on a Unix socket, where it may be anybody's proxy."""
    transport = request.transport
    name = transport.get_extra_info("peername") if transport is not None else None
    return str(name[0]) if isinstance(name, tuple) else ""


def _event(name: str, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def _forbidden(why: str) -> Refused:
    return Refused(Failure(ErrorCode.FORBIDDEN, why))
