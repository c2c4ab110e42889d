"""OpenAI's Chat Completions as the worker reads and writes them."""

from typing import Any, Final

import pytest

from agentscope_worker.dialects.chat import CHAT, read
from agentscope_worker.dialects.dialect import BadMessage
from agentscope_worker.dialects.parts import Error, Text
from agentscope_worker.runtime.compat import majors
from tests.worker.agents import MAJOR, blocks_of, text_of
from tests.worker.dialects.encoding import ALL, NOW, RUN, Encoded

pytestmark = pytest.mark.agentscope

majors.seam().adapt("bypass")

IMAGE: Final = "data:image/png;base64,AA=="


def user(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def test_the_app_gets_the_last_message_of_the_user() -> None:
    system = {"role": "system", "content": "Be brief."}
    developer = {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]}
    said = {"role": "user", "content": "Hello"}
    messages = [system, {"role": "user", "content": "Hi"}, {"role": "assistant"}, developer, said]
    msg, metadata = read({"messages": messages, "metadata": {"user_id": "u"}})
    assert (text_of(msg), msg.role) == ("Hello", "user")
    assert metadata == {"user_id": "u", "instructions": "Be brief.\n\nBe kind."}
    assert read(user("Hello"))[1] == {}


def test_images_and_audio_become_blocks() -> None:
    content = [
        {"type": "text", "text": "Look"},
        {"type": "image_url", "image_url": {"url": IMAGE}},
        {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]
    text, image, linked, audio = blocks_of(read(user(content))[0])
    assert text["text"] == "Look"
    assert [each["type"] for each in (image, linked, audio)] == (
        ["image", "image", "audio"] if MAJOR == 1 else ["data"] * 3
    )
    assert image["source"] == {"type": "base64", "media_type": "image/png", "data": "AA=="}
    assert str(linked["source"]["url"]) == "https://a.example/b.png"
    assert audio["source"]["media_type"] == "audio/wav"


def test_a_file_is_a_block_of_2_x() -> None:
    file = {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA=="}}
    if MAJOR == 1:
        with pytest.raises(BadMessage, match=r"AgentScope 1\.x takes images"):
            read(user([file]))
    else:
        assert blocks_of(read(user([file]))[0])[0]["source"]["media_type"] == "application/pdf"


@pytest.mark.parametrize(
    "content, said",
    [
        (None, r"messages\[0\].content must be a list of objects"),
        (["x"], "must be a list of objects"),
        ([{"type": "text"}], r"content\[0\].text must be a string"),
        ([{"type": "new"}], r"content\[0\].type must be"),
        ([{"type": "image_url"}], "must be a URL"),
        ([{"type": "image_url", "image_url": {"url": "data:image/png,AA"}}], "a data URL in base64"),
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,A"}}], "not valid base64"),
        ([{"type": "input_audio"}], "input_audio must be an object"),
        ([{"type": "input_audio", "input_audio": {}}], "must be a string in base64"),
        ([{"type": "file", "file": {"file_id": "f"}}], "stores no files"),
        ([{"type": "file", "file": 3}], "file must be an object"),
    ],
)
def test_wrong_content_is_reported_with_its_place(content: Any, said: str) -> None:
    with pytest.raises(BadMessage, match=said):
        read(user(content))


def test_a_request_needs_a_message_of_the_user_and_one_answer() -> None:
    with pytest.raises(BadMessage, match="no message with the role user"):
        read({"messages": [{"role": "assistant", "content": "x"}]})
    with pytest.raises(BadMessage, match="n must be 1"):
        read({**user("x"), "n": 2})


def test_a_stream_has_text_and_thinking_but_no_tools() -> None:
    encoded = Encoded(CHAT, {"model": "m", "stream_options": {"include_usage": True}}, ALL)
    *chunks, usage, done = encoded.data
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "hm"},
        {"content": "Hel"},
        {"content": "lo"},
        {"content": "\n\n"},
        {"content": "done"},
        {},
    ]
    finish = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert finish == [None] * 6 + ["stop"]
    head = {"id": f"chatcmpl-{RUN}", "object": "chat.completion.chunk", "created": NOW, "model": "m"}
    assert all(head.items() <= chunk.items() for chunk in chunks)
    tokens = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    assert usage == {**head, "choices": [], "usage": tokens}
    assert done == "[DONE]"


def test_the_whole_completion_has_what_the_stream_has() -> None:
    encoded = Encoded(CHAT, {}, ALL, "TRUNCATED")
    assert [event for event in encoded.data if "usage" in event] == []
    result = encoded.result
    message = {"role": "assistant", "content": "Hello\n\ndone", "refusal": None, "reasoning_content": "hm"}
    choice = {"index": 0, "message": message, "finish_reason": "length", "logprobs": None}
    assert (result["object"], result["model"], result["choices"]) == ("chat.completion", "agent", [choice])
    assert result["usage"]["total_tokens"] == 10
    assert Encoded(CHAT, {}, ()).result["choices"][0]["message"]["content"] == ""


def test_the_will_is_an_error_that_openai_clients_raise() -> None:
    error = {"message": "message", "type": "server_error", "param": None, "code": "CODE"}
    assert Encoded(CHAT, {}).last_events() == [("", {"error": error})]


def test_text_that_looks_like_a_place_stays_text() -> None:
    encoded = Encoded(CHAT, {"model": "\x01\x06"}, [Text("t", "\x01 \ud800")])
    assert encoded.result["model"] == "\x01\x06"
    assert encoded.result["choices"][0]["message"]["content"] == "\x01 �"


def test_an_error_of_the_agent_is_kept() -> None:
    assert Encoded(CHAT, {}, [Error("no")]).encoder.error == "no"
