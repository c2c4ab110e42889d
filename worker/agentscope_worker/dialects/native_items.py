"""Items of an App that are no Msg, as Msg chunks: what clients of the native dialect get of them.

An App that yields only Msg never comes here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import orjson

from agentscope_worker.dialects import parts, requests
from agentscope_worker.dialects.native import read_message
from agentscope_worker.dialects.parts import Part
from agentscope_worker.dialects.sources import Source
from agentscope_worker.runtime.compat.majors import seam

if TYPE_CHECKING:
    from agentscope.message import Msg


class AgentFailed(Exception):
    """The agent reports the failure of its answer. The message is for the client."""


async def messages(first: Any, others: AsyncIterator[Any], name: str) -> AsyncGenerator[Msg, None]:
    """An item that is no Msg, and all that the App yields after it, as Msg chunks. `name`: of the run.

    Raises: TypeError for an item of another type, AgentFailed, and what the App raises.
    """
    source, message_class = Source(name), seam().message_class()
    for part in source.take(first):
        for msg in _messages(source, part):
            yield msg
    async for item in others:
        if isinstance(item, message_class):
            yield item
            continue
        for part in source.take(item):
            for msg in _messages(source, part):
                yield msg


def _messages(source: Source, part: Part) -> Iterator[Msg]:
    match part:
        case parts.Text(key, text):
            yield _chunk(text, key)
        case parts.Thinking(key, text):
            yield _chunk([{"type": "thinking", "thinking": text}], key)
        case parts.Called(call, arguments):
            yield _chunk([_call(call, source.tool(call), arguments)])
        case parts.Result(call, tool, output):
            result = {"type": "tool_result", "id": call, "name": tool, "output": output}
            yield _chunk([result])
        case parts.Media(_, media_type, url):
            yield _chunk([requests.media(url, "an item of the App", media_type)])
        case parts.Error(message):
            raise AgentFailed(message)


def _call(call: str, tool: str, arguments: str) -> dict[str, Any]:
    if "tool_call" in seam().block_classes():  # AgentScope 2.x
        return {"type": "tool_call", "id": call, "name": tool, "input": arguments}
    try:
        given = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        given = {"arguments": arguments}
    return {"type": "tool_use", "id": call, "name": tool, "input": given}


def _chunk(content: Any, key: str = "") -> Msg:
    msg = read_message({"role": "assistant", "content": content})
    if key:
        msg.id = key  # the chunks of one text are of one message
    return msg
