"""The AI SDK, AG-UI, AgentCore and agentscope-runtime as the worker reads and writes them."""

from collections.abc import Callable
from typing import Any, Final

import pytest
from ag_ui.core import Event
from pydantic import TypeAdapter

from agentscope_worker.dialects import ag_ui, agentcore, ai_sdk, process
from agentscope_worker.dialects.dialect import BadMessage
from agentscope_worker.dialects.parts import Call, Called, Media, Result
from agentscope_worker.runtime.compat import majors
from tests.worker.agents import MAJOR, blocks_of, text_of
from tests.worker.dialects.encoding import ALL, RUN, TEXT, Encoded

pytestmark = pytest.mark.agentscope

majors.seam().adapt("bypass")

PNG: Final = "data:image/png;base64,AA=="
FAILED_TOOL: Final = (Call("c", "f"), Called("c", "not JSON"), Result("c", "f", "no", is_error=True))
SOUND: Final = Media("m", "audio/wav", "https://a.example/b")


def types(encoded: Encoded) -> list[str]:
    return [data if isinstance(data, str) else data["type"] for data in encoded.data]


def said(read: Callable[[dict[str, Any]], Any], fields: dict[str, Any]) -> str:
    with pytest.raises(BadMessage) as raised:
        read(fields)
    return str(raised.value)


# -- AI SDK ----------------------------------------------------------------------------------------------


def chat(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    earlier = {"role": "user", "parts": [{"type": "text", "text": "before"}]}
    return {"messages": [earlier, {"role": "user", "parts": list(parts)}, {"role": "assistant"}], **more}


def test_the_ai_sdk_sends_the_parts_of_a_message() -> None:
    text = {"type": "text", "text": "Look"}
    image = {"type": "file", "mediaType": "image/png", "url": PNG}
    msg, metadata = ai_sdk.read(chat({"type": "step-start"}, text, image, metadata={"a": 1}))
    first, second = blocks_of(msg)
    assert (first["text"], second["type"], metadata) == ("Look", "image" if MAJOR == 1 else "data", {"a": 1})
    assert "parts must be a list of objects" in said(ai_sdk.read, {"messages": [{"role": "user"}]})
    assert "no message with the role user" in said(ai_sdk.read, {"messages": []})
    assert "parts[0].text must be a string" in said(ai_sdk.read, chat({"type": "text"}))


def test_the_ai_sdk_gets_a_message_with_its_steps() -> None:
    encoded = Encoded(ai_sdk.AI_SDK, {}, ALL)
    assert types(encoded) == [
        *("start", "start-step"),
        *("reasoning-start", "reasoning-delta", "reasoning-end"),
        *("text-start", "text-delta", "text-delta", "text-end"),
        *("tool-input-start", "tool-input-delta", "tool-input-delta", "tool-input-available"),
        *("tool-output-available", "file", "text-start", "text-delta", "text-end"),
        *("finish-step", "finish", "[DONE]"),
    ]
    call, output, file = (encoded.data[number] for number in (12, 13, 14))
    tool = {"toolCallId": "c1", "toolName": "look", "input": {"at": 1}, "dynamic": True}
    assert call == {"type": "tool-input-available", **tool}
    assert (output["output"], file["url"], file["mediaType"]) == ("42", PNG, "image/png")
    finish = encoded.data[-2]
    assert finish["messageMetadata"]["usage"] == {"inputTokens": 7, "outputTokens": 3, "totalTokens": 10}
    assert (finish["finishReason"], encoded.result) == ("stop", {"text": "Hello\n\ndone"})
    assert Encoded(ai_sdk.AI_SDK, {}, TEXT, "TRUNCATED").data[-2]["finishReason"] == "length"


def test_the_ai_sdk_is_told_what_failed() -> None:
    encoded = Encoded(ai_sdk.AI_SDK, {}, FAILED_TOOL)
    assert [data["input"] for data in encoded.data if "input" in data] == ["not JSON"]
    assert [data["errorText"] for data in encoded.data if "errorText" in data] == ["no"]
    error = {"type": "error", "errorText": "message"}
    assert encoded.last_events() == [("", error), ("", "[DONE]")]


# -- AG-UI -----------------------------------------------------------------------------------------------


def run(content: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant"}], **more}


def test_ag_ui_sends_text_and_media() -> None:
    image = "image" if MAJOR == 1 else "data"
    url = {"type": "url", "value": "https://a.example/b", "mimeType": "image/png"}
    content = [
        {"type": "text", "text": "Look"},
        {"type": "binary", "mimeType": "image/png", "data": "AA=="},
        {"type": "binary", "mimeType": "image/png", "url": "https://a.example/b"},
        {"type": "image", "source": {"type": "data", "value": "AA==", "mimeType": "image/png"}},
        {"type": "image", "source": url},
    ]
    assert [block["type"] for block in blocks_of(ag_ui.read(run(content))[0])] == ["text"] + [image] * 4
    fields = run("Hi", state={"a": 1}, tools=[], context=[{"b": 2}], forwardedProps={"user": "ann"})
    msg, metadata = ag_ui.read(fields)
    assert (text_of(msg), metadata) == ("Hi", {"user": "ann", "state": {"a": 1}, "context": [{"b": 2}]})
    assert "content must be a list of objects" in said(ag_ui.read, run(3))
    assert "content[0].type must be text" in said(ag_ui.read, run([{"type": "new"}]))
    assert "no message with the role user" in said(ag_ui.read, {"messages": []})


def test_ag_ui_gets_events_that_its_own_types_accept() -> None:
    encoded = Encoded(ag_ui.AG_UI, {"runId": "mine"}, [*ALL, SOUND], "TRUNCATED")
    check = TypeAdapter[Any](Event)
    for data in [*encoded.data, encoded.last_events()[0][1]]:
        check.validate_python(data)
    assert types(encoded) == [
        "RUN_STARTED",
        *("REASONING_START", "REASONING_MESSAGE_START", "REASONING_MESSAGE_CONTENT"),
        *("REASONING_MESSAGE_END", "REASONING_END"),
        *("TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END"),
        *("TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_ARGS", "TOOL_CALL_END", "TOOL_CALL_RESULT"),
        *("CUSTOM", "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "CUSTOM", "TEXT_MESSAGE_END"),
        "RUN_FINISHED",
    ]
    assert encoded.data[10]["parentMessageId"] == encoded.data[6]["messageId"]
    ids = {"threadId": "s", "runId": "mine"}
    result = {"usage": {"input_tokens": 7, "output_tokens": 3}, "finish_reason": "TRUNCATED"}
    assert encoded.data[-1] == {"type": "RUN_FINISHED", **ids, "result": result}
    assert encoded.result == {**ids, "text": "Hello\n\ndone"}
    assert encoded.last_events() == [("", {"type": "RUN_ERROR", "message": "message", "code": "CODE"})]


def test_ag_ui_runs_have_an_id() -> None:
    encoded = Encoded(ag_ui.AG_UI, {}, FAILED_TOOL)
    assert encoded.data[0] == {"type": "RUN_STARTED", "threadId": "s", "runId": RUN}
    assert "parentMessageId" not in encoded.data[1], "no text came before the call"
    assert "finish_reason" not in encoded.data[-1]["result"]


# -- AgentCore -------------------------------------------------------------------------------------------


def test_agentcore_sends_any_payload_with_a_text() -> None:
    msg, metadata = agentcore.read({"prompt": "Hi", "user": "ann", "metadata": {"a": 1}})
    assert (text_of(msg), metadata) == ("Hi", {"user": "ann", "a": 1})
    assert text_of(agentcore.read({"prompt": 3, "message": "Hi"})[0]) == "Hi"
    assert "no text in prompt, input, message" in said(agentcore.read, {"prompt": {}})


def test_agentcore_gets_events_or_one_object() -> None:
    encoded = Encoded(agentcore.AGENTCORE, {}, ALL)
    call = {"id": "c1", "name": "look", "arguments": '{"at":1}'}
    usage = {"input_tokens": 7, "output_tokens": 3}
    assert encoded.data == [
        {"thinking": "hm"},
        {"event": "Hel"},
        {"event": "lo"},
        {"tool_call": call},
        {"tool_result": {"id": "c1", "name": "look", "output": "42"}},
        {"media": {"media_type": "image/png", "url": PNG}},
        {"event": "done"},
        {"done": True, "usage": usage},
    ]
    assert encoded.result == {"response": "Hello\n\ndone", "status": "success", "usage": usage}
    assert encoded.last_events() == [("", {"error": {"code": "CODE", "message": "message"}})]


# -- agentscope-runtime ----------------------------------------------------------------------------------


def asked(content: Any, **more: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": content}], **more}


def test_process_sends_contents() -> None:
    media = [
        {"type": "image", "image_url": PNG},
        {"type": "audio", "data": "AA==", "format": "mp3"},
        {"type": "audio", "data": "https://a.example/b.wav"},
        {"type": "video", "video_url": "https://a.example/b.mp4"},
    ]
    texts = [{"type": "text", "text": "Look"}, {"type": "data", "data": {"a": 1}}]
    blocks = blocks_of(process.read(asked([*texts, *media]))[0])
    assert [block["text"] for block in blocks[:2]] == ["Look", '{"a":1}']
    kinds = ["image", "audio", "audio", "video"] if MAJOR == 1 else ["data"] * 4
    assert [block["type"] for block in blocks[2:]] == kinds
    msg, metadata = process.read(asked("Hi", user_id="ann", metadata={"a": 1}))
    assert (text_of(msg), metadata) == ("Hi", {"a": 1, "user_id": "ann"})
    assert "content[0].type must be text" in said(process.read, asked([{"type": "new"}]))
    assert "file_url must be a URL" in said(process.read, asked([{"type": "file"}]))
    assert "no message with the role user" in said(process.read, {"input": [{"role": "tool"}]})


def test_process_gets_messages_and_their_contents() -> None:
    encoded = Encoded(process.PROCESS, {"id": "mine"}, [*ALL, SOUND])
    assert all(event.startswith(b"data: ") for event in encoded.raw), "no ids"
    assert [data["sequence_number"] for data in encoded.data] == list(range(len(encoded.data)))
    steps = [(data["object"], data["status"], data.get("type", "")) for data in encoded.data]
    assert steps[:2] == [("response", "created", ""), ("response", "in_progress", "")]
    assert steps[2:6] == [
        ("message", "in_progress", "reasoning"),
        ("content", "in_progress", "text"),
        ("content", "completed", "text"),
        ("message", "completed", "reasoning"),
    ]
    last = encoded.data[-1]
    assert (last["id"], last["status"], last["session_id"]) == ("mine", "completed", "s")
    assert last["usage"] == {"input_tokens": 7, "output_tokens": 3}
    output = last["output"]
    assert [message["type"] for message in output] == [
        *("reasoning", "message", "plugin_call", "plugin_call_output", "message", "message", "message")
    ]
    assert [message["role"] for message in output].count("tool") == 1
    contents = [message["content"][0] for message in output]
    assert contents[1]["text"] == "Hello"
    assert contents[2]["data"] == {"call_id": "c1", "name": "look", "arguments": '{"at":1}'}
    assert contents[3]["data"] == {"call_id": "c1", "name": "look", "output": "42"}
    assert (contents[4]["image_url"], contents[5]["file_url"]) == (PNG, SOUND.url)
    assert contents[6]["text"] == "done"
    grown = [data["data"]["arguments"] for data in encoded.data if data.get("delta") is False]
    assert grown == ["", '{"at":', '{"at":1}']
    assert encoded.result["output"] == output


def test_process_is_told_the_end_of_a_failed_response() -> None:
    encoded = Encoded(process.PROCESS, {})
    ((_, end),) = encoded.last_events()
    assert (end["sequence_number"], end["status"], end["id"]) == (9, "failed", f"response_{RUN}")
    assert end["error"] == {"code": "CODE", "message": "message"}
    assert encoded.failed_result() == {key: value for key, value in end.items() if key != "sequence_number"}
