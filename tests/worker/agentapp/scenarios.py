"""Handlers and requests for the comparison with agentscope-runtime, which `record.py` runs on the real
package.

Each scenario is a framework, a handler for `@app.query`, and the body of a request. A handler runs unchanged
on both implementations. `normalised` replaces ids and times in a stream of events.
"""

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any, Final
from uuid import uuid4

Handler = Callable[..., Any]


@dataclass(frozen=True)
class Scenario:
    handler: Handler
    framework: str = "agentscope"
    body: dict[str, Any] = field(default_factory=lambda: request("Hello"))


def request(text: str, **fields: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": text}]
    return {"input": [{"role": "user", "content": content}], "session_id": "s", "user_id": "u", **fields}


def _msg(content: Any, name: str = "Friday", role: Any = "assistant", **fields: Any) -> Any:
    """A Msg of 1.x; on 2.x an object that looks like one."""
    if version("agentscope").startswith("1."):
        from agentscope.message import Msg

        return Msg(name, content, role, **fields)
    return SimpleNamespace(
        **{"id": uuid4().hex, "metadata": {}, "name": name, "content": content, "role": role, **fields}
    )


def _growing(*blocks: list[dict[str, Any]], **fields: Any) -> Iterator[tuple[Any, bool]]:
    """One message, with more content each time, as agents of AgentScope 1.x print it."""
    msg = _msg([], **fields)
    for number, content in enumerate(blocks, 1):
        msg.content = content
        yield msg, number == len(blocks)


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _thinking(text: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text}


def _call(arguments: dict[str, Any], id: str = "call_1", name: str = "add", **more: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": arguments, **more}


def _result(output: Any, id: str = "call_1", name: str = "add") -> dict[str, Any]:
    return {"type": "tool_result", "id": id, "name": name, "output": output}


async def text(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
    for each in _growing([_text("Hello")], [_text("Hello World!")], [_text("Hello World!")]):
        yield each


async def several_texts(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
    for each in _growing([_text("one")], metadata={"step": 1}):
        yield each
    for each in _growing([_text("tw")], [_text("two")]):
        yield each


async def replaced_text(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
    for each in _growing([_text("Hello")], [_text("Bye")]):
        yield each


async def whole_string(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
    yield _msg("as a string"), True


async def thinking(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
    think = _thinking("Hm, so")
    for each in _growing([_thinking("Hm")], [think], [think, _text("It")], [think, _text("It is")]):
        yield each


async def tools(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
    start = _text("Let me add.")
    for each in _growing(
        [_text("Let me")],
        [start],
        [start, _call({})],
        [start, _call({"a": 1})],
        [start, _call({"a": 1, "b": 2})],
        [start, _call({"a": 1, "b": 2})],
    ):
        yield each
    for each in _growing([_result([_text("3")])], name="system", role="system"):
        yield each
    for each in _growing([_text("It is 3.")]):
        yield each


async def two_calls(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
    first, second = _call({"a": 1}), _call({"a": "ä"}, "call_2", "mul")
    for each in _growing([first], [first, second]):
        yield each
    for number, id in ((1, "call_1"), (2, "call_2")):
        blocks = [[_result([_text("so")], id)], [_result([_text(f"so far {number}")], id)]]
        for each in _growing(*blocks, name="system", role="system"):
            yield each
    for each in _growing([_text("Done.")]):
        yield each


async def mcp_call(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
    for each in _growing([_call({"q": "x"}, tool_type="mcp", server_label="search")]):
        yield each
    for each in _growing([_result("found")], name="system", role="system"):
        yield each


async def thinking_and_call(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
    for each in _growing([_thinking("I need")], [_thinking("I need it"), _call({"a": 1})]):
        yield each
    for each in _growing([_result("1")], name="system", role="system"):
        yield each


async def media(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
    url = {"type": "url", "url": "https://example.org/a.png"}
    data = {"type": "base64", "media_type": "audio/wav", "data": "UklGRg=="}
    for each in _growing([{"type": "image", "source": url}]):
        yield each
    for each in _growing([{"type": "audio", "source": data}]):
        yield each
    for each in _growing([{"type": "video", "source": {"type": "url", "url": "https://example.org/v.mp4"}}]):
        yield each
    for each in _growing([_text("after")]):
        yield each


async def failing(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
    yield _msg([_text("Hel")]), False
    raise ValueError("no more")


async def failing_early(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
    raise KeyError("customer")
    yield  # makes this an async generator


async def silent(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
    return
    yield


async def returned(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> Any:
    return _msg([_text("returned")]), True


def from_generator(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> Iterator[Any]:
    yield from _growing([_text("from")], [_text("from a generator")])


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, dict)) else [dict(each) for each in value]


async def echo(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
    """What the handler is given, as the text of the answer."""
    seen = [
        {"name": each.name, "role": each.role, "metadata": each.metadata, "content": _plain(each.content)}
        for each in msgs
    ]
    fields = {"session": request.session_id, "user": request.user_id, "model": request.model}
    given = {"msgs": seen, "request": fields, "framework": self.framework_type, "more": sorted(kwargs)}
    for each in _growing([_text(json.dumps(given, ensure_ascii=False, sort_keys=True))]):
        yield each


_INPUT: Final = {
    "input": [
        {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "data", "data": {"a": 1}}]},
        {
            "type": "plugin_call",
            "role": "assistant",
            "content": [{"type": "data", "data": {"call_id": "c", "name": "add", "arguments": '{"a": 1}'}}],
        },
        {
            "type": "plugin_call_output",
            "role": "tool",
            "content": [{"type": "data", "data": {"call_id": "c", "name": "add", "output": "2"}}],
        },
        {"type": "reasoning", "role": "assistant", "content": [{"type": "text", "text": "Hm"}]},
        {
            "role": "user",
            "metadata": {"original_name": "Alice", "metadata": {"x": 1}},
            "content": [
                {"type": "image", "image_url": "https://example.org/a.png"},
                {"type": "image", "image_url": "data:image/png;base64,AAAA"},
                {"type": "audio", "data": "AAAA", "format": "wav"},
                {"type": "video", "video_url": "https://example.org/v.mp4"},
            ],
        },
    ],
    "session_id": "s",
    "model": "m",
    "id": "request-1",
}


def _langchain() -> Any:
    import langchain_core.messages

    return langchain_core.messages


async def langgraph_text(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
    chunk = _langchain().AIMessageChunk
    for text in ("Hel", "lo"):
        yield chunk(content=text, id="run-1"), False
    yield chunk(content="", id="run-1", chunk_position="last"), True


async def langgraph_tools(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
    chunk = _langchain().AIMessageChunk
    pieces = [("add", '{"a"', "call_1"), (None, ": 1}", None)]
    for number, (name, arguments, id) in enumerate(pieces):
        call = {"name": name, "args": arguments, "id": id, "index": 0, "type": "tool_call_chunk"}
        yield chunk(content="", id="run-1", tool_call_chunks=[call], chunk_position=None), number == 9
    yield chunk(content="", id="run-1", chunk_position="last"), False
    yield _langchain().ToolMessage(content="1", name="add", tool_call_id="call_1", id="tool-1"), False
    yield chunk(content="It is 1", id="run-2"), False
    yield chunk(content="", id="run-2", chunk_position="last"), True


async def langgraph_whole(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
    messages = _langchain()
    calls = [{"name": "add", "args": {"a": 1}, "id": "call_1"}]
    yield messages.AIMessage(content="", id="1", tool_calls=calls), False
    yield messages.ToolMessage(content=[{"type": "text", "text": "1"}], tool_call_id="call_1", id="2"), False
    yield messages.AIMessage(content=f"{type(msgs[0]).__name__}: {msgs[0].content}", id="3"), True


async def agno_run(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
    from agno.models.response import ToolExecution
    from agno.run import agent

    yield agent.RunStartedEvent()
    yield agent.RunContentEvent(reasoning_content="Hm")
    yield agent.RunContentEvent(content="Let me")
    yield agent.RunContentEvent(content=" add.")
    yield agent.RunContentCompletedEvent()
    tool = ToolExecution(tool_call_id="call_1", tool_name="add", tool_args={"a": 1}, result="1")
    yield agent.ToolCallStartedEvent(tool=tool)
    yield agent.ToolCallCompletedEvent(tool=tool)
    yield agent.RunContentEvent(content="It is 1.")
    yield agent.RunContentCompletedEvent()
    yield agent.RunCompletedEvent()


async def agno_input(self: Any, msgs: Any, request: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
    from agno.run import agent

    yield agent.RunContentEvent(content=json.dumps(msgs))
    yield agent.RunContentCompletedEvent()


SCENARIOS: Final[dict[str, Scenario]] = {
    "text": Scenario(text),
    "several_texts": Scenario(several_texts),
    "replaced_text": Scenario(replaced_text),
    "whole_string": Scenario(whole_string),
    "thinking": Scenario(thinking),
    "tools": Scenario(tools),
    "two_calls": Scenario(two_calls),
    "mcp_call": Scenario(mcp_call),
    "thinking_and_call": Scenario(thinking_and_call),
    "media": Scenario(media),
    "failing": Scenario(failing),
    "failing_early": Scenario(failing_early),
    "silent": Scenario(silent),
    "returned": Scenario(returned),
    "from_generator": Scenario(from_generator),
    "echo": Scenario(echo, body=_INPUT),
    "langgraph_text": Scenario(langgraph_text, "langgraph"),
    "langgraph_tools": Scenario(langgraph_tools, "langgraph"),
    "langgraph_whole": Scenario(langgraph_whole, "langgraph"),
    "agno_run": Scenario(agno_run, "agno"),
    "agno_input": Scenario(agno_input, "agno"),
}

_MADE_UP: Final = re.compile(r"(msg|response)_[0-9a-f-]{36}|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")


def events(body: str) -> list[dict[str, Any]]:
    """The JSON objects of a stream, each from one `data:` line."""
    blocks = body.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [json.loads(block[len("data: ") :]) for block in blocks]


def normalised(body: str) -> list[dict[str, Any]]:
    """The events of a stream, with ids numbered in order of appearance and times replaced by 0."""
    names: dict[str, str] = {}

    def named(found: re.Match[str]) -> str:
        return names.setdefault(found[0], f"{found[1] or 'id'}_{len(names) + 1}")

    return events(re.sub(r'("(?:created|completed)_at":)\d+', r"\g<1>0", _MADE_UP.sub(named, body)))
