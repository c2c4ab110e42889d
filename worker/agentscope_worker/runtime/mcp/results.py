"""The results of MCP tools in the kinds of content that AgentScope 1.x converts: text, images and audio.

AgentScope 1.x drops everything else, so that a model would see an empty result. No I/O.
"""

from __future__ import annotations

import json
from typing import Any

from mcp import types


def convertible(result: Any) -> list[Any]:
    """The content of a `CallToolResult`, with other kinds of content as text.

    Structured content is added as JSON if the result has no text.
    """
    content = [_convertible(each) for each in result.content]
    has_text = any(isinstance(each, types.TextContent) for each in result.content)
    if result.structuredContent is not None and not has_text:
        content.append(_text(json.dumps(result.structuredContent, ensure_ascii=False)))
    return content


def _convertible(content: Any) -> Any:
    match content:
        case types.TextContent() | types.ImageContent() | types.AudioContent():
            return content
        case types.EmbeddedResource(resource=types.TextResourceContents()):
            return content
        case types.EmbeddedResource(resource=types.BlobResourceContents() as resource):
            size = len(resource.blob) * 3 // 4  # base64
            about = resource.model_dump(mode="json", exclude={"blob"}, exclude_none=True)
            return _text(json.dumps({**about, "bytes": size}, ensure_ascii=False))
    return _text(content.model_dump_json(exclude_none=True))


def _text(text: str) -> Any:
    return types.TextContent(type="text", text=text)
