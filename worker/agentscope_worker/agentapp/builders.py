"""ResponseBuilder: the events of an answer, for handlers and adapters that write the protocol themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from agentscope_worker.agentapp.schemas import (
    CONTENTS,
    AgentResponse,
    Content,
    ContentType,
    DataContent,
    Message,
    MessageType,
    Role,
    TextContent,
)

_FIELDS: Final = {
    "text": "text",
    "refusal": "refusal",
    "image": "image_url",
    "data": "data",
}


class ContentBuilder:
    """One content of a message: deltas or the whole of it, then `complete`."""

    def __init__(
        self, message_builder: MessageBuilder, content_type: str = ContentType.TEXT, index: int = 0
    ) -> None:
        if content_type not in CONTENTS:
            raise ValueError(f"Unsupported content type: {content_type}")
        self.message_builder = message_builder
        self.content_type = content_type
        self.index = index
        fields = {"index": index, "msg_id": message_builder.message.id}
        self.content: Any = CONTENTS[content_type](type=content_type, **fields)
        self._deltas: list[Any] = []

    def add_text_delta(self, text: str | None) -> Any:
        self._expect("text")
        self._deltas.append(text or "")
        return self._delta(TextContent(text=text or ""))

    add_delta = add_text_delta

    def add_data_delta(self, delta_data: dict[str, Any]) -> Any:
        self._expect("data")
        self._deltas.append(delta_data)
        return self._delta(DataContent(data=delta_data))

    def set_text(self, text: str) -> Any:
        return self._set("text", text)

    def set_refusal(self, text: str) -> Any:
        return self._set("refusal", text)

    def set_image_url(self, image_url: str) -> Any:
        return self._set("image", image_url)

    def set_data(self, data: dict[str, Any]) -> Any:
        return self._set("data", data)

    def update_data(self, key: str, value: Any) -> Any:
        return self._set("data", {**(self.content.data or {}), key: value})

    def complete(self) -> Any:
        """The content with all deltas; it is in the message from now on."""
        if self.content_type == "text" and self._deltas:
            self.content.text = (self.content.text or "") + "".join(self._deltas)
        for delta in self._deltas if self.content_type == "data" else ():
            self.content.data = _merged(self.content.data or {}, delta)
        self.content.delta = False
        self.message_builder.add_content(self.content.completed())
        return self.content

    def get_content_data(self) -> Any:
        return self.content

    def _expect(self, kind: str) -> None:
        if self.content_type != kind:
            raise ValueError(
                f"only a content of type {kind} has this; this one is of type {self.content_type}"
            )

    def _set(self, kind: str, value: Any) -> Any:
        self._expect(kind)
        setattr(self.content, _FIELDS[kind], value)
        return self.content.in_progress()

    def _delta(self, content: Any) -> Any:
        content.index, content.delta, content.msg_id = self.index, True, self.message_builder.message.id
        return content.in_progress()


class MessageBuilder:
    """One message of a response."""

    def __init__(
        self,
        response_builder: ResponseBuilder,
        role: Any = Role.ASSISTANT,
        message_type: str = MessageType.MESSAGE,
    ) -> None:
        self.response_builder = response_builder
        self.role = role
        self.message = Message(role=role, type=message_type).in_progress()
        self.message_id = self.message.id
        self.content_builders: list[ContentBuilder] = []
        response_builder.add_message(self.message)

    def create_content_builder(self, content_type: str = ContentType.TEXT) -> ContentBuilder:
        builder = ContentBuilder(self, content_type, len(self.content_builders))
        self.content_builders.append(builder)
        return builder

    def add_content(self, content: Any) -> None:
        """Add a content, or replace the one with its index."""
        others: list[Any] = [each for each in self.message.content or () if each.index != content.index]
        self.message.content = [*others, content]

    def get_message_data(self) -> Message:
        return self.message

    def complete(self) -> Message:
        return self.message.completed()


class ResponseBuilder:
    """A response and its messages."""

    def __init__(self, session_id: str | None = None, response_id: str | None = None) -> None:
        self.session_id = session_id
        self.response_id = response_id
        self.reset()

    def reset(self) -> None:
        self.message_builders: list[MessageBuilder] = []
        self.response = AgentResponse(id=self.response_id, session_id=self.session_id, output=[])

    def get_response_data(self) -> AgentResponse:
        return self.response

    def created(self) -> AgentResponse:
        return self.response.created()

    def in_progress(self) -> AgentResponse:
        return self.response.in_progress()

    def completed(self) -> AgentResponse:
        return self.response.completed()

    def create_message_builder(
        self, role: Any = Role.ASSISTANT, message_type: str = MessageType.MESSAGE
    ) -> MessageBuilder:
        builder = MessageBuilder(self, role, message_type)
        self.message_builders.append(builder)
        return builder

    def add_message(self, message: Message) -> None:
        """Add a message, or replace the one with its id."""
        self.response.output = [
            *(each for each in self.response.output or () if each.id != message.id),
            message,
        ]

    update_message = add_message

    def generate_streaming_response(
        self, text_tokens: Sequence[str], role: Any = Role.ASSISTANT
    ) -> Iterator[AgentResponse | Message | Content]:
        """All events of an answer of one text."""
        self.reset()
        yield self.created()
        yield self.in_progress()
        message = self.create_message_builder(role)
        yield message.get_message_data()
        content = message.create_content_builder()
        for token in text_tokens:
            yield content.add_text_delta(token)
        yield content.complete()
        yield message.complete()
        yield self.completed()


def _merged(base: Mapping[str, Any], delta: Mapping[str, Any]) -> dict[str, Any]:
    """Strings and lists are joined, numbers added, objects merged; other values are replaced."""
    merged = dict(base)
    for key, value in delta.items():
        before = merged.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            merged[key] = _merged(before, value)
        elif _adds(before) and _adds(value) and (_is_number(before) == _is_number(value)):
            merged[key] = before + value
        else:
            merged[key] = value
    return merged


def _adds(value: Any) -> bool:
    return isinstance(value, (str, list)) or _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
