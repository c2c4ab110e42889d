"""Messages of a request to chat messages of AutoGen."""

from __future__ import annotations

from typing import Any

from agentscope_worker.agentapp.inputs.contents import text_of
from agentscope_worker.agentapp.schemas import Message


def convert(message: Message) -> Any:
    from autogen_agentchat.messages import TextMessage

    text = "".join(text_of(each) for each in message.content or ())
    return TextMessage(content=text, source=message.role or "assistant")
