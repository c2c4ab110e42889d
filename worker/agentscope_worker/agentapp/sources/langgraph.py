"""LangGraph: the messages of `graph.astream(…, stream_mode="messages")` to parts. Pure.

A handler yields `(message, last)`, or the items of `astream` as they are. Messages of the user and system
messages are input, and left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from agentscope_worker.agentapp.parts import BlockEnd, Part, Text, Thinking, ToolCall, ToolResult, Usage
from agentscope_worker.agentapp.sources import unexpected

_TEXTS = {"text": "text", "thinking": "thinking", "reasoning": "reasoning"}


class LangGraphSource:
    def __init__(self) -> None:
        self._message: str | None = None  # the id of the message whose chunks come
        self._streamed: set[str | None] = set()
        self._open: dict[str, None] = {}  # ids of blocks
        self._calls: dict[Any, dict[str, str]] = {}  # of the current message, by their index in it

    def take(self, item: Any) -> Iterator[Part]:
        message, last = item if isinstance(item, tuple) and len(item) == 2 else (item, False)
        kind = getattr(message, "type", None)
        if kind in ("ai", "AIMessageChunk"):
            is_last = last is True or getattr(message, "chunk_position", None) == "last" or kind == "ai"
            yield from self._ai(message, kind == "ai", is_last)
        elif kind in ("tool", "ToolMessageChunk"):
            yield from self._end()
            content = message.content
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            yield ToolResult(message.tool_call_id, message.name, text, True)
        elif kind is None or not hasattr(message, "content"):
            raise unexpected(
                item, "langgraph", "(message, last), with messages of astream(stream_mode='messages')"
            )

    def _ai(self, message: Any, is_whole: bool, last: bool) -> Iterator[Part]:
        if message.id != self._message:
            yield from self._end()
            self._message = message.id
        if is_whole and message.id is not None and message.id in self._streamed:
            return  # the graph repeats what was streamed
        self._streamed.add(message.id)
        for kind, text in _texts(message):
            id = f"{message.id}.{kind}"
            if id not in self._open:
                yield from self._end_blocks()
                self._open[id] = None
            yield Text(id, text) if kind == "text" else Thinking(id, text)
        yield from self._chunks(message)
        if is_whole:
            for number, call in enumerate(message.tool_calls):
                arguments = json.dumps(call["args"], ensure_ascii=False, default=str)
                self._calls[number] = {"id": call["id"] or "", "name": call["name"], "args": arguments}
        if last:
            yield from self._end()
        usage = getattr(message, "usage_metadata", None)
        if usage:
            yield Usage(usage["input_tokens"], usage["output_tokens"])

    def _chunks(self, message: Any) -> Iterator[Part]:
        for chunk in getattr(message, "tool_call_chunks", None) or ():
            call = self._calls.setdefault(chunk.get("index"), {"id": "", "name": "", "args": ""})
            for field in call:
                call[field] += chunk.get(field) or ""
            if call["id"]:
                yield from self._end_blocks()
                yield ToolCall(call["id"], call["name"], call["args"], False)

    def _end(self) -> Iterator[Part]:
        yield from self._end_blocks()
        for call in self._calls.values():
            yield ToolCall(call["id"], call["name"], call["args"] or "{}", True)
        self._calls = {}

    def _end_blocks(self) -> Iterator[Part]:
        yield from map(BlockEnd, self._open)
        self._open = {}


def _texts(message: Any) -> Iterator[tuple[str, str]]:
    """The kind and the text of each piece: "text" or "thinking"."""
    reasoning = (getattr(message, "additional_kwargs", None) or {}).get("reasoning_content")
    if reasoning:
        yield "thinking", reasoning
    if isinstance(message.content, str):
        if message.content:
            yield "text", message.content
        return
    for block in message.content:
        if isinstance(block, str):
            yield "text", block
        elif block.get("type") in _TEXTS and block.get(_TEXTS[block["type"]]):
            yield ("text" if block["type"] == "text" else "thinking"), block[_TEXTS[block["type"]]]
