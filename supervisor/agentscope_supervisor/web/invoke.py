"""Turns come in here: how a request for one is read and submitted, and how its answer begins to leave.

On both ways of a request: `plain` is a handler, `direct` begins what goes on in callbacks. What a turn is and
whether it may begin is not decided here: `domain.request` reads, the desk accepts or refuses.
"""

import asyncio
from typing import Final, Protocol

from aiohttp import web

from agentscope_protocol.wire.frames import REQUEST_ID
from agentscope_protocol.wire.random_ids import new_id
from agentscope_supervisor.domain import request as invocation
from agentscope_supervisor.domain.errors import Failure
from agentscope_supervisor.domain.request import Refused, TurnRequest, invalid
from agentscope_supervisor.domain.turn import Turn
from agentscope_supervisor.http1 import aiohttp_connection
from agentscope_supervisor.http1.body import BodyReader
from agentscope_supervisor.http1.fast_connection import FastConnection
from agentscope_supervisor.http1.fast_head import FastHead
from agentscope_supervisor.http1.responses import Headers, closes, error_bytes, request_id
from agentscope_supervisor.runs.client_stream import Answer
from agentscope_supervisor.runs.log import Run
from agentscope_supervisor.runs.recorder import Recorder
from agentscope_supervisor.telemetry.metrics import Metrics
from agentscope_supervisor.web.auth import Auth
from agentscope_supervisor.web.respond import Delivery
from agentscope_supervisor.web.respond_fast import DirectAnswer
from agentscope_supervisor.web.runs import RunRoutes
from agentscope_supervisor.web.tracing import CLIENT_LEFT, RequestTrace, Tracing

_TRACE_HEADERS: Final = ("traceparent", "tracestate")


class TurnsInstance(Protocol):
    """Who takes turns. Both return at once."""

    def submit(self, request: TurnRequest, answer: Answer) -> Turn | Failure:
        """Accept a turn, whose answer will be settled once; or say why not."""

    def leave(self, turn: Turn) -> None:
        """The client of this turn has gone."""


class InvokeRoute:
    """`principal`: server.principal. `metrics`: counts what goes the direct way; None, off."""

    def __init__(
        self,
        principal: str,
        gate: Auth,
        body: BodyReader,
        desk: TurnsInstance,
        recorder: Recorder,
        delivery: Delivery,
        views: RunRoutes,
        metrics: Metrics | None,
    ) -> None:
        self._principal: Final = principal
        self._gate: Final = gate
        self._body: Final = body
        self._desk: Final = desk
        self._recorder: Final = recorder
        self._delivery: Final = delivery
        self._views: Final = views
        self._metrics: Final = metrics
        self._loop: Final = asyncio.get_running_loop()

    async def traced(
        self, request: web.BaseRequest, headers: dict[str, str], tracing: Tracing
    ) -> web.StreamResponse:
        """As `plain`, with a trace of it. Raises: Refused."""
        trace = tracing.request(request.headers)
        try:
            response = await self.plain(request, headers, trace)
            trace.status = response.status
            return response
        except Refused as refused:
            trace.status, trace.failure = refused.failure.status, refused.failure
            raise
        finally:
            tracing.record(trace)

    async def plain(
        self, request: web.BaseRequest, headers: dict[str, str], trace: RequestTrace | None = None
    ) -> web.StreamResponse:
        """Answer a request for a turn. `headers`: of the answer. Raises: Refused."""
        body = await self._body.read(request)
        refuse_repeated(request, "X-Session-Id", "Idempotency-Key")
        asked = self._read(body, request.headers, headers["X-Request-Id"], trace)
        answer = Answer(new_id(), asked.form, self._loop.time())
        if asked.key is not None:
            match await self._recorder.claim(answer.run_id, asked):
                case Run() as run:
                    return await self._views.join(run, request, headers)
                case Failure() as failure:
                    raise Refused(failure)
        turn = self._desk.submit(asked, answer)
        if isinstance(turn, Failure):
            if asked.key is not None:
                self._recorder.release(answer.run_id, asked.key)
            raise Refused(turn)
        if trace is not None:
            trace.accepted(answer)
        headers["X-Run-Id"] = answer.run_id
        try:
            return await self._delivery.deliver(request, answer, turn, headers)
        except BaseException:
            answer.abandon()
            self._desk.leave(turn)
            raise

    def direct(self, head: FastHead, body: bytes, connection: FastConnection) -> DirectAnswer | None:
        """Begin to answer a usual turn the direct way; None: it was refused, and told so."""
        headers = {"X-Request-Id": request_id(head.fields)}
        try:
            self._gate.admit(head.fields)
            asked = self._read(body, head.fields, headers["X-Request-Id"], None)
            answer = Answer(new_id(), asked.form, self._loop.time())
            turn = self._desk.submit(asked, answer)
            if isinstance(turn, Failure):
                raise Refused(turn)
        except Refused as refused:
            connection.send(error_bytes(refused.failure, headers))
            if closes(refused.failure):
                connection.close()
            self._count(refused.failure.status)
            return None
        except Exception:
            self._count(aiohttp_connection.FAILED.status)
            raise
        headers["X-Run-Id"] = answer.run_id
        self._delivery.watch(answer, turn)
        return DirectAnswer(connection, answer, turn, headers, self._over)

    def _over(self, direct: DirectAnswer, status: int) -> None:
        """An answer has gone the direct way, or its client has."""
        self._delivery.forget(direct.answer)
        if status == CLIENT_LEFT:
            self._desk.leave(direct.turn)
        self._count(status)

    def _count(self, status: int) -> None:
        if self._metrics is not None:
            self._metrics.request("/invoke", status)

    def _read(
        self, body: bytes, headers: Headers, request_id: str, trace: RequestTrace | None
    ) -> TurnRequest:
        """What a request asks for. Raises: Refused."""
        passed_on = {REQUEST_ID: request_id}
        if trace is not None:
            passed_on |= trace.headers
        else:
            for name in _TRACE_HEADERS:
                value = headers.get(name)
                # What is no ASCII is no trace context, and would not pass the link.
                if value and value.isascii():
                    passed_on[name] = value
        return invocation.read(
            body,
            header_session=headers.get("x-session-id"),
            accepts_json="application/json" in headers.get("accept", ""),
            token=self._gate.caller(headers),
            principal=self._principal,
            headers=passed_on,
            idempotency_key=headers.get("idempotency-key"),
        )


def refuse_repeated(request: web.BaseRequest, *names: str) -> None:
    """Of these headers a second one, read by somebody else on the way, would be a way in. Raises: Refused."""
    for name in names:
        if len(request.headers.getall(name, ())) > 1:
            raise invalid(f"the header {name} came more than once")
