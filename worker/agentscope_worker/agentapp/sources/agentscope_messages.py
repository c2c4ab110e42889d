"""Messages of AgentScope to parts: each Msg holds the whole of its message so far. Pure.

Blocks are dictionaries on 1.x and models on 2.x.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, Literal

from agentscope_worker.agentapp.parts import (
    BlockEnd,
    Media,
    Origin,
    Part,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)

_MEDIA: Final = ("image", "audio", "video", "file", "data")


class AgentScopeMessages:
    def __init__(self) -> None:
        self._message: str | None = None  # the id of the last one
        self._seen: dict[str, str] = {}  # texts of the last message, by the id of the block
        self._done: set[tuple[str, str]] = set()  # calls, results and media that came whole, by type and id

    def take(self, msg: Any, last: bool) -> Iterator[Part]:
        if msg.id != self._message:
            yield from map(BlockEnd, self._seen)
            self._message, self._seen = msg.id, {}
            yield Origin(msg.metadata)
        content = msg.content
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())
        for number, block in enumerate(blocks):
            # A block grows only while it is the last one of its message.
            yield from self._take(block, f"{msg.id}.{number}", last, last or number + 1 < len(blocks))

    def _take(self, block: Any, id: str, last: bool, is_whole: bool) -> Iterator[Part]:
        kind = field(block, "type")
        if kind in ("tool_use", "tool_call"):
            yield from self._call(block, last)
        elif kind == "tool_result":
            yield from self._result(block, last)
        elif kind in _MEDIA:
            if is_whole and self._is_new(kind, id):
                yield media(block)
        elif kind == "thinking":
            yield from self._text(Thinking, id, field(block, "thinking") or "", is_whole)
        elif kind != "hint":  # of 2.x: for the model, not for the user
            text = field(block, "text") if kind == "text" else str(block)
            yield from self._text(Text, id, text or "", is_whole)

    def _text(self, part: type[Text | Thinking], id: str, text: str, is_whole: bool) -> Iterator[Part]:
        delta = text.removeprefix(self._seen.get(id, ""))
        self._seen[id] = text
        if delta:
            yield part(id, delta)
        if is_whole:
            yield BlockEnd(id)

    def _call(self, block: Any, last: bool) -> Iterator[Part]:
        id = field(block, "id")
        if (("call", id)) in self._done:
            return
        if last:
            self._done.add(("call", id))
        given = field(block, "input")
        arguments = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False, default=str)
        is_mcp = field(block, "tool_type") == "mcp"
        server = (field(block, "server_label") or "") if is_mcp else None
        yield ToolCall(id, field(block, "name"), arguments, last, server)

    def _result(self, block: Any, last: bool) -> Iterator[Part]:
        id = field(block, "id")
        if ("result", id) in self._done:
            return
        if last:
            self._done.add(("result", id))
        yield ToolResult(id, field(block, "name"), output(field(block, "output")), last)

    def _is_new(self, kind: str, id: str) -> bool:
        if (kind, id) in self._done:
            return False
        self._done.add((kind, id))
        return True


def field(block: Any, name: str) -> Any:
    return block.get(name) if isinstance(block, dict) else getattr(block, name, None)


def output(value: Any) -> str:
    """The result of a tool, as JSON."""
    if isinstance(value, (list, tuple)):
        value = [each.model_dump(mode="json") if hasattr(each, "model_dump") else each for each in value]
    return json.dumps(value, ensure_ascii=False, default=str)


def media(block: Any) -> Media:
    source = field(block, "source")
    type_ = field(source, "media_type")
    url = field(source, "url")
    name = field(block, "filename") or field(block, "name")
    kind = field(block, "type")
    if kind == "data":
        kind = media_kind(type_)
    if url is None:
        return Media(kind, f"data:{type_};base64,{field(source, 'data') or ''}", type_, name)
    return Media(kind, str(url), type_ or str(url).rpartition(".")[2], name)


def media_kind(media_type: str | None) -> Literal["image", "audio", "video", "file"]:
    for kind in ("image", "audio", "video"):
        if (media_type or "").startswith(kind):
            return kind
    return "file"
