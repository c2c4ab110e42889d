"""AutoGen: the items of `agent.run_stream(task=…)` to parts. Pure.

The messages of the task are input, and left out; so is the TaskResult at the end, which repeats all messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agentscope_worker.agentapp.parts import BlockEnd, Part, Text, Thinking, ToolCall, ToolResult, Usage
from agentscope_worker.agentapp.sources import unexpected


class AutogenSource:
    def __init__(self) -> None:
        self._blocks = 0
        self._is_streaming = False  # chunks have come, and their whole message has not

    def take(self, item: Any) -> Iterator[Part]:
        kind = getattr(item, "type", type(item).__name__)
        if kind == "TaskResult":
            return
        if not hasattr(item, "content"):
            raise unexpected(item, "autogen", "items of agent.run_stream(task=…)")
        if kind == "ModelClientStreamingChunkEvent":
            self._is_streaming = True
            yield Text(str(self._blocks), item.content)
        elif self._is_streaming and kind in ("ThoughtEvent", "TextMessage"):
            yield from self._end()  # it repeats the chunks
        elif kind == "ThoughtEvent":
            yield from self._whole(Thinking, item.content)
        elif kind == "ToolCallRequestEvent":
            yield from self._end()
            for call in item.content:
                yield ToolCall(call.id, call.name, call.arguments, True)
        elif kind == "ToolCallExecutionEvent":
            for result in item.content:
                yield ToolResult(result.call_id, result.name, result.content, True)
        elif isinstance(item.content, str) and getattr(item, "source", None) != "user":
            yield from self._whole(Text, item.content)
        usage = getattr(item, "models_usage", None)
        if usage is not None:
            yield Usage(usage.prompt_tokens, usage.completion_tokens)

    def _whole(self, part: type[Text | Thinking], text: str) -> Iterator[Part]:
        yield from self._end()
        yield part(str(self._blocks), text)
        yield from self._end(is_open=True)

    def _end(self, *, is_open: bool = False) -> Iterator[Part]:
        if is_open or self._is_streaming:
            yield BlockEnd(str(self._blocks))
            self._blocks += 1
            self._is_streaming = False
