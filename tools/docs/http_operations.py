"""The routes of the HTTP API: the texts and shapes of their reference. Pure.

`openapi` and `http_api` are made from this table. `served_routes` reads the routes that the supervisor
really serves, and a test compares the two.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from agentscope_supervisor.domain.errors import ErrorCode
from agentscope_supervisor.domain.idempotency import MAX_KEY
from agentscope_supervisor.domain.request import ON_BUSY
from agentscope_supervisor.domain.run import RunState
from agentscope_supervisor.web.page_query import AT_ONCE, MOST
from agentscope_supervisor.web.runs import MOST_RUNS, RUNS_AT_ONCE
from tools.docs import dialect_operations
from tools.docs.http_shapes import (
    EVENTS,
    JSON,
    NUMBER,
    RUN_ID,
    SECONDS,
    SESSION_ID,
    TEXT,
    Answer,
    Operation,
    Parameter,
    Schema,
)

C = ErrorCode


def _limit(text: str, default: int, most: int) -> Parameter:
    schema = {"type": "integer", "minimum": 1, "maximum": most, "default": default}
    return Parameter("limit", "query", text, schema)


def _object(text: str, properties: Mapping[str, Schema], required: Sequence[str] = ()) -> dict[str, Any]:
    return {
        "type": "object",
        "description": text,
        "properties": dict(properties),
        **({"required": list(required)} if required else {}),
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _with(schema: Schema, text: str) -> Schema:
    return {**schema, "description": text}


def _or_null(schema: Schema, text: str) -> Schema:
    return {"anyOf": [schema, {"type": "null"}], "description": text}


_NEXT: Final = _or_null(TEXT, "The value of `after` for the next page; `null` at the end.")
_ROW: Final[Mapping[str, Schema]] = {
    "run_id": RUN_ID,
    "session_id": TEXT,
    "state": {"enum": list(RunState)},
    "stream": _with({"type": "boolean"}, "Whether the run was requested as a stream."),
    "worker": _or_null(TEXT, "`<slot>.<generation>` of its worker."),
    "started_at": _with(TEXT, "When the turn was accepted: UTC, as in RFC 3339."),
    "error": _or_null({"type": "object"}, "The failure, in the form of `Error.error`."),
    "usage": _or_null(_ref("Usage"), "The model calls; `null` without any, and until the turn has ended."),
}
_COUNTS: Final[Mapping[str, Schema]] = {
    "input_tokens": NUMBER,
    "output_tokens": NUMBER,
    "ms": _with(NUMBER, "Milliseconds that the calls took, added up."),
}
_MESSAGES: Final = _or_null(
    _list(_ref("Msg")), "The messages so far; `null` above 1 MB or if they are not kept."
)

SCHEMAS: Final[Mapping[str, Schema]] = {
    "Message": _object(
        "The message of a turn. An `id` that the client sends is ignored.",
        {
            "content": {
                "description": "Text, or a list of AgentScope content blocks.",
                "anyOf": [TEXT, _list({"type": "object"})],
            },
            "role": {"enum": ["user", "assistant", "system"], "default": "user"},
            "name": _with(TEXT, "Default: the role."),
        },
        ["content"],
    ),
    "Invocation": _object(
        "The request of a turn.",
        {
            "session_id": _with(
                SESSION_ID,
                "The conversation. The header `X-Session-Id` may carry it instead. Default: a new session.",
            ),
            "message": {
                "description": "A text of the user, or a message.",
                "anyOf": [TEXT, _ref("Message")],
            },
            "metadata": _with({"type": "object"}, "Passed to the App as `ctx.metadata`."),
            "stream": _with(
                {"type": "boolean"},
                "`true`: server-sent events. `false`: one JSON object. Default: `false` if the request "
                "accepts `application/json`, else `true`.",
            ),
            "on_busy": _with({"enum": list(ON_BUSY)}, "Overrides `sessions.on_busy` for this turn."),
        },
        ["message"],
    )
    | {"examples": [{"session_id": "me", "message": "Hello", "stream": True}]},
    "Msg": _object(
        "A message of the App, as AgentScope serialises it. Fields depend on the version of AgentScope.",
        {
            "name": TEXT,
            "role": TEXT,
            "content": {"anyOf": [TEXT, _list({"type": "object"})]},
            "metadata": _with(
                {"type": ["object", "null"]},
                "`chunk`: part of a longer message. `done`: the last event. `finish_reason`: `TRUNCATED` if "
                "the model's stream was closed before its end. `usage`: a Usage, in "
                "the done event and in the last message of a whole answer.",
            ),
        },
        ["name", "content", "role"],
    ),
    "Usage": _object(
        "The model calls of a turn, as AgentScope records them.",
        {
            **_COUNTS,
            "models": _list(_object("One model.", {"model": TEXT, "calls": NUMBER, **_COUNTS})),
        },
        [*_COUNTS, "models"],
    ),
    "Answer": _object(
        "The whole answer of a turn. Consecutive chunks of one name and role are joined into one message.",
        {"session_id": TEXT, "run_id": RUN_ID, "messages": _list(_ref("Msg"))},
        ["session_id", "run_id", "messages"],
    ),
    "EventStream": {
        "type": "string",
        "description": "Server-sent events. Each event has an `id`, `<run_id>-<n>` with n from 0 without "
        "gaps, and one line of `data`: a Msg, or an Error after a failure. The last event is always a Msg "
        "with `metadata.done`. Lines that begin with `:` are comments. An Error has no `role`; a Msg "
        "always has one, and may have a member `error` as well.",
    },
    "Error": _object(
        "A failure. In a stream, the event before the last one has the same form.",
        {
            "error": _object(
                "The failure.",
                {
                    "code": {"enum": [code.value for code in ErrorCode]},
                    "message": TEXT,
                    "retryable": _with(
                        {"type": "boolean"},
                        "`true`: the App has not seen the turn; the same request may be resent.",
                    ),
                },
                ["code", "message", "retryable"],
            ),
            "kept": _or_null(
                _object("Ids of the first and the last event that are kept.", {"first": TEXT, "last": TEXT}),
                "Only with the code `GONE`, for the events of a run.",
            ),
        },
        ["error"],
    ),
    "StopRequest": {
        "description": "Exactly one of the two keys.",
        "oneOf": [
            _object("All turns of a session.", {"session_id": SESSION_ID}, ["session_id"]),
            _object("One turn.", {"run_id": TEXT}, ["run_id"]),
        ],
        "examples": [{"session_id": "me"}],
    },
    "Stopped": _object(
        "The result of a stop.",
        {"status": {"const": "success"}, "stopped": _with(NUMBER, "Turns that were ended.")},
        ["status", "stopped"],
    ),
    "Run": _object(
        "One run: the record of a turn and its output.",
        {
            **_ROW,
            "dialect": _with(TEXT, "The protocol of its client, such as `native` or `chat`."),
            "events": _object(
                "Numbers of the first kept event and of the next one.", {"first": NUMBER, "next": NUMBER}
            ),
            "messages": _MESSAGES,
            "result": {
                "type": ["object", "null"],
                "description": "The answer in the form of the dialect, such as a `chat.completion`. Not sent "
                "for the dialect `native`.",
            },
        },
        [*_ROW, "dialect", "events", "messages"],
    ),
    "RunPage": _object(
        "A page of runs, the newest first.",
        {"runs": _list(_object("A run.", _ROW, [*_ROW])), "next": _NEXT},
        ["runs", "next"],
    ),
    "SessionMessages": _object(
        "The messages of the App in a session: a page of its runs, the oldest first.",
        {
            "session_id": TEXT,
            "next": _NEXT,
            "runs": _list(_object("A run.", {**_ROW, "messages": _MESSAGES}, [*_ROW, "messages"])),
        },
        ["session_id", "next", "runs"],
    ),
    "Ticket": _object(
        "A permission to read the events of one run.",
        {
            "ticket": TEXT,
            "url": _with(TEXT, "The path of the events, with the ticket."),
            "expires_in": _with(NUMBER, "Seconds in which a client must open the URL."),
        },
        ["ticket", "url", "expires_in"],
    ),
    "Session": _object(
        "A session that has a turn or had one within `sessions.idle_after` seconds.",
        {
            "session_id": TEXT,
            "slot": _with(NUMBER, "The slot that runs its next turn."),
            "worker": _or_null(TEXT, "`<slot>.<generation>` of its running or last turn."),
            "run_id": _or_null(RUN_ID, "The running turn."),
            "events": _with(NUMBER, "Events of the running turn."),
            "waiting": _with(NUMBER, "Turns that wait."),
            "seconds": _or_null(SECONDS, "Seconds since the first open turn arrived."),
            "idle": _or_null(SECONDS, "Seconds since the last turn ended."),
        },
    ),
    "SessionPage": _object(
        "A page of sessions in the order of their ids.",
        {
            "sessions": _list(_ref("Session")),
            "next": _NEXT,
        },
        ["sessions", "next"],
    ),
    "Health": _object(
        "The state of the instance.",
        {
            "status": {"enum": ["healthy", "degraded", "starting", "draining", "unhealthy"]},
            "instance_id": _or_null(TEXT, "The instance's id on the platform."),
            "uptime": _with(SECONDS, "Seconds since the start."),
            "version": TEXT,
            "workers": _list(
                _object(
                    "A worker process.",
                    {
                        "slot": NUMBER,
                        "generation": NUMBER,
                        "pid": {"type": ["integer", "null"]},
                        "state": TEXT,
                        "turns": NUMBER,
                    },
                )
            ),
            "turns": _object(
                "Turns that are open, and all that were accepted.", {"open": NUMBER, "accepted": NUMBER}
            ),
            "orphans": _with(NUMBER, "Processes that workers left behind."),
            "store": _object(
                "The store of runs on disk.",
                {"status": {"enum": ["ok", "degraded"]}, "reason": {"type": ["string", "null"]}},
            ),
        },
        ["status", "instance_id", "uptime"],
    ),
    "Document": {"type": "object", "description": "An OpenAPI 3.1 document."},
    "Status": _object("A short status.", {"status": TEXT}, ["status"]),
    "Welcome": _object(
        "Name, version and links.",
        {
            "name": TEXT,
            "version": TEXT,
            "links": {"type": "object", "additionalProperties": TEXT},
            "protocols": _with(
                {"type": "object", "additionalProperties": TEXT}, "The routes of the protocols that are on."
            ),
        },
        ["name", "version", "links", "protocols"],
    ),
    "Object": {"type": "object", "description": "As the protocol defines it."},
}
"""The JSON of requests and answers."""

_RUN: Final = Parameter("run_id", "path", "The run, as in `X-Run-Id`.", RUN_ID)
_SESSION: Final = Parameter("session_id", "path", "The session, percent-encoded.", SESSION_ID)
_AFTER: Final = Parameter("after", "query", "The `next` of the previous page.", TEXT)
_BODY: Final = (C.INVALID_REQUEST, C.REQUEST_TIMEOUT, C.PAYLOAD_TOO_LARGE, C.UNSUPPORTED_MEDIA_TYPE)

OPERATIONS: Final[Sequence[Operation]] = (
    Operation(
        "POST",
        "/invoke",
        "Run a turn",
        "Sends a message to the App. With `stream: true` the response begins with the first event, or with a "
        "comment after 1 s of waiting; until then a failure is an HTTP status, afterwards it is an event. "
        "The response has the header `X-Run-Id`, and `X-Agentscope-Worker` if a worker has the turn. If the "
        "request names no session, the header `X-Session-Id` has the id of the new one.",
        [
            Answer(200, "The events of the turn (`stream: true`).", EVENTS, "EventStream"),
            Answer(200, "The whole answer (`stream: false`).", JSON, "Answer"),
        ],
        (
            *_BODY,
            C.SESSION_BUSY,
            C.SUPERSEDED,
            C.INTERRUPTED,
            C.GONE,
            C.IDEMPOTENCY_MISMATCH,
            C.TOO_MANY_REQUESTS,
            C.APP_ERROR,
            C.INTERNAL_ERROR,
            C.WORKER_LOST,
            C.NOT_READY,
            C.OVERLOADED,
            C.DRAINING,
            C.POISONED,
            C.TIMEOUT,
        ),
        (
            Parameter(
                "X-Session-Id", "header", "The session id, for balancers that pin by header.", SESSION_ID
            ),
            Parameter(
                "Idempotency-Key",
                "header",
                "Requests with the same key run the App once; a repeated request gets the output of the "
                "first.",
                {"type": "string", "minLength": 1, "maxLength": MAX_KEY},
            ),
            Parameter(
                "Last-Event-ID",
                "header",
                "The id of the last event received. The response has the events after it of the run that it "
                "names, as `GET /runs/{run_id}/events`, and the App is not called again.",
                TEXT,
            ),
            Parameter("traceparent", "header", "W3C trace context, passed on to the App.", TEXT),
        ),
        "Invocation",
        also=("/invoke/",),
    ),
    Operation(
        "POST",
        "/stop",
        "Stop turns",
        "Ends the running and the waiting turns of a session, or one run. Each of them ends with "
        "INTERRUPTED; the App sees `asyncio.CancelledError`.",
        [Answer(200, "The number of turns that were ended.", JSON, "Stopped")],
        _BODY,
        body="StopRequest",
    ),
    Operation(
        "GET",
        "/runs",
        "List runs",
        "The kept runs, the newest first. Clients give `session_id`; the list of all runs is for the console "
        "only, as the ids in it let a caller use the sessions of others. A page can be shorter than `limit`; "
        "only `next: null` is the end.",
        [Answer(200, "A page of runs.", JSON, "RunPage")],
        (C.INVALID_REQUEST,),
        (
            Parameter("session_id", "query", "The runs of this session.", SESSION_ID),
            Parameter("state", "query", "The runs in this state.", {"enum": list(RunState)}),
            _limit("Runs per page.", AT_ONCE, MOST),
            _AFTER,
        ),
    ),
    Operation(
        "GET",
        "/runs/{run_id}",
        "Read a run",
        "The state of a run, and its messages as far as they are kept.",
        [Answer(200, "The run.", JSON, "Run")],
        (C.NOT_FOUND, C.GONE),
        (_RUN,),
    ),
    Operation(
        "GET",
        "/runs/{run_id}/events",
        "Read the events of a run",
        "Repeats the events of a run from the beginning or from a position, then follows the run to its end. "
        "Any number of clients can read a run. An `EventSource` resumes by itself.",
        [
            Answer(200, "The events.", EVENTS, "EventStream"),
            Answer(204, "The client has already received the last event."),
        ],
        (C.INVALID_REQUEST, C.NOT_FOUND, C.GONE),
        (
            _RUN,
            Parameter(
                "Last-Event-ID", "header", "The id of the last event received. Overrides `after`.", TEXT
            ),
            Parameter("after", "query", "The number of the last event received.", NUMBER),
            Parameter("ticket", "query", "A ticket for this run, instead of `Authorization`.", TEXT),
        ),
    ),
    Operation(
        "POST",
        "/runs/{run_id}/ticket",
        "Issue a ticket for a run",
        "A ticket in the URL of `GET /runs/{run_id}/events` replaces the header `Authorization`, for a "
        "browser's `EventSource`. It is for reading this run only.",
        [Answer(200, "The ticket.", JSON, "Ticket")],
        (C.NOT_FOUND, C.GONE),
        (_RUN,),
    ),
    Operation(
        "GET",
        "/sessions",
        "List sessions",
        "Sessions that have a turn or had one within `sessions.idle_after` seconds, in the order of their "
        "ids. For the console only: the ids let a caller use the sessions of others. A page can "
        "be shorter than `limit`; only `next: null` is the end.",
        [Answer(200, "A page of sessions.", JSON, "SessionPage")],
        (C.INVALID_REQUEST,),
        (
            _limit("Sessions per page.", AT_ONCE, MOST),
            _AFTER,
        ),
    ),
    Operation(
        "GET",
        "/sessions/{session_id}",
        "Read a session",
        "Where a session is and what it does.",
        [Answer(200, "The session.", JSON, "Session")],
        (C.INVALID_REQUEST, C.NOT_FOUND),
        (_SESSION,),
    ),
    Operation(
        "GET",
        "/sessions/{session_id}/messages",
        "Read the messages of a session",
        "The messages of the App in the kept runs of a session, the oldest first. Messages of clients are "
        "not kept. A page ends at `limit` runs, or at 1 MB. If the id of a session ends with `/messages`, "
        "write the slash as `%2F`.",
        [Answer(200, "A page of runs with their messages.", JSON, "SessionMessages")],
        (C.INVALID_REQUEST,),
        (_SESSION, _limit("Runs per page.", RUNS_AT_ONCE, MOST_RUNS), _AFTER),
    ),
    Operation(
        "DELETE",
        "/sessions/{session_id}",
        "Delete a session",
        "Deletes the stored state of a session, its runs and its idempotency keys. A session with an open "
        "turn is refused; stop it first.",
        [Answer(204, "The session is deleted.")],
        (
            C.INVALID_REQUEST,
            C.NOT_FOUND,
            C.SESSION_BUSY,
            C.TOO_MANY_REQUESTS,
            C.APP_ERROR,
            C.INTERNAL_ERROR,
            C.WORKER_LOST,
            C.NOT_READY,
            C.OVERLOADED,
            C.DRAINING,
            C.TIMEOUT,
        ),
        (
            _SESSION,
            Parameter(
                "user_id",
                "query",
                "The user whose state is deleted. Default: the state without a user.",
                TEXT,
            ),
        ),
    ),
    Operation(
        "GET",
        "/health",
        "Health",
        "The state of the instance. Never waits for a worker. 200 for `healthy` and `degraded` (some slots "
        "are down), 503 for `starting`, `draining` and `unhealthy`.",
        [
            Answer(200, "The instance answers turns.", JSON, "Health"),
            Answer(503, "The instance does not answer turns.", JSON, "Health"),
        ],
        is_open=True,
    ),
    Operation(
        "GET",
        "/readiness",
        "Readiness",
        "Whether a turn would be accepted now.",
        [Answer(200, "A turn would be accepted.", JSON, "Status")],
        (C.NOT_READY, C.OVERLOADED, C.DRAINING),
        is_open=True,
        also=("/readyz",),
    ),
    Operation(
        "GET",
        "/liveness",
        "Liveness",
        "Whether the event loop of the supervisor runs.",
        [Answer(200, "It runs.", JSON, "Status")],
        is_open=True,
        also=("/livez", "/healthz"),
    ),
    Operation(
        "GET",
        "/openapi.json",
        "The HTTP API as OpenAPI",
        "An OpenAPI 3.1 document of the routes that this instance serves. With the console on, the page "
        "`/docs` shows it and sends requests.",
        [Answer(200, "The document.", JSON, "Document")],
    ),
    Operation(
        "GET",
        "/metrics",
        "Metrics",
        "Prometheus text format. Served unless `server.metrics` is false.",
        [Answer(200, "The metrics.", "text/plain")],
        is_open=True,
    ),
    Operation(
        "GET",
        "/",
        "Name and version",
        "Name, version and links of the instance.",
        [Answer(200, "The instance.", JSON, "Welcome")],
    ),
    *dialect_operations.OPERATIONS,
)
"""The documented routes. Those of the console belong to its page and may change at any time."""
