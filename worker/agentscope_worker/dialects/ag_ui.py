"""AG-UI, the protocol between agents and user interfaces, as the worker writes it.

Source: https://docs.ag-ui.com/concepts/events
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from agentscope_worker.dialects import parts, requests
from agentscope_worker.dialects.dialect import BadMessage
from agentscope_worker.dialects.encoder import CODE, MESSAGE, Encoder, Request, Translated, Written, dumps
from agentscope_worker.dialects.requests import Block

if TYPE_CHECKING:
    from agentscope.message import Msg

_MEDIA: Final = ("image", "audio", "video", "document")


def read(fields: dict[str, Any]) -> tuple[Msg, dict[str, Any]]:
    """The last message of the user; `state`, `context` and `tools` of the request are in the metadata, if the
    client sent any. Raises: BadMessage."""
    metadata = requests.metadata_of(fields, "forwardedProps")
    metadata.update({name: fields[name] for name in ("state", "context", "tools") if fields.get(name)})
    messages = requests.objects(fields.get("messages"), "messages")
    for number in range(len(messages) - 1, -1, -1):
        if messages[number].get("role") == "user":
            return requests.message(
                _content(messages[number].get("content"), f"messages[{number}]")
            ), metadata
    raise BadMessage("messages has no message with the role user")


def _content(content: object, where: str) -> str | list[Block]:
    if isinstance(content, str):
        return content
    given = requests.objects(content, f"{where}.content")
    return [_block(part, f"{where}.content[{index}]") for index, part in enumerate(given)]


def _block(part: dict[str, Any], where: str) -> Block:
    kind = part.get("type")
    if kind == "text":
        return requests.text(part.get("text"), f"{where}.text")
    if kind == "binary":
        if "data" in part:
            return requests.encoded(part["data"], part.get("mimeType"), f"{where}.data")
        return requests.media(part.get("url"), f"{where}.url", str(part.get("mimeType") or ""))
    source = part.get("source")
    if kind in _MEDIA and isinstance(source, dict):
        media_type = source.get("mimeType")
        if source.get("type") == "url":
            return requests.media(
                source.get("value"), f"{where}.source.value", str(media_type or f"{kind}/*")
            )
        return requests.encoded(source.get("value"), media_type, f"{where}.source.value")
    raise BadMessage(f"{where}.type must be text, binary, image, audio, video or document")


class AgUi(Encoder):
    """One run of AG-UI."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        run = request.fields.get("runId")
        self._ids: Final = {
            "threadId": request.session_id,
            "runId": run if isinstance(run, str) and run else request.run_id,
        }
        self._message = ""  # the last message of text, to which calls of tools belong

    def begin(self) -> list[bytes]:
        return [self.event({"type": "RUN_STARTED", **self._ids})]

    def text_begins(self, key: str, *, thinking: bool) -> list[bytes]:
        if thinking:
            return [
                self._of("REASONING_START", key),
                self._of("REASONING_MESSAGE_START", key, role="reasoning"),
            ]
        self._message = key
        return [self._of("TEXT_MESSAGE_START", key, role="assistant")]

    def text_grows(self, key: str, text: str, *, thinking: bool) -> list[bytes]:
        return [self._of(f"{_kind(thinking)}_MESSAGE_CONTENT", key, delta=text)]

    def text_ends(self, key: str, whole: str, *, thinking: bool) -> list[bytes]:
        if thinking:
            return [self._of("REASONING_MESSAGE_END", key), self._of("REASONING_END", key)]
        return [self._of("TEXT_MESSAGE_END", key)]

    def call(self, part: parts.Call) -> list[bytes]:
        parent = {"parentMessageId": self._message} if self._message else {}
        return [self._tool("TOOL_CALL_START", part.id, toolCallName=part.name, **parent)]

    def arguments(self, part: parts.Arguments) -> list[bytes]:
        return [self._tool("TOOL_CALL_ARGS", part.id, delta=part.text)] if part.text else []

    def called(self, part: parts.Called) -> list[bytes]:
        return [self._tool("TOOL_CALL_END", part.id)]

    def returned(self, part: parts.Result) -> list[bytes]:
        message = f"result-{part.id}"
        return [self._tool("TOOL_CALL_RESULT", part.id, messageId=message, content=part.output, role="tool")]

    def media(self, part: parts.Media) -> list[bytes]:
        value = {"mediaType": part.media_type, "url": part.url}
        return [self.event({"type": "CUSTOM", "name": "media", "value": value})]

    def end(self, finish_reason: str | None) -> list[bytes]:
        usage = {"input_tokens": self.input_tokens, "output_tokens": self.output_tokens}
        result: dict[str, Any] = {"usage": usage}
        if finish_reason is not None:
            result["finish_reason"] = finish_reason
        return [self.event({"type": "RUN_FINISHED", **self._ids, "result": result})]

    def result(self) -> bytes:
        return dumps({**self._ids, "text": "\n\n".join(self.texts)})

    def will(self) -> Written:
        return Written(self.last_events({"type": "RUN_ERROR", "message": MESSAGE, "code": CODE}))

    def _of(self, kind: str, message: str, **fields: Any) -> bytes:
        return self.event({"type": kind, "messageId": message, **fields})

    def _tool(self, kind: str, call: str, **fields: Any) -> bytes:
        return self.event({"type": kind, "toolCallId": call, **fields})


def _kind(thinking: bool) -> str:
    return "REASONING" if thinking else "TEXT"


AG_UI: Final = Translated(4, read, AgUi)
