"""Parts of an answer to the events of `POST /process`, in the format of agentscope-runtime 1.1.

A stream begins with the response, created and in progress. Each text, reasoning, tool call and tool result is
a message: in progress, its contents, completed. The stream ends with exactly one response: completed, failed
or canceled. Events are numbered from 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from agentscope_worker.agentapp.parts import (
    BlockEnd,
    Failure,
    Media,
    Origin,
    Part,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Usage,
)
from agentscope_worker.agentapp.schemas import (
    CONTENTS,
    AgentResponse,
    Content,
    DataContent,
    Error,
    Event,
    Message,
    MessageType,
    RunStatus,
    TextContent,
)

# Contents of media by the field that has the URL.
_URL_FIELDS: Final = {"image": "image_url", "audio": "data", "video": "video_url", "file": "file_url"}

# A tool's content as agentscope-runtime keeps it in a completed message.
_BARE: Final = {"sequence_number": None, "status": None, "index": None, "msg_id": None}


class AgentFailure(Exception):
    """The framework has reported a failure in its stream."""


class EventStream:
    """The events of one answer. Each method yields the events that follow from its call."""

    def __init__(self, response: AgentResponse) -> None:
        """`response`: also what handlers are given as `response`."""
        self.response: Final = response
        self._number = 0
        self._metadata: dict[str, Any] | None = None
        self._usage: dict[str, int] | None = None
        self._open: dict[str, tuple[Message, TextContent]] = {}  # by the id of the block
        self._calls: dict[str, Message] = {}  # by the id of the tool call
        self._results: dict[str, Message] = {}  # likewise
        self._ended_calls: dict[str, str] = {}  # the type of the call's message, for that of its result

    def begin(self) -> Iterator[Event]:
        yield self._response()
        self.response.in_progress()
        yield self._response()

    def take(self, part: Part | Event) -> Iterator[Event]:
        """Raises: AgentFailure."""
        match part:
            case Text(id=id, delta=delta):
                yield from self._text(id, delta, MessageType.MESSAGE)
            case Thinking(id=id, delta=delta):
                yield from self._text(id, delta, MessageType.REASONING)
            case BlockEnd(id=id):
                yield from self._end_text(id)
            case ToolCall():
                yield from self._call(part)
            case ToolResult():
                yield from self._result(part)
            case Media():
                yield from self._media(part)
            case Origin(metadata=metadata):
                self._metadata = None if metadata is None else dict(metadata)
            case Usage(input_tokens=read, output_tokens=written):
                before = self._usage or {"input_tokens": 0, "output_tokens": 0}
                self._usage = {
                    "input_tokens": before["input_tokens"] + read,
                    "output_tokens": before["output_tokens"] + written,
                }
            case Failure(message=message):
                raise AgentFailure(message)
            case Event():  # of a handler that writes the protocol itself
                yield self._numbered(part)
                if isinstance(part, Message) and part.status == RunStatus.Completed:
                    self.response.add_new_message(part)

    def end(self) -> Iterator[Event]:
        for id in list(self._open):
            yield from self._end_text(id)
        self.response.completed()
        yield self._response(last=True)

    def fail(self, code: str, message: str) -> Iterator[Event]:
        self.response.failed(Error(code=code, message=message))
        yield self._response(last=True)

    def cancel(self, code: str, message: str) -> Iterator[Event]:
        self.response.error = Error(code=code, message=message)
        self.response.canceled()
        yield self._response(last=True)

    def _text(self, id: str, delta: str, kind: str) -> Iterator[Event]:
        opened = self._open.get(id)
        if opened is None:
            message = Message(type=kind, role="assistant")
            content = TextContent(index=0, delta=None, msg_id=message.id, text="")
            opened = self._open[id] = message, content
            yield self._message(message)
        message, content = opened
        content.text = (content.text or "") + delta
        yield self._numbered(TextContent(index=0, delta=True, msg_id=message.id, text=delta).in_progress())

    def _end_text(self, id: str) -> Iterator[Event]:
        if id in self._open:
            message, content = self._open.pop(id)
            yield self._numbered(content.completed())
            yield self._complete(message, content)

    def _call(self, part: ToolCall) -> Iterator[Event]:
        fields: dict[str, Any] = {"call_id": part.id, "name": part.name, "arguments": part.arguments}
        kind = MessageType.PLUGIN_CALL
        if part.server is not None:
            kind = MessageType.MCP_TOOL_CALL
            fields = {
                "call_id": part.id,
                "arguments": part.arguments,
                "name": part.name,
                "server_label": part.server or None,
            }
        self._ended_calls[part.id] = kind
        yield from self._tool(self._calls, part, kind, "assistant", fields, "arguments")

    def _result(self, part: ToolResult) -> Iterator[Event]:
        of_mcp = self._ended_calls.get(part.id) == MessageType.MCP_TOOL_CALL
        kind = MessageType.MCP_TOOL_CALL_OUTPUT if of_mcp else MessageType.PLUGIN_CALL_OUTPUT
        fields = {"call_id": part.id, "name": part.name, "output": part.output}
        yield from self._tool(self._results, part, kind, "tool", fields, "output")

    def _tool(
        self,
        messages: dict[str, Message],
        part: ToolCall | ToolResult,
        kind: str,
        role: Any,
        fields: Mapping[str, Any],
        growing: str,
    ) -> Iterator[Event]:
        message = messages.get(part.id)
        if message is None:
            message = messages[part.id] = Message(type=kind, role=role)
            yield self._message(message)
            # agentscope-runtime leaves out the index of a call that comes whole.
            index = None if part.is_last and role == "assistant" else 0
            yield self._numbered(_data(message, {**fields, growing: ""}, index).in_progress())
        if part.is_last:
            content = _data(message, fields, 0).completed()
            yield self._numbered(content)
            yield self._complete(message, content.model_copy(update=_BARE))
            del messages[part.id]
        elif fields[growing]:
            yield self._numbered(_data(message, fields, 0).in_progress())

    def _media(self, part: Media) -> Iterator[Event]:
        message = Message(type=MessageType.MESSAGE, role="assistant")
        yield self._message(message)
        fields: dict[str, Any] = {_URL_FIELDS[part.kind]: part.url}
        if part.kind == "audio":
            fields["format"] = part.format
        elif part.kind == "file":
            fields["filename"] = part.name
        content = CONTENTS[part.kind](index=0, delta=True, msg_id=message.id, **fields)
        yield self._numbered(content.in_progress())
        whole = content.model_copy(update={"delta": None}).completed()
        yield self._numbered(whole)
        yield self._complete(message, whole)

    def _message(self, message: Message) -> Event:
        message.metadata = self._metadata
        return self._numbered(message.model_copy().in_progress())

    def _complete(self, message: Message, content: Content) -> Event:
        message.metadata = self._metadata
        message.content = [content]  # type: ignore[list-item]
        self.response.add_new_message(message)
        return self._numbered(message.completed())

    def _response(self, *, last: bool = False) -> Event:
        if last:
            self.response.usage = self._usage
        return self._numbered(self.response.model_copy())

    def _numbered(self, event: Event) -> Event:
        event.sequence_number = self._number
        self._number += 1
        return event


def _data(message: Message, fields: Mapping[str, Any], index: int | None) -> DataContent:
    return DataContent(index=index, delta=False, msg_id=message.id, data=dict(fields))
