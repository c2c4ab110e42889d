"""The tools of MCP servers in `runtime.tools` and in the agents' clones, and their names."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from agentscope_protocol.config.settings import McpServerSettings
from agentscope_worker import host
from agentscope_worker.runtime import runtime
from agentscope_worker.runtime.mcp import tools as mcp_tools
from agentscope_worker.runtime.mcp.tools import McpServers, Names, Offer, full_name, valid_name
from tests.fakes.model_server import ModelServer
from tests.harness.mcp_process import McpProcess
from tests.worker.agents import MAJOR, add_tool, make_agent, question, text_of, until
from tests.worker.conftest import MINIMAL_APP, openai
from tests.worker.runtime.test_tools import ask_for_an_answer, tool_names

pytestmark = pytest.mark.agentscope

NOWHERE = "http://127.0.0.1:9/sse"  # the discard service, which no machine runs


class TestNames:
    def test_a_tool_has_its_plain_name(self) -> None:
        assert Names().assign({"a": ["x"], "b": ["y"]}) == {("a", "x"): ("x",), ("b", "y"): ("y",)}

    @pytest.mark.parametrize("order", ["ab", "ba"])
    def test_a_name_offered_by_two_servers_belongs_to_neither(self, order: str) -> None:
        given = Names().assign({server: ["x"] for server in order})
        assert given == {("a", "x"): ("a__x",), ("b", "x"): ("b__x",)}

    def test_a_late_server_renames_nothing(self) -> None:
        names = Names()
        assert names.assign({"a": [], "b": ["x"]}) == {("b", "x"): ("x",)}
        assert names.assign({"a": ["x"], "b": ["x"]}) == {("a", "x"): ("a__x",), ("b", "x"): ("x", "b__x")}

    def test_a_name_is_never_reassigned_to_another_server(self) -> None:
        names = Names()
        names.assign({"a": ["x"], "b": []})
        assert names.assign({"a": [], "b": ["x"]}) == {("b", "x"): ("b__x",)}
        assert names.assign({"a": ["x"], "b": ["x"]})["a", "x"] == ("x", "a__x")

    def test_names_that_providers_reject_are_replaced(self) -> None:
        assert valid_name("a-b_C9") == "a-b_C9"
        assert valid_name("x" * 64) == "x" * 64
        assert valid_name("a.b") != valid_name("a:b")
        for name in ("a.b", "名前", "x" * 65, full_name("s" * 40, "t" * 40)):
            assert len(valid_name(name)) <= 64
            assert valid_name(name).replace("-", "_").isidentifier()
            assert valid_name(name).isascii()

    def test_a_name_taken_by_another_tool_gets_the_server_prefix(self) -> None:
        offer = Offer(None, SimpleNamespace(), ("x", "a__x"), "a__x")  # type: ignore[arg-type]
        assert offer.names_beside(()) == ["x", "a__x"]
        assert offer.names_beside({"x"}) == ["a__x"]
        assert offer.names_beside({"a__x"}) == ["x"]
        assert offer.names_beside({"x", "a__x"}) == []


class TestOpening:
    def make(self, published: list[Any], **servers: Any) -> McpServers:
        settings = {name: McpServerSettings.model_validate(each) for name, each in servers.items()}
        return McpServers(settings, published.append)

    async def test_unreachable_servers_do_not_block_startup(self) -> None:
        published: list[Any] = []
        servers = self.make(published, a={"url": NOWHERE}, b={"url": NOWHERE, "transport": "streamable_http"})
        async with asyncio.timeout(20):
            await servers.open()
        assert published == [[]]
        await servers.close()

    async def test_startup_waits_for_a_required_server(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mcp_tools, "WAIT_LOG_INTERVAL", 0.1)
        published: list[Any] = []
        with McpProcess("sse") as server:
            servers = self.make(published, a={"url": NOWHERE}, b={**server.settings, "required": True})
            opening = asyncio.create_task(servers.open())
            await until(lambda: caplog.text.count("waiting for required MCP servers: b (ConnectError") > 1)
            assert published == []
            server.launch()
            await asyncio.wait_for(opening, 10)
            assert {offer.names for offer in published[0]} == {(name,) for name in server.tools}
            await servers.close()

    async def test_waiting_can_be_cancelled(self) -> None:
        servers = self.make([], a={"url": NOWHERE, "required": True})
        before = asyncio.all_tasks()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await servers.open()
        await servers.close()
        await until(lambda: asyncio.all_tasks() == before)


@pytest.fixture(scope="module")
def tools() -> Iterator[McpProcess]:
    """A shared server that tests must not stop."""
    with McpProcess("streamable_http", "tools") as process:
        yield process.start()


@pytest.fixture
def late() -> Iterator[McpProcess]:
    """A server that the test starts itself."""
    with McpProcess("sse", "late") as process:
        yield process


async def names() -> set[str]:
    """The tools of `runtime.tools`."""
    return await tool_names(SimpleNamespace(toolkit=runtime.tools))


async def asked(agent: Any, text: str) -> str:
    return text_of(await agent(question(text)))


async def test_an_agent_calls_a_tool(
    start: Any, server: ModelServer, tools: McpProcess, caplog: pytest.LogCaptureFixture
) -> None:
    await start(models={"main": openai(server)}, mcp_servers={"amap-maps": tools.settings})
    lists = tools.asked("list_tools")
    assert await names() == set(tools.tools)
    agent = make_agent()
    assert await asked(agent, 'call add {"a": 2, "b": 3}') == "Echo: 5"
    assert await asked(agent, "call pid {}") == f"Echo: {tools.pid}"
    assert tools.asked("list_tools") == lists, "a turn must not request the tool list"
    assert "no such luck" in await asked(agent, "call fail {}")
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_an_error_of_a_call_becomes_a_tool_result(
    start: Any, server: ModelServer, late: McpProcess
) -> None:
    await start(
        models={"main": openai(server)}, mcp_servers={"late": {**late.start().settings, "timeout": 0.5}}
    )
    agent = make_agent()
    assert "did not answer 'slow' within 0.5 s" in await asked(agent, 'call slow {"seconds": 60}')
    late.kill()
    assert "'late' is not connected" in await asked(agent, "call pid {}")
    assert await asked(agent, "hello") == "Echo: hello"


async def test_tools_of_a_late_server_are_added(
    start: Any, server: ModelServer, tools: McpProcess, late: McpProcess
) -> None:
    late.tools = ("echo", "new")
    await start(models={"main": openai(server)}, mcp_servers={"late": late.settings, "tools": tools.settings})
    agent = make_agent()
    assert await names() == await tool_names(agent) == set(tools.tools)
    late.launch()
    everything = {*tools.tools, "new", "late__echo", "tools__echo"}
    async with asyncio.timeout(60):
        while await tool_names(agent) != everything:  # noqa: ASYNC110 - the toolkit has no event
            await asyncio.sleep(0.01)
    assert await names() == await tool_names(make_agent()) == everything
    assert await asked(agent, "call new {}") == "Echo: late"
    for name in ("echo", "late__echo", "tools__echo"):
        assert await asked(agent, f'call {name} {{"text": "x"}}') == "Echo: x"


async def test_two_servers_with_the_same_tool_get_prefixed_names(
    start: Any, tools: McpProcess, late: McpProcess
) -> None:
    late.tools = ("echo", "new")
    await start(mcp_servers={"late": late.start().settings, "tools": tools.settings})
    assert await names() == {*tools.tools, "new", "late__echo", "tools__echo"} - {"echo"}


async def test_a_tool_of_the_project_keeps_its_name_in_any_order(
    start: Any, server: ModelServer, tools: McpProcess, late: McpProcess
) -> None:
    async def own(word: str) -> str:
        return f"own {word}"

    late.tools = ("new", "other")
    await start(models={"main": openai(server)}, mcp_servers={"tools": tools.settings, "late": late.settings})
    early = make_agent()
    for own.__name__ in ("add", "new"):
        await add_tool(own)
    agent = make_agent()
    expected = {*tools.tools, "tools__add", "new", "late__new", "other"}
    late.launch()
    async with asyncio.timeout(60):
        while "other" not in await tool_names(agent):  # noqa: ASYNC110 - the toolkit has no event
            await asyncio.sleep(0.01)
    assert await names() == await tool_names(agent) == expected
    assert await tool_names(early) == {*tools.tools, "new", "other"}
    assert await asked(agent, 'call add {"word": "x"}') == "Echo: own x"
    assert await asked(agent, 'call tools__add {"a": 2, "b": 3}') == "Echo: 5"
    assert await asked(agent, "call late__new {}") == "Echo: late"


async def test_structured_output_works_while_tools_are_added(
    start: Any, server: ModelServer, late: McpProcess
) -> None:
    """AgentScope registers a tool for it during the reply, here under a name that the server uses too."""
    late.tools = ("generate_response" if MAJOR == 1 else "GenerateStructuredOutput", "new")
    await start(models={"main": openai(server)}, mcp_servers={"late": late.settings})
    server.delay = 0.3
    agent = make_agent()
    asking = asyncio.create_task(ask_for_an_answer(agent, "7"))
    await until(lambda: server.streaming)
    await asyncio.to_thread(late.start)
    assert await asking == {"number": 7}
    async with asyncio.timeout(60):
        while not {"new", late.tools[0]} <= await tool_names(agent):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
    assert await ask_for_an_answer(agent, "8") == {"number": 8}


async def test_clones_are_garbage_collected(start: Any, server: ModelServer) -> None:
    await start(models={"main": openai(server)})
    agents = [make_agent() for _ in range(3)]
    clones = runtime.tools.clones
    assert len(clones) == 3
    agents.clear()
    import gc

    gc.collect()
    assert len(clones) == 0


async def test_a_start_without_hooks_contacts_no_server(write_project: Callable[..., Any]) -> None:
    project = write_project(MINIMAL_APP)
    from agentscope_protocol.config.settings import Settings

    settings = {"mcp_servers": {"a": {"url": NOWHERE, "required": True}}}
    async with asyncio.timeout(10):
        started = await host.boot(Settings.model_validate(settings), project, hooks=False)
    await started.shutdown()


async def test_shutdown_fails_a_call_in_flight(start: Any, tools: McpProcess, server: ModelServer) -> None:
    await start(models={"main": openai(server)}, mcp_servers={"tools": tools.settings})
    agent = make_agent()
    call = asyncio.create_task(asked(agent, 'call slow {"seconds": 60}'))
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(tools.running, "slow"):  # noqa: ASYNC110 - it is a process
            await asyncio.sleep(0.01)
    async with asyncio.timeout(30):
        await runtime.shutdown()
    call.cancel()
    await asyncio.wait({call})
