"""Agno: the events of `agent.arun(…, stream=True)` to parts. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from agentscope_worker.agentapp.parts import (
    BlockEnd,
    Failure,
    Part,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Usage,
)
from agentscope_worker.agentapp.sources import unexpected


class AgnoSource:
    def __init__(self) -> None:
        self._blocks = 0
        self._kind: str | None = None  # of the block that is open

    def take(self, item: Any) -> Iterator[Part]:
        event = getattr(item, "event", None)
        if event is None:
            if not hasattr(item, "content"):
                raise unexpected(item, "agno", "events of agent.arun(stream=True), or its RunOutput")
            yield from self._text("text", item.content)
            yield from self._end()
        elif event in ("RunContent", "TeamRunContent"):
            yield from self._text("thinking", item.reasoning_content)
            yield from self._text("text", item.content)
        elif event in ("RunContentCompleted", "TeamRunContentCompleted"):
            yield from self._end()
        elif event in ("ToolCallStarted", "TeamToolCallStarted"):
            yield from self._end()
            arguments = json.dumps(item.tool.tool_args, ensure_ascii=False, default=str)
            yield ToolCall(item.tool.tool_call_id, item.tool.tool_name, arguments, True)
        elif event in ("ToolCallCompleted", "TeamToolCallCompleted"):
            output = json.dumps(item.tool.result, ensure_ascii=False, default=str)
            yield ToolResult(item.tool.tool_call_id, item.tool.tool_name, output, True)
        elif event in ("RunError", "TeamRunError"):
            yield Failure(str(item.content))
        elif event in ("RunCompleted", "TeamRunCompleted"):
            metrics = getattr(item, "metrics", None)
            if metrics is not None:
                yield Usage(metrics.input_tokens, metrics.output_tokens)

    def _text(self, kind: str, text: Any) -> Iterator[Part]:
        if not text:
            return
        if kind != self._kind:
            yield from self._end()
            self._kind = kind
            self._blocks += 1
        yield (Text if kind == "text" else Thinking)(str(self._blocks), str(text))

    def _end(self) -> Iterator[Part]:
        if self._kind is not None:
            self._kind = None
            yield BlockEnd(str(self._blocks))
