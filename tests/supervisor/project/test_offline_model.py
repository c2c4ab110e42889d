"""The offline model: its answers, and its format over HTTP."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from agentscope_supervisor.project import offline_model

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {}},
            "required": ["city", "days"],
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def text(*messages: dict[str, Any]) -> str:
    content: str = offline_model.reply({"messages": list(messages), "tools": [WEATHER]})["content"]
    return content


def called(question: str) -> dict[str, Any]:
    message = offline_model.reply({"messages": [said("user", question)], "tools": [NOW, WEATHER]})
    (call,) = message["tool_calls"]
    return {call["function"]["name"]: json.loads(call["function"]["arguments"])}


def test_it_repeats_the_last_message_of_the_user() -> None:
    assert text(
        said("system", "Help."), said("user", "one"), said("assistant", "1"), said("user", "two")
    ) == ("The offline model repeats: two")
    parts = [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}]
    assert text(said("user", parts)).endswith("repeats: a  b")
    assert text(said("user", "mine"), said("user", "<system-reminder>The time</system-reminder>")).endswith(
        "mine"
    )
    assert text(said("assistant", None)).endswith("repeats: ")


def test_it_calls_the_tool_that_is_named() -> None:
    assert called("The weather for 3 days in Paris?") == {"get_weather": {"city": "Paris", "days": 3}}
    assert called("weather") == {"get_weather": {"city": "weather", "days": 0}}
    assert called("what now") == {"now": {}}
    assert text(said("user", "We get it")).endswith("We get it"), "a short part of a name is not enough"


def test_it_repeats_the_result_of_a_tool() -> None:
    assert text(said("user", "weather"), said("assistant", None), said("tool", "It is sunny.")) == (
        "The tool says: It is sunny."
    )


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with offline_model.running() as address:
        yield address


def post(url: str, body: bytes, path: str = "/chat/completions") -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url + path, body)) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, b""


def test_a_whole_answer(url: str) -> None:
    status, body = post(url, json.dumps({"model": "m", "messages": [said("user", "a b")]}).encode())
    answer = json.loads(body)
    assert (status, answer["object"], answer["model"]) == (200, "chat.completion", "m")
    (choice,) = answer["choices"]
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": "The offline model repeats: a b"},
        "finish_reason": "stop",
    }


def test_a_streamed_answer(url: str) -> None:
    request = {"messages": [said("user", "weather")], "tools": [WEATHER], "stream": True}
    _, body = post(url, json.dumps(request).encode())
    *lines, end, rest = body.split(b"\n\n")
    assert (end, rest) == (b"data: [DONE]", b"")
    first, last, usage = (json.loads(line.removeprefix(b"data: ")) for line in lines)
    (call,) = first["choices"][0]["delta"]["tool_calls"]
    assert (call["index"], call["function"]["name"]) == (0, "get_weather")
    assert last["choices"][0]["finish_reason"] == "tool_calls"
    assert usage["usage"]["total_tokens"] > 0
    _, body = post(url, json.dumps({"messages": [said("user", "a")], "stream": True}).encode())
    assert body.count(b'"content": ') == 5, "one piece for each word"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"messages": [3]}'])
def test_a_request_in_another_format_is_refused(url: str, body: bytes) -> None:
    assert post(url, body)[0] == 400
    assert post(url, b"{}", "/embeddings")[0] == 404
