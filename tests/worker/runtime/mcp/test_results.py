"""Results of MCP tools that are neither text nor media: the model sees them as text."""

import base64
import json
from types import SimpleNamespace
from typing import Any

import pytest
from mcp import types

from agentscope_worker.runtime import runtime
from agentscope_worker.runtime.compat.majors import seam
from agentscope_worker.runtime.mcp.tools import Offer
from tests.fakes.model_server import ModelServer
from tests.worker.agents import MAJOR, make_agent, question, text_of
from tests.worker.conftest import openai

pytestmark = pytest.mark.agentscope

LINK = {"type": "resource_link", "uri": "https://example.com/report.pdf", "name": "report"}
BLOB = {"uri": "file:///a.bin", "mimeType": "application/x-a", "blob": base64.b64encode(bytes(300)).decode()}
TEXT = {"type": "text", "text": "plain"}


@pytest.mark.parametrize(
    "result, seen",
    [
        ({"content": [TEXT]}, ["plain"]),
        ({"content": [], "structuredContent": {"temperature": 21}}, ['{"temperature": 21}']),
        ({"content": [TEXT], "structuredContent": {"temperature": 21}}, ["plain"]),
        ({"content": [LINK]}, ["https://example.com/report.pdf", "report"]),
        ({"content": [TEXT, LINK]}, ["plain", "https://example.com/report.pdf"]),
        ({"content": [{"type": "resource", "resource": BLOB}]}, ["file:///a.bin", '"bytes": 300']),
        ({"content": [{"type": "resource", "resource": {"uri": "file:///a", "text": "t"}}]}, ["file:///a"]),
    ],
)
async def test_a_result_is_not_empty_for_the_model(
    start: Any, server: ModelServer, result: dict[str, Any], seen: list[str]
) -> None:
    if MAJOR == 2 and ("report" in seen[-1] or "bytes" in seen[-1]):
        pytest.skip("2.x passes links on as data blocks, and drops binary resources itself")

    async def call_tool(name: str, arguments: Any = None, **_: Any) -> Any:
        return types.CallToolResult.model_validate(result)

    await start(models={"main": openai(server)})
    tool = types.Tool.model_validate({"name": "find", "inputSchema": {"type": "object"}})
    link: Any = SimpleNamespace(name="s", call_tool=call_tool)
    seam().publish(runtime.tools, [Offer(tool, link, ("find",), "s__find")])
    agent = make_agent()
    assert text_of(await agent(question("call find {}"))).startswith("Echo:")
    (told,) = [each for each in server.requests[-1].body["messages"] if each["role"] == "tool"]
    text = json.dumps(told["content"], ensure_ascii=False).replace("\\", "")
    assert all(each in text for each in seen)
