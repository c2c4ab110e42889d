"""The calls of models on AgentScope 1.x, by agents and by Apps: patches of formatters and models.

It must be imported only through `agentscope1`.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

from agentscope import model as models
from agentscope.formatter import TruncatedFormatterBase
from agentscope.message import Msg, ToolResultBlock

from agentscope_worker.runtime.compat import finish_reasons, tool_calls

# Model, its method that converts a stream, and the wire format of its client.
_STREAMS = (
    (models.OpenAIChatModel, "_parse_openai_stream_response", "openai"),
    (models.AnthropicChatModel, "_parse_anthropic_stream_completion_response", "anthropic"),
    (models.DashScopeChatModel, "_parse_dashscope_stream_response", "dashscope"),
    (models.GeminiChatModel, "_parse_gemini_stream_generation_response", "gemini"),
    (models.OllamaChatModel, "_parse_ollama_stream_completion_response", "ollama"),
)


def patch() -> None:
    """Adapt all formatters, which convert the messages for the models, and the models of all providers."""
    TruncatedFormatterBase.format = _with_whole_tool_calls(TruncatedFormatterBase.format)
    for model_class, method, wire in _STREAMS:
        model_class.__call__ = finish_reasons.with_mark(model_class.__call__)
        parse = getattr(model_class, method)
        setattr(model_class, method, finish_reasons.with_watch(parse, finish_reasons.FINISHES[wire]))


def _with_whole_tool_calls(format_messages: Callable[..., Any]) -> Callable[..., Any]:
    """Complete the tool calls in the messages for the model, in copies of them.

    1.x stores no result of a call if the model's stream breaks, or if an earlier call is interrupted.
    """

    @functools.wraps(format_messages)
    async def format_with_whole(self: Any, msgs: Any, *args: Any, **kwargs: Any) -> Any:
        return await format_messages(self, _mended(msgs), *args, **kwargs)

    return format_with_whole


def _mended(messages: Any) -> Any:
    if not isinstance(messages, list) or not all(isinstance(each, Msg) for each in messages):
        return messages
    repair = tool_calls.Repair([tool_calls.blocks_of(each.content) for each in messages])
    broken = repair.messages()
    mended = []
    for index, message in enumerate(messages):
        if index not in broken:
            mended.append(message)
            continue
        blocks, results = repair.mend(index, _interrupted)
        if blocks:
            mended.append(copy.copy(message))
            mended[-1].content = blocks
        if results:
            mended.append(Msg("system", results, "system"))
    return mended


def _interrupted(call: Any) -> Any:
    return ToolResultBlock(**tool_calls.result_fields(call))
