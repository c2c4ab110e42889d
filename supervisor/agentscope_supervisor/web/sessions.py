"""Sessions over HTTP: their list, the state of each, and the deletion of one.

`app` has authenticated the request: every client that may invoke may see and delete sessions. A deletion is a
turn of its session, so that no other turn of it runs at the same time. The worker deletes the stored state;
then the supervisor deletes the runs that it keeps.

Where to read next: `turns.session_table` has the rows, `turns.ledger` the order of a session's turns.
"""

import asyncio
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

import orjson

from agentscope_protocol.wire.frames import StreamKind
from agentscope_protocol.wire.random_ids import new_id
from agentscope_supervisor.domain.errors import ErrorCode, Failure, Refused, invalid
from agentscope_supervisor.domain.request import TurnRequest
from agentscope_supervisor.domain.request import session_id as valid_session_id
from agentscope_supervisor.domain.run import EndWatch, Run
from agentscope_supervisor.domain.wire_format import NO_EVENTS
from agentscope_supervisor.http1 import aiohttp_web as web
from agentscope_supervisor.http1.responses import json_response
from agentscope_supervisor.runs.recorder import Recorder
from agentscope_supervisor.turns.service import TurnService
from agentscope_supervisor.turns.session_table import SessionTable
from agentscope_supervisor.web import page_query

_STORED: Final = b"true"  # the result of a FORGET turn that deleted a stored state


class SessionRoutes:
    """The handlers of /sessions."""

    def __init__(self, table: SessionTable, turns: TurnService, recorder: Recorder) -> None:
        self._table: Final = table
        self._turns: Final = turns
        self._recorder: Final = recorder
        self._deleting: Final[set[asyncio.Task[bool]]] = set()
        self._loop: Final = asyncio.get_running_loop()

    async def page(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        """GET /sessions. Raises: Refused."""
        limit = page_query.limit(request.query)
        after = request.query.get("after")
        if after is not None:
            after = valid_session_id(after, "after")
        sessions, more = await self._table.page(after or "", limit, self._loop.time())
        return json_response({"sessions": sessions, "next": more}, 200, headers)

    async def state(self, session_id: str, headers: dict[str, str]) -> web.StreamResponse:
        """GET /sessions/{session_id}. Raises: Refused."""
        session = self._table.row(session_id, self._loop.time())
        if session is None:
            message = "this session has no turn, and had none for sessions.idle_after seconds"
            raise Refused(Failure(ErrorCode.NOT_FOUND, message))
        return json_response(session, 200, headers)

    async def delete(
        self, session_id: str, principal: str, request: web.BaseRequest, headers: dict[str, str]
    ) -> web.StreamResponse:
        """DELETE /sessions/{session_id}. `principal`: the caller whose limits apply. Raises: Refused."""
        user_id = _user_id(request.query)
        body = orjson.dumps({"user_id": user_id})
        asked = TurnRequest(session_id, StreamKind.FORGET, "reject", body, principal, {}, NO_EVENTS)
        run = Run(new_id(), session_id, StreamKind.FORGET, NO_EVENTS, self._loop.time())
        ended = asyncio.Event()
        EndWatch(run, ended.set)
        was_known = self._table.row(session_id, self._loop.time()) is not None
        turn = self._turns.submit(asked, run)
        if isinstance(turn, Failure):
            raise Refused(turn)
        # A task of its own: if the client disconnects, the deletion must still complete.
        task = self._loop.create_task(self._deleted(run, ended))
        self._deleting.add(task)
        task.add_done_callback(self._deleting.discard)
        found = await asyncio.shield(task)
        if run.failure is not None:
            raise Refused(run.failure)
        if not (found or was_known):
            raise Refused(Failure(ErrorCode.NOT_FOUND, "nothing is stored or kept of this session"))
        return web.Response(status=204, headers=headers)

    async def _deleted(self, run: Run, ended: asyncio.Event) -> bool:
        """Wait for the worker, then delete the runs of the session. Returns whether anything was deleted."""
        await ended.wait()
        if run.failure is not None:
            return False
        had_runs = await self._recorder.forget(run.session_id)
        return had_runs or run.json_body == _STORED


def session_in_path(encoded: str) -> str:
    """The session id in a part of a path. `encoded`: percent-encoded. Raises: Refused."""
    try:
        named = unquote(encoded, errors="strict")
    except UnicodeDecodeError:
        raise invalid("session_id must be UTF-8, percent-encoded") from None
    return valid_session_id(named)


def _user_id(query: Mapping[str, str]) -> str:
    user_id = query.get("user_id", "")
    if "\ufffd" in user_id:  # aiohttp puts this in place of bytes that are not UTF-8
        raise invalid("user_id must be UTF-8, percent-encoded")
    return valid_session_id(user_id, "user_id") if user_id else ""
