"""Messages and their content blocks, with the fields, defaults and checks of AgentScope 2.x."""

from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import AnyUrl, BaseModel, ConfigDict, Field, field_serializer, model_validator

from agentscope._utils._common import _generate_id, _generate_timestamp
from agentscope.permission import PermissionRule


class TextBlock(BaseModel):
    type: Literal["text"] = "text"
    text: str
    id: str = Field(default_factory=_generate_id)
    created_at: str = Field(default_factory=_generate_timestamp)
    finished_at: str | None = None


class ThinkingBlock(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: Literal["thinking"] = "thinking"
    thinking: str
    id: str = Field(default_factory=_generate_id)
    created_at: str = Field(default_factory=_generate_timestamp)
    finished_at: str | None = None


class Base64Source(BaseModel):
    type: Literal["base64"] = "base64"
    data: str
    media_type: str


class URLSource(BaseModel):
    type: Literal["url"] = "url"
    url: AnyUrl
    media_type: str

    @field_serializer("url")
    def serialize_url(self, url: AnyUrl) -> str:
        return str(url)


class DataBlock(BaseModel):
    type: Literal["data"] = "data"
    id: str = Field(default_factory=_generate_id)
    source: Base64Source | URLSource
    name: str | None = None
    created_at: str = Field(default_factory=_generate_timestamp)
    finished_at: str | None = None


class HintBlock(BaseModel):
    type: Literal["hint"] = "hint"
    hint: str | list[TextBlock | DataBlock]
    id: str = Field(default_factory=_generate_id)
    source: str | None = None
    created_at: str = Field(default_factory=_generate_timestamp)
    finished_at: str | None = Field(default_factory=_generate_timestamp)


class ToolCallState(StrEnum):
    PENDING = "pending"
    ASKING = "asking"
    ALLOWED = "allowed"
    SUBMITTED = "submitted"
    FINISHED = "finished"


class ToolCallBlock(BaseModel):
    model_config = ConfigDict(use_enum_values=True)

    type: Literal["tool_call"] = "tool_call"
    id: str
    name: str
    input: str
    state: ToolCallState = ToolCallState.PENDING
    suggested_rules: list[PermissionRule] = Field(default_factory=list)
    created_at: str = Field(default_factory=_generate_timestamp)
    finished_at: str | None = None


class ToolResultState(StrEnum):
    SUCCESS = "success"
    ERROR = "error"
    INTERRUPTED = "interrupted"
    DENIED = "denied"
    RUNNING = "running"


class ToolResultBlock(BaseModel):
    model_config = ConfigDict(use_enum_values=True)

    type: Literal["tool_result"] = "tool_result"
    id: str
    name: str
    output: str | list[TextBlock | DataBlock]
    state: ToolResultState = ToolResultState.RUNNING
    metadata: dict[str, Any] = Field(default_factory=dict)
    created_at: str = Field(default_factory=_generate_timestamp)
    finished_at: str | None = None


ContentBlock = TextBlock | ThinkingBlock | HintBlock | ToolCallBlock | ToolResultBlock | DataBlock


class Msg(BaseModel):
    name: str
    content: list[ContentBlock]
    role: Literal["user", "assistant", "system"]
    id: str = Field(default_factory=_generate_id)
    metadata: dict[Any, Any] = Field(default_factory=dict)
    created_at: str = Field(default_factory=_generate_timestamp)
    usage: dict[Any, Any] | None = None
    finished_at: str | None = None
    finished_reason: str | None = None
    structured_output: dict[Any, Any] | None = None
    error: dict[Any, Any] | None = None

    @model_validator(mode="after")
    def validate_role_content(self) -> Self:
        types = {block.type for block in self.content}
        if self.role == "user" and not types <= {"text", "data"}:
            raise ValueError("User message can only contain text blocks or data blocks.")
        if self.role == "system" and not types <= {"text"}:
            raise ValueError("System message can only contain text blocks.")
        return self

    def get_text_content(self, separator: str = "\n") -> str | None:
        texts = [block.text for block in self.content if isinstance(block, TextBlock)]
        return separator.join(texts) if texts else None

    def get_content_blocks(self, block_type: str | None = None) -> list[ContentBlock]:
        return [block for block in self.content if block_type in (None, block.type)]
