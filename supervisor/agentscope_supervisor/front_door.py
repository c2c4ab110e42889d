"""The HTTP side: routes, checks, and one handler for each request. Decides nothing about turns.

What a request may ask of the instance is `Desk`, which `daemon` provides. Health routes answer from what the
supervisor knows and never wait for a worker. Errors before the first byte are a status with a JSON body,
after it events; nothing that went wrong here reaches a client as a traceback.
"""

import asyncio
import hashlib
import hmac
import logging
import random
import re
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, Protocol

import orjson
from aiohttp import web
from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.streams import StreamReader

from agentscope_protocol.frames import Form
from agentscope_protocol.settings import ServerSettings
from agentscope_supervisor import __version__, invocation, sse
from agentscope_supervisor.answer import Answer
from agentscope_supervisor.invocation import Invocation, Refused, invalid, json_object
from agentscope_supervisor.ledger import Turn
from agentscope_supervisor.outcomes import RETRY_LATER, ErrorCode, Failure
from agentscope_supervisor.tracing import RequestTrace, Tracing

log = logging.getLogger(__name__)

QUEUED_AFTER: Final = 1.0  # seconds of waiting after which a client is told that its turn waits
SWEEP_EVERY: Final = 0.25  # seconds between two looks at the open answers
STALLED_AFTER: Final = 30.0
"""Seconds that a client may take to read the end of its answer; one that has stopped reading for good would
hold its socket and buffers for ever."""

BACKLOG: Final = 4096  # connections the kernel may hold for us; a burst must not meet a refusal
MAX_LINE: Final = 16 * 1024  # bytes of a request line or a header; large cookies fit

STREAM_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
OPEN_ROUTES: Final = frozenset({"/health", "/readiness", "/readyz", "/liveness", "/livez", "/healthz"})
"""They need no token: the platform's probes have none."""

_SANE_ID: Final = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_TRACE_HEADERS: Final = ("traceparent", "tracestate")


class Desk(Protocol):
    """What requests may ask of the instance. All return at once."""

    def submit(self, request: Invocation, answer: Answer) -> Turn | Failure:
        """Accept a turn, whose answer will be settled once; or say why not."""

    def leave(self, turn: Turn) -> None:
        """The client of this turn has gone."""

    def ahead(self, turn: Turn) -> int:
        """Turns of its session before a waiting turn."""

    def interrupt(self, *, session_id: str | None, run_id: str | None) -> int:
        """End the turns of a session, or one run; returns how many."""

    def health(self) -> dict[str, Any]:
        """The body of /health; `status` decides its HTTP status."""

    def unready(self) -> Failure | None:
        """Why a turn would not be accepted now; None: it would."""


class _Protocol(web.RequestHandler):
    """aiohttp's HTTP protocol, with our form of its own errors (what it could not parse)."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun; no error can be sent any more")
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            failure = Failure(ErrorCode.INVALID_REQUEST, "this is not an HTTP/1.1 request")
        else:
            log.error("request failed", exc_info=exc)
            failure = Failure(ErrorCode.INTERNAL_ERROR, "the request failed in the supervisor")
        response = error_response(failure, {"X-Request-Id": request_id(request)})
        response.force_close()
        return response


class _Server(web.Server):
    def __init__(self, door: "FrontDoor", max_body: int) -> None:
        self._max_body = max_body
        self._protocol_options: Mapping[str, Any] = {
            "keepalive_timeout": 75.0,
            # How long the rest of a refused body is read, so that its sender sees the refusal.
            "lingering_time": 2.0,
            "access_log": None,
            "max_line_size": MAX_LINE,
            "max_field_size": MAX_LINE,
        }
        super().__init__(door.handle, request_factory=self._request, handler_cancellation=True)

    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=asyncio.get_running_loop(), **self._protocol_options)

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: Any,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        loop = asyncio.get_running_loop()
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=self._max_body)


class _Outlet:
    """The client's transport, with chunked framing where the client understands it."""

    __slots__ = ("_chunked", "_request")

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self._chunked = request.version >= HttpVersion11

    def write(self, data: bytes) -> None:
        transport = self._request.transport
        # uvloop raises on a write to a closing transport; the handler hears of the end by itself.
        if transport is not None and not transport.is_closing():
            transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def is_full(self) -> bool:
        return self._request.protocol.writing_paused

    def cut(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()


class FrontDoor:
    """The HTTP server. `settings` and `desk` are all that it knows of the instance. `tracing`: None, off."""

    def __init__(self, settings: ServerSettings, desk: Desk, tracing: Tracing | None = None) -> None:
        self._tracing: Final = tracing
        self._desk: Final = desk
        self._keepalive: Final = settings.keepalive_interval
        self._principal: Final = settings.principal
        token = settings.auth_token
        self._token: Final = token.get_secret_value().encode() if token is not None else None
        self._max_body: Final = int(settings.max_body_mb * 1024 * 1024)
        self._body_timeout: Final = settings.body_timeout
        self._open: dict[Answer, Turn] = {}
        self._sweeping = False
        self._loop: Final = asyncio.get_running_loop()
        self._runner: Final = web.ServerRunner(_Server(self, self._max_body), shutdown_timeout=5.0)

    # -- life -------------------------------------------------------------------------------

    async def listen(self, sock: Any) -> None:
        """Serve on a bound socket."""
        await self._runner.setup()
        await web.SockSite(self._runner, sock, backlog=BACKLOG).start()

    async def close(self) -> None:
        """Stop listening; answers under way may take five seconds to leave."""
        await self._runner.cleanup()

    # -- one request ------------------------------------------------------------------------

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, whatever it is."""
        headers = {"X-Request-Id": request_id(request)}
        try:
            return await self._route(request, headers)
        except Refused as refused:
            return error_response(refused.failure, headers)
        except web.HTTPRequestEntityTooLarge:
            return error_response(self._too_large(), headers)

    async def _route(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        path, method = request.path, request.method
        if path not in OPEN_ROUTES:
            self._authorize(request)
        if path in ("/invoke", "/stop"):
            allowed: tuple[str, ...] = ("POST",)
        elif path in OPEN_ROUTES or path == "/":
            allowed = ("GET", "HEAD")
        else:
            raise Refused(Failure(ErrorCode.NOT_FOUND, f"there is nothing at {path[:200]}"))
        if method not in allowed:
            headers["Allow"] = ", ".join(allowed)
            message = f"{path} takes {headers['Allow']}, not {method[:20]}"
            raise Refused(Failure(ErrorCode.METHOD_NOT_ALLOWED, message))
        match path:
            case "/invoke":
                if self._tracing is not None:
                    return await self._traced_invoke(self._tracing, request, headers)
                return await self._invoke(request, headers)
            case "/stop":
                return await self._stop(request, headers)
            case "/health":
                health = self._desk.health()
                up = health["status"] in ("healthy", "degraded")
                return json_response(health, 200 if up else 503, headers)
            case "/readiness" | "/readyz":
                failure = self._desk.unready()
                if failure is not None:
                    raise Refused(failure)
                return json_response({"status": "ready"}, 200, headers)
            case "/":
                return json_response(_WELCOME, 200, headers)
            case _:
                return json_response({"status": "alive"}, 200, headers)

    def _authorize(self, request: web.BaseRequest) -> None:
        if self._token is not None:
            given = request.headers.get("Authorization", "")
            if not hmac.compare_digest(given.encode("utf-8", "replace"), b"Bearer " + self._token):
                message = "this needs the header Authorization: Bearer with the instance's token"
                raise Refused(Failure(ErrorCode.UNAUTHORIZED, message))

    async def _stop(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        fields = json_object(await self._body(request))
        session_id, run_id = fields.get("session_id"), fields.get("run_id")
        if (session_id is None) == (run_id is None):
            raise invalid("give either session_id or run_id")
        if session_id is not None:
            session_id = invocation.session_id(session_id)
        elif not isinstance(run_id, str):
            raise invalid("run_id must be a string")
        stopped = self._desk.interrupt(session_id=session_id, run_id=run_id)
        return json_response({"status": "success", "stopped": stopped}, 200, headers)

    async def _traced_invoke(
        self, tracing: Tracing, request: web.BaseRequest, headers: dict[str, str]
    ) -> web.StreamResponse:
        trace = tracing.request(request.headers)
        try:
            response = await self._invoke(request, headers, trace)
            trace.status = response.status
            return response
        except Refused as refused:
            trace.status, trace.failure = refused.failure.status, refused.failure
            raise
        except web.HTTPRequestEntityTooLarge:
            trace.failure = self._too_large()
            trace.status = trace.failure.status
            raise
        finally:
            tracing.record(trace)

    async def _invoke(
        self, request: web.BaseRequest, headers: dict[str, str], trace: RequestTrace | None = None
    ) -> web.StreamResponse:
        # What is no ASCII is no trace context, and would not pass the link.
        sent = {name: request.headers.get(name, "") for name in _TRACE_HEADERS}
        sent = {name: value for name, value in sent.items() if value and value.isascii()}
        asked = invocation.read(
            await self._body(request),
            header_session=request.headers.get("X-Session-Id"),
            accepts_json="application/json" in request.headers.get("Accept", ""),
            token=_fingerprint(request.headers.get("Authorization", "")),
            principal=self._principal,
            headers=trace.headers if trace is not None else sent,
        )
        answer = Answer(uuid.uuid4().hex, asked.form, self._loop.time())
        turn = self._desk.submit(asked, answer)
        if isinstance(turn, Failure):
            raise Refused(turn)
        if trace is not None:
            trace.accepted(answer)
        headers["X-Run-Id"] = answer.run_id
        try:
            return await self._deliver(request, answer, turn, headers)
        except BaseException:
            answer.abandon()
            self._desk.leave(turn)
            raise
        finally:
            self._open.pop(answer, None)

    # -- the answer -------------------------------------------------------------------------

    async def _deliver(
        self, request: web.BaseRequest, answer: Answer, turn: Turn, headers: dict[str, str]
    ) -> web.StreamResponse:
        self._open[answer] = turn
        self._sweep_soon()
        await answer.changed()
        if answer.form is Form.WHOLE:
            while not answer.settled:
                await answer.changed()
        if answer.worker is not None:
            headers["X-Agentscope-Worker"] = answer.worker
        if answer.is_error:
            assert answer.failure is not None
            return error_response(answer.failure, headers)
        if answer.form is Form.WHOLE:
            return web.Response(body=_whole(turn, answer), content_type="application/json", headers=headers)
        headers |= STREAM_HEADERS
        if answer.settled:  # a short turn: all of it is here, and its length is known
            return web.Response(body=answer.buffered(), headers=headers)
        return await self._stream(request, answer, headers)

    async def _stream(
        self, request: web.BaseRequest, answer: Answer, headers: dict[str, str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        answer.begin(_Outlet(request), self._loop.time())
        while True:
            if answer.owes:
                await request.writer.drain()
                answer.repay()
            if answer.settled:
                break
            await answer.changed()
        await response.write_eof()
        return response

    def _sweep_soon(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_EVERY, self._sweep)

    def _sweep(self) -> None:
        """Tell clients that wait in silence that they are not forgotten."""
        self._sweeping = False
        now = self._loop.time()
        for answer, turn in self._open.items():
            silent = now - answer.last_write
            if answer.settled and silent >= STALLED_AFTER:
                answer.cut()  # all is sent, and the client does not read it
            if answer.form is Form.WHOLE or answer.settled:
                continue
            if not answer.streaming and answer.worker is None and silent >= QUEUED_AFTER:
                answer.say(sse.comment(f"queued {self._desk.ahead(turn)}"), now)
            elif silent >= self._keepalive:
                waits = answer.worker is None
                answer.say(sse.comment(f"queued {self._desk.ahead(turn)}" if waits else "keep-alive"), now)
        if self._open:
            self._sweep_soon()

    # -- the body ---------------------------------------------------------------------------

    async def _body(self, request: web.BaseRequest) -> bytes:
        """The body of a request that must be JSON. Raises: Refused."""
        if request.headers.get("Content-Type") is not None and request.content_type != "application/json":
            message = f"the body must be application/json, not {request.content_type[:100]}"
            raise Refused(Failure(ErrorCode.UNSUPPORTED_MEDIA_TYPE, message))
        if (request.charset or "utf-8").lower() not in ("utf-8", "utf8"):
            message = "the body must be in UTF-8"
            raise Refused(Failure(ErrorCode.UNSUPPORTED_MEDIA_TYPE, message))
        if request.content_length is not None and request.content_length > self._max_body:
            raise Refused(self._too_large())
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if request.content.is_eof():  # it came with the headers, as almost all do
            return await request.read()
        try:
            async with asyncio.timeout(self._body_timeout):
                return await request.read()
        except TimeoutError:
            message = f"the body did not come within {self._body_timeout:g} s"
            raise Refused(Failure(ErrorCode.REQUEST_TIMEOUT, message)) from None
        except web.PayloadAccessError as error:
            raise invalid(f"the body could not be read: {error}") from None

    def _too_large(self) -> Failure:
        megabytes = self._max_body / 1024 / 1024
        return Failure(ErrorCode.PAYLOAD_TOO_LARGE, f"the body is over server.max_body_mb: {megabytes:g}")


_WELCOME: Final = {
    "name": "agentscope-supervisor",
    "version": __version__,
    "links": {
        "invoke": "/invoke",
        "stop": "/stop",
        "health": "/health",
        "readiness": "/readiness",
        "liveness": "/liveness",
    },
}


def _fingerprint(credentials: str) -> str:
    """What stands for a caller where turns are counted."""
    return hashlib.sha256(credentials.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _whole(turn: Turn, answer: Answer) -> bytes:
    head = orjson.dumps({"session_id": turn.session_id, "run_id": turn.run_id})
    return b'%b,"messages":%b}' % (head[:-1], answer.whole)


def request_id(request: web.BaseRequest) -> str:
    """The client's X-Request-Id, if it is one that can stand in a log; else a new one."""
    given = request.headers.get("X-Request-Id", "")
    return given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex


def json_response(value: object, status: int, headers: Mapping[str, str]) -> web.Response:
    return web.Response(
        body=orjson.dumps(value), status=status, content_type="application/json", headers=headers
    )


def error_response(failure: Failure, headers: Mapping[str, str]) -> web.Response:
    """A failure before the first byte of an answer."""
    body = {"error": sse.error_object(failure)}
    response = json_response(body, failure.status, headers)
    if failure.code is ErrorCode.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    elif failure.code in RETRY_LATER:
        # Spread, so that those who were refused together do not come back together.
        response.headers["Retry-After"] = str(random.randint(1, 5))
    if failure.code in (ErrorCode.DRAINING, ErrorCode.PAYLOAD_TOO_LARGE, ErrorCode.REQUEST_TIMEOUT):
        response.force_close()
    return response
