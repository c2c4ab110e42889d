"""The protocols of user interfaces against an instance, and all protocols when their worker dies."""

import asyncio
import json
import time
from typing import Any, Final

import psutil
import pytest
from ag_ui.core import Event
from pydantic import TypeAdapter

from tests.conftest import StartInstance
from tests.harness.client import JSON, Connection, Response, call, new_session, request
from tests.harness.instance import Instance

TOLD_WITHIN: Final = 0.1  # seconds from the death of the worker to the end of the stream
SLOW: Final = [{"say": "tick ", "times": 3000, "every": 0.02}]
HELLO: Final = [{"say": "Hello"}, {"say": ", world"}]

AG_UI: Final = TypeAdapter[Any](Event)


def bodies(script: object, session: str) -> dict[str, dict[str, Any]]:
    """The request for a streamed turn, by its path."""
    text = json.dumps(script)
    part = {"type": "text", "text": text}
    user = {"role": "user", "content": text}
    said = {"messageId": "m", "role": "user", "contextId": session, "parts": [{"kind": "text", "text": text}]}
    return {
        "/process": {"session_id": session, "input": [{"role": "user", "content": [part]}]},
        "/v1/chat/completions": {"user": session, "messages": [user], "stream": True},
        "/v1/responses": {"conversation": session, "input": text, "stream": True},
        "/ag-ui": {"threadId": session, "runId": "r", "messages": [{"id": "m", **user}]},
        "/api/chat": {"id": session, "messages": [{"id": "m", "role": "user", "parts": [part]}]},
        "/invocations": {"prompt": text, "stream": True, "session": session},
        "/a2a": {"jsonrpc": "2.0", "id": 7, "method": "message/stream", "params": {"message": said}},
    }


def post(path: str, body: object) -> bytes:
    return request("POST", path, json.dumps(body).encode(), JSON)


async def ask(instance: Instance, path: str, body: object, **headers: str) -> Response:
    encoded = json.dumps(body).encode()
    return await call(instance.port, "POST", path, body=encoded, headers={**JSON, **headers})


def data_of(body: bytes) -> list[Any]:
    """The data of each event of a stream."""
    lines = [line.removeprefix("data: ") for line in body.decode().split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def test_ag_ui(shared: Instance) -> None:
    session = new_session()
    response = await ask(shared, "/ag-ui", bodies(HELLO, session)["/ag-ui"])
    events = [AG_UI.validate_python(data) for data in data_of(response.body)]
    assert [event.type for event in events] == [
        *("RUN_STARTED", "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_CONTENT"),
        *("TEXT_MESSAGE_END", "RUN_FINISHED"),
    ]
    assert (events[0].thread_id, events[0].run_id) == (session, "r")
    failing = bodies([{"say": "a"}, {"raise": "no"}], session)["/ag-ui"]
    last = data_of((await ask(shared, "/ag-ui", failing)).body)[-1]
    assert last == {"type": "RUN_ERROR", "message": "RuntimeError: no", "code": "APP_ERROR"}
    refused = await ask(shared, "/ag-ui", {"threadId": session})
    assert (refused.status, refused.json["error"]["code"]) == (400, "INVALID_REQUEST")


async def test_a_chat_of_the_ai_sdk_is_resumed_from_its_beginning(shared: Instance) -> None:
    session = new_session("chat/ä")
    path = "/api/chat/" + "".join(f"%{byte:02x}" for byte in session.encode()) + "/stream"
    assert (await call(shared.port, "GET", path)).status == 204
    body = bodies([{"say": "a", "times": 40, "every": 0.02}], session)["/api/chat"]
    async with Connection(shared.port) as connection, asyncio.timeout(20):
        await connection.send(post("/api/chat", body))
        head = await connection.head()
        assert head.headers["x-vercel-ai-ui-message-stream"] == "v1"
        resumed = await call(shared.port, "GET", path)
        first = b"".join([piece async for piece in connection.body(head)])
    assert resumed.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert resumed.headers["x-run-id"] == head.headers["x-run-id"]
    assert resumed.body == first
    data = data_of(first)
    assert [each["type"] for each in data[:3]] == ["start", "start-step", "text-start"]
    assert (data[-2]["type"], data[-1]) == ("finish", "[DONE]")
    assert (await call(shared.port, "GET", path)).status == 204


async def test_process(shared: Instance) -> None:
    session = new_session()
    body = bodies([{"count": 1}], session)["/process"]
    response = await ask(shared, "/process", body)
    events = data_of(response.body)
    assert events[-1]["output"][0]["content"][0]["text"] == "1"
    assert events[-1]["session_id"] == session
    assert b"id: " not in response.body
    whole = await ask(shared, "/process", {**body, "stream": False})
    assert (whole.json["status"], whole.json["output"][0]["content"][0]["text"]) == ("completed", "2")
    kept = (await call(shared.port, "GET", f"/runs/{response.headers['x-run-id']}")).json
    assert kept["dialect"] == "process"
    assert kept["result"]["output"][0]["content"][0]["text"] == "1"


async def test_a_protocol_is_served_only_if_it_is_on(shared: Instance) -> None:
    assert (await ask(shared, "/invocations", {"prompt": "x"})).status == 404
    assert (await call(shared.port, "GET", "/ping")).status == 404
    protocols = (await call(shared.port, "GET", "/")).json["protocols"]
    assert "agentcore" not in protocols
    assert protocols["ai_sdk"] == "/api/chat"


@pytest.mark.timed
async def test_a_lost_worker_ends_the_streams_of_all_protocols(start_instance: StartInstance) -> None:
    instance = start_instance(workers=1, protocols={"agentcore": True})
    paths = bodies(SLOW, new_session())
    ended: dict[str, float] = {}
    sent: dict[str, bytes] = {path: b"" for path in paths}
    begun = {path: asyncio.Event() for path in paths}

    async def stream(path: str) -> None:
        async with Connection(instance.port) as connection:
            await connection.send(post(path, bodies(SLOW, new_session())[path]))
            async for piece in connection.body(await connection.head()):
                sent[path] += piece
                if b"tick" in sent[path]:
                    begun[path].set()
            ended[path] = time.monotonic()

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        for path in paths:
            tasks.create_task(stream(path))
        for event in begun.values():
            await event.wait()
        assert (await call(instance.port, "GET", "/ping")).json["status"] == "HealthyBusy"
        psutil.Process(instance.ready_workers()[0].pid).kill()
        killed = time.monotonic()
    last = {path: data_of(body)[-1] for path, body in sent.items()}
    message = "the worker died under the turn"
    assert last["/process"]["status"] == "failed"
    assert last["/process"]["error"]["code"] == "WORKER_LOST"
    assert last["/process"]["sequence_number"] == len(data_of(sent["/process"])) - 1
    assert last["/v1/chat/completions"]["error"]["code"] == "WORKER_LOST"
    assert last["/v1/responses"]["type"] == "response.failed"
    assert last["/v1/responses"]["sequence_number"] == len(data_of(sent["/v1/responses"])) - 1
    assert last["/ag-ui"] == {"type": "RUN_ERROR", "message": message, "code": "WORKER_LOST"}
    assert data_of(sent["/api/chat"])[-2:] == [{"type": "error", "errorText": message}, "[DONE]"]
    assert last["/invocations"] == {"error": {"code": "WORKER_LOST", "message": message}}
    task = last["/a2a"]["result"]
    assert (task["status"]["state"], task["final"], last["/a2a"]["id"]) == ("failed", True, 7)
    assert task["metadata"]["error"]["code"] == "WORKER_LOST"
    assert max(ended.values()) - killed < TOLD_WITHIN


async def test_agentcore(start_instance: StartInstance) -> None:
    instance = start_instance(workers=1, protocols={"agentcore": True, "chat": False, "ai_sdk": False})
    session = {"X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": new_session()}
    count = {"prompt": json.dumps([{"count": 1}])}
    assert (await call(instance.port, "GET", "/ping")).json["status"] == "Healthy"
    assert (await ask(instance, "/invocations", count, **session)).json["response"] == "1"
    streamed = await ask(instance, "/invocations", {**count, "stream": True}, **session)
    assert data_of(streamed.body)[0] == {"event": "2"}
    failed = await ask(instance, "/invocations", {"prompt": json.dumps([{"raise": "no"}])})
    assert (failed.status, failed.json["error"]["message"]) == (500, "RuntimeError: no")
    for path in ("/v1/chat/completions", "/v1/models", "/api/chat", "/api/chat/x/stream"):
        assert (await call(instance.port, "GET", path)).status == 404
