"""A2A as the worker reads and writes it, in both versions."""

from typing import Any, Final

import pytest
from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import ParseDict

from agentscope_worker.dialects import a2a
from agentscope_worker.dialects.a2a import A2A_03, A2A_10, MAX_HISTORY, read
from agentscope_worker.dialects.dialect import BadMessage
from agentscope_worker.dialects.parts import Media
from agentscope_worker.runtime.compat import majors
from tests.worker.agents import MAJOR, blocks_of, text_of
from tests.worker.dialects.encoding import ALL, RUN, Encoded

pytestmark = pytest.mark.agentscope

majors.seam().adapt("bypass")

LINK: Final = Media("m2", "image/png", "https://a.example/b.png")


def sending(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    message = {"messageId": "m", "role": "ROLE_USER", "parts": list(parts), **more}
    return {"jsonrpc": "2.0", "id": 7, "method": "x", "params": {"message": message}}


HI: Final = sending({"text": "Hi"})


def test_text_data_and_files_become_blocks() -> None:
    image = "image" if MAJOR == 1 else "data"
    fields = sending(
        {"kind": "text", "text": "Look"},
        {"kind": "data", "data": {"a": 1}},
        {"kind": "file", "file": {"bytes": "AA==", "mimeType": "image/png"}},
        {"kind": "file", "file": {"uri": "https://a.example/b", "mimeType": "image/png"}},
        {"raw": "AA==", "mediaType": "image/png"},
        {"url": "https://a.example/b", "mediaType": "image/png"},
        metadata={"a": 1},
    )
    fields["params"]["metadata"] = {"b": 2}
    msg, metadata = read(fields)
    blocks = blocks_of(msg)
    assert [block["text"] for block in blocks[:2]] == ["Look", '{"a":1}']
    assert [block["type"] for block in blocks[2:]] == [image] * 4
    assert metadata == {"a": 1, "b": 2}
    assert text_of(read(HI)[0]) == "Hi"


@pytest.mark.parametrize(
    "part, said",
    [
        ({}, "has no text, file or data"),
        ({"text": 3}, "text must be a string"),
        ({"raw": "A"}, "not valid base64"),
        ({"url": 3}, "must be a URL"),
        ({"file": {}}, "uri must be a URL"),
    ],
)
def test_wrong_parts_are_reported_with_their_place(part: dict[str, Any], said: str) -> None:
    with pytest.raises(BadMessage, match=said):
        read(sending(part))
    with pytest.raises(BadMessage, match="parts is empty"):
        read(sending())


def test_0_3_has_events_with_a_kind() -> None:
    encoded = Encoded(A2A_03, HI, [*ALL, LINK])
    assert all((data["jsonrpc"], data["id"]) == ("2.0", 7) for data in encoded.data)
    results = [data["result"] for data in encoded.data]
    assert [result["kind"] for result in results] == [
        *("task", "status-update"),
        *["artifact-update"] * 5,
        "status-update",
    ]
    task, working, first, second, image, last, link, done = results
    assert (task["id"], task["contextId"], task["status"]["state"]) == (RUN, "s", "submitted")
    assert task["history"][0] == {**HI["params"]["message"], "taskId": RUN, "contextId": "s"}
    assert (working["final"], done["final"], done["status"]["state"]) == (False, True, "completed")
    assert (first["append"], second["append"], last["append"]) == (False, True, False)
    assert first["artifact"]["parts"] == [{"kind": "text", "text": "Hel"}]
    file = {"kind": "file", "file": {"bytes": "AA==", "mimeType": "image/png"}}
    assert (image["artifact"]["parts"], image["lastChunk"]) == ([file], True)
    assert link["artifact"]["parts"][0]["file"] == {"uri": LINK.url, "mimeType": "image/png"}
    result = encoded.result
    assert (result["kind"], result["status"]["state"]) == ("task", "completed")
    assert result["metadata"] == {"usage": {"input_tokens": 7, "output_tokens": 3}}
    texts = [part.get("text") for artifact in result["artifacts"] for part in artifact["parts"]]
    assert texts == ["Hello", None, None, "done"]


def test_1_0_has_events_that_its_own_types_accept() -> None:
    encoded = Encoded(A2A_10, HI, [*ALL, LINK], "TRUNCATED")
    events = [ParseDict(data["result"], pb.StreamResponse()) for data in encoded.data]
    kinds = [event.WhichOneof("payload") for event in events]
    assert kinds == ["task", "status_update", *["artifact_update"] * 5, "status_update"]
    assert events[4].artifact_update.artifact.parts[0].raw == b"\0"
    assert events[6].artifact_update.artifact.parts[0].url == LINK.url
    assert events[-1].status_update.status.state == pb.TASK_STATE_COMPLETED
    task = ParseDict(encoded.result, pb.Task())
    assert task.status.state == pb.TASK_STATE_COMPLETED
    assert encoded.result["metadata"]["finish_reason"] == "TRUNCATED"


@pytest.mark.parametrize("dialect", [A2A_03, A2A_10])
def test_the_will_fails_the_task(dialect: Any) -> None:
    encoded = Encoded(dialect, HI)
    ((_, end),) = encoded.last_events("TASK_STATE_CANCELED")
    status = end["result"] if dialect is A2A_03 else end["result"]["statusUpdate"]
    assert status["status"]["state"] == "TASK_STATE_CANCELED"
    assert status["status"]["message"]["parts"][0]["text"] == "message"
    assert status["metadata"] == {"error": {"code": "CODE"}}
    task = encoded.failed_result("TASK_STATE_CANCELED")
    assert task["status"]["state"] == "TASK_STATE_CANCELED"
    assert task["metadata"]["error"] == {"code": "CODE", "message": "message"}
    if dialect is A2A_10:
        ParseDict(end["result"], pb.StreamResponse())
        ParseDict(task, pb.Task())


def test_a_large_message_is_not_in_the_history() -> None:
    encoded = Encoded(A2A_03, sending({"text": "x" * MAX_HISTORY}))
    assert "history" not in encoded.result
    assert len(encoded.will.result) < 1000
    assert a2a.A2A_03.number == 7
