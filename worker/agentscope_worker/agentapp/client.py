"""A client of `POST /process`: events from its stream, with httpx."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Final

from agentscope_worker.agentapp.schemas import (
    CONTENTS,
    AgentRequest,
    AgentResponse,
    Content,
    Event,
    Message,
    TextContent,
)

log = logging.getLogger(__name__)

_FIELDS: Final = ("data", "event", "id", "retry")  # of a server-sent event


class AgentAPIClientBase(ABC):
    @abstractmethod
    def stream(self, request: AgentRequest) -> Iterator[Event]:
        """Send a request, and yield the events of its answer."""

    @abstractmethod
    def astream(self, request: AgentRequest) -> AsyncIterator[Event]:
        """The same for asyncio."""


class HTTPAgentAPIClient(AgentAPIClientBase):
    """`endpoint`: the whole URL, such as http://localhost:8080/process. `timeout`: seconds."""

    def __init__(
        self,
        endpoint: str,
        token: str | None = None,
        timeout: float = 300.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.token = token
        self.timeout = timeout
        self.headers = dict(headers or {})

    def stream(self, request: AgentRequest) -> Iterator[Event]:
        """Raises: httpx.HTTPError."""
        import httpx

        with (
            httpx.Client(timeout=self.timeout) as client,
            client.stream("POST", self.endpoint, **self._request(request)) as answer,
        ):
            answer.raise_for_status()
            for line in answer.iter_lines():
                if (event := _event(line)) is not None:
                    yield event

    async def astream(self, request: AgentRequest) -> AsyncIterator[Event]:
        """Raises: httpx.HTTPError."""
        import httpx

        async with (
            httpx.AsyncClient(timeout=self.timeout) as client,
            client.stream("POST", self.endpoint, **self._request(request)) as answer,
        ):
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if (event := _event(line)) is not None:
                    yield event

    def _request(self, request: AgentRequest) -> dict[str, Any]:
        headers = {"Accept": "text/event-stream", **self.headers}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        return {"json": request.model_dump(exclude_none=True), "headers": headers}


def parse_sse_line(line: str) -> tuple[str | None, str | None]:
    """The field and the value of a line of a stream; None for any other line."""
    name, colon, value = line.strip().partition(":")
    return (name, value.strip()) if colon and name in _FIELDS else (None, None)


def parse_sse_line_bytes(line: bytes) -> tuple[str | None, str | None]:
    return parse_sse_line(line.decode("utf-8"))


def parse_event_from_json(data: Mapping[str, Any]) -> Event | None:
    """The event in a JSON object; None if it is none."""
    classes: dict[Any, type[Event]] = {"response": AgentResponse, "message": Message}
    kind = data.get("object")
    found = CONTENTS.get(data.get("type", ""), Content) if kind == "content" else classes.get(kind, Event)
    try:
        return found(**data)
    except ValueError as error:
        log.warning("an object of a stream is no event: %s", error)
        return None


def extract_text_from_event(event: Event) -> str | None:
    """The text of a text content, or of a completed message."""
    if isinstance(event, TextContent):
        return event.text
    if isinstance(event, Message) and event.status == "completed":
        texts = [each.text for each in event.content or () if isinstance(each, TextContent) and each.text]
        return "".join(texts) or None
    return None


def create_simple_text_request(query: str, session_id: str | None = None, **kwargs: Any) -> AgentRequest:
    message = Message(role="user", content=[TextContent(text=query)])
    fields = {"session_id": session_id} if session_id else {}
    return AgentRequest(**{"input": [message], **fields, **kwargs})


def _event(line: str) -> Event | None:
    field, value = parse_sse_line(line)
    if field != "data" or not value:
        return None
    try:
        return parse_event_from_json(json.loads(value))
    except ValueError:
        return None
