"""MCP servers that come and go under whole instances: what clients see, and that no worker minds."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.harness.client import Response, invoke, new_session
from tests.harness.events import text_of
from tests.harness.instance import Instance
from tests.harness.mcp_process import McpProcess
from tests.harness.projects import QUICK_STOP, written
from tests.harness.waiting import eventually, wait_until

pytestmark = pytest.mark.agentscope

TRANSPORTS: Final = ("sse", "streamable_http")
CLIENTS: Final = 16  # at once, half of them on each server
KILLS: Final = 2  # of each server
TRY_LATER: Final = 75  # sysexits.h, EX_TEMPFAIL

APP: Final = """
    import json
    from agentscope.message import Msg
    from agentscope.runtime import AgentApp, runtime

    async def call(name, arguments):
        try:
            from agentscope.message import ToolUseBlock
        except ImportError:  # AgentScope 2.x
            from agentscope.message import ToolCallBlock
            from agentscope.state import AgentState
            block = ToolCallBlock(id="1", name=name, input=json.dumps(arguments))
            answers = runtime.tools.call_tool(block, AgentState())
        else:
            block = ToolUseBlock(type="tool_use", id="1", name=name, input=arguments)
            answers = await runtime.tools.call_tool_function(block)
        async for answer in answers:
            pass
        return Msg(name="tool", content=list(answer.content), role="assistant")

    class App(AgentApp):
        async def __call__(self, msg, ctx):
            yield await call(*json.loads(msg.get_text_content()))
"""


@pytest.fixture
def servers() -> Iterator[dict[str, McpProcess]]:
    """A server of each transport, not started; the tools of each are those that the other has not."""
    with ExitStack() as stack:
        made = {name: stack.enter_context(McpProcess(name, name)) for name in TRANSPORTS}
        made["sse"].tools = ("slow", "only-sse")
        made["streamable_http"].tools = ("slow", "pid")
        yield made


@pytest.fixture
def start_app(tmp_path: Path, new_instance: Callable[..., Instance]) -> Callable[..., Instance]:
    """Launches an instance of the App above with these `mcp_servers`; not ready yet."""

    def start(mcp_servers: dict[str, Any], *, workers: int = 2, **supervisor: Any) -> Instance:
        config = {"mcp_servers": mcp_servers, "supervisor": {**QUICK_STOP["supervisor"], **supervisor}}
        project = written(tmp_path / "project", APP, json.dumps(config))
        return new_instance(project, workers=workers).launch()

    return start


async def tool(instance: Instance, name: str, session: str | None = None, **arguments: Any) -> Response:
    return await invoke(instance.port, session or new_session(), json.dumps([name, arguments]))


def said(response: Response) -> str:
    assert response.status == 200, response.body
    return "".join(map(text_of, response.json["messages"]))


def clean(instance: Instance) -> None:
    """End the instance; nothing that happened, the end included, has left a traceback in its log."""
    assert instance.stop() == 0
    assert "Traceback" not in instance.log
    assert "ERROR" not in instance.log


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool as its client saw it."""

    client: int
    server: str
    text: str


@pytest.mark.fault("F81")
async def test_killed_and_started_again_under_load(
    start_app: Callable[..., Instance], servers: dict[str, McpProcess]
) -> None:
    """Only calls in flight fail, all others are answered, and no worker is replaced.

    A client has one call in flight, so a kill costs it one call at most.
    """
    for server in servers.values():
        server.start()
        for _ in range(KILLS):
            server.hold()
    instance = start_app({name: server.settings for name, server in servers.items()})
    await asyncio.to_thread(instance.wait_ready)
    workers = instance.ready_workers()
    calls: list[Call] = []
    over = asyncio.Event()

    async def client(number: int, server: str) -> None:
        session = new_session()
        while not over.is_set():
            text = said(await tool(instance, f"{server}__slow", session, seconds=0.05))
            calls.append(Call(number, server, text))

    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(client(number, TRANSPORTS[number % len(TRANSPORTS)]))
        for name in TRANSPORTS * KILLS:
            answered = len(calls)
            await eventually(lambda answered=answered: len(calls) > answered + CLIENTS, 20, "calls go on")
            await asyncio.to_thread(servers[name].replace)
        answered = len(calls)
        await eventually(lambda: len(calls) > answered + 4 * CLIENTS, 20, "calls go on")
        over.set()

    failed = [call for call in calls if call.text != "slept 0.05 s"]
    print(f"{len(calls)} calls, {len(failed)} failed, {len(TRANSPORTS) * KILLS} kills")
    for call in failed:
        assert "was lost during 'slow'" in call.text, call
    for number, count in Counter(call.client for call in failed).items():
        assert count <= KILLS, f"client {number}"
    assert {call.server for call in calls[answered:]} == set(TRANSPORTS), "both are used again"
    assert instance.ready_workers() == workers, "no worker was replaced"
    clean(instance)


@pytest.mark.fault("F81")
async def test_down_at_the_start_and_there_later(
    start_app: Callable[..., Instance], servers: dict[str, McpProcess]
) -> None:
    instance = start_app({name: server.settings for name, server in servers.items()}, workers=1)
    await asyncio.to_thread(instance.wait_ready)
    assert "only-sse" in said(await tool(instance, "only-sse"))  # an error that names it
    for server in servers.values():
        server.launch()

    async def answers(name: str, expected: str) -> None:
        async with asyncio.timeout(40):
            while said(await tool(instance, name)) != expected:  # noqa: ASYNC110 - it is a process
                await asyncio.sleep(0.05)

    await answers("only-sse", "sse")
    await answers("pid", str(servers["streamable_http"].pid))
    clean(instance)


@pytest.mark.fault("F81")
def test_a_required_server_gates_readiness(
    start_app: Callable[..., Instance], servers: dict[str, McpProcess]
) -> None:
    server = servers["sse"]
    instance = start_app({"search": {**server.settings, "required": True}}, workers=1)
    instance.wait_listening()
    wait_until(lambda: "waiting for required MCP servers: search (" in instance.log, 20, "the log says why")
    assert instance.ready_workers() == []
    server.start()
    instance.wait_ready()
    clean(instance)


@pytest.mark.fault("F81")
def test_a_required_server_that_never_comes_ends_the_start(
    start_app: Callable[..., Instance], servers: dict[str, McpProcess]
) -> None:
    required = {"search": {**servers["sse"].settings, "required": True}}
    instance = start_app(required, workers=1, start_timeout=15, start_deadline=15)
    assert instance.wait_exit(60) == TRY_LATER
    assert "waiting for required MCP servers: search (ConnectError" in instance.log
