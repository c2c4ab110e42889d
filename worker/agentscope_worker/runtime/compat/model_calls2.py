"""The calls of models on AgentScope 2.x, by agents and by Apps: patches of the class of all models.

It must be imported only through `agentscope2`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from agentscope.message import Msg, ToolResultBlock
from agentscope.model import ChatModelBase

from agentscope_worker.runtime.compat import tool_calls


def patch() -> None:
    """Adapt all models, those that an author creates included."""
    for name in ("__call__", "generate_structured_output"):
        setattr(ChatModelBase, name, _with_whole_tool_calls(getattr(ChatModelBase, name)))


def _with_whole_tool_calls(call: Callable[..., Any]) -> Callable[..., Any]:
    """Complete the tool calls in the messages for the model, in copies of them.

    2.x keeps the arguments of a call as the model sent them, also if the response was cut off.
    """

    @functools.wraps(call)
    async def call_with_whole(self: Any, messages: Any, *args: Any, **kwargs: Any) -> Any:
        return await call(self, _mended(messages), *args, **kwargs)

    return call_with_whole


def _mended(messages: Any) -> Any:
    if not isinstance(messages, list) or not all(isinstance(each, Msg) for each in messages):
        return messages
    repair = tool_calls.Repair([each.content for each in messages])
    broken = repair.messages()
    mended = []
    for index, message in enumerate(messages):
        if index in broken:
            blocks, _ = repair.mend(index, _interrupted)
            message = message.model_copy(update={"content": blocks})
        if message.content or index not in broken:
            mended.append(message)
    return mended


def _interrupted(call: Any) -> Any:
    return ToolResultBlock(**tool_calls.result_fields(call), state="interrupted")
