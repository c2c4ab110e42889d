"""OpenAI's Chat Completions, as the worker writes them.

Tools are left out: the App has run them, and a client would take a call for one that it has to run itself.
Source: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from agentscope_worker.dialects import openai_content, requests
from agentscope_worker.dialects.dialect import BadMessage
from agentscope_worker.dialects.encoder import CODE, MESSAGE, Encoder, Request, Translated, Written, dumps

if TYPE_CHECKING:
    from agentscope.message import Msg

_DONE: Final = b"[DONE]"


def read(fields: dict[str, Any]) -> tuple[Msg, dict[str, Any]]:
    """The last message of the user. Raises: BadMessage."""
    if (fields.get("n") or 1) != 1:
        raise BadMessage("n must be 1: an App gives one answer")
    messages = requests.objects(fields.get("messages"), "messages")
    metadata = requests.metadata_of(fields)
    instructions = list(openai_content.instructions(messages, "messages"))
    if instructions:
        metadata["instructions"] = "\n\n".join(instructions)
    return requests.message(openai_content.last_of_user(messages, "messages")), metadata


class Chat(Encoder):
    """One completion."""

    begins_at_once = False  # its first event says nothing

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        model = request.fields.get("model")
        self._head: Final = {
            "id": f"chatcmpl-{request.run_id}",
            "object": "chat.completion.chunk",
            "created": request.now,
            "model": model if isinstance(model, str) else "agent",
        }
        options = request.fields.get("stream_options")
        self._has_usage: Final = isinstance(options, dict) and options.get("include_usage") is True
        self._thoughts: Final[list[str]] = []
        self._finish = "stop"

    def begin(self) -> list[bytes]:
        return [self._chunk({"role": "assistant", "content": ""})]

    def text_begins(self, key: str, *, thinking: bool) -> list[bytes]:
        if thinking or not self.texts:
            return []
        return [self._chunk({"content": "\n\n"})]  # what a client joins to one text are several

    def text_grows(self, key: str, text: str, *, thinking: bool) -> list[bytes]:
        return [self._chunk({"reasoning_content" if thinking else "content": text})]

    def text_ends(self, key: str, whole: str, *, thinking: bool) -> list[bytes]:
        if thinking:
            self._thoughts.append(whole)
        return []

    def end(self, finish_reason: str | None) -> list[bytes]:
        self._finish = "stop" if finish_reason is None else "length"
        events = [self._chunk({}, self._finish)]
        if self._has_usage:
            events.append(self.event({**self._head, "choices": [], "usage": self._usage()}))
        return [*events, self.raw_event(_DONE)]

    def result(self) -> bytes:
        message = {"role": "assistant", "content": "\n\n".join(self.texts), "refusal": None}
        if self._thoughts:
            message["reasoning_content"] = "\n\n".join(self._thoughts)
        choice = {"index": 0, "message": message, "finish_reason": self._finish, "logprobs": None}
        return dumps({**self._head, "object": "chat.completion", "choices": [choice], "usage": self._usage()})

    def will(self) -> Written:
        error = {"message": MESSAGE, "type": "server_error", "param": None, "code": CODE}
        return Written(self.last_events({"error": error}))

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return self.event({**self._head, "choices": [choice]})

    def _usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.input_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
        }


CHAT: Final = Translated(2, read, Chat)
