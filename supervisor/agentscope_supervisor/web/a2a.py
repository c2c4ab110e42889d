"""The routes of A2A: the agent card, and the methods of JSON-RPC for both versions.

Messages become turns (`invoke`); the other methods ask for tasks, which are runs.
"""

from collections.abc import Callable
from typing import Any, Final

import orjson

from agentscope_supervisor import __version__
from agentscope_supervisor.domain.errors import Refused
from agentscope_supervisor.domain.run import Run
from agentscope_supervisor.http1 import aiohttp_web as web
from agentscope_supervisor.http1.responses import json_response, refusal_response
from agentscope_supervisor.web.dialects import a2a
from agentscope_supervisor.web.dialects.a2a import A2A_03, A2A_10, METHODS_03, METHODS_10, Method
from agentscope_supervisor.web.dialects.dialect import Dialect
from agentscope_supervisor.web.invoke import InvokeRoute
from agentscope_supervisor.web.routes import Asked
from agentscope_supervisor.web.runs import RunRoutes, event_id

VERSIONS: Final = ("0.3", "0.3.0", "1.0", "1.0.0")  # in the header A2A-Version
MAX_TRIMMED: Final = 1024 * 1024  # bytes of a task whose history is cut to `historyLength`

_FORMATS: Final = (A2A_03.wire, A2A_10.wire)


class _Error(Exception):
    """An error of the protocol. `code`: of JSON-RPC."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code: Final = code


HasToken = Callable[[], bool]
"""Whether requests need a token now."""


class A2aRoutes:
    """The handlers of /a2a and of the card. `texts`: of the setting `protocols.a2a`."""

    def __init__(
        self, invoke: InvokeRoute, runs: RunRoutes, texts: dict[str, str], has_token: HasToken
    ) -> None:
        self._invoke: Final = invoke
        self._runs: Final = runs
        self._texts: Final = texts
        self._has_token: Final = has_token

    async def card(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        """GET /.well-known/agent-card.json."""
        base = f"{request.scheme}://{request.host}"
        card = a2a.card(base, self._texts, __version__, has_token=self._has_token())
        return json_response(card, 200, headers)

    async def rpc(self, asked: Asked) -> web.StreamResponse:
        """POST /a2a. Raises: Refused."""
        fields: dict[str, Any] = {}
        try:
            version = asked.request.headers.get("A2A-Version", VERSIONS[0])
            if version not in VERSIONS:
                raise _Error(a2a.VERSION_NOT_SUPPORTED, f"the versions are {', '.join(VERSIONS)}")
            body = await self._invoke.read(asked.request)
            try:
                outline = await self._invoke.outline(A2A_10, body, asked.request)
                given = orjson.loads(body) if outline is None else outline.fields
            except (orjson.JSONDecodeError, Refused):
                raise _Error(a2a.PARSE_ERROR, "the body is not valid JSON") from None
            fields = _checked(given)
            method = fields["method"]
            dialect, methods = (A2A_10, METHODS_10) if method in METHODS_10 else (A2A_03, METHODS_03)
            purpose = methods.get(method)
            if purpose in (Method.SEND, Method.STREAM):
                await self._check_task(dialect, fields)
                envelope = a2a.envelope(fields)
                request, headers, record = asked.request, asked.headers, asked.record
                return await self._invoke.take(
                    dialect, body, request, headers, record, asked.caller, outline=outline, envelope=envelope
                )
            return await self._ask(purpose, fields, asked)
        except _Error as error:
            response = a2a.rpc_error(fields.get("id"), error.code, str(error))
            return web.Response(body=response, content_type="application/json", headers=asked.headers)
        except Refused as refused:
            asked.record.failure = refused.failure
            refusal = a2a.refuse(refused.failure, a2a.envelope(fields))
            return refusal_response(refused.failure, refusal, asked.headers)

    async def _ask(self, purpose: Method | None, fields: dict[str, Any], asked: Asked) -> web.StreamResponse:
        """Answer a method that begins no turn. Raises: _Error, Refused."""
        if purpose is None:
            raise _Error(a2a.METHOD_NOT_FOUND, "there is no such method")
        if purpose is Method.PUSH:
            raise _Error(a2a.PUSH_NOT_SUPPORTED, "push notifications are not supported")
        if purpose is Method.CARD:
            raise _Error(a2a.NO_EXTENDED_CARD, "there is no extended agent card")
        params = fields.get("params")
        task = params.get("id") if isinstance(params, dict) else None
        if not isinstance(params, dict) or not isinstance(task, str):
            raise _Error(a2a.INVALID_PARAMS, "params.id must be the id of a task")
        seen = event_id(asked.request.headers.get("Last-Event-ID", ""))
        after = seen[1] if seen is not None and seen[0] == task else -1
        run = await self._find(task, after)
        if purpose is Method.SUBSCRIBE:
            if run.ended_at is not None and after < 0:
                raise _Error(a2a.UNSUPPORTED_OPERATION, "the task has ended")
            return await self._runs.follow(run, after, asked.request, asked.headers)
        if purpose is Method.CANCEL:
            if run.ended_at is not None:
                raise _Error(a2a.TASK_NOT_CANCELABLE, "the task has ended")
            await self._runs.stop(run)
        length = params.get("historyLength")
        if length is not None and (type(length) is not int or length < 0):
            raise _Error(a2a.INVALID_PARAMS, "params.historyLength must be a number of messages")
        body = a2a.rpc_result(fields.get("id"), _trimmed(self._runs.result_of(run), length))
        return web.Response(body=body, content_type="application/json", headers=asked.headers)

    async def _check_task(self, dialect: Dialect, fields: dict[str, Any]) -> None:
        """Refuse a message for a task: a task here takes one message. Raises: _Error, Refused."""
        params = fields.get("params")
        message = params.get("message") if isinstance(params, dict) else None
        task = message.get("taskId") if isinstance(message, dict) else None
        if task is None or task == "":
            return
        if not isinstance(task, str):
            raise _Error(a2a.INVALID_PARAMS, "message.taskId must be a string")
        run = await self._find(task, -1)
        code = a2a.UNSUPPORTED_OPERATION
        if run.ended_at is not None and dialect is A2A_03:
            code = a2a.INVALID_PARAMS
        raise _Error(code, "a task takes one message; send the next one with its contextId")

    async def _find(self, task: str, after: int) -> Run:
        """Raises: _Error."""
        try:
            run = await self._runs.find(task, after)
        except Refused:
            raise _Error(a2a.TASK_NOT_FOUND, "there is no such task") from None
        if run.wire not in _FORMATS:
            raise _Error(a2a.TASK_NOT_FOUND, "there is no such task")
        return run


def _checked(given: object) -> dict[str, Any]:
    """The members of a request, if they are those of JSON-RPC. Raises: _Error."""
    if not isinstance(given, dict):
        raise _Error(a2a.INVALID_REQUEST, "the body must be one JSON-RPC request")
    request_id = given.get("id")
    if not isinstance(request_id, str | int | None) or isinstance(request_id, bool):
        raise _Error(a2a.INVALID_REQUEST, "id must be a string or a number")
    if given.get("jsonrpc") != "2.0" or not isinstance(given.get("method"), str):
        raise _Error(a2a.INVALID_REQUEST, 'jsonrpc must be "2.0", and method a string')
    return given


def _trimmed(task: bytes, length: int | None) -> bytes:
    """A task with so many messages of its history; None: all."""
    if length is None or len(task) > MAX_TRIMMED:
        return task
    fields = orjson.loads(task)
    if "history" in fields:
        fields["history"] = fields["history"][-length:] if length else []
    return orjson.dumps(fields)
