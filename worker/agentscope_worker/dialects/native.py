"""The native dialect: the body of `POST /invoke` to a Msg, and each Msg to a server-sent event.

It owns the checks of a client's message (AgentScope 1.x accepts malformed ones, 2.x reports them in
pydantic's words), the flag `metadata.chunk`, and the joining of chunks. The bytes of an event are made here,
once; the supervisor only copies them. No I/O.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import orjson
from pydantic import TypeAdapter, ValidationError

from agentscope_worker.dialects.dialect import BadMessage, Dialect
from agentscope_worker.dialects.sources import NotMsg
from agentscope_worker.runtime import lossy_json
from agentscope_worker.runtime.compat.majors import seam

if TYPE_CHECKING:
    from agentscope.message import Msg

_ROLES = ("user", "assistant", "system")
_CHUNK = {"chunk": True}
# For orjson: what JSON knows, it writes; what each serialiser has its own way with, it refuses.
_ONLY_JSON = (
    orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
)
# The blocks of media in other APIs, without "input_" and "_url": what they hold, and an example of its type.
_MEDIA: Final = {
    "image": ("an image", "image/png"),
    "audio": ("audio", "audio/wav"),
    "video": ("a video", "video/mp4"),
}
# The field of a block that grows while it is streamed, by the block's type.
_GROWING = {"text": "text", "thinking": "thinking"}


def read(body: bytes) -> tuple[Msg, dict[str, Any]]:
    """The Msg and the metadata in the body of a request. The supervisor has checked that it is a JSON object,
    and the types of its other fields.

    Raises: BadMessage.
    """
    fields = orjson.loads(body)
    message = fields.get("message")
    if isinstance(message, str):
        message = {"content": message}
    elif not isinstance(message, dict):
        kind = "missing" if message is None else _shown(message)
        raise BadMessage(f"message is {kind}; it must be a string, or an object with at least content")
    return read_message(message), fields.get("metadata", {})


def read_message(message: Mapping[str, object]) -> Msg:
    """The Msg of a client's `message` object; an `id` in it is ignored.

    Raises: BadMessage.
    """
    role = message.get("role", "user")
    if role not in _ROLES:
        raise BadMessage(f"message.role must be one of {', '.join(_ROLES)}, not {_shown(role)}")
    name = message.get("name", role)
    if not isinstance(name, str):
        raise BadMessage(f"message.name must be a string, not {_shown(name)}")
    metadata = message.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise BadMessage(f"message.metadata must be an object, not {_shown(metadata)}")
    if "content" not in message:
        raise BadMessage("message.content is missing: a string or a list of content blocks")
    content = message["content"]
    if isinstance(content, list):
        content = [_block(index, each) for index, each in enumerate(content)]
    elif not isinstance(content, str):
        raise BadMessage(
            f"message.content must be a string or a list of content blocks, not {_shown(content)}"
        )
    try:
        return seam().message_class()(name=name, content=content, role=role, metadata=metadata)
    except ValidationError as error:  # 2.x: which blocks a role may have
        raise BadMessage(f"message: {_sentence(error)}") from None


def write(msg: Msg) -> bytes:
    """The JSON object of a chunk: the whole Msg, `metadata.chunk` true unless the App has set it.

    Raises: NotMsg when the App has yielded something else.
    """
    compat = seam()
    if not isinstance(msg, compat.message_class()):
        raise NotMsg(
            f"the App yielded a {type(msg).__name__}; expected agentscope.message.Msg, such as "
            'Msg(name="assistant", content=text, role="assistant")'
        )
    metadata: Any = msg.metadata or _CHUNK
    if "chunk" not in metadata:
        metadata = {**metadata, "chunk": True}
    fields = compat.plain_fields(msg)
    if fields is not None:
        fields["metadata"] = metadata
        try:
            return orjson.dumps(fields, None, _ONLY_JSON)  # a fourth of the time of what follows
        except TypeError:
            pass
    return b'%b,"metadata":%b}' % (compat.encode(msg)[:-1], lossy_json.dumps(metadata))


def event(run_id: bytes, number: int, msg: Msg) -> bytes:
    """One event. Raises: NotMsg when the App has yielded something else."""
    return b"id: %b-%d\ndata: %b\n\n" % (run_id, number, write(msg))


def size(msg: Msg) -> int:
    """Bytes that a Msg takes in an answer that is not streamed, before chunks are joined."""
    return len(write(msg))


def join(msgs: Iterable[Msg], metadata: Mapping[str, Any] = MappingProxyType({})) -> bytes:
    """The JSON array for an answer that is not streamed.

    Consecutive chunks of one name and role become one message: text is appended, other blocks are
    kept in order. A Msg whose `metadata.chunk` the App set to false stands alone. `metadata` is added to that
    of the last message.
    """
    joined: list[dict[str, Any]] = []
    open_end = False  # may the next chunk be joined to the last message
    for msg in msgs:
        chunk = orjson.loads(write(msg))
        if not (msg.metadata and "chunk" in msg.metadata):
            del chunk["metadata"]["chunk"]
        alone = chunk["metadata"].get("chunk") is False
        last = joined[-1] if joined else None
        if (
            last is not None
            and open_end
            and not alone
            and (last["name"], last["role"]) == (chunk["name"], chunk["role"])
        ):
            _append(last, chunk)
        else:
            joined.append(chunk)
        open_end = not alone
    if joined:
        joined[-1]["metadata"].update(metadata)
    return orjson.dumps(joined)


def _append(message: dict[str, Any], chunk: dict[str, Any]) -> None:
    """Append `chunk` to `message`; of their other fields, what came last and is not null holds."""
    content = _joined(message["content"], chunk["content"])
    metadata = {**message["metadata"], **chunk["metadata"]}
    kept = {"id", "created_at", "timestamp"}  # of a message: when it began
    message.update({k: v for k, v in chunk.items() if v is not None and k not in kept})
    message["content"], message["metadata"] = content, metadata


def _joined(left: Any, right: Any) -> Any:
    if isinstance(left, str) and isinstance(right, str):
        return left + right
    blocks: list[dict[str, Any]] = []
    for block in (*_as_blocks(left), *_as_blocks(right)):
        field = _GROWING.get(block["type"])
        if field is not None and blocks and blocks[-1]["type"] == block["type"]:
            previous = blocks[-1]
            text = previous[field] + block[field]
            blocks[-1] = {**block, **{k: v for k, v in previous.items() if v is not None}}
            blocks[-1][field] = text
        else:
            blocks.append(block)
    return blocks


def _as_blocks(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    blocks: list[dict[str, Any]] = content
    return blocks


def _block(index: int, block: object) -> Any:
    where = f"message.content[{index}]"
    if not isinstance(block, dict):
        raise BadMessage(f"{where} must be a content block (an object), not {_shown(block)}")
    checks = _block_checks()
    kind = block.get("type")
    if not isinstance(kind, str) or kind not in checks:
        instead = _media_example(kind, checks) if isinstance(kind, str) else ""
        raise BadMessage(f"{where}.type must be one of {', '.join(checks)}, not {_shown(kind)}{instead}")
    if kind in _GROWING and _GROWING[kind] not in block:  # 1.x declares it optional and reads it
        raise BadMessage(f"{where}.{_GROWING[kind]} is missing")
    try:
        return checks[kind].validate_python(block)
    except ValidationError as error:
        raise BadMessage(f"{where}: {_sentence(error)}") from None


def _media_example(kind: str, known: Collection[str]) -> str:
    """How a client sends the media for which other APIs use this type; "" if it is another one."""
    medium = _MEDIA.get(kind.removeprefix("input_").removesuffix("_url"))
    if medium is None:
        return ""
    word, media_type = medium
    source = {"type": "url", "url": f"https://example.com/{media_type.replace('/', '.')}"}
    if "data" in known:  # AgentScope 2.x has one block for all media
        block = {"type": "data", "source": source | {"media_type": media_type}}
    else:
        block = {"type": media_type.partition("/")[0], "source": source}
    return f"; send {word} as {json.dumps(block)}"


@functools.cache
def _block_checks() -> dict[str, TypeAdapter[Any]]:
    return {kind: TypeAdapter(each) for kind, each in seam().block_classes().items()}


def _sentence(error: ValidationError) -> str:
    """The first problem that pydantic found, without what the client had sent there."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    text = first["msg"].removeprefix("Value error, ")
    return f"{place}: {text}" if place else text


def _shown(value: object, string: str = "another string") -> str:
    """A JSON value by its kind: what a client sends is not repeated."""
    kinds: dict[type, str] = {dict: "an object", list: "a list", str: string}
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return kinds.get(type(value), "a number")


NATIVE: Final = Dialect(number=0, read=read, event=event, size=size, join=join)
