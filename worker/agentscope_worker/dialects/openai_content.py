"""The content of messages in OpenAI's two APIs, as blocks of AgentScope."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from agentscope_worker.dialects import requests
from agentscope_worker.dialects.dialect import BadMessage
from agentscope_worker.dialects.requests import Block

_TEXTS: Final = ("text", "input_text", "output_text")
_IMAGES: Final = ("image_url", "input_image")
_FILES: Final = ("file", "input_file")


def blocks(content: object, where: str) -> str | list[Block]:
    """The content of one message. Raises: BadMessage."""
    if isinstance(content, str):
        return content
    return [
        _block(part, f"{where}[{number}]") for number, part in enumerate(requests.objects(content, where))
    ]


def text_of(content: object, where: str) -> str:
    """The text in the content of one message. Raises: BadMessage."""
    found = blocks(content, where)
    return found if isinstance(found, str) else "".join(block.get("text", "") for block in found)


def instructions(messages: list[dict[str, Any]], where: str) -> Iterator[str]:
    """The texts of the messages that the developer of the client has added. Raises: BadMessage."""
    for number, message in enumerate(messages):
        if message.get("role") in ("system", "developer"):
            yield text_of(message.get("content"), f"{where}[{number}].content")


def last_of_user(messages: list[dict[str, Any]], where: str) -> str | list[Block]:
    """The content of the last message of the user: the App knows the earlier ones by its session. Raises:
    BadMessage."""
    for number in range(len(messages) - 1, -1, -1):
        if messages[number].get("role") == "user":
            return blocks(messages[number].get("content"), f"{where}[{number}].content")
    raise BadMessage(f"{where} has no message with the role user")


def _block(part: dict[str, Any], where: str) -> Block:
    kind = part.get("type")
    if kind in _TEXTS:
        return requests.text(part.get("text"), f"{where}.text")
    if kind in _IMAGES:
        image = part.get("image_url")  # an object in chat, a string in responses
        return requests.media(
            image.get("url") if isinstance(image, dict) else image, f"{where}.image_url", "image/*"
        )
    if kind == "input_audio":
        audio = part.get("input_audio")
        if not isinstance(audio, dict):
            raise BadMessage(f"{where}.input_audio must be an object")
        return requests.encoded(
            audio.get("data"), f"audio/{audio.get('format')}", f"{where}.input_audio.data"
        )
    if kind in _FILES:
        file = part.get("file") if kind == "file" else part
        if not isinstance(file, dict):
            raise BadMessage(f"{where}.file must be an object")
        if "file_url" in file:
            return requests.media(file["file_url"], f"{where}.file_url", "application/octet-stream")
        if "file_data" in file:
            return requests.media(file["file_data"], f"{where}.file_data")
        raise BadMessage(f"{where} must have file_data or file_url: this server stores no files")
    raise BadMessage(f"{where}.type must be text, an image, audio or a file")
