"""`POST /process` of agentscope-runtime 1.1, as the worker writes it.

A response has messages, and a message has contents; each is an event when it begins, when it grows, and when
it is complete. Clients of that API read no event ids, so that none are sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from agentscope_worker.dialects import parts, requests
from agentscope_worker.dialects.dialect import BadMessage
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
from agentscope_worker.dialects.requests import Block

if TYPE_CHECKING:
    from agentscope.message import Msg

Json = dict[str, Any]


def read(fields: dict[str, Any]) -> tuple[Msg, dict[str, Any]]:
    """The last message of the user in `input`; `user_id` is in the metadata. Raises: BadMessage."""
    metadata = requests.metadata_of(fields)
    if isinstance(fields.get("user_id"), str):
        metadata["user_id"] = fields["user_id"]
    messages = requests.objects(fields.get("input"), "input")
    for number in range(len(messages) - 1, -1, -1):
        if messages[number].get("role", "user") == "user":
            where = f"input[{number}].content"
            content = messages[number].get("content")
            if isinstance(content, str):
                return requests.message(content), metadata
            given = requests.objects(content, where)
            blocks = [_block(part, f"{where}[{index}]") for index, part in enumerate(given)]
            return requests.message(blocks), metadata
    raise BadMessage("input has no message with the role user")


def _block(part: Json, where: str) -> Block:
    match part.get("type"):
        case "text":
            return requests.text(part.get("text"), f"{where}.text")
        case "image":
            return requests.media(part.get("image_url"), f"{where}.image_url", "image/*")
        case "audio":
            data = part.get("data")
            if isinstance(data, str) and not data.startswith(("data:", "http:", "https:")):
                return requests.encoded(data, f"audio/{part.get('format') or 'wav'}", f"{where}.data")
            return requests.media(data, f"{where}.data", "audio/*")
        case "video":
            return requests.media(part.get("video_url"), f"{where}.video_url", "video/*")
        case "file":
            url = part.get("file_url") or part.get("file_data")
            return requests.media(url, f"{where}.file_url", "application/octet-stream")
        case "data":
            return requests.text(dumps(part.get("data")).decode(), where)
        case _:
            raise BadMessage(f"{where}.type must be text, image, audio, video, file or data")


class Process(Encoder):
    """One response."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        given = request.fields.get("id")
        self._id: Final = given if isinstance(given, str) and given else f"response_{request.run_id}"
        self._output: Final[list[Json]] = []
        self._called: Final[dict[str, str]] = {}  # the arguments of calls so far

    def begin(self) -> list[bytes]:
        return [self._event(self._response("created")), self._event(self._response("in_progress"))]

    def text_begins(self, key: str, *, thinking: bool) -> list[bytes]:
        return [self._event(self._message(key, _kind(thinking)))]

    def text_grows(self, key: str, text: str, *, thinking: bool) -> list[bytes]:
        return [self._event(self._content(key, "in_progress", "text", delta=True, text=text))]

    def text_ends(self, key: str, whole: str, *, thinking: bool) -> list[bytes]:
        content = self._content(key, "completed", "text", delta=None, text=whole)
        return self._complete(key, _kind(thinking), content)

    def call(self, part: parts.Call) -> list[bytes]:
        self._called[part.id] = ""
        begun = self._data(part.id, {"call_id": part.id, "name": part.name, "arguments": ""})
        return [self._event(self._message(part.id, "plugin_call")), self._event(begun)]

    def arguments(self, part: parts.Arguments) -> list[bytes]:
        so_far = self._called[part.id] = self._called.get(part.id, "") + part.text
        data = {"call_id": part.id, "name": self.tools.get(part.id, ""), "arguments": so_far}
        return [self._event(self._data(part.id, data))]

    def called(self, part: parts.Called) -> list[bytes]:
        self._called.pop(part.id, None)
        data = {"call_id": part.id, "name": self.tools.get(part.id, ""), "arguments": part.arguments}
        content = self._content(part.id, "completed", "data", delta=None, data=data)
        return self._complete(part.id, "plugin_call", content)

    def returned(self, part: parts.Result) -> list[bytes]:
        key, kind = f"output_{part.id}", "plugin_call_output"
        data = {"call_id": part.id, "name": part.name, "output": part.output}
        content = self._content(key, "completed", "data", delta=None, data=data)
        return [
            self._event(self._message(key, kind, role="tool")),
            *self._complete(key, kind, content, role="tool"),
        ]

    def media(self, part: parts.Media) -> list[bytes]:
        kind = part.media_type.partition("/")[0]
        if kind == "image":
            content = self._content(part.key, "completed", "image", delta=None, image_url=part.url)
        else:
            content = self._content(part.key, "completed", "file", delta=None, file_url=part.url)
        return [
            self._event(self._message(part.key, "message")),
            *self._complete(part.key, "message", content),
        ]

    def end(self, finish_reason: str | None) -> list[bytes]:
        return [self._event(self._response("completed", self._output))]

    def result(self) -> bytes:
        return dumps(self._response("completed", self._output))

    def will(self) -> Written:
        failed = self._response(STATUS, error=ERROR)
        return Written(self.last_events({"sequence_number": NUMBER, **failed}), template(failed))

    def _framed(self, number: bytes, data: bytes, name: str) -> bytes:
        return b"data: %b\n\n" % data

    # -- shapes ----------------------------------------------------------------------------------------

    def _event(self, fields: Json) -> bytes:
        return self.event({"sequence_number": self.number, **fields})

    def _response(self, status: str, output: list[Json] | None = None, error: str | None = None) -> Json:
        is_over = status == "completed"
        usage = {"input_tokens": self.input_tokens, "output_tokens": self.output_tokens}
        return {
            "object": "response",
            "status": status,
            "error": error,
            "id": self._id,
            "created_at": self.request.now,
            "completed_at": None,
            "output": output,
            "usage": usage if is_over else None,
            "session_id": self.request.session_id,
        }

    def _message(
        self,
        key: str,
        kind: str,
        status: str = "in_progress",
        content: list[Json] | None = None,
        role: str = "assistant",
    ) -> Json:
        return {
            "object": "message",
            "status": status,
            "error": None,
            "id": f"msg_{key}",
            "type": kind,
            "role": role,
            "content": content,
            "code": None,
            "message": None,
            "usage": None,
            "metadata": {},
        }

    @staticmethod
    def _content(key: str, status: str, kind: str, *, delta: bool | None, **payload: Any) -> Json:
        return {
            "object": "content",
            "status": status,
            "error": None,
            "type": kind,
            "index": 0,
            "delta": delta,
            "msg_id": f"msg_{key}",
            **payload,
        }

    def _data(self, key: str, data: Json) -> Json:
        return self._content(key, "in_progress", "data", delta=False, data=data)

    def _complete(self, key: str, kind: str, content: Json, role: str = "assistant") -> list[bytes]:
        done = self._event(content)
        message = self._message(key, kind, "completed", [content], role)
        self._output.append(message)
        return [done, self._event(message)]


def _kind(thinking: bool) -> str:
    return "reasoning" if thinking else "message"


PROCESS: Final = Translated(1, read, Process)
