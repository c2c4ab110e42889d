"""The calls of models on AgentScope 2.x, by agents and by Apps: patches of the classes of models.

It must be imported only through `agentscope2`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from agentscope import model as models
from agentscope.message import Msg, ToolResultBlock
from agentscope.model import ChatModelBase

from agentscope_worker.runtime.compat import finish_reasons, tool_calls

# Model, its method that converts a stream, and the wire format of its client. An older release, and the
# stand-in of the tests, do not have all of them.
_STREAMS = (
    ("OpenAIChatModel", "_parse_stream_response", "openai"),
    ("DashScopeChatModel", "_parse_stream_response", "openai"),
    ("DeepSeekChatModel", "_parse_stream_response", "openai"),
    ("MoonshotChatModel", "_parse_stream_response", "openai"),
    ("VolcengineChatModel", "_parse_stream_response", "openai"),
    ("OpenAIResponseModel", "_parse_stream_response", "openai_response"),
    ("AnthropicChatModel", "_parse_anthropic_stream_completion_response", "anthropic"),
    ("GeminiChatModel", "_parse_stream_response", "gemini"),
    ("OllamaChatModel", "_parse_stream_response", "ollama"),
)


def patch() -> None:
    """Adapt all models, those that an author creates included."""
    for name in ("__call__", "generate_structured_output"):
        setattr(ChatModelBase, name, _with_whole_tool_calls(getattr(ChatModelBase, name)))
    ChatModelBase.__call__ = finish_reasons.with_mark(ChatModelBase.__call__)
    ChatModelBase.generate_structured_output = finish_reasons.with_count(
        ChatModelBase.generate_structured_output
    )
    for model, method, wire in _STREAMS:
        model_class = getattr(models, model, None)
        parse = vars(model_class).get(method) if model_class is not None else None
        if parse is not None:
            setattr(model_class, method, finish_reasons.with_watch(parse, finish_reasons.FINISHES[wire]))


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
