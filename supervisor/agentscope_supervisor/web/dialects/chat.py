"""OpenAI's Chat Completions: `POST /v1/chat/completions`. Pure.

Source: https://platform.openai.com/docs/api-reference/chat
"""

from typing import Any, Final

from agentscope_protocol.wire.frames import Place
from agentscope_supervisor.web.dialects import openai
from agentscope_supervisor.web.dialects.translated import Found, dialect, format_of, required, typed

PATH: Final = "/v1/chat/completions"

_END: Final = b"id: %b-%b\ndata: " % (Place.RUN, Place.NUMBER) + (
    b'{"error":{"message":%b,"type":"server_error","param":null,"code":%b}}\n\n' % (Place.MESSAGE, Place.CODE)
)


def find(fields: dict[str, Any]) -> Found:
    """The fields of a request that the supervisor needs. Raises: Refused."""
    required(fields, "messages", list)
    metadata = typed(fields, "metadata", dict, {})
    return Found(
        session=metadata.get("session_id"),
        hint=fields.get("user"),
        stream=typed(fields, "stream", bool, False),
        metadata=metadata,
    )


CHAT: Final = dialect(
    "chat",
    PATH,
    format_of(2, "chat", _END),
    find,
    frozenset({("metadata",), ("metadata", "session_id"), ("user",), ("stream",)}),
    frozenset({("messages",)}),
    openai.refuse,
)
