"""The routes of the protocols beside the native one: the texts of their reference. Pure.

Their requests and responses are defined by the protocols themselves, and so are their errors: the sources are
named in the text of each route.
"""

from typing import Final

from tools.docs.http_shapes import EVENTS, TEXT, Answer, Operation, Parameter

_SESSION: Final = Parameter("X-Session-Id", "header", "The session, if the body does not name it.", TEXT)
_KEY: Final = Parameter("Idempotency-Key", "header", "As in `POST /invoke`.", TEXT)
_OPENAI: Final = "Errors have the shape of OpenAI's API."

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
        "GET",
        "/v1/models",
        "Models (OpenAI)",
        f"A list with one model, `agent`. Requests may name any model. {_OPENAI}",
        [Answer(200, "The list.", schema="Object")],
    ),
)
