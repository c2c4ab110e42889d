"""Messages of a request to messages of LangChain, which LangGraph takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from agentscope_worker.agentapp.inputs.contents import CALLS, OUTPUTS, text_of, tool_data
from agentscope_worker.agentapp.schemas import Message


def convert(message: Message) -> Any:
    from langchain_core import messages as langchain

    if message.type in CALLS:
        data = tool_data(message)
        arguments = json.loads(data.get("arguments") or "{}")
        call = {"name": data.get("name") or "", "args": arguments, "id": data["call_id"]}
        return langchain.AIMessage(content="", tool_calls=[call])
    if message.type in OUTPUTS:
        data = tool_data(message)
        return langchain.ToolMessage(
            content=data.get("output") or "", tool_call_id=data["call_id"], name=data.get("name")
        )
    content = _content(message.content or ())
    if message.role == "tool":
        return langchain.ToolMessage(
            content=content, tool_call_id=(message.metadata or {}).get("tool_call_id", "")
        )
    classes: dict[str | None, Any] = {"user": langchain.HumanMessage, "system": langchain.SystemMessage}
    return classes.get(message.role, langchain.AIMessage)(content=content)


def _content(contents: Sequence[Any]) -> Any:
    """One string, unless there are images."""
    if not any(each.type == "image" for each in contents):
        return "".join(text_of(each) for each in contents)
    return [part(each) for each in contents]


def part(content: Any) -> dict[str, Any]:
    """A content as OpenAI's API has it."""
    if content.type == "image":
        return {"type": "image_url", "image_url": {"url": content.image_url}}
    return {"type": "text", "text": text_of(content)}
