"""The HTTP contract of Amazon Bedrock AgentCore's runtime, as the worker writes it.

Source: https://docs.aws.amazon.com/bedrock-agentcore/latest/devguide/runtime-http-protocol-contract.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from agentscope_worker.dialects import parts, requests
from agentscope_worker.dialects.dialect import BadMessage
from agentscope_worker.dialects.encoder import CODE, MESSAGE, Encoder, Translated, Written, dumps

if TYPE_CHECKING:
    from agentscope.message import Msg

_TEXTS: Final = ("prompt", "input", "message")
"""The members that hold the text of the user: the payload is the client's own, and most name it so."""


def read(fields: dict[str, Any]) -> tuple[Msg, dict[str, Any]]:
    """The text of the user; all other members of the payload are the metadata. Raises: BadMessage."""
    for name in _TEXTS:
        text = fields.get(name)
        if isinstance(text, str):
            metadata = {key: value for key, value in fields.items() if key != name}
            given = metadata.pop("metadata", None)
            return requests.message(text), {**metadata, **(given if isinstance(given, dict) else {})}
    raise BadMessage(f"the payload has no text in {', '.join(_TEXTS)}")


class AgentCore(Encoder):
    """One invocation."""

    begins_at_once = False

    def text_grows(self, key: str, text: str, *, thinking: bool) -> list[bytes]:
        return [self.event({"thinking" if thinking else "event": text})]

    def called(self, part: parts.Called) -> list[bytes]:
        call = {"id": part.id, "name": self.tools.get(part.id, ""), "arguments": part.arguments}
        return [self.event({"tool_call": call})]

    def returned(self, part: parts.Result) -> list[bytes]:
        return [self.event({"tool_result": {"id": part.id, "name": part.name, "output": part.output}})]

    def media(self, part: parts.Media) -> list[bytes]:
        return [self.event({"media": {"media_type": part.media_type, "url": part.url}})]

    def end(self, finish_reason: str | None) -> list[bytes]:
        return [self.event({"done": True, "usage": self._usage()})]

    def result(self) -> bytes:
        return dumps({"response": "\n\n".join(self.texts), "status": "success", "usage": self._usage()})

    def will(self) -> Written:
        return Written(self.last_events({"error": {"code": CODE, "message": MESSAGE}}))

    def _usage(self) -> dict[str, int]:
        return {"input_tokens": self.input_tokens, "output_tokens": self.output_tokens}


AGENTCORE: Final = Translated(6, read, AgentCore)
