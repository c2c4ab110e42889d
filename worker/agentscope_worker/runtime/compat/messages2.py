"""Messages of AgentScope 2.x: their classes, and how they are written.

The part of `agentscope2` that each message of each answer passes; it is compiled. It must be imported through
that module only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agentscope import message as blocks
from agentscope.message import Msg, TextBlock, ThinkingBlock
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from agentscope_worker.runtime import lossy_json

_BLOCKS: Final[Mapping[str, Any]] = {
    "text": blocks.TextBlock,
    "thinking": blocks.ThinkingBlock,
    "hint": blocks.HintBlock,
    "tool_call": blocks.ToolCallBlock,
    "tool_result": blocks.ToolResultBlock,
    "data": blocks.DataBlock,
}
_NOT_METADATA: Final = {"metadata"}  # for pydantic's `exclude`


def message_class() -> Any:
    return Msg


def block_classes() -> Mapping[str, Any]:
    return _BLOCKS


def _count_if_plain(model: type[BaseModel], **fields: Any) -> int:
    """How many fields a model has, if it is written as it is; a release may come to write it otherwise, then
    none has so many."""
    sample = model(**fields)
    return len(sample.__dict__) if sample.model_dump() == sample.__dict__ else -1


_MSG: Final[Any] = Msg
_FIELDS_OF_MSG: Final = _count_if_plain(Msg, name="", content=[], role="user")
# What is streamed in pieces; other blocks come once, and hold other models.
_FIELDS_OF_BLOCK: Final[dict[Any, int]] = {
    TextBlock: _count_if_plain(TextBlock, text=""),
    ThinkingBlock: _count_if_plain(ThinkingBlock, thinking=""),
}


def plain_fields(msg: Any) -> dict[str, Any] | None:
    fields: dict[str, Any] = msg.__dict__
    content = fields.get("content")
    # One field more is an attribute that was set behind pydantic's back: it is not for the client.
    if type(msg) is not _MSG or len(fields) != _FIELDS_OF_MSG or not isinstance(content, list):
        return None
    if fields.get("usage") is not None or fields.get("error") is not None:  # models
        return None
    written: list[dict[str, Any]] = []
    for block in content:
        count = _FIELDS_OF_BLOCK.get(type(block))
        if count is None:  # whatever: nobody checks what an App puts into the list
            return None
        plain: dict[str, Any] = block.__dict__
        if len(plain) != count or block.__pydantic_extra__:
            return None
        written.append(plain)
    fields = fields.copy()
    del fields["metadata"]
    fields["content"] = written
    return fields


def encode(msg: Any) -> bytes:
    # The class's serialiser, called directly, writes the bytes in one go: 2.5 us for one block.
    try:
        written: bytes = msg.__pydantic_serializer__.to_json(
            msg, exclude=_NOT_METADATA, fallback=str, warnings=False
        )
    except PydanticSerializationError:  # a lone surrogate
        return lossy_json.dumps(msg.model_dump(exclude=_NOT_METADATA, warnings=False))
    return written
