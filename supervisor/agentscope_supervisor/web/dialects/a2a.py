"""A2A 0.3 and 1.0: the requests of their methods, their tasks and their errors. Pure.

A task is a run: its id is the run id, and its context is the session.
Sources: https://a2a-protocol.org/v0.3.0/specification/, https://a2a-protocol.org/latest/specification/
"""

import json
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Final

import orjson

from agentscope_protocol.wire.frames import Place
from agentscope_supervisor.domain.errors import ErrorCode, Failure, Refusal, invalid
from agentscope_supervisor.domain.request import kind_of
from agentscope_supervisor.domain.wire_format import WireFormat
from agentscope_supervisor.web.dialects.translated import Found, Status, dialect, format_of, typed

PATH: Final = "/a2a"


class Method(Enum):
    """The purpose of a method, in both versions."""

    SEND = auto()
    STREAM = auto()
    GET = auto()
    CANCEL = auto()
    SUBSCRIBE = auto()
    PUSH = auto()
    CARD = auto()


METHODS_03: Final[Mapping[str, Method]] = {
    "message/send": Method.SEND,
    "message/stream": Method.STREAM,
    "tasks/get": Method.GET,
    "tasks/cancel": Method.CANCEL,
    "tasks/resubscribe": Method.SUBSCRIBE,
    "tasks/pushNotificationConfig/set": Method.PUSH,
    "tasks/pushNotificationConfig/get": Method.PUSH,
    "tasks/pushNotificationConfig/list": Method.PUSH,
    "tasks/pushNotificationConfig/delete": Method.PUSH,
    "agent/getAuthenticatedExtendedCard": Method.CARD,
}
METHODS_10: Final[Mapping[str, Method]] = {
    "SendMessage": Method.SEND,
    "SendStreamingMessage": Method.STREAM,
    "GetTask": Method.GET,
    "CancelTask": Method.CANCEL,
    "SubscribeToTask": Method.SUBSCRIBE,
    "CreateTaskPushNotificationConfig": Method.PUSH,
    "GetTaskPushNotificationConfig": Method.PUSH,
    "ListTaskPushNotificationConfigs": Method.PUSH,
    "DeleteTaskPushNotificationConfig": Method.PUSH,
    "GetExtendedAgentCard": Method.CARD,
}

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
TASK_NOT_FOUND: Final = -32001
TASK_NOT_CANCELABLE: Final = -32002
PUSH_NOT_SUPPORTED: Final = -32003
UNSUPPORTED_OPERATION: Final = -32004
CONTENT_TYPE_NOT_SUPPORTED: Final = -32005
NO_EXTENDED_CARD: Final = -32007
VERSION_NOT_SUPPORTED: Final = -32009

_REASONS: Final[Mapping[int, str]] = {
    TASK_NOT_FOUND: "TASK_NOT_FOUND",
    TASK_NOT_CANCELABLE: "TASK_NOT_CANCELABLE",
    PUSH_NOT_SUPPORTED: "PUSH_NOTIFICATION_NOT_SUPPORTED",
    UNSUPPORTED_OPERATION: "UNSUPPORTED_OPERATION",
    CONTENT_TYPE_NOT_SUPPORTED: "CONTENT_TYPE_NOT_SUPPORTED",
    NO_EXTENDED_CARD: "EXTENDED_AGENT_CARD_NOT_CONFIGURED",
    VERSION_NOT_SUPPORTED: "VERSION_NOT_SUPPORTED",
}
_INFO: Final = "type.googleapis.com/google.rpc.ErrorInfo"

_OF_FAILURE: Final[Mapping[ErrorCode, int]] = {
    ErrorCode.INVALID_REQUEST: INVALID_PARAMS,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: CONTENT_TYPE_NOT_SUPPORTED,
    ErrorCode.NOT_FOUND: TASK_NOT_FOUND,
    ErrorCode.GONE: TASK_NOT_FOUND,
}
_STATUSES: Final = frozenset({401, 403, 405, 408, 413, 429, 503})
"""Statuses that HTTP clients and proxies act on. All other errors are sent with 200, as JSON-RPC has it."""

_CANCELLED: Final = (ErrorCode.INTERRUPTED, ErrorCode.SUPERSEDED)
_UNSEEN: Final = frozenset(
    {
        *(ErrorCode.INVALID_REQUEST, ErrorCode.SESSION_BUSY, ErrorCode.TOO_MANY_REQUESTS),
        *(ErrorCode.NOT_READY, ErrorCode.OVERLOADED, ErrorCode.DRAINING, ErrorCode.POISONED),
        ErrorCode.IDEMPOTENCY_MISMATCH,
    }
)
"""Failures of requests that became no task that a client could ask for."""


def rpc_error(request_id: object, code: int, message: str) -> bytes:
    """The JSON of an error response."""
    error: dict[str, Any] = {"code": code, "message": message}
    if code in _REASONS:
        error["data"] = [{"@type": _INFO, "reason": _REASONS[code], "domain": "a2a-protocol.org"}]
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode()


def rpc_result(request_id: object, result: bytes) -> bytes:
    """The JSON of a response with this result."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (json.dumps(request_id).encode(), result)


def find(fields: dict[str, Any]) -> Found:
    """The fields of a request that the supervisor needs. Raises: Refused."""
    params = fields.get("params")
    if not isinstance(params, dict):
        raise invalid("params must be an object")
    message = params.get("message")
    if not isinstance(message, dict):
        raise invalid("message is missing" if message is None else f"message must not be {kind_of(message)}")
    if not isinstance(message.get("messageId"), str) or not message["messageId"]:
        raise invalid("message.messageId must be a string")
    if not isinstance(message.get("parts"), list):
        raise invalid("message.parts must be a list")
    options = typed(params, "configuration", dict, {})
    method = fields.get("method", "")
    streams = method in _STREAMING
    waits = options.get("blocking") is not False and options.get("returnImmediately") is not True
    return Found(
        session=message.get("contextId") or None,
        stream=streams,
        metadata=typed(params, "metadata", dict, None) or typed(message, "metadata", dict, {}),
        detached=not waits,
        at_once=not waits and not streams,
    )


_STREAMING: Final = ("message/stream", "SendStreamingMessage")
_PARAMS: Final = frozenset(
    {
        *((("jsonrpc",), ("id",), ("method",), ("params",))),
        *((("params", "message"), ("params", "configuration"), ("params", "metadata"))),
        *(("params", "message", name) for name in ("messageId", "contextId", "taskId", "parts", "metadata")),
        *(("params", "configuration", name) for name in ("blocking", "returnImmediately")),
    }
)


def answer(result: bytes, body: bytes) -> bytes:
    """The response to a message that is not streamed: the task of a run. `body`: the `envelope`."""
    fields = fields_of(body)
    if fields.get("method") in METHODS_10:
        result = b'{"task":%b}' % result
    return rpc_result(fields.get("id"), result)


def refuse(failure: Failure, body: bytes, result: bytes = b"") -> Refusal:
    """The error response. A run that failed after it had begun is a task that failed, not an error. `body`:
    the `envelope`."""
    if result not in (b"", b"[]") and failure.code not in _UNSEEN:
        return Refusal(200, answer(result, body))
    code = _OF_FAILURE.get(failure.code, INTERNAL_ERROR)
    status = failure.status if failure.status in _STATUSES else 200
    return Refusal(status, rpc_error(fields_of(body).get("id"), code, failure.message))


def fields_of(body: bytes) -> dict[str, Any]:
    """The members of a request, or of its envelope."""
    fields = orjson.loads(body or b"{}")
    return fields if isinstance(fields, dict) else {}


def envelope(fields: Mapping[str, Any]) -> bytes:
    """A request without its parameters, which its responses need."""
    return json.dumps({name: fields.get(name) for name in ("id", "method")}).encode()


def _status(prefix: str) -> Status:
    def status(failure: Failure | None) -> str:
        ended = "canceled" if failure is not None and failure.code in _CANCELLED else "failed"
        state = "working" if failure is None else ended
        return f"{prefix}{state.upper()}" if prefix else state

    return status


def _format(number: int, prefix: str, kind: bytes) -> WireFormat:
    end = b'id: %b-%b\ndata: {"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":%b}}\n\n'
    task = b'{%b"id":"%b","contextId":%b,"status":{"state":%b},"metadata":{"error":%b}}'
    waiting = "submitted"
    return format_of(
        number,
        "a2a",
        end % (Place.RUN, Place.NUMBER, Place.MESSAGE),
        result=task % (kind, Place.RUN, Place.SESSION, Place.STATUS, Place.ERROR),
        status=_status(prefix),
        waiting=f"{prefix}{waiting.upper()}" if prefix else waiting,
    )


A2A_03: Final = dialect(
    "a2a",
    PATH,
    _format(7, "", b'"kind":"task",'),
    find,
    _PARAMS,
    frozenset({("params", "message", "parts")}),
    refuse,
    metadata=("params", "message", "metadata"),
    answer=answer,
)
A2A_10: Final = dialect(
    "a2a",
    PATH,
    _format(8, "TASK_STATE_", b""),
    find,
    _PARAMS,
    frozenset({("params", "message", "parts")}),
    refuse,
    metadata=("params", "message", "metadata"),
    answer=answer,
)


def card(base: str, texts: Mapping[str, str], version: str, *, has_token: bool) -> dict[str, Any]:
    """The agent card for both versions. `base`: the URL of the instance. `texts`: of `protocols.a2a`.
    `version`: of the package, for an agent that has none. `has_token`: whether requests need the token."""
    url = texts.get("url", base).rstrip("/") + PATH
    name = texts.get("name", "AgentScope agent")
    description = texts.get("description", "An agent made with AgentScope.")
    security: dict[str, Any] = {}
    if has_token:
        security = {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "security": [{"bearer": []}],
        }
    return {
        "name": name,
        "description": description,
        "version": texts.get("version", version),
        "protocolVersion": "0.3.0",
        "url": url,
        "preferredTransport": "JSONRPC",
        "supportedInterfaces": [
            {"url": url, "protocolBinding": "JSONRPC", "protocolVersion": each} for each in ("1.0", "0.3")
        ],
        "capabilities": {"streaming": True, "pushNotifications": False},
        "defaultInputModes": ["text/plain"],
        "defaultOutputModes": ["text/plain"],
        "skills": [{"id": "dialog", "name": name, "description": description, "tags": ["chat"]}],
        **security,
    }
