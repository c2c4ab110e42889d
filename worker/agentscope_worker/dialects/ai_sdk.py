"""The UI message stream of the AI SDK, version 1 (AI SDK 5 and 6), as the worker writes it.

Source: https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from agentscope_worker.dialects import parts, requests
from agentscope_worker.dialects.dialect import BadMessage
from agentscope_worker.dialects.encoder import MESSAGE, Encoder, Translated, Written, dumps

if TYPE_CHECKING:
    from agentscope.message import Msg

_DONE: Final = b"[DONE]"


def read(fields: dict[str, Any]) -> tuple[Msg, dict[str, Any]]:
    """The last message of the user. Raises: BadMessage."""
    messages = requests.objects(fields.get("messages"), "messages")
    for number in range(len(messages) - 1, -1, -1):
        if messages[number].get("role") == "user":
            where = f"messages[{number}].parts"
            given = requests.objects(messages[number].get("parts"), where)
            blocks = [_block(part, f"{where}[{index}]") for index, part in enumerate(given)]
            return requests.message([block for block in blocks if block]), requests.metadata_of(fields)
    raise BadMessage("messages has no message with the role user")


def _block(part: dict[str, Any], where: str) -> requests.Block:
    match part.get("type"):
        case "text":
            return requests.text(part.get("text"), f"{where}.text")
        case "file":
            media_type = part.get("mediaType")
            return requests.media(part.get("url"), f"{where}.url", str(media_type or ""))
        case _:  # of the client's own, such as step-start and data-…
            return {}


class AiSdk(Encoder):
    """One message of the assistant."""

    def begin(self) -> list[bytes]:
        start = {"type": "start", "messageId": f"msg_{self.request.run_id}"}
        return [self.event(start), self.event({"type": "start-step"})]

    def text_begins(self, key: str, *, thinking: bool) -> list[bytes]:
        return [self.event({"type": f"{_kind(thinking)}-start", "id": key})]

    def text_grows(self, key: str, text: str, *, thinking: bool) -> list[bytes]:
        return [self.event({"type": f"{_kind(thinking)}-delta", "id": key, "delta": text})]

    def text_ends(self, key: str, whole: str, *, thinking: bool) -> list[bytes]:
        return [self.event({"type": f"{_kind(thinking)}-end", "id": key})]

    def call(self, part: parts.Call) -> list[bytes]:
        return [self._tool("tool-input-start", part.id, toolName=part.name, dynamic=True)]

    def arguments(self, part: parts.Arguments) -> list[bytes]:
        return [self._tool("tool-input-delta", part.id, inputTextDelta=part.text)]

    def called(self, part: parts.Called) -> list[bytes]:
        name = self.tools.get(part.id, "")
        return [
            self._tool(
                "tool-input-available", part.id, toolName=name, input=_value(part.arguments), dynamic=True
            )
        ]

    def returned(self, part: parts.Result) -> list[bytes]:
        if part.is_error:
            return [self._tool("tool-output-error", part.id, errorText=part.output, dynamic=True)]
        return [self._tool("tool-output-available", part.id, output=part.output, dynamic=True)]

    def media(self, part: parts.Media) -> list[bytes]:
        return [self.event({"type": "file", "mediaType": part.media_type, "url": part.url})]

    def end(self, finish_reason: str | None) -> list[bytes]:
        usage = {
            "inputTokens": self.input_tokens,
            "outputTokens": self.output_tokens,
            "totalTokens": self.input_tokens + self.output_tokens,
        }
        finish = {
            "type": "finish",
            "finishReason": "stop" if finish_reason is None else "length",
            "messageMetadata": {"usage": usage},
        }
        return [self.event({"type": "finish-step"}), self.event(finish), self.raw_event(_DONE)]

    def result(self) -> bytes:
        return dumps({"text": "\n\n".join(self.texts)})

    def will(self) -> Written:
        return Written(self.last_events({"type": "error", "errorText": MESSAGE}, _DONE))

    def _tool(self, kind: str, call: str, **fields: Any) -> bytes:
        return self.event({"type": kind, "toolCallId": call, **fields})


def _kind(thinking: bool) -> str:
    return "reasoning" if thinking else "text"


def _value(arguments: str) -> Any:
    """The arguments of a call, which a model may have written wrongly."""
    try:
        return orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments


AI_SDK: Final = Translated(5, read, AiSdk)
