"""A2A's own client against an instance, in both versions of the protocol."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import pytest
from a2a.client import A2ACardResolver, Client, ClientConfig, ClientFactory
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import A2AError

from tests.harness.client import JSON, Response, call, new_session
from tests.harness.instance import Instance

HELLO: Final = [{"say": "Hello"}, {"say": ", world"}]
SLOW: Final = [{"say": "tick ", "times": 500, "every": 0.02}]
METHODS: Final = {
    "0.3": ("message/send", "message/stream", "tasks/get", "tasks/cancel", "tasks/resubscribe"),
    "1.0": ("SendMessage", "SendStreamingMessage", "GetTask", "CancelTask", "SubscribeToTask"),
}


@pytest.fixture(params=METHODS)
async def client(shared: Instance, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    async with httpx.AsyncClient(timeout=20) as http:
        card = await A2ACardResolver(http, f"http://127.0.0.1:{shared.port}").get_agent_card()
        chosen = [each for each in card.supported_interfaces if each.protocol_version == request.param]
        del card.supported_interfaces[:]
        card.supported_interfaces.extend(chosen)
        yield ClientFactory(ClientConfig(httpx_client=http)).create(card)


def message(script: object, context: str = "") -> Any:
    parts = [pb.Part(text=json.dumps(script))]
    said = pb.Message(message_id="m", role=pb.Role.ROLE_USER, parts=parts, context_id=context)
    return pb.SendMessageRequest(message=said)


async def sent(client: Client, request: Any) -> list[Any]:
    """The events of a message: for each, its kind and its content."""
    events = [event async for event in client.send_message(request)]
    return [getattr(event, event.WhichOneof("payload")) for event in events]


async def rpc(instance: Instance, method: str, params: object, **more: Any) -> Response:
    body = json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": params, **more}).encode()
    return await call(instance.port, "POST", "/a2a", body=body, headers=JSON)


def text_of(task: Any) -> str:
    return "".join(part.text for artifact in task.artifacts for part in artifact.parts)


async def test_a_message_becomes_a_task_with_artifacts(client: Client) -> None:
    context = new_session()
    task, working, first, second, done = await sent(client, message(HELLO, context))
    assert (task.context_id, task.status.state) == (context, pb.TASK_STATE_SUBMITTED)
    assert [part.text for each in (first, second) for part in each.artifact.parts] == ["Hello", ", world"]
    assert (first.append, second.append) == (False, True)
    assert first.artifact.artifact_id == second.artifact.artifact_id
    assert (working.status.state, done.status.state) == (pb.TASK_STATE_WORKING, pb.TASK_STATE_COMPLETED)
    kept = await client.get_task(pb.GetTaskRequest(id=task.id, history_length=1))
    assert (kept.id, kept.status.state, text_of(kept)) == (task.id, pb.TASK_STATE_COMPLETED, "Hello, world")
    assert [said.message_id for said in kept.history] == ["m"]
    counted = [await sent(client, message([{"count": 1}], context)) for _ in range(2)]
    assert [events[2].artifact.parts[0].text for events in counted] == ["1", "2"]


async def test_a_task_is_followed_and_cancelled(client: Client) -> None:
    events = client.send_message(message(SLOW))
    first = await anext(events)
    task = first.task.id
    followed = client.subscribe(pb.SubscribeToTaskRequest(id=task))
    assert (await anext(followed)).task.id == task
    assert (await client.get_task(pb.GetTaskRequest(id=task))).status.state == pb.TASK_STATE_WORKING
    cancelled = await client.cancel_task(pb.CancelTaskRequest(id=task))
    assert cancelled.status.state == pb.TASK_STATE_CANCELED
    for stream in (events, followed):
        last = [event async for event in stream][-1]
        assert last.status_update.status.state == pb.TASK_STATE_CANCELED
    with pytest.raises(A2AError):
        await client.cancel_task(pb.CancelTaskRequest(id=task))
    with pytest.raises(A2AError):
        [event async for event in client.subscribe(pb.SubscribeToTaskRequest(id=task))]


async def test_a_failed_task(client: Client) -> None:
    events = await sent(client, message([{"say": "a"}, {"raise": "it broke"}]))
    status = events[-1].status
    assert (status.state, status.message.parts[0].text) == (
        pb.TASK_STATE_FAILED,
        "RuntimeError: it broke",
    )
    with pytest.raises(A2AError):
        await client.get_task(pb.GetTaskRequest(id="unknown"))


@pytest.mark.parametrize("version", METHODS)
async def test_a_message_is_answered_whole_or_at_once(shared: Instance, version: str) -> None:
    send, _, get, *_ = METHODS[version]
    role, part = ("user", {"kind": "text"}) if version == "0.3" else ("ROLE_USER", {})

    def params(script: object, **configuration: object) -> dict[str, Any]:
        said = {"messageId": "m", "role": role, "parts": [{**part, "text": json.dumps(script)}]}
        return {"message": said, "configuration": configuration}

    def task_of(response: Response) -> Any:
        assert (response.status, response.json["id"]) == (200, 7)
        result = response.json["result"]
        return result if version == "0.3" else result.get("task", result)

    def state(name: str) -> str:
        return name if version == "0.3" else f"TASK_STATE_{name.upper()}"

    whole = task_of(await rpc(shared, send, params(HELLO)))
    assert whole["status"]["state"] == state("completed")
    assert whole["artifacts"][0]["parts"][0]["text"] == "Hello, world"
    failed = task_of(await rpc(shared, send, params([{"raise": "it broke"}])))
    assert failed["status"]["state"] == state("failed")
    assert failed["metadata"]["error"]["message"] == "RuntimeError: it broke"
    option = {"blocking": False} if version == "0.3" else {"returnImmediately": True}
    early = task_of(await rpc(shared, send, params(HELLO, **option)))
    assert early["status"]["state"] == state("submitted")
    assert early["contextId"]
    async with asyncio.timeout(20):
        while True:
            later = task_of(await rpc(shared, get, {"id": early["id"], "historyLength": 0}))
            if later["status"]["state"] == state("completed"):
                break
    assert (later["id"], later["contextId"], later["history"]) == (early["id"], early["contextId"], [])
    large = params([{"say": "x" * 10}, {"say": "y" * 70_000}])
    assert task_of(await rpc(shared, send, large))["artifacts"][0]["parts"][0]["text"].startswith("xxx")


@pytest.mark.parametrize(
    "body, code",
    [
        (b"{", -32700),
        (b"[" + b" " * 70_000, -32700),
        (b"[]", -32600),
        (b'{"id": 1}', -32600),
        (b'{"jsonrpc": "2.0", "id": {}, "method": "tasks/get"}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "other"}', -32601),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "tasks/get"}', -32602),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "tasks/get", "params": {"id": "x"}}', -32001),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "tasks/pushNotificationConfig/set"}', -32003),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "GetExtendedAgentCard"}', -32007),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "message/send"}', -32602),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": {}}}', -32602),
        (
            b'{"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": {"message": {"taskId": 1}}}',
            -32602,
        ),
    ],
)
async def test_wrong_requests_get_the_errors_of_json_rpc(shared: Instance, body: bytes, code: int) -> None:
    response = await call(shared.port, "POST", "/a2a", body=body, headers=JSON)
    assert (response.status, response.json["error"]["code"]) == (200, code)


async def test_a_task_takes_one_message(shared: Instance) -> None:
    said = {"messageId": "m", "role": "user", "parts": [{"kind": "text", "text": "x"}]}
    task = (await rpc(shared, "message/send", {"message": said})).json["result"]["id"]
    for method, code in (("message/send", -32602), ("SendMessage", -32004)):
        again = await rpc(shared, method, {"message": {**said, "taskId": task}})
        assert again.json["error"]["code"] == code
    empty = await rpc(shared, "message/send", {"message": {**said, "parts": []}})
    assert empty.json["error"]["code"] == -32602
    other = await call(shared.port, "POST", "/a2a", body=b"{}", headers={**JSON, "A2A-Version": "9.9"})
    assert other.json["error"]["code"] == -32009
    wrong = await rpc(shared, "tasks/get", {"id": task, "historyLength": -1})
    assert wrong.json["error"]["code"] == -32602
    native = await call(shared.port, "GET", "/a2a")
    assert (native.status, native.json["error"]["code"]) == (405, -32603)
