"""`POST /invoke`: how a request for a turn is read and submitted, and how its response begins.

`plain` is the handler for requests that aiohttp parses; `fast` begins a response that continues in callbacks.
Neither decides whether a turn may begin: `parse_invoke` reads the body, `turns.service` accepts or refuses
the turn.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from agentscope_protocol.wire.frames import REQUEST_ID
from agentscope_protocol.wire.random_ids import new_id
from agentscope_supervisor.domain.errors import ErrorCode, Failure, Refused, invalid
from agentscope_supervisor.domain.json_outline import Outline
from agentscope_supervisor.domain.request import MAX_PARSED, TurnRequest, json_object
from agentscope_supervisor.domain.run import Run
from agentscope_supervisor.http1 import aiohttp_web as web
from agentscope_supervisor.http1 import request_errors
from agentscope_supervisor.http1.aiohttp_channel import AiohttpChannel
from agentscope_supervisor.http1.body import BodyReader
from agentscope_supervisor.http1.channel import Channel, Exchange
from agentscope_supervisor.http1.fast_connection import FastConnection
from agentscope_supervisor.http1.fast_head import FastHead
from agentscope_supervisor.http1.responses import Headers, request_id
from agentscope_supervisor.runs.client_stream import ClientStream
from agentscope_supervisor.runs.recorder import Recorder
from agentscope_supervisor.telemetry.metrics import Metrics
from agentscope_supervisor.turns.service import TurnService
from agentscope_supervisor.web.access.auth import Auth, WrongToken
from agentscope_supervisor.web.access.tokens import USERS, Caller
from agentscope_supervisor.web.dialects import INVOKE
from agentscope_supervisor.web.dialects.dialect import Dialect, Shape
from agentscope_supervisor.web.request_record import CLIENT_LEFT, RequestRecord
from agentscope_supervisor.web.respond import OpenResponses, Response
from agentscope_supervisor.web.runs import RunRoutes, event_id

if TYPE_CHECKING:  # `daemon` imports it for instances with traces
    from agentscope_supervisor.web.tracing import Tracing


class InvokeRoute:
    """The handlers of /invoke. `principal`: server.principal. `metrics`, `tracing`: of requests that come the
    fast way; None: off."""

    def __init__(
        self,
        principal: str,
        auth: Auth,
        body: BodyReader,
        turns: TurnService,
        recorder: Recorder,
        responses: OpenResponses,
        runs: RunRoutes,
        metrics: Metrics | None,
        tracing: Tracing | None,
    ) -> None:
        self._principal: Final = principal
        self._auth: Final = auth
        self._body: Final = body
        self._turns: Final = turns
        self._recorder: Final = recorder
        self._responses: Final = responses
        self._runs: Final = runs
        self._metrics: Final = metrics
        self._tracing: Final = tracing
        self._loop: Final = asyncio.get_running_loop()

    async def plain(
        self,
        dialect: Dialect,
        request: web.BaseRequest,
        headers: dict[str, str],
        record: RequestRecord,
        caller: Caller,
    ) -> web.StreamResponse:
        """Answer a request for a turn. `headers`: of the response. Raises: Refused."""
        return await self.take(dialect, await self.read(request), request, headers, record, caller)

    async def read(self, request: web.BaseRequest) -> bytes:
        """The whole body of a request. Raises: Refused."""
        return await self._body.read(request)

    async def outline(self, dialect: Dialect, body: bytes, request: web.BaseRequest) -> Outline | None:
        """The outline of a large body; None: the body is small. Raises: Refused."""
        if len(body) <= MAX_PARSED:
            return None
        outline = dialect.outline(body, self._principal, digests="Idempotency-Key" in request.headers)
        await self._body.complete(outline, len(body))
        return outline

    async def take(
        self,
        dialect: Dialect,
        body: bytes,
        request: web.BaseRequest,
        headers: dict[str, str],
        record: RequestRecord,
        caller: Caller,
        *,
        outline: Outline | None = None,
        envelope: bytes | None = None,
    ) -> web.StreamResponse:
        """Answer a request for a turn, of which the body was read. `outline`: of a large body, if it was
        made. `envelope`: the part of the body that the response needs; None: all of it. Raises: Refused."""
        asked = await self._asked(dialect, body, request, headers, record, caller, outline)
        shape = Shape(dialect, body if envelope is None else envelope) if dialect.refuse is not None else None
        seen = event_id(request.headers.get("last-event-id", ""))
        if seen is not None:  # a client that reconnects by repeating its request
            return await self._runs.resume(*seen, asked, request, headers)
        run_id = new_id()
        if asked.key is not None:
            match await self._recorder.claim(run_id, asked):
                case Run() as run if asked.at_once:
                    headers |= {"X-Run-Id": run.run_id, "Idempotent-Replayed": "true"}
                    return self._runs.state_of(run, shape, headers)
                case Run() as run:
                    if asked.is_new_session:
                        headers["X-Session-Id"] = run.session_id
                    return await self._runs.join(run, request, headers, shape)
                case Failure() as failure:
                    raise Refused(failure)
        channel = AiohttpChannel(request)
        try:
            if asked.at_once:
                run = self._start(asked, run_id, record)
                headers["X-Run-Id"] = run_id
                return self._runs.state_of(run, shape, headers)
            response = self._submit(asked, run_id, channel, headers, record, shape=shape)
        except Refused:
            if asked.key is not None:
                self._recorder.release(run_id, asked.key)
            raise
        return await channel.finish(response)

    async def _asked(
        self,
        dialect: Dialect,
        body: bytes,
        request: web.BaseRequest,
        headers: dict[str, str],
        record: RequestRecord,
        caller: Caller,
        outline: Outline | None,
    ) -> TurnRequest:
        """The turn that a request asks for; the arguments are those of `take`. Raises: Refused."""
        traced = record.trace(request.headers)
        refuse_repeated(request, dialect.session_header, "Idempotency-Key", "Last-Event-ID")
        if outline is None:
            outline = await self.outline(dialect, body, request)
        session = None
        if dialect.follows is not None:
            followed = dialect.follows(json_object(body) if outline is None else outline.fields)
            session = None if followed is None else await self._runs.session_of(followed)
        asked = self._read(
            dialect, body, request.headers, headers["X-Request-Id"], traced, caller, outline, session
        )
        if asked.is_new_session:
            headers["X-Session-Id"] = asked.session_id
        return asked

    def fast(self, head: FastHead, body: bytes, connection: FastConnection) -> Exchange | None:
        """Begin the response to a usual turn. None: the turn was refused, and the response was sent."""
        headers = {"X-Request-Id": request_id(head.fields)}
        if "origin" in head.fields:
            headers |= self._auth.origins.headers(head.fields)
        record = RequestRecord(self._metrics, self._tracing, INVOKE.path)
        try:
            caller = self._auth.admit(head.fields, connection.address, USERS)
            connection.let_in()
            traced = record.trace(head.fields)
            asked = self._read(INVOKE, body, head.fields, headers["X-Request-Id"], traced, caller)
            return self._submit(asked, new_id(), connection, headers, record, ends=True)
        except WrongToken as wrong:
            return LateRefusal(wrong, connection, headers, record)
        except Refused as refused:
            connection.fail(refused.failure, headers)
            record.failure = refused.failure
            record.status = refused.failure.status
            record.over()
            return None
        except Exception:
            record.status = request_errors.FAILED.status
            record.over()
            raise

    def _start(self, asked: TurnRequest, run_id: str, record: RequestRecord) -> Run:
        """Begin a turn for which no client waits. Raises: Refused."""
        run = Run(run_id, asked.session_id, asked.kind, asked.wire, self._loop.time(), asked.key)
        turn = self._turns.submit(asked, run)
        if isinstance(turn, Failure):
            raise Refused(turn)
        record.run = run
        return run

    def _submit(
        self,
        asked: TurnRequest,
        run_id: str,
        channel: Channel,
        headers: dict[str, str],
        record: RequestRecord,
        *,
        ends: bool = False,
        shape: Shape | None = None,
    ) -> Response:
        """Begin the turn and its response. `ends`: the end of the response is the end of its record.
        `shape`: see `Response`. Raises: Refused."""
        now = self._loop.time()
        run = Run(run_id, asked.session_id, asked.kind, asked.wire, now, asked.key)
        stream = ClientStream(run, 0, now, paces=True)
        turn = self._turns.submit(asked, run)
        if isinstance(turn, Failure):
            stream.leave()
            raise Refused(turn)
        record.run = run
        headers["X-Run-Id"] = run_id
        if asked.is_new_session:
            headers["X-Session-Id"] = asked.session_id

        def over(response: Response, left: bool) -> None:
            self._responses.discard(response)
            if left:
                self._turns.leave(turn)
            if ends:
                record.status = CLIENT_LEFT if left else channel.status
                record.over()

        response = Response(channel, stream, turn, headers, over, shape=shape)
        self._responses.add(response)
        return response

    def _read(
        self,
        dialect: Dialect,
        body: bytes,
        headers: Headers,
        request_id: str,
        traced: dict[str, str],
        caller: Caller,
        outline: Outline | None = None,
        session: str | None = None,
    ) -> TurnRequest:
        """The turn that a request asks for, in a new session if it names none. `outline`: of a large body.
        `session`: instead of the one in `headers`. Raises: Refused."""
        asked = dialect.read(
            body,
            dialect.wire,
            header_session=session or headers.get(dialect.session_header),
            accepts_json="application/json" in headers.get("accept", ""),
            token=caller.key,
            principal=self._principal,
            headers={REQUEST_ID: request_id, **traced},
            idempotency_key=headers.get("idempotency-key"),
            outline=outline,
        )
        if not asked.session_id:
            asked.begin_session(new_id())
        return asked


class LateRefusal(Exchange):
    """The response to a wrong token. It leaves after the delay of `wrong`."""

    def __init__(
        self, wrong: WrongToken, channel: Channel, headers: dict[str, str], record: RequestRecord
    ) -> None:
        self._failure: Final = wrong.failure
        self._channel: Final = channel
        self._headers: Final = headers
        self._record: Final = record
        self._timer: Final = channel.loop.call_later(wrong.delay, self._leave)

    def _leave(self) -> None:
        self._channel.fail(self._failure, self._headers)
        self._record.failure, self._record.status = self._failure, self._failure.status
        self._record.over()
        self._channel.done()

    def resumed(self) -> None:
        pass

    def lost(self) -> None:
        self._timer.cancel()
        self._record.over()

    def probe(self) -> bool:
        return False


def refuse_untyped(request: web.BaseRequest) -> None:
    """Refuse a body that does not say that it is JSON. Browsers let any web page send a body without a type,
    or of a few others, to any server without asking it first. Raises: Refused."""
    if request.can_read_body and request.content_type != "application/json":
        given = request.content_type[:100] if "Content-Type" in request.headers else "of no type"
        message = f"the body must be application/json, not {given}"
        raise Refused(Failure(ErrorCode.UNSUPPORTED_MEDIA_TYPE, message))


def refuse_repeated(request: web.BaseRequest, *names: str) -> None:
    """Refuse a request that has one of these headers twice: a proxy in front of this server may have used the
    other value. Raises: Refused."""
    for name in names:
        if len(request.headers.getall(name, ())) > 1:
            raise invalid(f"the header {name} came more than once")
