"""The adapters that every AgentApp has: AG-UI and OpenAI's Responses, in the words of `dialects`.

The events of `POST /process` become the parts of a dialect. A request of another protocol is one more request
of its session: it waits for its turn, and `stop_chat` stops it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from agentscope_protocol.wire.frames import Place
from agentscope_worker.agentapp.adapters import AGUIAdaptorConfig, ProtocolAdapter
from agentscope_worker.agentapp.default_agent import prepare
from agentscope_worker.agentapp.schemas import (
    AgentRequest,
    AgentResponse,
    Content,
    DataContent,
    Event,
    Message,
    MessageType,
    TextContent,
)
from agentscope_worker.agentapp.sources.agentscope_messages import field, media
from agentscope_worker.dialects import encoder as encoders
from agentscope_worker.dialects import parts
from agentscope_worker.dialects.ag_ui import AG_UI
from agentscope_worker.dialects.dialect import BadMessage
from agentscope_worker.dialects.responses import RESPONSES

MAX_KEPT: Final = 10_000
"""Responses whose session is kept for `previous_response_id`; the oldest goes first."""

_URL_FIELDS: Final = {"image": "image_url", "audio": "data", "video": "video_url", "file": "file_url"}
_TEXTS: Final = (MessageType.MESSAGE, MessageType.REASONING)


class Unknown(BadMessage):
    """A request names an object that does not exist."""


class _DialectAdapter(ProtocolAdapter):
    """One route. Classes define how a request names its session, and what an error looks like."""

    def __init__(self, path: str, dialect: encoders.Translated, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._path: Final = path
        self._dialect: Final = dialect

    def session_of(self, fields: Mapping[str, Any]) -> str | None:
        raise NotImplementedError

    def error(self, message: str) -> object:
        """The body of a refusal."""
        return {"error": {"code": "INVALID_REQUEST", "message": message}}

    def begun(self, request: encoders.Request) -> None:
        """A request has been read."""

    def add_endpoint(self, app: Any, func: Callable[..., Any], **kwargs: Any) -> None:
        prepare()

        async def endpoint(request: Request) -> Any:
            try:
                fields = await request.json()
                if not isinstance(fields, dict):
                    raise BadMessage("the body must be an object")
                msg, metadata = self._dialect.read(fields)
                session = self.session_of(fields)
            except (BadMessage, json.JSONDecodeError) as error:
                status = 404 if isinstance(error, Unknown) else 400
                body = encoders.dumps(self.error(str(error)))
                return Response(body, status, media_type="application/json")
            session = session or request.headers.get("x-session-id") or str(uuid.uuid4())
            read = encoders.Request(uuid.uuid4().hex, session, fields, int(time.time()))
            self.begun(read)
            user = fields.get("user") if isinstance(fields.get("user"), str) else None
            messages = [_message(msg)]
            if "instructions" in metadata:
                text = TextContent(text=metadata["instructions"])
                messages.insert(0, Message(role="system", content=[text]))
            question = AgentRequest(input=messages, session_id=session, user_id=user)
            answer = _Answer(self._dialect.encoder(read))
            stream = answer.events(func(question))
            if self.is_streamed(fields):
                headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
                return StreamingResponse(stream, media_type="text/event-stream", headers=headers)
            async for _ in stream:
                pass
            return Response(answer.result, media_type="application/json")

        app.add_api_route(self._path, endpoint, methods=["POST"], response_model=None, tags=["protocols"])

    def is_streamed(self, fields: Mapping[str, Any]) -> bool:
        return True


class AGUIDefaultAdapter(_DialectAdapter):
    """AG-UI; a thread is a session."""

    def __init__(self, config: AGUIAdaptorConfig | None = None, **kwargs: Any) -> None:
        super().__init__((config or AGUIAdaptorConfig()).route_path, AG_UI, **kwargs)

    def session_of(self, fields: Mapping[str, Any]) -> str | None:
        thread = fields.get("threadId", fields.get("thread_id"))
        return thread if isinstance(thread, str) else None


class ResponseAPIDefaultAdapter(_DialectAdapter):
    """OpenAI's Responses; the session is the conversation, or that of the previous response."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("/compatible-mode/v1/responses", RESPONSES, **kwargs)
        self._sessions: Final[dict[str, str]] = {}  # by the id of the response

    def session_of(self, fields: Mapping[str, Any]) -> str | None:
        conversation = fields.get("conversation")
        if isinstance(conversation, dict):
            conversation = conversation.get("id")
        if isinstance(conversation, str):
            return conversation
        previous = fields.get("previous_response_id")
        if previous is None:
            return None
        if previous not in self._sessions:
            raise Unknown(f"Previous response with id {previous!r} not found")
        return self._sessions[previous]

    def begun(self, request: encoders.Request) -> None:
        self._sessions[f"resp_{request.run_id}"] = request.session_id
        if len(self._sessions) > MAX_KEPT:
            del self._sessions[next(iter(self._sessions))]

    def error(self, message: str) -> object:
        return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}

    def is_streamed(self, fields: Mapping[str, Any]) -> bool:
        return fields.get("stream") is True


class _Answer:
    """One answer in a dialect. `result`: the whole of it as JSON, when its events have ended."""

    def __init__(self, encoder: encoders.Encoder) -> None:
        self.result = b"null"
        self._encoder: Final = encoder
        self._kinds: Final[dict[str, str]] = {}  # types of messages, by id
        self._calls: Final[set[str]] = set()

    async def events(self, stream: AsyncIterator[Event]) -> AsyncIterator[bytes]:
        """`stream`: the events of `POST /process`."""
        encoder = self._encoder
        for each in encoder.begin():
            yield each
        async for event in stream:
            for part in self._parts(event):
                for each in encoder.part(part):
                    yield each
            if isinstance(event, AgentResponse) and event.status not in ("created", "in_progress"):
                for each in encoder.close():
                    yield each
                for each in self._end(event):
                    yield each

    def _end(self, response: AgentResponse) -> list[bytes]:
        encoder = self._encoder
        if response.error is None:
            ended = encoder.end(None)
            self.result = encoder.result()
            return ended
        will = encoder.will()
        filled = {
            Place.CODE: encoders.dumps(response.error.code),
            Place.MESSAGE: encoders.dumps(response.error.message),
            Place.NUMBER: b"%d" % encoder.number,
            Place.STATUS: b'"failed"',
            Place.ERROR: encoders.dumps(response.error.model_dump()),
            Place.RUN: encoder.request.run_id.encode(),
            Place.CREATED: b"%d" % encoder.request.now,
        }
        end, self.result = will.end, will.result
        for place, value in filled.items():
            end, self.result = end.replace(place, value), self.result.replace(place, value)
        return [end]

    def _parts(self, event: Event) -> Iterator[parts.Part]:
        if isinstance(event, AgentResponse):
            if event.usage:
                yield parts.Usage(event.usage["input_tokens"], event.usage["output_tokens"])
        elif isinstance(event, Message):
            self._kinds[event.id] = event.type
            if event.status == "completed" and event.type in _TEXTS:
                yield parts.Ended(event.id)
        elif isinstance(event, TextContent):
            if event.delta and event.text:
                key = event.msg_id or ""
                is_thinking = self._kinds.get(key) == MessageType.REASONING
                yield parts.Thinking(key, event.text) if is_thinking else parts.Text(key, event.text)
        elif isinstance(event, DataContent):
            yield from self._tool(event)
        elif isinstance(event, Content) and event.status == "completed" and event.type in _URL_FIELDS:
            url = getattr(event, _URL_FIELDS[event.type]) or ""
            yield parts.Media(event.msg_id or "", getattr(event, "format", None) or f"{event.type}/*", url)

    def _tool(self, event: DataContent) -> Iterator[parts.Part]:
        data = event.data or {}
        id, name = str(data.get("call_id")), str(data.get("name"))
        if "output" in data:
            if event.status == "completed":
                yield parts.Result(id, name, _text_of(data["output"]))
            return
        if id not in self._calls:
            self._calls.add(id)
            yield parts.Call(id, name)
        if event.status == "completed":
            # The events have the arguments so far, which on AgentScope 1.x are not always a prefix.
            yield parts.Arguments(id, data["arguments"])
            yield parts.Called(id, data["arguments"])


def _text_of(output: str) -> str:
    """The text in the output of a tool, or the output itself if it has other blocks."""
    try:
        blocks = json.loads(output)
    except ValueError:
        return output
    if isinstance(blocks, str):
        return blocks
    if isinstance(blocks, list) and all(isinstance(each, dict) and "text" in each for each in blocks):
        return "".join(each["text"] for each in blocks)
    return output


def _message(msg: Any) -> Message:
    """A message of a request with the content of a Msg, of either major."""
    contents: list[dict[str, Any]] = []
    blocks = [{"type": "text", "text": msg.content}] if isinstance(msg.content, str) else msg.content
    for block in blocks:
        if field(block, "type") == "text":
            contents.append({"type": "text", "text": field(block, "text")})
        else:
            found = media(block)
            contents.append({"type": found.kind, _URL_FIELDS[found.kind]: found.url})
    return Message.model_validate({"role": "user", "content": contents})
