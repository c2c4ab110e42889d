"""The routes of OpenAI's API beside those that begin a turn: models, and the responses of earlier turns.

A response is a run: its id is `resp_` and the id of the run. The supervisor has its result from the worker.
"""

from typing import Final

import orjson

from agentscope_supervisor.domain.errors import ErrorCode, Failure, Refused
from agentscope_supervisor.domain.run import Run
from agentscope_supervisor.http1 import aiohttp_web as web
from agentscope_supervisor.http1.responses import json_response
from agentscope_supervisor.runs.recorder import Recorder
from agentscope_supervisor.web.dialects.responses import PREFIX, RESPONSES
from agentscope_supervisor.web.runs import RunRoutes, cursor_of

MODEL: Final = "agent"
"""The id of the one model that clients find here: the App. Requests may name any model."""


async def models(_: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
    """GET /v1/models."""
    model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "agentscope"}
    return json_response({"object": "list", "data": [model]}, 200, headers)


class ResponseRoutes:
    """The handlers of /v1/responses/{response_id} and below."""

    def __init__(self, recorder: Recorder, runs: RunRoutes) -> None:
        self._recorder: Final = recorder
        self._runs: Final = runs

    async def one(
        self, response_id: str, request: web.BaseRequest, headers: dict[str, str]
    ) -> web.StreamResponse:
        """GET and DELETE /v1/responses/{response_id}. Raises: Refused."""
        streams = request.query.get("stream") == "true"
        after = cursor_of(request.query.get("starting_after"), "starting_after") if streams else -1
        run = await self._find(response_id, after)
        if request.method == "DELETE":
            if run.ended_at is None:
                message = "the response is in progress; cancel it first"
                raise Refused(Failure(ErrorCode.SESSION_BUSY, message))
            await self._recorder.forget_run(run)
            deleted = {"id": response_id, "object": "response", "deleted": True}
            return json_response(deleted, 200, headers)
        if streams:
            return await self._runs.follow(run, after, request, headers)
        return self._state(run, headers)

    async def cancel(self, response_id: str, headers: dict[str, str]) -> web.StreamResponse:
        """POST /v1/responses/{response_id}/cancel. Raises: Refused."""
        run = await self._find(response_id, -1)
        if run.ended_at is None:
            await self._runs.stop(run)
        return self._state(run, headers)

    async def input_items(self, response_id: str, headers: dict[str, str]) -> web.StreamResponse:
        """GET /v1/responses/{response_id}/input_items. Raises: Refused."""
        run = await self._find(response_id, -1)
        if run.will is None or not run.will.request:
            message = "the input of this response is not kept: it is large, or of an earlier supervisor"
            raise Refused(Failure(ErrorCode.NOT_FOUND, message))
        items = orjson.loads(run.will.request)
        ends = {"first_id": items[0]["id"], "last_id": items[-1]["id"]} if items else {}
        return json_response({"object": "list", "data": items, **ends, "has_more": False}, 200, headers)

    def _state(self, run: Run, headers: dict[str, str]) -> web.StreamResponse:
        headers["X-Run-Id"] = run.run_id
        return self._runs.state_of(run, None, headers)

    async def _find(self, response_id: str, after: int) -> Run:
        run = await self._runs.find(response_id.removeprefix(PREFIX), after)
        if run.wire is not RESPONSES.wire:
            raise Refused(Failure(ErrorCode.NOT_FOUND, "there is no such response"))
        return run
