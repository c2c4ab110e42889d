"""Events of AgentScope 2.x (`agent.reply_stream`) to parts. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from agentscope_worker.agentapp.parts import (
    BlockEnd,
    Failure,
    Media,
    Origin,
    Part,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Usage,
)
from agentscope_worker.agentapp.sources.agentscope_messages import media_kind


class AgentScopeEvents:
    def __init__(self) -> None:
        self.replies: Final[set[str]] = set()
        """Ids of the replies that events have come of."""
        self._names: dict[str, str] = {}  # of tools, by the id of the call
        self._arguments: dict[str, str] = {}  # likewise
        self._outputs: dict[str, list[dict[str, Any]]] = {}  # blocks of results, likewise
        self._data: dict[str, list[str]] = {}  # base64 of data blocks

    def take(self, event: Any) -> Iterator[Part]:
        kind = str(getattr(event.type, "value", event.type))
        if kind.startswith("TOOL_"):
            yield from self._tool(kind, event)
        elif kind.startswith("DATA_BLOCK_"):
            yield from self._data_block(kind, event)
        elif kind == "REPLY_START":
            self.replies.add(event.reply_id)
            yield Origin(event.metadata)
        elif kind == "TEXT_BLOCK_DELTA":
            yield Text(event.block_id, event.delta)
        elif kind == "THINKING_BLOCK_DELTA":
            yield Thinking(event.block_id, event.delta)
        elif kind in ("TEXT_BLOCK_END", "THINKING_BLOCK_END"):
            yield BlockEnd(event.block_id)
        elif kind == "MODEL_CALL_END":
            yield Usage(event.input_tokens, event.output_tokens)
        elif kind == "REPLY_END" and getattr(event, "error", None) is not None:
            yield Failure(event.error.message)

    def _tool(self, kind: str, event: Any) -> Iterator[Part]:
        id = event.tool_call_id
        if kind in ("TOOL_CALL_START", "TOOL_RESULT_START"):
            self._names[id] = event.tool_call_name
        name = self._names.get(id, "")
        if kind == "TOOL_CALL_START":
            self._arguments[id] = ""
            yield ToolCall(id, name, "", False)
        elif kind == "TOOL_CALL_DELTA":
            self._arguments[id] = self._arguments.get(id, "") + event.delta
            yield ToolCall(id, name, self._arguments[id], False)
        elif kind == "TOOL_CALL_END":
            yield ToolCall(id, name, self._arguments.pop(id, "") or "{}", True)
        elif kind == "TOOL_RESULT_START":
            self._outputs[id] = []
            yield ToolResult(id, name, "", False)
        elif kind == "TOOL_RESULT_END":
            yield ToolResult(id, name, _json(self._outputs.pop(id, [])), True)
        elif kind.startswith("TOOL_RESULT_"):
            blocks = self._outputs.setdefault(id, [])
            _extend(blocks, kind, event)
            yield ToolResult(id, name, _json(blocks), False)

    def _data_block(self, kind: str, event: Any) -> Iterator[Part]:
        if kind == "DATA_BLOCK_START":
            self._names[event.block_id] = event.name or ""
        elif kind == "DATA_BLOCK_DELTA":
            name = self._names.get(event.block_id) or None
            if event.url is not None:
                yield Media(media_kind(event.media_type), event.url, event.media_type, name)
            else:
                self._data.setdefault(event.block_id, [event.media_type]).append(event.data)
        elif event.block_id in self._data:
            media_type, *pieces = self._data.pop(event.block_id)
            url = f"data:{media_type};base64,{''.join(pieces)}"
            yield Media(media_kind(media_type), url, media_type, self._names.get(event.block_id) or None)


def _extend(blocks: list[dict[str, Any]], kind: str, event: Any) -> None:
    if kind == "TOOL_RESULT_TEXT_DELTA":
        if not blocks or blocks[-1]["type"] != "text":
            blocks.append({"type": "text", "text": ""})
        blocks[-1]["text"] += event.delta
    else:
        fields = {"url": event.url} if event.url is not None else {"data": event.data}
        source = {"type": "url" if event.url is not None else "base64", "media_type": event.media_type}
        blocks.append({"type": "data", "source": {**source, **fields}})


def _json(blocks: list[dict[str, Any]]) -> str:
    return json.dumps(blocks, ensure_ascii=False)
