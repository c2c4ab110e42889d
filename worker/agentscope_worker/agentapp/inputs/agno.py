"""Messages of a request to the messages of OpenAI's API, as dictionaries, which Agno takes."""

from __future__ import annotations

from typing import Any

from agentscope_worker.agentapp.inputs.contents import CALLS, OUTPUTS, tool_data
from agentscope_worker.agentapp.inputs.langgraph import part
from agentscope_worker.agentapp.schemas import Message


def convert(message: Message) -> dict[str, Any]:
    if message.type in CALLS:
        data = tool_data(message)
        function = {"name": data.get("name") or "", "arguments": data.get("arguments") or "{}"}
        call = {"id": data["call_id"], "type": "function", "function": function}
        return {"role": "assistant", "name": "assistant", "content": None, "tool_calls": [call]}
    if message.type in OUTPUTS:
        data = tool_data(message)
        fields = {"content": data.get("output") or "", "name": data.get("name")}
        return {"role": "tool", "tool_call_id": data["call_id"], **fields}
    role = message.role or "assistant"
    name = (message.metadata or {}).get("original_name") or role
    return {"role": role, "name": name, "content": [part(each) for each in message.content or ()]}
