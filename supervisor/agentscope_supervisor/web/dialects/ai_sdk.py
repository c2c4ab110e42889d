"""The UI message stream of the AI SDK: `POST /api/chat`. Pure.

Source: https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol
"""

from typing import Any, Final

from agentscope_protocol.wire.frames import Place
from agentscope_supervisor.web.dialects.translated import (
    Found,
    dialect,
    format_of,
    refuse,
    required,
    typed,
)

PATH: Final = "/api/chat"

_ID: Final = b"id: %b-%b\ndata: " % (Place.RUN, Place.NUMBER)
_END: Final = _ID + b'{"type":"error","errorText":%b}\n\n' % Place.MESSAGE + _ID + b"[DONE]\n\n"


def find(fields: dict[str, Any]) -> Found:
    """The fields of a request that the supervisor needs. Raises: Refused."""
    required(fields, "messages", list)
    return Found(session=fields.get("id"), metadata=typed(fields, "metadata", dict, {}))


AI_SDK: Final = dialect(
    "ai_sdk",
    PATH,
    format_of(5, "ai_sdk", _END, headers={"X-Vercel-AI-UI-Message-Stream": "v1"}),
    find,
    frozenset({("id",), ("metadata",)}),
    frozenset({("messages",)}),
    refuse,
)
