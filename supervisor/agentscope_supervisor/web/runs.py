"""Runs over HTTP: their state, their events for those who come back or look on, and the run of a key.

Finds the run and where its reader stands; `respond` sends. Who may ask was checked by `app`: whoever
may invoke may read the runs whose ids he knows; an id is in the head of its answer and cannot be guessed.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Final

import orjson
from aiohttp import web

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain import sse
from agentscope_supervisor.domain.errors import ErrorCode, Failure
from agentscope_supervisor.domain.request import Refused, invalid
from agentscope_supervisor.domain.turn import Turn
from agentscope_supervisor.http1.responses import gone_response
from agentscope_supervisor.runs.log import Run, messages
from agentscope_supervisor.runs.reader import RunReader
from agentscope_supervisor.runs.recorder import Recorder
from agentscope_supervisor.web.respond import Delivery

_RUN_ID: Final = re.compile(r"[0-9a-f]{32}")
_CURSOR: Final = re.compile(r"[0-9]{1,15}")

_Send = Callable[[web.BaseRequest, RunReader, Turn | None, dict[str, str]], Awaitable[web.StreamResponse]]


class RunRoutes:
    """The handlers of /runs/…, and of a request that joins a run. `leave`: to be told that a reader left."""

    def __init__(self, recorder: Recorder, delivery: Delivery, leave: Callable[[Turn], None]) -> None:
        self._recorder: Final = recorder
        self._delivery: Final = delivery
        self._leave: Final = leave
        self._loop: Final = asyncio.get_running_loop()

    async def state(self, run_id: str, headers: dict[str, str]) -> web.StreamResponse:
        """GET /runs/{run_id}. Raises: Refused."""
        run = await self._find(run_id, -1)
        told = {
            "run_id": run.run_id,
            "session_id": run.session_id,
            "state": run.state,
            "stream": run.form is StreamKind.EVENTS,
            "worker": run.worker,
            "events": {"first": run.first, "next": run.next},
            "error": sse.error_object(run.failure) if run.failure is not None else None,
        }
        body = b'%b,"messages":%b}' % (orjson.dumps(told)[:-1], messages(run) or b"null")
        return web.Response(body=body, content_type="application/json", headers=headers)

    async def events(
        self, run_id: str, request: web.BaseRequest, headers: dict[str, str]
    ) -> web.StreamResponse:
        """GET /runs/{run_id}/events. Raises: Refused."""
        after = _cursor(request, run_id)
        run = await self._find(run_id, after)
        if run.form is StreamKind.WHOLE:
            message = f"this run was asked for in one piece and has no events: see /runs/{run_id}"
            raise Refused(Failure(ErrorCode.NOT_FOUND, message))
        headers["X-Run-Id"] = run_id
        match run.resume(after):
            case None:
                return web.Response(status=204, headers=headers)
            case Failure(ErrorCode.GONE) as gone:
                return gone_response(gone, run, headers)
            case Failure() as failure:
                raise Refused(failure)
            case number:
                viewer = RunReader(run, number, self._loop.time())
                return await self._follow(self._delivery.view, request, viewer, headers)

    async def join(self, run: Run, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        """Answer `POST /invoke` with a run that has its key already."""
        headers |= {"X-Run-Id": run.run_id, "Idempotent-Replayed": "true"}
        return await self._follow(self._delivery.join, request, RunReader(run, 0, self._loop.time()), headers)

    async def _follow(
        self, send: _Send, request: web.BaseRequest, viewer: RunReader, headers: dict[str, str]
    ) -> web.StreamResponse:
        turn = None
        try:
            with self._recorder.following(viewer) as turn:
                return await send(request, viewer, turn, headers)
        finally:
            if turn is not None:
                self._leave(turn)

    async def _find(self, run_id: str, after: int) -> Run:
        run = await self._recorder.find(run_id, after) if _RUN_ID.fullmatch(run_id) else None
        if run is not None:
            return run
        if _RUN_ID.fullmatch(run_id):  # which it was, or never was: nobody can know any more
            raise Refused(Failure(ErrorCode.GONE, "this run is not kept any more"))
        raise Refused(Failure(ErrorCode.NOT_FOUND, "there is no such run"))


def _cursor(request: web.BaseRequest, run_id: str) -> int:
    """The number of the event that a reader has seen last; -1: none. Raises: Refused.

    A browser that reconnects sends Last-Event-ID and asks for the same address as before: the header wins.
    """
    last = request.headers.get("Last-Event-ID")
    if last:
        of_run, _, number = last.rpartition("-")
        if of_run != run_id or not _CURSOR.fullmatch(number):
            raise invalid("Last-Event-ID must be the id of an event of this run")
        return int(number)
    after = request.query.get("after")
    if after is None:
        return -1
    if not _CURSOR.fullmatch(after):
        raise invalid("after must be the number of an event")
    return int(after)
