"""A2A 0.3 and 1.0 over JSON-RPC, as the worker writes them.

A run is a task. Each text of the App is an artifact that grows. Calls of tools are left out, because A2A has
no part for them.
Sources: https://a2a-protocol.org/v0.3.0/specification/, https://a2a-protocol.org/latest/specification/
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final

from agentscope_worker.dialects import parts, requests
from agentscope_worker.dialects.dialect import BadMessage
from agentscope_worker.dialects.encoder import (
    CODE,
    ERROR,
    MESSAGE,
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

MAX_HISTORY: Final = 64 * 1024
"""Maximum bytes of the client's message in the history of its task. It is in the first event, in the result
and in the will; a message with an inline file is longer, and is left out."""


def read(fields: Json) -> tuple[Msg, dict[str, Any]]:
    """The message; the supervisor has checked that it is there. Raises: BadMessage."""
    params: Json = fields["params"]
    message: Json = params["message"]
    given = requests.objects(message.get("parts"), "message.parts")
    blocks = [_block(part, f"message.parts[{number}]") for number, part in enumerate(given)]
    if not blocks:
        raise BadMessage("message.parts is empty")
    return requests.message(blocks), requests.metadata_of(message) | requests.metadata_of(params)


def _block(part: Json, where: str) -> Block:
    if "text" in part:
        return requests.text(part["text"], f"{where}.text")
    if "data" in part:
        return requests.text(dumps(part["data"]).decode(), where)
    file = part.get("file")  # of 0.3
    if isinstance(file, dict):
        media_type = str(file.get("mimeType") or "application/octet-stream")
        if "bytes" in file:
            return requests.encoded(file["bytes"], media_type, f"{where}.file.bytes")
        return requests.media(file.get("uri"), f"{where}.file.uri", media_type)
    media_type = str(part.get("mediaType") or "application/octet-stream")
    if "raw" in part:
        return requests.encoded(part["raw"], media_type, f"{where}.raw")
    if "url" in part:
        return requests.media(part["url"], f"{where}.url", media_type)
    raise BadMessage(f"{where} has no text, file or data")


class A2a(Encoder):
    """One task, in the words of 0.3."""

    is_current: ClassVar[bool] = False  # of version 1.0

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._ids: Final = {"taskId": request.run_id, "contextId": request.session_id}
        self._metadata: Json = {}
        self._artifacts: Final[list[Json]] = []
        self._begun: Final[set[str]] = set()
        message: Json = request.fields["params"]["message"]
        history = [{**message, **self._ids}]
        self._history: Final = history if len(dumps(history)) <= MAX_HISTORY else []
        now = datetime.datetime.fromtimestamp(request.now, datetime.UTC)
        self._began: Final = now.strftime("%Y-%m-%dT%H:%M:%S.000Z")

    def begin(self) -> list[bytes]:
        task = self._task({"state": self._state("submitted"), "timestamp": self._began})
        return [
            self._result("task", task),
            self._result("status-update", self._status({"state": self._state("working")})),
        ]

    def text_grows(self, key: str, text: str, *, thinking: bool) -> list[bytes]:
        if thinking:
            return []
        append = key in self._begun
        self._begun.add(key)
        return [self._artifact({"artifactId": key, "parts": [self._text(text)]}, append=append)]

    def text_ends(self, key: str, whole: str, *, thinking: bool) -> list[bytes]:
        if not thinking:
            self._artifacts.append({"artifactId": key, "parts": [self._text(whole)]})
        return []

    def media(self, part: parts.Media) -> list[bytes]:
        artifact = {"artifactId": part.key, "parts": [self._file(part)]}
        self._artifacts.append(artifact)
        return [self._artifact(artifact, append=False, last=True)]

    def end(self, finish_reason: str | None) -> list[bytes]:
        usage = {"input_tokens": self.input_tokens, "output_tokens": self.output_tokens}
        self._metadata = {"usage": usage}
        if finish_reason is not None:
            self._metadata["finish_reason"] = finish_reason
        status = self._status({"state": self._state("completed")}, final=True)
        return [self._result("status-update", {**status, "metadata": self._metadata})]

    def result(self) -> bytes:
        status = {"state": self._state("completed"), "timestamp": self._began}
        return dumps({**self._task(status), "metadata": self._metadata})

    def will(self) -> Written:
        said: Json = {
            "messageId": f"{self.request.run_id}-end",
            "role": "ROLE_AGENT" if self.is_current else "agent",
            "parts": [self._text(MESSAGE)],
            **self._ids,
        }
        if not self.is_current:
            said["kind"] = "message"
        status = self._status({"state": STATUS, "message": said}, final=True)
        failed = self._wrapped("status-update", {**status, "metadata": {"error": {"code": CODE}}})
        task = {**self._task({"state": STATUS, "timestamp": self._began}), "metadata": {"error": ERROR}}
        return Written(self.last_events(self._enveloped(failed)), template(task))

    # -- shapes ----------------------------------------------------------------------------------------

    def _state(self, state: str) -> str:
        return f"TASK_STATE_{state.upper()}" if self.is_current else state

    def _text(self, text: str) -> Json:
        return {"text": text} if self.is_current else {"kind": "text", "text": text}

    def _file(self, part: parts.Media) -> Json:
        head, comma, data = part.url.partition(";base64,")
        is_inline = part.url.startswith("data:") and bool(comma)
        media_type = head.removeprefix("data:") if is_inline else part.media_type
        if self.is_current:
            return {"raw" if is_inline else "url": data if is_inline else part.url, "mediaType": media_type}
        file = {"bytes": data} if is_inline else {"uri": part.url}
        return {"kind": "file", "file": {**file, "mimeType": media_type}}

    def _task(self, status: Json) -> Json:
        task: Json = {"id": self._ids["taskId"], "contextId": self._ids["contextId"], "status": status}
        if not self.is_current:
            task = {"kind": "task", **task}
        if self._history:
            task["history"] = self._history
        if self._artifacts:
            task["artifacts"] = self._artifacts
        return task

    def _status(self, status: Json, *, final: bool = False) -> Json:
        event: Json = {**self._ids, "status": status}
        if not self.is_current:
            event = {"kind": "status-update", **event, "final": final}
        return event

    def _artifact(self, artifact: Json, *, append: bool, last: bool = False) -> bytes:
        event: Json = {**self._ids, "artifact": artifact, "append": append, "lastChunk": last}
        if not self.is_current:
            event = {"kind": "artifact-update", **event}
        return self._result("artifact-update", event)

    def _result(self, kind: str, event: Json) -> bytes:
        return self.event(self._enveloped(self._wrapped(kind, event)))

    def _wrapped(self, kind: str, event: Json) -> Json:
        """In 1.0, the kind of an event is the name of its only member."""
        return {_MEMBERS[kind]: event} if self.is_current else event

    def _enveloped(self, result: Json) -> Json:
        return {"jsonrpc": "2.0", "id": self.request.fields.get("id"), "result": result}


_MEMBERS: Final = {
    "task": "task",
    "status-update": "statusUpdate",
    "artifact-update": "artifactUpdate",
}


class A2aCurrent(A2a):
    """One task, in the words of 1.0."""

    is_current = True


A2A_03: Final = Translated(7, read, A2a)
A2A_10: Final = Translated(8, read, A2aCurrent)
