"""OpenAI's Responses, as the worker writes them.

Tools are `mcp_call` items: the App has run them, and their output is known. As `function_call` a client would
run them itself.
Source: https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from agentscope_worker.dialects import openai_content, parts, requests
from agentscope_worker.dialects.encoder import (
    ERROR,
    NUMBER,
    STATUS,
    Encoder,
    Request,
    Translated,
    Written,
    dumps,
    template,
)

if TYPE_CHECKING:
    from agentscope.message import Msg

Item = dict[str, Any]


def read(fields: dict[str, Any]) -> tuple[Msg, dict[str, Any]]:
    """The last message of the user in `input`. Raises: BadMessage."""
    metadata = requests.metadata_of(fields)
    instructions = fields.get("instructions")
    texts = [instructions] if isinstance(instructions, str) else []
    given = fields.get("input")
    if isinstance(given, str):
        content: Any = given
    else:
        items = requests.objects(given, "input")
        content = openai_content.last_of_user(items, "input")
        texts += openai_content.instructions(items, "input")
    if texts:
        metadata["instructions"] = "\n\n".join(texts)
    return requests.message(content), metadata


class Responses(Encoder):
    """One response."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._id: Final = f"resp_{request.run_id}"
        self._output: Final[list[Item | None]] = []  # None: not complete
        self._places: Final[dict[str, int]] = {}  # in the output, by key or id
        self._calls: Final[dict[str, Item]] = {}
        self._status = "completed"

    # -- events ----------------------------------------------------------------------------------------

    def begin(self) -> list[bytes]:
        response = self._response("in_progress")
        return [
            self._event("response.created", response=response),
            self._event("response.in_progress", response=response),
        ]

    def text_begins(self, key: str, *, thinking: bool) -> list[bytes]:
        if thinking:
            part: Item = {"type": "reasoning_text", "text": ""}
        else:
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        item = self._message(key, "in_progress", [], thinking=thinking)
        return [
            self._add(key, item),
            self._event("response.content_part.added", **self._at(key, item), part=part),
        ]

    def text_grows(self, key: str, text: str, *, thinking: bool) -> list[bytes]:
        item = {"id": _item_id(key, thinking=thinking)}
        if thinking:
            return [self._event("response.reasoning_text.delta", **self._at(key, item), delta=text)]
        return [self._event("response.output_text.delta", **self._at(key, item), delta=text, logprobs=[])]

    def text_ends(self, key: str, whole: str, *, thinking: bool) -> list[bytes]:
        if thinking:
            part: Item = {"type": "reasoning_text", "text": whole}
        else:
            part = {"type": "output_text", "text": whole, "annotations": [], "logprobs": []}
        item = self._message(key, "completed", [part], thinking=thinking)
        at = self._at(key, item)
        if thinking:
            done = self._event("response.reasoning_text.done", **at, text=whole)
        else:
            done = self._event("response.output_text.done", **at, text=whole, logprobs=[])
        return [done, self._event("response.content_part.done", **at, part=part), self._put(key, item)]

    def call(self, part: parts.Call) -> list[bytes]:
        item = self._calls[part.id] = {
            "id": f"mcp_{part.id}",
            "type": "mcp_call",
            "status": "in_progress",
            "name": part.name,
            "server_label": "agent",
            "arguments": "",
            "output": None,
            "error": None,
            "approval_request_id": None,
        }
        return [self._add(part.id, item), self._of_call("response.mcp_call.in_progress", part.id)]

    def arguments(self, part: parts.Arguments) -> list[bytes]:
        if part.id not in self._calls:
            return []
        return [self._of_call("response.mcp_call_arguments.delta", part.id, delta=part.text)]

    def called(self, part: parts.Called) -> list[bytes]:
        item = self._calls.get(part.id)
        if item is None:
            return []
        item["arguments"] = part.arguments
        return [self._of_call("response.mcp_call_arguments.done", part.id, arguments=part.arguments)]

    def returned(self, part: parts.Result) -> list[bytes]:
        item = self._calls.pop(part.id, None)
        if item is None:
            return []
        if part.is_error:
            done = {"status": "failed", "error": part.output}
        else:
            done = {"status": "completed", "output": part.output}
        event = f"response.mcp_call.{done['status']}"
        return [self._of_call(event, part.id), self._put(part.id, {**item, **done})]

    def end(self, finish_reason: str | None) -> list[bytes]:
        events = [self._put(call, {**item, "status": "incomplete"}) for call, item in self._calls.items()]
        self._status = "completed" if finish_reason is None else "incomplete"
        return [*events, self._event(f"response.{self._status}", response=self._response(self._status))]

    def result(self) -> bytes:
        return dumps(self._response(self._status))

    def will(self) -> Written:
        failed = self._response(STATUS, ERROR)
        end = {"type": "response.failed", "sequence_number": NUMBER, "response": failed}
        return Written(
            self.last_events(end, names=["response.failed"]), template(failed), dumps(self._input_items())
        )

    # -- shapes ----------------------------------------------------------------------------------------

    def _event(self, kind: str, **fields: Any) -> bytes:
        return self.event({"type": kind, "sequence_number": self.number, **fields}, kind)

    def _of_call(self, kind: str, call: str, **fields: Any) -> bytes:
        return self._event(kind, item_id=f"mcp_{call}", output_index=self._places[call], **fields)

    def _add(self, key: str, item: Item) -> bytes:
        self._places[key] = len(self._output)
        self._output.append(None)
        return self._event("response.output_item.added", output_index=self._places[key], item=item)

    def _put(self, key: str, item: Item) -> bytes:
        self._output[self._places[key]] = item
        return self._event("response.output_item.done", output_index=self._places[key], item=item)

    def _at(self, key: str, item: Item) -> Item:
        return {"item_id": item["id"], "output_index": self._places[key], "content_index": 0}

    @staticmethod
    def _message(key: str, status: str, content: list[Item], *, thinking: bool) -> Item:
        head: Item = {"id": _item_id(key, thinking=thinking), "status": status}
        if thinking:
            return {**head, "type": "reasoning", "summary": [], "content": content}
        return {**head, "type": "message", "role": "assistant", "content": content}

    def _response(self, status: str, error: str | None = None) -> Item:
        fields = self.request.fields
        is_over = status in ("completed", "incomplete")
        model = fields.get("model")
        return {
            "id": self._id,
            "object": "response",
            "created_at": self.request.now,
            "status": status,
            "background": fields.get("background") is True,
            "error": error,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": fields.get("instructions"),
            "max_output_tokens": None,
            "model": model if isinstance(model, str) else "agent",
            "output": [item for item in self._output if item is not None] if is_over else [],
            "parallel_tool_calls": True,
            "previous_response_id": fields.get("previous_response_id"),
            "reasoning": {"effort": None, "summary": None},
            "store": True,
            "temperature": None,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": None,
            "truncation": "disabled",
            "usage": self._usage() if is_over else None,
            "user": fields.get("user"),
            "metadata": fields.get("metadata") or {},
            "conversation": {"id": self.request.session_id},
        }

    def _usage(self) -> Item:
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.input_tokens + self.output_tokens,
        }

    def _input_items(self) -> list[Item]:
        given = self.request.fields.get("input")
        if isinstance(given, str):
            given = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
        return [
            {"id": f"msg_{self.request.run_id}_{number}", "type": "message", "status": "completed", **item}
            for number, item in enumerate(given or ())
        ]


def _item_id(key: str, *, thinking: bool) -> str:
    return f"rs_{key}" if thinking else f"msg_{key}"


RESPONSES: Final = Translated(3, read, Responses)
