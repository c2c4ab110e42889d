"""Runs over HTTP: their lists and states, and their events for a client that resumes or joins a run.

This module finds the run and the event at which its reader begins; `respond` sends it. `app` has
authenticated the request: every client that may invoke may read a run if it knows its id. The id is in the
headers of the first response, and cannot be guessed.
"""

import asyncio
import re
import time
from typing import Final

import orjson

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain.errors import ErrorCode, Failure, Refused, error_object, invalid
from agentscope_supervisor.domain.idempotency import MISMATCH
from agentscope_supervisor.domain.request import TurnRequest
from agentscope_supervisor.domain.request import session_id as valid_session_id
from agentscope_supervisor.domain.run import EndWatch, Run, RunState
from agentscope_supervisor.http1 import aiohttp_web as web
from agentscope_supervisor.http1.aiohttp_channel import AiohttpChannel
from agentscope_supervisor.http1.responses import gone_response, json_response
from agentscope_supervisor.runs.client_stream import ClientStream
from agentscope_supervisor.runs.listing import Listed, Wanted, cursor, listed, time_of
from agentscope_supervisor.runs.log import MAX_RESULT, messages
from agentscope_supervisor.runs.recorder import Recorder
from agentscope_supervisor.turns.service import TurnService
from agentscope_supervisor.web import page_query
from agentscope_supervisor.web.access.tickets import TICKET_LASTS, Tickets
from agentscope_supervisor.web.dialects.dialect import Shape
from agentscope_supervisor.web.respond import OpenResponses, Response

RUNS_AT_ONCE: Final = 20  # default number of runs on a page of messages
MOST_RUNS: Final = 100  # maximum number of them; the page ends earlier at `MAX_RESULT`

_RUN_ID: Final = re.compile(r"[0-9a-f]{32}")
_CURSOR: Final = re.compile(r"[0-9]{1,15}")
_EVENT_ID: Final = re.compile(r"([0-9a-f]{32})-([0-9]{1,15})")


class RunRoutes:
    """The handlers of /runs and below, of the messages of a session, and of a request that joins or resumes a
    run."""

    def __init__(
        self, recorder: Recorder, turns: TurnService, responses: OpenResponses, tickets: Tickets
    ) -> None:
        self._recorder: Final = recorder
        self._turns: Final = turns
        self._responses: Final = responses
        self._tickets: Final = tickets
        self._loop: Final = asyncio.get_running_loop()

    async def state(self, run_id: str, headers: dict[str, str]) -> web.StreamResponse:
        """GET /runs/{run_id}. Raises: Refused."""
        run = await self.find(run_id, -1)
        more = {"dialect": run.wire.name, "events": {"first": run.first, "next": run.next}}
        body = _with_messages(self._row(run) | more, messages(run))
        if run.wire.result is not None:
            body = b'%b,"result":%b}' % (body[:-1], self.result_of(run))
        return _json(body, headers)

    async def page(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        """GET /runs. Raises: Refused."""
        query = request.query
        session, state = query.get("session_id"), query.get("state")
        if state is not None and state not in list(RunState):
            raise invalid(f"state must be one of {', '.join(RunState)}")
        wanted = Wanted(
            valid_session_id(session) if session is not None else None,
            RunState(state) if state is not None else None,
            page_query.after(query),
        )
        found, more = await self._recorder.page(wanted, page_query.limit(query))
        fields = {"runs": [_row(each) for each in found], "next": cursor(more) if more is not None else None}
        return json_response(fields, 200, headers)

    async def of_session(
        self, session_id: str, request: web.BaseRequest, headers: dict[str, str]
    ) -> web.StreamResponse:
        """GET /sessions/{session_id}/messages. Raises: Refused."""
        wanted = Wanted(session_id, after=page_query.after(request.query), newest_first=False)
        limit = page_query.limit(request.query, RUNS_AT_ONCE, MOST_RUNS)
        found, more = await self._recorder.page(wanted, limit)
        rows: list[bytes] = []
        size = 0
        for at, each in enumerate(found):
            run = await self._recorder.find(each.run_id, -1)
            if run is None:  # it was dropped meanwhile
                continue
            row = _with_messages(self._row(run), messages(run))
            size += len(row)
            if rows and size > MAX_RESULT:
                more = found[at - 1].place
                break
            rows.append(row)
        fields = {"session_id": session_id, "next": cursor(more) if more is not None else None}
        return _json(b'%b,"runs":[%b]}' % (orjson.dumps(fields)[:-1], b",".join(rows)), headers)

    def _row(self, run: Run) -> dict[str, object]:
        return _row(listed(run, self._recorder.place(run)))

    def state_of(self, run: Run, shape: Shape | None, headers: dict[str, str]) -> web.StreamResponse:
        """The state of a run for a client that does not wait for its end, in a dialect that has results."""
        result = self.result_of(run)
        body = result if shape is None else shape.answer(result)
        return web.Response(body=body, content_type="application/json", headers=headers)

    async def session_of(self, run_id: str) -> str:
        """The session of an earlier run that a request continues. Raises: Refused."""
        run = await self._recorder.find(run_id, -1) if _RUN_ID.fullmatch(run_id) else None
        if run is None:
            raise invalid("the response that this request continues is not kept, or does not exist")
        return run.session_id

    async def events(
        self, run_id: str, request: web.BaseRequest, headers: dict[str, str]
    ) -> web.StreamResponse:
        """GET /runs/{run_id}/events. Raises: Refused."""
        after = _cursor(request, run_id)
        return await self.follow(await self.find(run_id, after), after, request, headers)

    async def resume(
        self,
        run_id: str,
        after: int,
        asked: TurnRequest,
        request: web.BaseRequest,
        headers: dict[str, str],
    ) -> web.StreamResponse:
        """Respond to a `POST /invoke` with the run that its Last-Event-ID names. Raises: Refused."""
        run = await self.find(run_id, after)
        if asked.is_new_session:  # the client repeats a request that names no session
            headers["X-Session-Id"] = run.session_id
        elif run.session_id != asked.session_id:
            raise invalid("Last-Event-ID is the id of an event of another session")
        if asked.key is not None and run.key is not None:
            is_same = asked.key == run.key and asked.key.fingerprint == run.key.fingerprint
            if not is_same:
                raise Refused(MISMATCH)
        return await self.follow(run, after, request, headers)

    async def ticket(self, run_id: str, headers: dict[str, str]) -> web.StreamResponse:
        """POST /runs/{run_id}/ticket. Raises: Refused."""
        await self.find(run_id, -1)
        ticket = self._tickets.issue(run_id, self._loop.time())
        url = f"/runs/{run_id}/events?ticket={ticket}"
        fields = {"ticket": ticket, "url": url, "expires_in": TICKET_LASTS}
        return json_response(fields, 200, headers | {"Cache-Control": "no-store"})

    async def follow(
        self, run: Run, after: int, request: web.BaseRequest, headers: dict[str, str]
    ) -> web.StreamResponse:
        """Respond with the events after `after`. Raises: Refused."""
        if run.kind is StreamKind.WHOLE:
            message = f'this run was requested with "stream": false and has no events: see /runs/{run.run_id}'
            raise Refused(Failure(ErrorCode.NOT_FOUND, message))
        headers["X-Run-Id"] = run.run_id
        match run.resume(after):
            case None:
                return web.Response(status=204, headers=headers)
            case Failure(ErrorCode.GONE) as gone:
                return gone_response(gone, run, headers)
            case Failure() as failure:
                raise Refused(failure)
            case number:
                if request.method == "HEAD":
                    return web.StreamResponse(headers={**headers, **run.wire.headers, **_worker(run)})
                return await self._read(run, number, request, headers, resumes=True)

    async def join(
        self, run: Run, request: web.BaseRequest, headers: dict[str, str], shape: Shape | None = None
    ) -> web.StreamResponse:
        """Respond to a request for a turn with the run that already has its Idempotency-Key."""
        headers |= {"X-Run-Id": run.run_id, "Idempotent-Replayed": "true"}
        if "X-Session-Id" in headers:  # made for this request, which names none
            headers["X-Session-Id"] = run.session_id
        gone = run.resume(-1) if run.kind is StreamKind.EVENTS and not run.is_error else None
        if isinstance(gone, Failure):
            return gone_response(gone, run, headers | _worker(run))
        return await self._read(run, 0, request, headers, shape=shape)

    async def _read(
        self,
        run: Run,
        number: int,
        request: web.BaseRequest,
        headers: dict[str, str],
        *,
        resumes: bool = False,
        shape: Shape | None = None,
    ) -> web.StreamResponse:
        turn = self._turns.turn_of(run)
        stream = ClientStream(run, number, self._loop.time())

        def over(response: Response, left: bool) -> None:
            self._responses.discard(response)
            if left and turn is not None:
                self._turns.leave(turn)

        channel = AiohttpChannel(request)
        response = Response(channel, stream, turn, headers, over, resumes=resumes, shape=shape)
        self._responses.add(response)
        return await channel.finish(response)

    def result_of(self, run: Run) -> bytes:
        """The JSON of the result of a run, in a dialect that has results; in progress, as far as known."""
        if run.ended_at is not None:
            return run.json_body
        assert run.wire.result is not None, "its dialect has results"
        created = time.time() - (self._loop.time() - run.started_at)
        return run.wire.result(run.run_id, run.session_id, None, run.will, int(created))

    async def stop(self, run: Run) -> None:
        """End a run that is open, and wait until it has ended, for `sessions.cancel_grace` at most."""
        ended = asyncio.Event()
        watch = EndWatch(run, ended.set)
        try:
            self._turns.interrupt(session_id=None, run_id=run.run_id)
            await ended.wait()
        finally:
            run.leave(watch)

    async def find(self, run_id: str, after: int) -> Run:
        """A run, for a reader that has seen event `after`; -1: none. Raises: Refused."""
        run = await self._recorder.find(run_id, after) if _RUN_ID.fullmatch(run_id) else None
        if run is not None:
            return run
        if _RUN_ID.fullmatch(run_id):  # either it was kept once, or it never existed
            raise Refused(Failure(ErrorCode.GONE, "this run is no longer kept"))
        raise Refused(Failure(ErrorCode.NOT_FOUND, "there is no such run"))


def _row(run: Listed) -> dict[str, object]:
    """The fields of a run that clients see, without its messages."""
    return {
        "run_id": run.run_id,
        "session_id": run.session_id,
        "state": run.state,
        "stream": run.kind is StreamKind.EVENTS,
        "worker": run.worker,
        "started_at": time_of(run.place),
        "error": error_object(run.failure) if run.failure is not None else None,
        "usage": run.usage.fields if run.usage is not None else None,
    }


def _with_messages(row: dict[str, object], messages: bytes | None) -> bytes:
    return b'%b,"messages":%b}' % (orjson.dumps(row)[:-1], messages or b"null")


def _json(body: bytes, headers: dict[str, str]) -> web.StreamResponse:
    return web.Response(body=body, content_type="application/json", headers=headers)


def event_id(value: str) -> tuple[str, int] | None:
    """The run and the number in the id of an event; None: it is no id of this server."""
    found = _EVENT_ID.fullmatch(value)
    return (found[1], int(found[2])) if found is not None else None


def _cursor(request: web.BaseRequest, run_id: str) -> int:
    """The number of the last event that the client has seen; -1: none. Raises: Refused.

    The header Last-Event-ID overrides the parameter `after`: a browser that reconnects sends the header, with
    the same URL as before.
    """
    last = request.headers.get("Last-Event-ID")
    if last:
        of_run, _, number = last.rpartition("-")
        if of_run != run_id or not _CURSOR.fullmatch(number):
            raise invalid("Last-Event-ID must be the id of an event of this run")
        return int(number)
    return cursor_of(request.query.get("after"), "after")


def cursor_of(value: str | None, name: str) -> int:
    """The number in a parameter of a URL; -1: it was not sent. Raises: Refused."""
    if value is None:
        return -1
    if not _CURSOR.fullmatch(value):
        raise invalid(f"{name} must be the number of an event")
    return int(value)


def _worker(run: Run) -> dict[str, str]:
    return {"X-Agentscope-Worker": run.worker} if run.worker is not None else {}
