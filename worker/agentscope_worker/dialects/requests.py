"""The messages of clients, as the Msg that an App is called with: what the dialects' readers share.

Each dialect has its own words for text, images and files. Its reader turns them into the blocks here, which
are those of the installed major of AgentScope.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from agentscope_worker.dialects.dialect import BadMessage
from agentscope_worker.dialects.native import read_message
from agentscope_worker.runtime.compat.majors import seam

if TYPE_CHECKING:
    from agentscope.message import Msg

Block = dict[str, Any]

_MAJOR_TYPES: Final = ("image", "audio", "video")


def message(content: str | Iterable[Block], role: str = "user") -> Msg:
    """The Msg with this content. Raises: BadMessage."""
    return read_message({"role": role, "content": content if isinstance(content, str) else list(content)})


def text(value: object, where: str) -> Block:
    """A text block. Raises: BadMessage."""
    if not isinstance(value, str):
        raise BadMessage(f"{where} must be a string")
    return {"type": "text", "text": value}


def media(url: object, where: str, media_type: str = "") -> Block:
    """A block of an image, a sound, a video or a file at a URL; data URLs hold it. Raises: BadMessage."""
    if not isinstance(url, str):
        raise BadMessage(f"{where} must be a URL")
    if not url.startswith("data:"):
        return _media_block({"type": "url", "url": url, "media_type": media_type}, media_type, where)
    head, comma, data = url.removeprefix("data:").partition(",")
    kind, *options = head.split(";")
    if not comma or "base64" not in options:
        raise BadMessage(f"{where} must be a data URL in base64")
    return encoded(data, kind or media_type, where)


def encoded(data: object, media_type: object, where: str) -> Block:
    """The same for data in base64. Raises: BadMessage."""
    if not isinstance(data, str) or not isinstance(media_type, str):
        raise BadMessage(f"{where} must be a string in base64, with a media type")
    try:
        base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise BadMessage(f"{where} is not valid base64") from None
    return _media_block({"type": "base64", "media_type": media_type, "data": data}, media_type, where)


def _media_block(source: Mapping[str, str], media_type: str, where: str) -> Block:
    blocks = seam().block_classes()
    if "data" in blocks:  # AgentScope 2.x
        return {"type": "data", "source": dict(source)}
    kind = media_type.partition("/")[0] or "image"
    if kind not in _MAJOR_TYPES:
        raise BadMessage(f"{where}: AgentScope 1.x takes images, audio and video, not {media_type}")
    plain = {name: value for name, value in source.items() if name != "media_type" or source["type"] != "url"}
    return {"type": kind, "source": plain}


def objects(value: object, where: str) -> list[dict[str, Any]]:
    """A list of objects. Raises: BadMessage."""
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise BadMessage(f"{where} must be a list of objects")
    return value


def metadata_of(fields: Mapping[str, Any], name: str = "metadata") -> dict[str, Any]:
    """A copy of the metadata of a request; empty: it has none."""
    found = fields.get(name)
    return dict(found) if isinstance(found, dict) else {}
