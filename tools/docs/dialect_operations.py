"""The routes of the protocols beside the native one: the texts of their reference. Pure.

Their requests and responses are defined by the protocols themselves, and so are their errors: the sources are
named in the text of each route.
"""

from typing import Final

from tools.docs.http_shapes import EVENTS, NUMBER, TEXT, Answer, Operation, Parameter

_SESSION: Final = Parameter("X-Session-Id", "header", "The session, if the body does not name it.", TEXT)
_KEY: Final = Parameter("Idempotency-Key", "header", "As in `POST /invoke`.", TEXT)
_OPENAI: Final = "Errors have the shape of OpenAI's API."

_RESPONSE: Final = Parameter("response_id", "path", "The id of a response: `resp_` and a run id.", TEXT)
_DASHSCOPE: Final = "/compatible-mode"

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
        "GET",
        "/v1/models",
        "Models (OpenAI)",
        f"A list with one model, `agent`. Requests may name any model. {_OPENAI}",
        [Answer(200, "The list.", schema="Object")],
    ),
)
