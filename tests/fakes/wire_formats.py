"""The request and response formats of five providers: pure functions over JSON, for `model_server`.

Each `WireFormat` extracts the messages from a request's body, and formats one response, complete or as the
pieces of a stream. It implements only as much of a format as the providers' own clients need for text and
tool calls. `model_server` decides the content and the timing of a response.
"""

from __future__ import annotations

import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

Json = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One tool call of the model; `arguments` is a JSON object as text."""

    name: str
    arguments: str

    @property
    def id(self) -> str:
        return f"call_{self.name}"

    @property
    def input(self) -> Json:
        value: Json = json.loads(self.arguments)
        return value


@dataclass(frozen=True)
class Answer:
    """The model's response: words, each with its leading space, or a call.

    `times`: of parallel calls, in OpenAI's format only. `is_cut`: it reached the limit of tokens.
    """

    model: str
    words: tuple[str, ...] = ()
    call: Call | None = None
    times: int = 1
    is_cut: bool = False

    @property
    def text(self) -> str:
        return "".join(self.words)


@dataclass(frozen=True)
class Said:
    """One message of a request; `role` is user, tool or another."""

    role: str
    texts: tuple[str, ...]


class WireFormat(ABC):
    """One provider's request and response format over HTTP."""

    stream_type: ClassVar[str] = "text/event-stream"

    @abstractmethod
    def said(self, body: Json) -> Iterator[Said]:
        """The messages of a request, in order."""

    def problem(self, body: Json) -> str | None:
        """Why the provider rejects the history of a request; None: it accepts it."""
        return None

    @abstractmethod
    def whole(self, answer: Answer) -> Json:
        """The body of a response that is not streamed."""

    @abstractmethod
    def pieces(self, answer: Answer, body: Json) -> Iterator[bytes]:
        """The pieces of the stream for the request `body`: about one complete piece per word."""

    @abstractmethod
    def error(self, status: int, text: str) -> Json:
        """The body of an error."""

    def model(self, body: Json) -> str:
        """The model named in the body of a request."""
        return str(body.get("model", ""))

    def streams(self, body: Json, path: str, headers: Any) -> bool:
        """Whether a request asks for a stream."""
        return bool(body.get("stream"))


class OpenAI(WireFormat):
    """OpenAI's chat completions, also used by DashScope's compatible mode."""

    def said(self, body: Json) -> Iterator[Said]:
        for message in body["messages"]:
            yield Said(message["role"], _texts(message.get("content")))

    def problem(self, body: Json) -> str | None:
        return _openai_problem(body["messages"])

    def whole(self, answer: Answer) -> Json:
        message: Json = {"role": "assistant", "content": answer.text or None}
        if answer.call:
            message["tool_calls"] = [_openai_call(answer.call, index) for index in range(answer.times)]
        choice = {"index": 0, "message": message, "finish_reason": _openai_reason(answer)}
        return _completion(answer, "chat.completion", [choice]) | {"usage": _openai_usage(answer)}

    def pieces(self, answer: Answer, body: Json) -> Iterator[bytes]:
        deltas: list[Json] = [{"role": "assistant", "content": ""}, *({"content": w} for w in answer.words)]
        if answer.call:
            parts = [part for index in range(answer.times) for part in _openai_call_parts(answer.call, index)]
            deltas = [{"role": "assistant", "tool_calls": [part]} for part in parts]
        kind = "chat.completion.chunk"
        for delta in deltas:
            yield _event(_completion(answer, kind, [{"index": 0, "delta": delta}]))
        end = {"index": 0, "delta": {}, "finish_reason": _openai_reason(answer)}
        yield _event(_completion(answer, kind, [end]))
        if (body.get("stream_options") or {}).get("include_usage"):
            yield _event(_completion(answer, kind, []) | {"usage": _openai_usage(answer)})
        yield b"data: [DONE]\n\n"

    def error(self, status: int, text: str) -> Json:
        return {"error": {"message": text, "type": "invalid_request_error", "code": None}}


class Anthropic(WireFormat):
    """Anthropic's messages, with named events."""

    def said(self, body: Json) -> Iterator[Said]:
        for message in body["messages"]:
            content = message["content"]
            results = [] if isinstance(content, str) else [b for b in content if b["type"] == "tool_result"]
            if results:
                yield Said("tool", tuple(itertools.chain(*(_texts(each.get("content")) for each in results))))
            if texts := _texts(content):
                yield Said(message["role"], texts)

    def problem(self, body: Json) -> str | None:
        """Each tool_use needs a tool_result in the next message, and each tool_result a tool_use."""
        called: set[str] = set()
        for message in [*body["messages"], {"content": ""}]:
            blocks = message["content"] if isinstance(message["content"], list) else []
            if any(not isinstance(b["input"], dict) for b in blocks if b["type"] == "tool_use"):
                return "tool_use.input: Input should be a valid dictionary"
            if called != {block["tool_use_id"] for block in blocks if block["type"] == "tool_result"}:
                return "`tool_use` ids were found without `tool_result` blocks immediately after, or reversed"
            called = {block["id"] for block in blocks if block["type"] == "tool_use"}
        return None

    def whole(self, answer: Answer) -> Json:
        block: Json = {"type": "text", "text": answer.text}
        if answer.call:
            block = self._tool_use(answer.call, answer.call.input)
        return self._message(answer, [block], self._reason(answer))

    def pieces(self, answer: Answer, body: Json) -> Iterator[bytes]:
        begun: Json = {"type": "text", "text": ""}
        deltas: list[Json] = [{"type": "text_delta", "text": word} for word in answer.words]
        if answer.call:
            begun = self._tool_use(answer.call, {})
            parts = _split(answer.call.arguments)
            deltas = [{"type": "input_json_delta", "partial_json": part} for part in parts]
        yield self._named("message_start", {"message": self._message(answer, [], None)}) + self._named(
            "content_block_start", {"index": 0, "content_block": begun}
        )
        for delta in deltas:
            yield self._named("content_block_delta", {"index": 0, "delta": delta})
        end = {"delta": {"stop_reason": self._reason(answer), "stop_sequence": None}}
        yield (
            self._named("content_block_stop", {"index": 0})
            + self._named("message_delta", {**end, "usage": {"output_tokens": len(answer.words)}})
            + self._named("message_stop", {})
        )

    def error(self, status: int, text: str) -> Json:
        return {"type": "error", "error": {"type": "api_error", "message": text}}

    def _message(self, answer: Answer, content: list[Json], reason: str | None) -> Json:
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": answer.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": len(answer.words)},
        }

    def _tool_use(self, call: Call, given: Json) -> Json:
        return {"type": "tool_use", "id": call.id, "name": call.name, "input": given}

    def _reason(self, answer: Answer) -> str:
        if answer.is_cut:
            return "max_tokens"
        return "tool_use" if answer.call else "end_turn"

    def _named(self, kind: str, fields: Json) -> bytes:
        return f"event: {kind}\n".encode() + _event({"type": kind, **fields})


class DashScope(WireFormat):
    """DashScope's own generation API; a header requests the stream, which is incremental."""

    def said(self, body: Json) -> Iterator[Said]:
        for message in body["input"]["messages"]:
            yield Said(message["role"], _texts(message.get("content")))

    def problem(self, body: Json) -> str | None:
        return _openai_problem(body["input"]["messages"])

    def streams(self, body: Json, path: str, headers: Any) -> bool:
        return headers.get("X-DashScope-SSE") == "enable"

    def whole(self, answer: Answer) -> Json:
        return self._output(answer, answer.text, _openai_reason(answer))

    def pieces(self, answer: Answer, body: Json) -> Iterator[bytes]:
        end = replace(answer, call=None)  # which would otherwise run twice
        outputs = [self._output(end, word, "null") for word in answer.words]
        if answer.call:
            for part in _openai_call_parts(answer.call):
                outputs.append(self._output(end, "", "null"))
                outputs[-1]["output"]["choices"][0]["message"]["tool_calls"] = [part]
        outputs.append(self._output(end, "", _openai_reason(answer)))
        for number, output in enumerate(outputs):
            yield self._numbered(number, output)

    def error(self, status: int, text: str) -> Json:
        return {"code": "Failed", "message": text, "request_id": "1"}

    def _output(self, answer: Answer, text: str, reason: str) -> Json:
        message: Json = {"role": "assistant", "content": text}
        if answer.call:
            message["tool_calls"] = [_openai_call(answer.call)]
        words = len(answer.words)
        return {
            "request_id": "1",
            "output": {"choices": [{"finish_reason": reason, "message": message}]},
            "usage": {"input_tokens": 1, "output_tokens": words, "total_tokens": words + 1},
        }

    def _numbered(self, number: int, output: Json) -> bytes:
        return f"id:{number}\nevent:result\n:HTTP_STATUS/200\n".encode() + _event(output)


class Gemini(WireFormat):
    """Gemini's generateContent and streamGenerateContent; the path contains model and stream."""

    def said(self, body: Json) -> Iterator[Said]:
        for content in body["contents"]:
            parts = content["parts"]
            results = [part["functionResponse"]["response"] for part in parts if "functionResponse" in part]
            if results:
                yield Said("tool", tuple(str(value) for each in results for value in each.values()))
            if texts := tuple(part["text"] for part in parts if "text" in part):
                yield Said(content.get("role", "user"), texts)

    def streams(self, body: Json, path: str, headers: Any) -> bool:
        return path.endswith(":streamGenerateContent")

    def whole(self, answer: Answer) -> Json:
        part: Json = {"text": answer.text}
        if answer.call:
            part = {"functionCall": {"name": answer.call.name, "args": answer.call.input}}
        return self._finished(answer, part) | {"usageMetadata": self._usage(answer)}

    def pieces(self, answer: Answer, body: Json) -> Iterator[bytes]:
        for word in answer.words[:-1]:
            yield _event(self._candidate(answer, {"text": word}))
        last = replace(answer, words=answer.words[-1:])
        yield _event(self.whole(last) | {"usageMetadata": self._usage(answer)})

    def error(self, status: int, text: str) -> Json:
        return {"error": {"code": status, "message": text, "status": "FAILED"}}

    def _candidate(self, answer: Answer, part: Json) -> Json:
        content = {"role": "model", "parts": [part]}
        return {"candidates": [{"index": 0, "content": content}], "modelVersion": answer.model}

    def _finished(self, answer: Answer, part: Json) -> Json:
        candidate = self._candidate(answer, part)
        candidate["candidates"][0]["finishReason"] = "MAX_TOKENS" if answer.is_cut else "STOP"
        return candidate

    def _usage(self, answer: Answer) -> Json:
        words = len(answer.words)
        return {"promptTokenCount": 1, "candidatesTokenCount": words, "totalTokenCount": words + 1}


class Ollama(WireFormat):
    """Ollama's /api/chat: one JSON object per line, streamed unless the request disables it."""

    stream_type = "application/x-ndjson"

    def said(self, body: Json) -> Iterator[Said]:
        for message in body["messages"]:
            yield Said(message["role"], _texts(message.get("content")))

    def streams(self, body: Json, path: str, headers: Any) -> bool:
        return bool(body.get("stream", True))

    def whole(self, answer: Answer) -> Json:
        return self._line(answer, answer.text, done=True)

    def pieces(self, answer: Answer, body: Json) -> Iterator[bytes]:
        for word in answer.words or ("",):
            yield self._encoded(self._line(answer, word, done=False))
        end = replace(answer, call=None)  # which would otherwise run twice
        yield self._encoded(self._line(end, "", done=True))

    def error(self, status: int, text: str) -> Json:
        return {"error": text}

    def _line(self, answer: Answer, text: str, *, done: bool) -> Json:
        message: Json = {"role": "assistant", "content": text}
        if answer.call:
            call = {"name": answer.call.name, "arguments": answer.call.input}
            message["tool_calls"] = [{"function": call}]
        line: Json = {
            "model": answer.model,
            "created_at": "2000-01-01T00:00:00Z",
            "message": message,
            "done": done,
        }
        counts = {"done_reason": "stop", "prompt_eval_count": 1, "eval_count": len(answer.words)}
        return line | counts if done else line

    def _encoded(self, line: Json) -> bytes:
        return json.dumps(line).encode() + b"\n"


def _texts(content: Any) -> tuple[str, ...]:
    """The texts of a message's content: a string, a list of blocks, or None."""
    if isinstance(content, str):
        return (content,)
    return tuple(block["text"] for block in content or () if "text" in block)


def _event(data: Json) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def _completion(answer: Answer, kind: str, choices: list[Json]) -> Json:
    return {"id": "chatcmpl-1", "object": kind, "created": 0, "model": answer.model, "choices": choices}


def _openai_call(call: Call, index: int = 0) -> Json:
    function = {"name": call.name, "arguments": call.arguments}
    call_id = f"{call.id}_{index}" if index else call.id
    return {"index": index, "id": call_id, "type": "function", "function": function}


def _openai_call_parts(call: Call, index: int = 0) -> list[Json]:
    """A call as a stream contains it: its name, and then the pieces of its arguments."""
    begun = _openai_call(Call(call.name, ""), index)
    pieces = _split(call.arguments)
    return [begun, *({"index": index, "function": {"arguments": piece}} for piece in pieces)]


def _openai_reason(answer: Answer) -> str:
    if answer.is_cut:
        return "length"
    return "tool_calls" if answer.call else "stop"


def _openai_problem(messages: list[Json]) -> str | None:
    """Each call needs arguments that are JSON, and a message of role tool right after its message."""
    called: set[str] = set()
    for message in [*messages, {"role": "end"}]:
        if message["role"] == "tool":
            if message["tool_call_id"] not in called:
                return "messages with role 'tool' must be a response to a preceding message with 'tool_calls'"
            called.discard(message["tool_call_id"])
            continue
        if called:
            return "an assistant message with 'tool_calls' must be followed by tool messages for each call"
        for call in message.get("tool_calls") or ():
            called.add(call["id"])
            try:
                json.loads(call["function"]["arguments"])
            except ValueError:
                return "function.arguments must be in JSON format"
    return None


def _split(text: str) -> list[str]:
    """`text` in pieces of about a token."""
    return [text[at : at + 4] for at in range(0, len(text), 4)]


def _openai_usage(answer: Answer) -> Json:
    words = len(answer.words)
    return {"prompt_tokens": 1, "completion_tokens": words, "total_tokens": words + 1}
