"""From the streams of frameworks to parts, for what no recorded stream has.

The items of AutoGen look like those of autogen-agentchat 0.7, which needs an older protobuf than
OpenTelemetry.
"""

from types import SimpleNamespace
from typing import Any

import pytest

from agentscope_worker.agentapp.parts import (
    BlockEnd,
    Failure,
    Media,
    Origin,
    Part,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Usage,
)
from agentscope_worker.agentapp.sources import source_of


def parts(framework: str, *items: Any) -> list[Part]:
    source = source_of(framework)
    return [part for item in items for part in source.take(item)]


def item(kind: str, **fields: Any) -> Any:
    return SimpleNamespace(type=kind, **fields)


def event(kind: str, **fields: Any) -> Any:
    return item(kind, **{"reply_id": "r", "created_at": "now", "metadata": {}, "error": None, **fields})


def test_autogen_that_streams() -> None:
    usage = SimpleNamespace(prompt_tokens=3, completion_tokens=4)
    found = parts(
        "autogen",
        item("TextMessage", source="user", content="Hello", models_usage=None),
        item("ModelClientStreamingChunkEvent", source="a", content="Let ", models_usage=None),
        item("ModelClientStreamingChunkEvent", source="a", content="me", models_usage=None),
        item("ThoughtEvent", source="a", content="Let me", models_usage=None),
        item(
            "ToolCallRequestEvent",
            source="a",
            content=[SimpleNamespace(id="c", name="add", arguments="{}")],
            models_usage=usage,
        ),
        item(
            "ToolCallExecutionEvent",
            source="a",
            content=[SimpleNamespace(call_id="c", name="add", content="3")],
            models_usage=None,
        ),
        item("ModelClientStreamingChunkEvent", source="a", content="3", models_usage=None),
        item("TextMessage", source="a", content="3", models_usage=None),
        SimpleNamespace(type="TaskResult", messages=[]),
    )
    assert found == [
        Text("0", "Let "),
        Text("0", "me"),
        BlockEnd("0"),
        ToolCall("c", "add", "{}", True),
        Usage(3, 4),
        ToolResult("c", "add", "3", True),
        Text("1", "3"),
        BlockEnd("1"),
    ]


def test_autogen_that_does_not_stream() -> None:
    found = parts(
        "autogen",
        item("ThoughtEvent", source="a", content="Hm"),
        item("TextMessage", source="a", content="one"),
        item("ToolCallSummaryMessage", source="a", content="two"),
        item("UserInputRequestedEvent", source="user", content=""),
    )
    assert found == [
        Thinking("0", "Hm"),
        BlockEnd("0"),
        Text("1", "one"),
        BlockEnd("1"),
        Text("2", "two"),
        BlockEnd("2"),
    ]


def test_agno_failures_usage_and_whole_runs() -> None:
    from agno.run import agent

    failed = agent.RunErrorEvent(content="no quota")
    assert parts("agno", failed) == [Failure("no quota")]
    metrics = SimpleNamespace(input_tokens=3, output_tokens=4)
    assert parts("agno", SimpleNamespace(event="RunCompleted", metrics=metrics)) == [Usage(3, 4)]
    assert parts("agno", agent.RunOutput(content="whole")) == [Text("1", "whole"), BlockEnd("1")]


def test_langgraph_repeats_input_and_usage() -> None:
    from langchain_core import messages

    chunk = messages.AIMessageChunk
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    found = parts(
        "langgraph",
        (messages.SystemMessage("Be kind."), {}),
        (messages.HumanMessage("Hello"), {}),
        (chunk([{"type": "reasoning", "reasoning": "Hm"}], id="1"), {"langgraph_node": "agent"}),
        (chunk([{"type": "text", "text": "He"}, "llo"], id="1"), {}),
        (chunk("", id="1", usage_metadata=usage, chunk_position="last"), {}),
        (messages.AIMessage("Hello", id="1"), {}),  # the graph has stored it
        (chunk("", id="2", additional_kwargs={"reasoning_content": "So"}), {}),
    )
    assert found == [
        Thinking("1.thinking", "Hm"),
        BlockEnd("1.thinking"),
        Text("1.text", "He"),
        Text("1.text", "llo"),
        BlockEnd("1.text"),
        Usage(3, 4),
        Thinking("2.thinking", "So"),
    ]


def test_events_of_agentscope_2() -> None:
    block = {"block_id": "b"}
    call = {"tool_call_id": "c", "tool_call_name": "look"}
    found = parts(
        "agentscope",
        event("REPLY_START", metadata={"x": 1}),
        event("THINKING_BLOCK_DELTA", delta="Hm", **block),
        event("THINKING_BLOCK_END", **block),
        event("TOOL_CALL_START", **call),
        event("TOOL_CALL_DELTA", delta='{"a"', **call),
        event("TOOL_CALL_DELTA", delta=": 1}", **call),
        event("TOOL_CALL_END", **call),
        event("TOOL_RESULT_START", **call),
        event("TOOL_RESULT_TEXT_DELTA", delta="a ", **call),
        event("TOOL_RESULT_TEXT_DELTA", delta="b", **call),
        event("TOOL_RESULT_DATA_DELTA", media_type="image/png", data="AA", url=None, **call),
        event("TOOL_RESULT_END", state="success", **call),
        event("DATA_BLOCK_START", media_type="image/png", name="x.png", **block),
        event("DATA_BLOCK_DELTA", media_type="image/png", data="AA", url=None, **block),
        event("DATA_BLOCK_DELTA", media_type="image/png", data="BB", url=None, **block),
        event("DATA_BLOCK_END", **block),
        event("DATA_BLOCK_DELTA", media_type="video/mp4", data=None, url="https://e.org/v", block_id="v"),
        event("DATA_BLOCK_END", block_id="v"),
        event("MODEL_CALL_END", input_tokens=3, output_tokens=4),
        event("HINT_BLOCK", hint="for the model"),
        event("REPLY_END"),
        event("REPLY_END", error=SimpleNamespace(message="no quota")),
        SimpleNamespace(id="r", role="assistant", content=[], metadata={}),  # what the events have said
    )
    text = '[{"type": "text", "text": "a "}]', '[{"type": "text", "text": "a b"}]'
    image = ', {"type": "data", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}}]'
    assert found == [
        Origin({"x": 1}),
        Thinking("b", "Hm"),
        BlockEnd("b"),
        ToolCall("c", "look", "", False),
        ToolCall("c", "look", '{"a"', False),
        ToolCall("c", "look", '{"a": 1}', False),
        ToolCall("c", "look", '{"a": 1}', True),
        ToolResult("c", "look", "", False),
        ToolResult("c", "look", text[0], False),
        ToolResult("c", "look", text[1], False),
        ToolResult("c", "look", text[1][:-1] + image, False),
        ToolResult("c", "look", text[1][:-1] + image, True),
        Media("image", "data:image/png;base64,AABB", "image/png", "x.png"),
        Media("video", "https://e.org/v", "video/mp4", None),
        Usage(3, 4),
        Failure("no quota"),
    ]


@pytest.mark.parametrize("framework", ["agentscope", "agno", "autogen", "langgraph"])
def test_other_items_are_named(framework: str) -> None:
    with pytest.raises(TypeError, match=f"framework '{framework}' yielded a int; expected "):
        parts(framework, 7)


def test_texts() -> None:
    assert parts("text", "one", "", "two") == [Text("text", "one"), Text("text", "two")]
