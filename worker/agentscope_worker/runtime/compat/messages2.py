"""Messages of AgentScope 2.x: their classes and their encoding.

This is the part of `agentscope2` that every message of every response passes through; it is compiled. It must
be imported through that module only.
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
    """The number of fields of a model if it serializes to its plain fields; otherwise -1, which no model has.

    A future release may serialize its models differently.
    """
    sample = model(**fields)
    return len(sample.__dict__) if sample.model_dump() == sample.__dict__ else -1


_MSG: Final[Any] = Msg
_FIELDS_OF_MSG: Final = _count_if_plain(Msg, name="", content=[], role="user")
# Blocks that are streamed in pieces. Other blocks are sent once, and contain other models.
_FIELDS_OF_BLOCK: Final[dict[Any, int]] = {
    TextBlock: _count_if_plain(TextBlock, text=""),
    ThinkingBlock: _count_if_plain(ThinkingBlock, thinking=""),
}


def plain_fields(msg: Any) -> dict[str, Any] | None:
    fields: dict[str, Any] = msg.__dict__
    content = fields.get("content")
    # An additional entry is an attribute that was set without pydantic; it must not be sent to the client.
    if type(msg) is not _MSG or len(fields) != _FIELDS_OF_MSG or not isinstance(content, list):
        return None
    if fields.get("usage") is not None or fields.get("error") is not None:  # these are models
        return None
    written: list[dict[str, Any]] = []
    for block in content:
        count = _FIELDS_OF_BLOCK.get(type(block))
        if count is None:  # another block, or any object: the list's items are not validated
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
    # Calling the class's serializer directly writes the bytes in one pass: 2.5 µs for one block.
    try:
        written: bytes = msg.__pydantic_serializer__.to_json(
            msg, exclude=_NOT_METADATA, fallback=str, warnings=False
        )
    except PydanticSerializationError:  # caused by a lone surrogate
        return lossy_json.dumps(msg.model_dump(exclude=_NOT_METADATA, warnings=False))
    return written
