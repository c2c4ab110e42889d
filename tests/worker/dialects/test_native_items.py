"""What clients of the native dialect get of items that are no Msg."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from agentscope.message import Msg

from agentscope_worker.dialects import native
from agentscope_worker.dialects.native_items import AgentFailed, messages
from agentscope_worker.runtime.compat import majors
from tests.worker.agents import MAJOR, blocks_of, text_of

pytestmark = pytest.mark.agentscope

majors.seam().adapt("bypass")


def event(kind: str, **fields: Any) -> Any:
    return SimpleNamespace(type=kind, **fields)


async def taken(first: Any, *others: Any) -> list[Msg]:
    async def rest() -> AsyncIterator[Any]:
        for other in others:
            yield other

    return [msg async for msg in messages(first, rest(), "r")]


async def test_text_and_thinking_are_chunks_of_one_message_each() -> None:
    thought, *said = await taken(
        event("THINKING_BLOCK_DELTA", block_id="a", delta="hm"),
        event("TEXT_BLOCK_DELTA", block_id="b", delta="Hel"),
        event("TEXT_BLOCK_DELTA", block_id="b", delta="lo"),
        event("TEXT_BLOCK_END", block_id="b"),
        event("MODEL_CALL_END", input_tokens=1, output_tokens=1),
    )
    assert blocks_of(thought)[0]["thinking"] == "hm"
    assert [(text_of(msg), msg.id, msg.role) for msg in said] == [
        ("Hel", "b", "assistant"),
        ("lo", "b", "assistant"),
    ]
    assert all(native.write(msg) for msg in (thought, *said))


async def test_a_message_among_them_stays_as_it_is() -> None:
    msg = Msg(name="a", content="x", role="assistant")
    first, second, third = await taken("before", msg, "after")
    assert (text_of(first), second, text_of(third)) == ("before", msg, "after")


async def test_tools_and_media_are_blocks_of_the_installed_major() -> None:
    call, result, image = await taken(
        event("TOOL_CALL_START", tool_call_id="c", tool_call_name="look"),
        event("TOOL_CALL_DELTA", tool_call_id="c", delta='{"at":1}'),
        event("TOOL_CALL_END", tool_call_id="c"),
        event("TOOL_RESULT_TEXT_DELTA", tool_call_id="c", delta="42"),
        event("TOOL_RESULT_END", tool_call_id="c", state="success"),
        event("DATA_BLOCK_DELTA", block_id="b", media_type="image/png", data="AA==", url=None),
        event("DATA_BLOCK_END", block_id="b"),
    )
    (block,) = blocks_of(call)
    assert (block["id"], block["name"]) == ("c", "look")
    assert block["input"] == ({"at": 1} if MAJOR == 1 else '{"at":1}')
    (block,) = blocks_of(result)
    assert (block["type"], block["name"], block["output"]) == ("tool_result", "look", "42")
    assert blocks_of(image)[0]["source"]["media_type"] == "image/png"
    assert all(native.write(msg) for msg in (call, result, image))


async def test_arguments_that_are_no_json_are_kept() -> None:
    (call,) = await taken({"type": "tool_call", "id": "c", "name": "f", "input": "not JSON"})
    assert blocks_of(call)[0]["input"] == ({"arguments": "not JSON"} if MAJOR == 1 else "not JSON")


async def test_an_agent_that_reports_its_failure_fails_the_turn() -> None:
    with pytest.raises(AgentFailed, match="the model is gone"):
        await taken("x", event("REPLY_END", error=SimpleNamespace(message="the model is gone")))


async def test_anything_else_is_an_error_of_the_app() -> None:
    with pytest.raises(TypeError, match="the App yielded a int"):
        await taken("x", 3)
