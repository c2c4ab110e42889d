"""The objects of agentscope-runtime's protocol: requests, messages, contents and responses.

The order of the fields is the order in the JSON of an event. A stream yields objects of three kinds, which
`object` names: "response", "message" and "content".
"""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator


class MessageType:
    MESSAGE = "message"
    FUNCTION_CALL = "function_call"
    FUNCTION_CALL_OUTPUT = "function_call_output"
    PLUGIN_CALL = "plugin_call"
    PLUGIN_CALL_OUTPUT = "plugin_call_output"
    COMPONENT_CALL = "component_call"
    COMPONENT_CALL_OUTPUT = "component_call_output"
    MCP_LIST_TOOLS = "mcp_list_tools"
    MCP_APPROVAL_REQUEST = "mcp_approval_request"
    MCP_TOOL_CALL = "mcp_call"
    MCP_APPROVAL_RESPONSE = "mcp_approval_response"
    MCP_TOOL_CALL_OUTPUT = "mcp_call_output"
    REASONING = "reasoning"
    HEARTBEAT = "heartbeat"
    ERROR = "error"
    A2UI_RESPONSE = "a2ui_response"
    A2UI_ACTION = "a2ui_action"

    @classmethod
    def all_values(cls) -> list[str]:
        return [value for name, value in vars(cls).items() if name.isupper()]


class ContentType:
    TEXT = "text"
    DATA = "data"
    IMAGE = "image"
    AUDIO = "audio"
    FILE = "file"
    REFUSAL = "refusal"
    VIDEO = "video"


class Role:
    ASSISTANT = "assistant"
    USER = "user"
    SYSTEM = "system"
    TOOL = "tool"


class RunStatus:
    Created = "created"
    InProgress = "in_progress"
    Completed = "completed"
    Canceled = "canceled"
    Failed = "failed"
    Rejected = "rejected"
    Unknown = "unknown"
    Queued = "queued"
    Incomplete = "incomplete"


class FunctionParameters(BaseModel):
    type: str
    properties: dict[str, Any]
    required: list[str] | None


class FunctionTool(BaseModel):
    name: str
    description: str
    parameters: FunctionParameters | dict[str, Any]


class Tool(BaseModel):
    type: str | None = "function"
    function: FunctionTool | None = None


class FunctionCall(BaseModel):
    """`arguments`: JSON, as the model wrote it."""

    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None


class FunctionCallOutput(BaseModel):
    call_id: str
    name: str | None = None
    output: str


class McpCall(BaseModel):
    call_id: str | None = None
    arguments: str | None = None
    name: str | None = None
    server_label: str | None = None


class McpCallOutput(BaseModel):
    call_id: str
    name: str | None = None
    output: str


class ToolCall(BaseModel):
    arguments: str
    call_id: str
    name: str


class ToolCallOutput(BaseModel):
    call_id: str
    output: str


class Error(BaseModel):
    code: str
    message: str


class Event(BaseModel):
    """One event of a stream."""

    model_config = ConfigDict(extra="allow")

    sequence_number: int | None = None
    object: str
    status: str | None = None
    error: Error | None = None

    def created(self) -> Self:
        return self._with_status(RunStatus.Created)

    def in_progress(self) -> Self:
        return self._with_status(RunStatus.InProgress)

    def completed(self) -> Self:
        return self._with_status(RunStatus.Completed)

    def rejected(self) -> Self:
        return self._with_status(RunStatus.Rejected)

    def canceled(self) -> Self:
        return self._with_status(RunStatus.Canceled)

    def failed(self, error: Error) -> Self:
        self.error = error
        return self._with_status(RunStatus.Failed)

    def _with_status(self, status: str) -> Self:
        self.status = status
        return self


class Content(Event):
    """One piece of a message. `delta`: true for a piece of a content, and then `index` says of which one."""

    type: str
    object: str = "content"
    index: int | None = None
    delta: bool | None = False
    msg_id: str | None = None


class TextContent(Content):
    type: Literal["text"] = "text"
    text: str | None = None


class DataContent(Content):
    type: Literal["data"] = "data"
    data: dict[str, Any] | None = None


class ImageContent(Content):
    type: Literal["image"] = "image"
    image_url: str | None = None


class AudioContent(Content):
    type: Literal["audio"] = "audio"
    data: str | None = None
    format: str | None = None


class VideoContent(Content):
    type: Literal["video"] = "video"
    video_url: str | None = None


class FileContent(Content):
    type: Literal["file"] = "file"
    file_url: str | None = None
    file_id: str | None = None
    filename: str | None = None
    file_data: str | None = None


class RefusalContent(Content):
    type: Literal["refusal"] = "refusal"
    refusal: str | None = None


AgentRole = Literal["assistant", "system", "user", "tool"]
AgentContent = Annotated[
    TextContent | ImageContent | DataContent | AudioContent | FileContent | RefusalContent | VideoContent,
    Field(discriminator="type"),
]

CONTENTS: Final[dict[str, type[Content]]] = {
    "text": TextContent,
    "data": DataContent,
    "image": ImageContent,
    "audio": AudioContent,
    "video": VideoContent,
    "file": FileContent,
    "refusal": RefusalContent,
}
"""By `type`."""


class Message(Event):
    """A message of a request, or of an answer. `type` is one of `MessageType`."""

    id: str = Field(default_factory=lambda: f"msg_{uuid.uuid4()}")
    object: str = "message"
    type: str = "message"
    status: str | None = RunStatus.Created
    role: AgentRole | None = None
    content: list[AgentContent] | None = None
    code: str | None = None
    message: str | None = None
    usage: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None

    def get_text_content(self) -> str | None:
        """The text of the first text content."""
        return next((each.text for each in self.content or () if isinstance(each, TextContent)), None)

    def get_image_content(self) -> list[str | None]:
        return [each.image_url for each in self.content or () if isinstance(each, ImageContent)]

    def get_audio_content(self) -> list[str | None]:
        return [each.data for each in self.content or () if isinstance(each, AudioContent)]

    def add_delta_content(self, new_content: Any) -> Any:
        """Append a delta to the content with its index, or begin a content if it has none.

        Returns `new_content` as an event; None if it has an index and is not a delta.
        """
        if self.content is None:
            self.content = []
        if new_content.index is None:
            new_content.index = len(self.content)
            new_content.msg_id = self.id
            self.content.append(new_content.model_copy(update={"delta": None}, deep=True))
            return new_content.in_progress()
        if new_content.delta is not True:
            return None
        _append(self.content[new_content.index], new_content)
        new_content.msg_id = self.id
        return new_content.in_progress()

    def content_completed(self, content_index: int) -> Any:
        """The content at this index, as a completed event; None if there is none."""
        if self.content is None or content_index >= len(self.content):
            return None
        update = {"delta": False, "index": content_index, "msg_id": self.id}
        return self.content[content_index].model_copy(update=update, deep=True).completed()

    def add_content(self, new_content: Any) -> Any:
        """Append a whole content; returns it as a completed event, or None if it has an index already."""
        if self.content is None:
            self.content = []
        if new_content.index is not None:
            return None
        self.content.append(new_content.model_copy(deep=True))
        new_content.index = len(self.content) - 1
        new_content.msg_id = self.id
        return new_content.completed()


def _append(content: Any, delta: Any) -> None:
    match content:
        case TextContent():
            content.text = (content.text or "") + (delta.text or "")
        case ImageContent():
            content.image_url = (content.image_url or "") + (delta.image_url or "")
        case DataContent():
            data = content.data or {}
            for key, value in (delta.data or {}).items():
                grows = isinstance(value, (list, str)) and isinstance(data.get(key), type(value))
                data[key] = data[key] + value if grows else data.get(key, value)
            content.data = data


class BaseRequest(BaseModel):
    input: list[Message]
    stream: bool = True
    id: str | None = None


class AgentRequest(BaseRequest):
    """The body of `POST /process`. Other fields are kept."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    top_p: float | None = None
    temperature: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    n: int | None = Field(default=1, ge=1, le=5)
    seed: int | None = None
    tools: list[Tool | dict[str, Any]] | None = None
    session_id: str | None = None
    user_id: str | None = None


class BaseResponse(Event):
    id: str | None = Field(default=None, validate_default=True)
    object: str = "response"
    status: str | None = RunStatus.Created
    created_at: int = Field(default_factory=lambda: int(time.time()))
    completed_at: int | None = None
    output: list[Message] | None = None
    usage: dict[str, Any] | None = None

    @field_validator("id", mode="before")
    @classmethod
    def _made_up(cls, value: str | None) -> str:
        return f"response_{uuid.uuid4()}" if value is None else value

    def add_new_message(self, message: Message) -> None:
        self.output = [*(self.output or ()), message]

    def completed(self) -> Self:
        self.completed_at = int(time.time())
        if self.output is None:
            self.output = []
        return super().completed()


class AgentResponse(BaseResponse):
    session_id: str | None = None


class SequenceNumberGenerator:
    """Numbers the events of one stream, from `start` on."""

    def __init__(self, start: int = 0) -> None:
        self._next = start

    def next(self) -> int:
        self._next += 1
        return self._next - 1

    def yield_with_sequence(self, event: Event) -> Event:
        event.sequence_number = self.next()
        return event
