"""The service that one writes with FastAPI: the checks of the body and the events are those of ours."""

import os
from collections.abc import AsyncIterator
from typing import Any, Literal

from agentscope.message import Msg, TextBlock
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from turns import turn

DONE = b'data: {"name":"assistant","content":"","role":"assistant","metadata":{"done":true}}\n\n'

app = FastAPI()


class Message(BaseModel):
    name: str = "user"
    role: Literal["user", "assistant", "system"] = "user"
    content: str


class Invocation(BaseModel):
    session_id: str = Field(min_length=1, max_length=256)
    message: Message
    metadata: dict[str, Any] = {}
    stream: bool = True


async def events(asked: Message) -> AsyncIterator[bytes]:
    msg = Msg(name=asked.name, role=asked.role, content=[TextBlock(type="text", text=asked.content)])
    async for each in turn(msg):
        yield b"data: %b\n\n" % each.model_dump_json().encode()
    yield DONE


@app.post("/invoke")
async def invoke(invocation: Invocation) -> StreamingResponse:
    return StreamingResponse(events(invocation.message), media_type="text/event-stream")


@app.get("/health")
async def health() -> dict[str, Any]:
    return {"status": "healthy", "pid": os.getpid()}
