"""Everything that an App may yield, as parts of an answer."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from agentscope.message import Msg

from agentscope_worker.dialects.parts import (
    Arguments,
    Call,
    Called,
    Ended,
    Error,
    Media,
    Part,
    Result,
    Text,
    Thinking,
    Usage,
)
from agentscope_worker.dialects.sources import Source
from agentscope_worker.runtime.compat import majors
from tests.worker.agents import MAJOR

pytestmark = pytest.mark.agentscope

majors.seam().adapt("bypass")


def taken(*items: Any) -> list[Part]:
    source = Source("r")
    return [part for item in items for part in source.take(item)]


def says(content: Any, name: str = "a", **more: Any) -> Msg:
    return Msg(name=name, content=content, role="assistant", **more)


def blocks(*contents: dict[str, Any], name: str = "a", **more: Any) -> Any:
    """A message whose blocks need not be those of the installed major."""
    return SimpleNamespace(name=name, role="assistant", content=list(contents), metadata=None, **more)


TEXT = {"type": "text", "text": "Hello"}
THOUGHT = {"type": "thinking", "thinking": "hm"}


def test_chunks_of_one_speaker_are_one_text() -> None:
    assert taken(says("Hel"), says("lo"), says("Hi", name="b")) == [
        Text("r-1", "Hel"),
        Text("r-1", "lo"),
        Ended("r-1"),
        Text("r-2", "Hi"),
    ]


def test_a_message_that_is_no_chunk_stands_alone() -> None:
    alone = says("whole", metadata={"chunk": False})
    assert taken(says("a"), alone, says("b")) == [
        Text("r-1", "a"),
        Ended("r-1"),
        Text("r-2", "whole"),
        Ended("r-2"),
        Text("r-3", "b"),
    ]


def test_thinking_is_apart_from_text() -> None:
    assert taken(blocks(THOUGHT, TEXT)) == [Thinking("r-1", "hm"), Ended("r-1"), Text("r-2", "Hello")]


def test_text_may_be_strings_dicts_and_blocks() -> None:
    items: list[Any] = ["a", {"text": "b"}, TEXT, SimpleNamespace(type="text", text="d")]
    assert taken(*items) == [Text("r-1", text) for text in ("a", "b", "Hello", "d")]
    assert taken("", {"type": "hint", "hint": "x"}) == []


@pytest.mark.parametrize(
    "call",
    [
        {"type": "tool_use", "id": "c", "name": "look", "input": {"at": 1}},
        {"type": "tool_call", "id": "c", "name": "look", "input": '{"at":1}'},
    ],
)
def test_a_tool_call_and_its_result(call: dict[str, Any]) -> None:
    output = [{"type": "text", "text": "4"}, {"type": "text", "text": "2"}]
    result = {"type": "tool_result", "id": "c", "name": "look", "output": output, "state": "success"}
    assert taken(blocks(TEXT, call), blocks(result)) == [
        Text("r-1", "Hello"),
        Ended("r-1"),
        Call("c", "look"),
        Arguments("c", '{"at":1}'),
        Called("c", '{"at":1}'),
        Result("c", "look", "42"),
    ]


def test_a_result_with_other_blocks_is_json() -> None:
    image = SimpleNamespace(type="image", model_dump=lambda mode: {"type": "image"})
    outputs = ("text", [image], [object()])
    results = [{"type": "tool_result", "id": "c", "name": "f", "output": each} for each in outputs]
    first, second, third = [part.output for part in taken(blocks(*results)) if isinstance(part, Result)]
    assert (first, second) == ("text", '[{"type":"image"}]')
    assert "object object" in third


def test_a_failed_result_says_so() -> None:
    result = {"type": "tool_result", "id": "c", "name": "f", "output": "", "state": "error"}
    assert taken(blocks(result)) == [Result("c", "f", "", is_error=True)]


def test_media_is_a_url() -> None:
    encoded = {"type": "base64", "media_type": "image/png", "data": "AA=="}
    linked = {"type": "url", "url": "https://a.example/b"}
    assert taken(blocks({"type": "image", "source": encoded}, {"type": "image", "source": linked})) == [
        Media("r-1", "image/png", "data:image/png;base64,AA=="),
        Media("r-2", "image/*", "https://a.example/b"),
    ]


def test_usage_and_error_of_a_message() -> None:
    usage = SimpleNamespace(input_tokens=3, output_tokens=None)
    assert taken(blocks(usage=usage, error=None)) == [Usage(3, 0)]
    assert taken(blocks(usage=None, error={"message": "no"})) == [Error("no")]
    assert taken(blocks(usage=None, error={"code": 1})) == [Error("{'code': 1}")]


# -- messages that hold everything so far -------------------------------------------------------------


def whole(*contents: dict[str, Any], last: bool = False, id: str = "m") -> tuple[Any, bool]:
    return blocks(*contents, id=id), last


def test_of_messages_that_repeat_their_content_the_new_part_is_taken() -> None:
    items = [whole({**TEXT, "text": text}) for text in ("He", "Hello", "Hello")]
    assert taken(*items, whole(TEXT, last=True), whole(TEXT, last=True)) == [
        Text("m-0", "He"),
        Text("m-0", "llo"),
        Ended("m-0"),
    ]


def test_a_text_that_was_replaced_is_taken_whole() -> None:
    items = [whole({**TEXT, "text": text}) for text in ("one", "two")]
    assert taken(*items) == [Text("m-0", "one"), Text("m-0", "two")]


def test_a_text_ends_where_the_next_block_begins() -> None:
    call = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
    result = {"type": "tool_result", "id": "c", "name": "f", "output": "x"}
    assert taken(
        "before",
        whole(THOUGHT),
        whole(THOUGHT, TEXT),
        whole(THOUGHT, TEXT, call),
        whole(THOUGHT, TEXT, call, last=True),
        whole(result, last=True, id="n"),
    ) == [
        Text("r-1", "before"),
        Ended("r-1"),
        Thinking("m-0", "hm"),
        Ended("m-0"),
        Text("m-1", "Hello"),
        Ended("m-1"),
        Call("c", "f"),
        Arguments("c", "{}"),
        Called("c", "{}"),
        Result("c", "f", "x"),
    ]


def test_messages_of_1_x_may_have_text_as_content() -> None:
    item = (SimpleNamespace(name="a", role="assistant", id="m", content="Hi"), True)
    assert taken(item) == [Text("m-0", "Hi"), Ended("m-0")]


# -- events of 2.x -------------------------------------------------------------------------------------


def event(kind: str, **fields: Any) -> Any:
    return SimpleNamespace(type=kind, **fields)


def test_events_of_texts() -> None:
    assert taken(
        event("REPLY_START"),
        event("THINKING_BLOCK_DELTA", block_id="b", delta="hm"),
        event("THINKING_BLOCK_END", block_id="b"),
        event("TEXT_BLOCK_DELTA", block_id="c", delta="Hel"),
        event("TEXT_BLOCK_DELTA", block_id="c", delta="lo"),
        event("TEXT_BLOCK_DELTA", block_id="c", delta=""),
        event("TEXT_BLOCK_END", block_id="c"),
        event("TEXT_BLOCK_END", block_id="never began"),
        event("MODEL_CALL_END", input_tokens=7, output_tokens=3),
        event("REPLY_END", error=None),
    ) == [
        Thinking("b", "hm"),
        Ended("b"),
        Text("c", "Hel"),
        Text("c", "lo"),
        Ended("c"),
        Usage(7, 3),
    ]


def test_events_of_tools() -> None:
    assert taken(
        event("TOOL_CALL_START", tool_call_id="c", tool_call_name="look"),
        event("TOOL_CALL_DELTA", tool_call_id="c", delta='{"a":'),
        event("TOOL_CALL_DELTA", tool_call_id="c", delta="1}"),
        event("TOOL_CALL_END", tool_call_id="c"),
        event("TOOL_RESULT_START", tool_call_id="c", tool_call_name="look"),
        event("TOOL_RESULT_TEXT_DELTA", tool_call_id="c", delta="4"),
        event("TOOL_RESULT_TEXT_DELTA", tool_call_id="c", delta="2"),
        event("TOOL_RESULT_END", tool_call_id="c", state="denied"),
        event("TOOL_CALL_START", tool_call_id="d", tool_call_name="look"),
        event("TOOL_CALL_END", tool_call_id="d"),
    ) == [
        Call("c", "look"),
        Arguments("c", '{"a":'),
        Arguments("c", "1}"),
        Called("c", '{"a":1}'),
        Result("c", "look", "42", is_error=True),
        Call("d", "look"),
        Called("d", "{}"),
    ]


def test_events_of_media() -> None:
    assert taken(
        event("DATA_BLOCK_DELTA", block_id="b", media_type="image/png", data="AA", url=None),
        event("DATA_BLOCK_DELTA", block_id="b", media_type="image/png", data="==", url=None),
        event("DATA_BLOCK_END", block_id="b"),
        event("DATA_BLOCK_DELTA", block_id="c", media_type="image/png", data=None, url="https://a/b"),
        event("DATA_BLOCK_END", block_id="c"),
    ) == [
        Media("b", "image/png", "data:image/png;base64,AA=="),
        Media("c", "image/png", "https://a/b"),
    ]


def test_an_agent_that_reports_its_failure() -> None:
    error = SimpleNamespace(message="the model is gone")
    assert taken(event("REPLY_END", error=error)) == [Error("the model is gone")]


@pytest.mark.parametrize(
    "item", [None, 3, b"bytes", {"no": "text"}, ("a", "b"), event("UNKNOWN"), SimpleNamespace(type=3)]
)
def test_anything_else_is_an_error_of_the_app(item: Any) -> None:
    with pytest.raises(TypeError, match=r"the App yielded a .*; expected agentscope\.message\.Msg"):
        taken(item)


def test_the_events_that_the_installed_release_has_are_known() -> None:
    if MAJOR == 1:
        return
    from agentscope.event import EventType

    def known(name: str) -> bool:
        fields = dict.fromkeys(("block_id", "tool_call_id", "delta", "media_type", "url", "data"), "x")
        item = event(name, **fields, tool_call_name="f", input_tokens=1, output_tokens=1)
        return isinstance(list(Source("r").take(item)), list)

    assert all(known(kind.value) for kind in EventType)


def test_the_events_of_the_installed_release_are_taken_as_they_are() -> None:
    if MAJOR == 1:
        return
    from agentscope import event as events

    def parts(items: Iterable[Any]) -> list[Part]:
        return taken(*items)

    assert parts(
        [
            events.TextBlockDeltaEvent(reply_id="m", block_id="b", delta="Hi"),
            events.TextBlockEndEvent(reply_id="m", block_id="b"),
            events.ToolCallStartEvent(reply_id="m", tool_call_id="c", tool_call_name="f"),
            events.ToolCallEndEvent(reply_id="m", tool_call_id="c"),
            events.ModelCallEndEvent(reply_id="m", input_tokens=1, output_tokens=2),
            events.ReplyEndEvent(session_id="s", reply_id="m"),
        ]
    ) == [Text("b", "Hi"), Ended("b"), Call("c", "f"), Called("c", "{}"), Usage(1, 2)]
