"""A FastAPI service that streams the answers of a model, and keeps each chat in the session store.

Nothing here depends on how the service is hosted, but for `runtime`, which has what agentapp.yaml defines.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from agentscope.message import Msg
from agentscope.runtime import runtime
from fastapi import FastAPI, HTTPException, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from pydantic import BaseModel


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Runs once in each worker. Open connections here, and close them after the `yield`."""
    yield {"greeting": "Hello"}


app = FastAPI(title="Chats", lifespan=lifespan)


class Chat:
    """The messages of one chat: an object with a state, as `runtime.session` stores it."""

    def __init__(self) -> None:
        self.lines: list[dict[str, str]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"lines": self.lines}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.lines = state["lines"]

    async def answer(self, text: str) -> AsyncIterator[str]:
        """Ask the model with all messages so far; yields the parts of its answer."""
        self.lines.append({"role": "user", "text": text})
        messages = [Msg(name=each["role"], content=each["text"], role=each["role"]) for each in self.lines]
        answer = ""
        async for chunk in runtime.models.main.stream(messages):
            answer += chunk.text
            yield chunk.text
        self.lines.append({"role": "assistant", "text": answer})


class Question(BaseModel):
    text: str


@app.get("/")
async def index(request: Request) -> dict[str, Any]:
    return {"greeting": request.state.greeting, "worker": request.state.worker_slot}


@app.post("/chats/{chat_id}")
async def ask(chat_id: str, question: Question) -> StreamingResponse:
    """Answer a question with a stream of plain text."""
    chat = Chat()
    await runtime.session.load_session_state(chat_id, chat=chat)

    async def parts() -> AsyncIterator[str]:
        async for part in chat.answer(question.text):
            yield part
        await runtime.session.save_session_state(chat_id, chat=chat)

    return StreamingResponse(parts(), media_type="text/plain")


@app.get("/chats/{chat_id}")
async def read(chat_id: str) -> list[dict[str, str]]:
    chat = Chat()
    if await runtime.session.load_session_state(chat_id, chat=chat) is None:
        raise HTTPException(404, "there is no such chat")
    return chat.lines


@app.websocket("/live")
async def live(socket: WebSocket) -> None:
    """Answer each message of a WebSocket, in parts."""
    await socket.accept()
    chat = Chat()
    try:
        while True:
            async for part in chat.answer(await socket.receive_text()):
                await socket.send_text(part)
            await socket.send_text("")
    except WebSocketDisconnect:
        pass
