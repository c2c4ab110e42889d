"""The routes of the protocols beside the native one: the texts of their reference. Pure.

Their requests and responses are defined by the protocols themselves, and so are their errors: the sources are
named in the text of each route.
"""

from typing import Final

from agentscope_supervisor.domain.errors import ErrorCode as C
from tools.docs.http_shapes import EVENTS, NUMBER, TEXT, Answer, Operation, Parameter

_SESSION: Final = Parameter("X-Session-Id", "header", "The session, if the body does not name it.", TEXT)
_KEY: Final = Parameter("Idempotency-Key", "header", "As in `POST /invoke`.", TEXT)
_OPENAI: Final = "Errors have the shape of OpenAI's API."

_RESPONSE: Final = Parameter("response_id", "path", "The id of a response: `resp_` and a run id.", TEXT)
_DASHSCOPE: Final = "/compatible-mode"

_OF_TURN: Final = (
    *(C.INVALID_REQUEST, C.SESSION_BUSY, C.SUPERSEDED, C.IDEMPOTENCY_MISMATCH, C.TOO_MANY_REQUESTS),
    *(C.PAYLOAD_TOO_LARGE, C.UNSUPPORTED_MEDIA_TYPE, C.REQUEST_TIMEOUT, C.POISONED, C.APP_ERROR),
    *(C.INTERNAL_ERROR, C.WORKER_LOST, C.NOT_READY, C.OVERLOADED, C.DRAINING, C.TIMEOUT),
)

OPERATIONS: Final = (
    Operation(
        "POST",
        "/v1/chat/completions",
        "Chat completion (OpenAI)",
        "A turn in the form of OpenAI's Chat Completions. The session is `metadata.session_id`, else the "
        "header `X-Session-Id`, else `user`, else a new one, which the response names in `X-Session-Id`. The "
        f"App gets the last message of the user. Served if `protocols.chat` is true. {_OPENAI}",
        [
            Answer(200, "`stream` is true: chunks, then `[DONE]`.", EVENTS),
            Answer(200, "Otherwise: one `chat.completion`.", schema="Object"),
        ],
        parameters=(_SESSION, _KEY),
        body="Object",
    ),
    Operation(
        "POST",
        "/v1/responses",
        "Response (OpenAI)",
        "A turn in the form of OpenAI's Responses. The session is `conversation`, else that of "
        "`previous_response_id`, else the header `X-Session-Id`, else a new one. Served if "
        f"`protocols.responses` is true. {_OPENAI}",
        [
            Answer(200, "`stream` is true: events.", EVENTS),
            Answer(200, "Otherwise: the response; with `background`, at once.", schema="Object"),
        ],
        parameters=(_SESSION, _KEY),
        body="Object",
        also=(f"{_DASHSCOPE}/v1/responses",),
    ),
    Operation(
        "GET",
        "/v1/responses/{response_id}",
        "Retrieve a response (OpenAI)",
        f"The response, or its events. {_OPENAI}",
        [
            Answer(200, "The response as it is now.", schema="Object"),
            Answer(200, "`stream` is true: its events.", EVENTS),
        ],
        parameters=(
            _RESPONSE,
            Parameter("stream", "query", "`true`: the events of the response.", TEXT),
            Parameter("starting_after", "query", "The number of the last event that the client has.", NUMBER),
        ),
        also=(f"{_DASHSCOPE}/v1/responses/{{response_id}}",),
    ),
    Operation(
        "DELETE",
        "/v1/responses/{response_id}",
        "Delete a response (OpenAI)",
        f"Deletes a run that has ended, with its events. A run in progress is refused with 409. {_OPENAI}",
        [Answer(200, "The response is deleted.", schema="Object")],
        parameters=(_RESPONSE,),
        also=(f"{_DASHSCOPE}/v1/responses/{{response_id}}",),
    ),
    Operation(
        "POST",
        "/v1/responses/{response_id}/cancel",
        "Cancel a response (OpenAI)",
        f"Stops the turn, and returns the response when it has ended. {_OPENAI}",
        [Answer(200, "The response.", schema="Object")],
        parameters=(_RESPONSE,),
        also=(f"{_DASHSCOPE}/v1/responses/{{response_id}}/cancel",),
    ),
    Operation(
        "GET",
        "/v1/responses/{response_id}/input_items",
        "Input of a response (OpenAI)",
        "The items of `input`, if they have up to 64 KB. They are kept in memory only. " + _OPENAI,
        [Answer(200, "The list.", schema="Object")],
        parameters=(_RESPONSE,),
        also=(f"{_DASHSCOPE}/v1/responses/{{response_id}}/input_items",),
    ),
    Operation(
        "POST",
        "/api/chat",
        "Chat (AI SDK)",
        "A turn in the form of the AI SDK's UI message stream, version 1. `id` is the session. Served if "
        "`protocols.ai_sdk` is true.",
        [Answer(200, "Parts of the message, then `[DONE]`.", EVENTS)],
        _OF_TURN,
        (_SESSION, _KEY),
        body="Object",
    ),
    Operation(
        "GET",
        "/api/chat/{chat_id}/stream",
        "Resume a chat (AI SDK)",
        "The stream of the newest open turn of a chat, from its beginning.",
        [Answer(200, "Parts of the message.", EVENTS), Answer(204, "No turn of the chat is open.")],
        (C.INVALID_REQUEST, C.GONE),
        (Parameter("chat_id", "path", "The `id` of the chat, percent-encoded.", TEXT),),
    ),
    Operation(
        "POST",
        "/ag-ui",
        "Run (AG-UI)",
        "A turn in the form of AG-UI. `threadId` is the session. Served if `protocols.ag_ui` is true.",
        [Answer(200, "Events, from `RUN_STARTED` to `RUN_FINISHED` or `RUN_ERROR`.", EVENTS)],
        _OF_TURN,
        (_SESSION, _KEY),
        body="Object",
    ),
    Operation(
        "POST",
        "/process",
        "Process (agentscope-runtime)",
        "A turn in the form of agentscope-runtime 1.1. Served if `protocols.process` is true.",
        [
            Answer(200, "Objects that are responses, messages and contents.", EVENTS),
            Answer(200, "`stream` is false: the last response.", schema="Object"),
        ],
        _OF_TURN,
        (_SESSION, _KEY),
        body="Object",
    ),
    Operation(
        "POST",
        "/a2a",
        "A2A",
        "A method of A2A 0.3 or 1.0 over JSON-RPC. Messages are turns of the session `contextId`, and tasks "
        "are runs. Served unless `protocols.a2a` is false. Errors have the shape of JSON-RPC.",
        [
            Answer(200, "The result or the error.", schema="Object"),
            Answer(200, "`message/stream`, `tasks/resubscribe` and their counterparts: events.", EVENTS),
        ],
        parameters=(
            Parameter("A2A-Version", "header", "`0.3` or `1.0`. Other versions are refused.", TEXT),
            _SESSION,
            _KEY,
        ),
        body="Object",
    ),
    Operation(
        "GET",
        "/.well-known/agent-card.json",
        "Agent card (A2A)",
        "The card of the agent, for both versions of A2A.",
        [Answer(200, "The card.", schema="Object")],
        is_open=True,
        also=("/.well-known/agent.json",),
    ),
    Operation(
        "GET",
        "/v1/models",
        "Models (OpenAI)",
        f"A list with one model, `agent`. Requests may name any model. {_OPENAI}",
        [Answer(200, "The list.", schema="Object")],
    ),
)
