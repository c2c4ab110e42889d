"""The values in the contents of a request's messages, for all frameworks."""

from __future__ import annotations

import json
from typing import Any, Final

from agentscope_worker.agentapp.schemas import DataContent, Message, MessageType, TextContent

CALLS: Final = (MessageType.PLUGIN_CALL, MessageType.MCP_TOOL_CALL, MessageType.FUNCTION_CALL)
OUTPUTS: Final = (
    MessageType.PLUGIN_CALL_OUTPUT,
    MessageType.MCP_TOOL_CALL_OUTPUT,
    MessageType.FUNCTION_CALL_OUTPUT,
)
"""Types of the messages of tools."""


def tool_data(message: Message) -> dict[str, Any]:
    """The call or the output in a message of a tool: of each field, the last value that is not empty.

    Raises: ValueError if there is none.
    """
    found: dict[str, Any] = {}
    for each in message.content or ():
        if isinstance(each, DataContent):
            found |= {name: value for name, value in (each.data or {}).items() if value or name not in found}
    if "call_id" not in found:
        raise ValueError(f"a message of type {message.type} needs a content of type data with a call_id")
    return found


def text_of(content: Any) -> str:
    """The text of a text content, and the JSON of a data content."""
    if isinstance(content, TextContent):
        return content.text or ""
    return json.dumps(content.data, ensure_ascii=False) if isinstance(content, DataContent) else ""
