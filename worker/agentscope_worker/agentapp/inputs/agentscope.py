"""Messages of a request to Msgs of AgentScope, of either major."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from agentscope_worker.agentapp.inputs.contents import CALLS, OUTPUTS, text_of, tool_data
from agentscope_worker.agentapp.schemas import Message, MessageType
from agentscope_worker.runtime.compat.majors import seam

if TYPE_CHECKING:
    from agentscope.message import Msg

_URL_FIELDS: Final = {"image": "image_url", "audio": "data", "video": "video_url", "file": "file_url"}

Block = dict[str, Any]


def joined(messages: Sequence[Message], msgs: Sequence[Msg]) -> list[Msg]:
    """Msgs of messages with the same `metadata.original_id` become one, which has that id."""
    found: dict[str, Any] = {}
    for message, msg in zip(messages, msgs, strict=True):
        id = (message.metadata or {}).get("original_id", message.id)
        if id in found:
            found[id].content.extend(msg.content)
        else:
            msg.id = id
            found[id] = msg
    return list(found.values())


def convert(message: Message) -> Msg:
    """Raises: ValueError for a content that AgentScope does not know."""
    metadata = message.metadata or {}
    role = "system" if message.role == "tool" else message.role or "assistant"
    blocks = _blocks(message)
    if _is_second():
        # A user or the system says text and data; all else is the agent's own.
        only_data = all(block["type"] in ("text", *_URL_FIELDS) for block in blocks)
        role = role if only_data and message.role != "tool" else "assistant"
    return cast(
        "Msg",
        seam().message_class()(
            name=metadata.get("original_name") or message.role or role,
            role=role,
            metadata=metadata.get("metadata") or {},
            content=[_of_major(block) for block in blocks],
        ),
    )


def _blocks(message: Message) -> list[Block]:
    """The blocks as dictionaries of 1.x."""
    contents = message.content or []
    if message.type in CALLS + OUTPUTS:
        data = tool_data(message)
        block = {"id": data["call_id"], "name": data.get("name")}
        if message.type in CALLS:
            return [{"type": "tool_use", **block, "input": _loads(data.get("arguments"), {})}]
        return [{"type": "tool_result", **block, "output": _output(data.get("output"))}]
    if message.type == MessageType.REASONING:
        return [{"type": "thinking", "thinking": text_of(each)} for each in contents[:1]]
    return [block for block in map(_content, contents) if block is not None]


def _content(content: Any) -> Block | None:
    kind = content.type
    if kind in ("text", "data"):
        return {"type": "text", "text": text_of(content)}
    if kind not in _URL_FIELDS:
        raise ValueError(f"contents of type {kind} are not supported")
    value = getattr(content, _URL_FIELDS[kind])
    if not value:
        return None
    block: Block = {"type": kind, "source": _source(value, getattr(content, "format", None), kind)}
    if kind == "file":
        block["filename"] = content.filename
    return block


def _source(value: str, format: str | None, kind: str) -> Block:
    if value.startswith("data:"):
        head, _, data = value.partition(",")
        return {"type": "base64", "media_type": head.removeprefix("data:").split(";")[0], "data": data}
    if kind == "audio" and "://" not in value:  # audio may come as base64 alone
        return {"type": "base64", "media_type": f"audio/{format}", "data": value}
    return {"type": "url", "url": value}


def _loads(value: Any, default: Any) -> Any:
    if not isinstance(value, str):
        return default if value is None else value
    try:
        return json.loads(value)
    except ValueError:
        return default


def _output(value: Any) -> Any:
    """The output of a tool: a string, or blocks if it is a list of text blocks."""
    parsed = _loads(value, value)
    if isinstance(parsed, dict):
        parsed = [parsed]
    if isinstance(parsed, list) and all(
        isinstance(each, dict) and set(each) == {"type", "text"} for each in parsed
    ):
        return parsed
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_second() -> bool:
    """Whether AgentScope is 2.x, whose blocks are models."""
    return seam().MAJOR == 2


def _of_major(block: Block) -> Any:
    if not _is_second():
        return block
    classes = seam().block_classes()
    kind = block["type"]
    if kind in ("text", "thinking"):
        return classes[kind](**block)
    if kind == "tool_use":
        arguments = json.dumps(block["input"], ensure_ascii=False)
        return classes["tool_call"](
            id=block["id"], name=block["name"] or "", input=arguments, state="finished"
        )
    if kind == "tool_result":
        output = block["output"]
        if isinstance(output, list):
            output = [classes["text"](**each) for each in output]
        return classes[kind](id=block["id"], name=block["name"] or "", output=output, state="success")
    source = block["source"]
    if "media_type" not in source:
        source = {**source, "media_type": _media_type(source["url"], kind)}
    return classes["data"](source=source, name=block.get("filename"))


def _media_type(url: str, kind: str) -> str:
    import mimetypes

    guessed, _ = mimetypes.guess_type(url)
    return guessed or {"image": "image/png", "audio": "audio/wav", "video": "video/mp4"}.get(
        kind, "application/octet-stream"
    )
