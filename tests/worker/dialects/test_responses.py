"""OpenAI's Responses as the worker reads and writes them."""

from typing import Any, Final

import pytest

from agentscope_worker.dialects.dialect import BadMessage
from agentscope_worker.dialects.parts import Arguments, Call, Called, Result
from agentscope_worker.dialects.responses import RESPONSES, read
from agentscope_worker.runtime.compat import majors
from tests.worker.agents import text_of
from tests.worker.dialects.encoding import ALL, RUN, Encoded

pytestmark = pytest.mark.agentscope

majors.seam().adapt("bypass")

ID: Final = f"resp_{RUN}"


def test_the_input_is_a_text_or_a_list_of_items() -> None:
    msg, metadata = read({"input": "Hello", "instructions": "Be brief."})
    assert (text_of(msg), metadata) == ("Hello", {"instructions": "Be brief."})
    items = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "?"}]},
    ]
    msg, metadata = read({"input": items, "instructions": "Be brief.", "metadata": {"a": "b"}})
    assert (text_of(msg), metadata) == ("Hi", {"a": "b", "instructions": "Be brief.\n\nBe kind."})
    assert read({"input": "x"})[1] == {}
    with pytest.raises(BadMessage, match="input must be a list of objects"):
        read({"input": 3})


def test_a_stream_is_numbered_and_has_every_item() -> None:
    encoded = Encoded(RESPONSES, {"model": "m", "metadata": {"a": "b"}}, ALL)
    assert [data["sequence_number"] for data in encoded.data] == list(range(len(encoded.data)))
    assert [name for name, _ in encoded.events] == [data["type"] for data in encoded.data]
    kinds = [data["type"].removeprefix("response.") for data in encoded.data]
    text = ["output_text.delta"]
    begins = ["output_item.added", "content_part.added"]
    ends = ["content_part.done", "output_item.done"]
    assert kinds == [
        *("created", "in_progress"),
        *(*begins, "reasoning_text.delta", "reasoning_text.done", *ends),
        *(*begins, *text * 2, "output_text.done", *ends),
        *("output_item.added", "mcp_call.in_progress", *["mcp_call_arguments.delta"] * 2),
        *("mcp_call_arguments.done", "mcp_call.completed", "output_item.done"),
        *(*begins, *text, "output_text.done", *ends),
        "completed",
    ]
    last = encoded.data[-1]["response"]
    assert last == encoded.result
    assert (last["id"], last["status"], last["model"], last["error"]) == (ID, "completed", "m", None)
    assert (last["metadata"], last["conversation"]) == ({"a": "b"}, {"id": "s"})
    assert last["usage"]["total_tokens"] == 10
    thought, message, call, done = last["output"]
    assert (thought["type"], thought["content"][0]["text"]) == ("reasoning", "hm")
    assert (message["type"], message["content"][0]["text"]) == ("message", "Hello")
    assert (call["type"], call["name"], call["arguments"]) == ("mcp_call", "look", '{"at":1}')
    assert (call["output"], call["status"], call["error"]) == ("42", "completed", None)
    assert done["content"][0]["text"] == "done"
    first = encoded.data[0]["response"]
    assert (first["status"], first["output"], first["usage"]) == ("in_progress", [], None)


def test_items_are_found_by_their_index() -> None:
    encoded = Encoded(RESPONSES, {}, ALL)
    items: dict[int, str] = {}
    for data in encoded.data:
        if data["type"] == "response.output_item.added":
            assert data["output_index"] == len(items)
            items[data["output_index"]] = data["item"]["id"]
        elif "item_id" in data:
            assert items[data["output_index"]] == data["item_id"]
    assert [item["id"] for item in encoded.result["output"]] == list(items.values())


def test_a_failed_tool_and_one_that_never_returned() -> None:
    parts: list[Any] = [
        *(Call("c", "f"), Arguments("c", "{}"), Called("c", "{}"), Result("c", "f", "no", is_error=True)),
        *(Call("d", "g"), Called("d", "{}")),
        *(Arguments("unknown", ""), Called("unknown", ""), Result("unknown", "", "")),
    ]
    failed, open_ = Encoded(RESPONSES, {}, parts).result["output"]
    assert (failed["status"], failed["error"], failed["output"]) == ("failed", "no", None)
    assert (open_["status"], open_["name"]) == ("incomplete", "g")


def test_a_truncated_answer_is_incomplete() -> None:
    encoded = Encoded(RESPONSES, {}, finish_reason="TRUNCATED")
    assert encoded.data[-1]["type"] == "response.incomplete"
    assert encoded.result["incomplete_details"] == {"reason": "max_output_tokens"}


def test_the_will_fails_the_response() -> None:
    encoded = Encoded(RESPONSES, {"input": "Hello", "background": True, "instructions": "x"})
    ((name, data),) = encoded.last_events("cancelled")
    assert (name, data["type"], data["sequence_number"]) == ("response.failed", "response.failed", 9)
    response = data["response"]
    assert response == encoded.failed_result("cancelled")
    assert (response["id"], response["status"], response["background"]) == (ID, "cancelled", True)
    assert response["error"] == {"code": "CODE", "message": "message"}
    assert (response["output"], response["instructions"]) == ([], "x")


def test_the_will_has_the_input() -> None:
    import json

    def items(given: Any) -> list[Any]:
        return list(json.loads(Encoded(RESPONSES, {"input": given}).will.request))

    (item,) = items("Hello")
    assert item["content"] == [{"type": "input_text", "text": "Hello"}]
    assert item["id"] == f"msg_{RUN}_0"
    first, second = items([{"id": "mine", "role": "user", "content": "a"}, {"role": "user", "content": "b"}])
    assert (first["id"], first["type"], second["id"]) == ("mine", "message", f"msg_{RUN}_1")
