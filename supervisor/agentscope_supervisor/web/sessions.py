"""Sessions over HTTP: which there are, where each is, and the deletion of one.

Who may ask was checked by `app`: whoever may invoke may see and delete sessions. A deletion is a turn
of its session, so that no other runs beside it: the worker deletes what is stored, then what is kept of the
session's runs here goes too.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, Protocol
from urllib.parse import unquote

import orjson
from aiohttp import web

from agentscope_protocol.wire.frames import StreamKind
from agentscope_protocol.wire.random_ids import new_id
from agentscope_supervisor.domain import request as invocation
from agentscope_supervisor.domain.errors import ErrorCode, Failure
from agentscope_supervisor.domain.request import Refused, TurnRequest, invalid
from agentscope_supervisor.domain.turn import Turn
from agentscope_supervisor.http1.responses import json_response
from agentscope_supervisor.runs.client_stream import Answer
from agentscope_supervisor.runs.recorder import Recorder

_PREFIX: Final = "/sessions/"
AT_ONCE: Final = 100  # sessions on a page that is not asked to be longer
MOST: Final = 1000
"""Sessions on one page: a few milliseconds of the loop."""

_STORED: Final = b"true"  # what End says where there was a state


class SessionsInstance(Protocol):
    """What is asked of the instance."""

    def submit(self, request: TurnRequest, answer: Answer) -> Turn | Failure: ...

    def session(self, session_id: str) -> dict[str, Any] | None:
        """As `session_table` has it."""

    async def sessions(self, after: str, limit: int) -> tuple[list[dict[str, Any]], str | None]:
        """A page of them."""


class SessionRoutes:
    """The handlers of /sessions."""

    def __init__(self, desk: SessionsInstance, recorder: Recorder) -> None:
        self._desk: Final = desk
        self._recorder: Final = recorder
        self._deleting: Final[set[asyncio.Task[bool]]] = set()
        self._loop: Final = asyncio.get_running_loop()

    async def page(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        """GET /sessions. Raises: Refused."""
        query = request.query
        limit = query.get("limit", str(AT_ONCE))
        if not (limit.isascii() and limit.isdecimal() and len(limit) <= len(str(MOST))):
            raise invalid(f"limit must be a whole number, 1 to {MOST}")
        if not 1 <= int(limit) <= MOST:
            raise invalid(f"limit must be 1 to {MOST}, not {int(limit)}")
        after = query.get("after")
        if after is not None:
            after = invocation.session_id(after, "after")
        sessions, more = await self._desk.sessions(after or "", int(limit))
        return json_response({"sessions": sessions, "next": more}, 200, headers)

    async def state(self, session_id: str, headers: dict[str, str]) -> web.StreamResponse:
        """GET /sessions/{session_id}. Raises: Refused."""
        session = self._desk.session(session_id)
        if session is None:
            message = "this session has no turn, and had none for sessions.idle_after seconds"
            raise Refused(Failure(ErrorCode.NOT_FOUND, message))
        return json_response(session, 200, headers)

    async def delete(
        self, session_id: str, principal: str, request: web.BaseRequest, headers: dict[str, str]
    ) -> web.StreamResponse:
        """DELETE /sessions/{session_id}. `principal`: who is counted for it. Raises: Refused."""
        user_id = _user_id(request.query)
        body = orjson.dumps({"user_id": user_id})
        asked = TurnRequest(session_id, StreamKind.FORGET, "reject", body, principal, {})
        answer = Answer(new_id(), StreamKind.FORGET, self._loop.time())
        was_known = self._desk.session(session_id) is not None
        turn = self._desk.submit(asked, answer)
        if isinstance(turn, Failure):
            raise Refused(turn)
        # A client that leaves in the middle must not leave half of it.
        task = self._loop.create_task(self._deleted(session_id, answer))
        self._deleting.add(task)
        task.add_done_callback(self._deleting.discard)
        found = await asyncio.shield(task)
        if answer.failure is not None:
            raise Refused(answer.failure)
        if not (found or was_known):
            raise Refused(Failure(ErrorCode.NOT_FOUND, "nothing is stored or kept of this session"))
        return web.Response(status=204, headers=headers)

    async def _deleted(self, session_id: str, answer: Answer) -> bool:
        """Wait for the worker, and delete what is kept here; returns whether there was anything."""
        while not answer.settled:
            await answer.changed()
        if answer.failure is not None:
            return False
        had_runs = await self._recorder.forget(session_id)
        return had_runs or answer.whole == _STORED


def session_of(raw_path: str) -> str:
    """The session of a path below /sessions/, as it was sent: escaped. Raises: Refused."""
    try:
        named = unquote(raw_path.removeprefix(_PREFIX), errors="strict")
    except UnicodeDecodeError:
        raise invalid("session_id must be UTF-8, percent-encoded") from None
    return invocation.session_id(named)


def _user_id(query: Mapping[str, str]) -> str:
    user_id = query.get("user_id", "")
    return invocation.session_id(user_id, "user_id") if user_id else ""
