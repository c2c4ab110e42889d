"""The messages of a request, as the handlers of each framework get them."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from agentscope_worker.agentapp.inputs import messages_of
from agentscope_worker.agentapp.schemas import AgentRequest
from tests.worker.agentapp.scenarios import _INPUT
from tests.worker.agentapp.test_events import recorded
from tests.worker.agents import MAJOR

REQUEST = AgentRequest(**_INPUT)


def as_plain(msg: Any) -> dict[str, Any]:
    if MAJOR == 1:
        blocks = [dict(each) for each in msg.content]
    else:
        made_up = {"id", "created_at", "finished_at"}
        blocks = [
            each.model_dump(
                exclude=made_up if each.type in ("text", "thinking", "data") else made_up - {"id"}
            )
            for each in msg.content
        ]
    return {"name": msg.name, "role": msg.role, "metadata": msg.metadata, "content": blocks}


def test_msgs_of_agentscope() -> None:
    found = [as_plain(each) for each in messages_of("agentscope", REQUEST.input)]
    if MAJOR == 1:
        (seen,) = [
            each["text"] for each in recorded("echo") if each["status"] == "in_progress" and "text" in each
        ]
        expected = json.loads(seen)["msgs"]
        expected[1]["content"][1] = {"type": "text", **expected[1]["content"][1]}  # it has no type there
        assert found == expected
        return
    roles = [(each["name"], each["role"]) for each in found]
    assert roles == [
        ("system", "system"),
        ("user", "user"),
        ("assistant", "assistant"),
        ("tool", "assistant"),
        ("assistant", "assistant"),
        ("Alice", "user"),
    ]
    assert found[1]["content"] == [{"type": "text", "text": "one"}, {"type": "text", "text": '{"a": 1}'}]
    call, result = found[2]["content"][0], found[3]["content"][0]
    assert (call["id"], call["name"], call["input"]) == ("c", "add", '{"a": 1}')
    assert (result["id"], result["name"], result["output"], result["state"]) == ("c", "add", "2", "success")
    assert found[4]["content"] == [{"type": "thinking", "thinking": "Hm"}]
    sources = [each["source"] for each in found[5]["content"]]
    assert [(each["type"], each["media_type"]) for each in sources] == [
        ("url", "image/png"),
        ("base64", "image/png"),
        ("base64", "audio/wav"),
        ("url", "video/mp4"),
    ]
    assert found[5]["metadata"] == {"x": 1}


def test_messages_of_one_original_become_one() -> None:
    parts = [
        {
            "role": "assistant",
            "metadata": {"original_id": "o", "original_name": "Friday"},
            "content": [{"type": "text", "text": text}],
        }
        for text in ("one", "two")
    ]
    (msg,) = messages_of("agentscope", AgentRequest(input=parts).input)
    texts = [block["text"] if MAJOR == 1 else block.text for block in msg.content]
    assert (msg.id, msg.name, texts) == ("o", "Friday", ["one", "two"])


def test_a_converter_of_the_project_comes_first() -> None:
    converters = {"message": lambda message: SimpleNamespace(id=None, content=[message.type], role=None)}
    request = AgentRequest(input=[{"role": "user", "content": [{"type": "refusal", "refusal": "no"}]}])
    (found,) = messages_of("agentscope", request.input, converters)
    assert found.content == ["message"]
    with pytest.raises(ValueError, match="contents of type refusal are not supported"):
        messages_of("agentscope", request.input)


def test_a_message_of_a_tool_needs_its_call() -> None:
    request = AgentRequest(input=[{"type": "plugin_call", "content": [{"type": "text", "text": "x"}]}])
    for framework in ("agentscope", "langgraph", "agno"):
        with pytest.raises(ValueError, match="needs a content of type data with a call_id"):
            messages_of(framework, request.input)


def test_messages_of_langgraph() -> None:
    found = messages_of("langgraph", REQUEST.input)
    assert [each.type for each in found] == ["system", "human", "ai", "tool", "ai", "human"]
    assert found[1].content == 'one{"a": 1}'
    assert found[2].tool_calls[0]["args"] == {"a": 1}
    assert (found[3].tool_call_id, found[3].name, found[3].content) == ("c", "add", "2")
    assert found[5].content[0] == {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}


def test_messages_of_agno() -> None:
    found = messages_of("agno", REQUEST.input)
    assert [each["role"] for each in found] == ["system", "user", "assistant", "tool", "assistant", "user"]
    assert found[1]["content"][1] == {"type": "text", "text": '{"a": 1}'}
    assert found[2]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
    assert found[3] == {"role": "tool", "tool_call_id": "c", "content": "2", "name": "add"}
    assert found[5]["name"] == "Alice"


def test_messages_of_other_frameworks_stay_as_they_are() -> None:
    assert messages_of("text", REQUEST.input) == REQUEST.input
