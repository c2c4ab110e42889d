"""A link against real MCP servers, on both transports: all the ways in which a server can be away."""

import asyncio
import gc
import json
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from aiohttp import web

from agentscope_protocol.config.settings import McpServerSettings
from agentscope_worker.runtime.mcp import connection as mcp_connection
from agentscope_worker.runtime.mcp import links as mcp_links
from agentscope_worker.runtime.mcp.links import CallFailed, ServerLink
from tests.fakes.mcp_server import TOOLS
from tests.harness.mcp_process import McpProcess
from tests.harness.waiting import eventually

pytestmark = pytest.mark.agentscope2

AT_ONCE = 1.0  # seconds; measured: under 0.02
STOPS_WITHIN = 1.0  # seconds; measured: under 0.01

MakeLink = Callable[..., ServerLink]


@pytest.fixture(params=["sse", "streamable_http"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, McpProcess]]:
    """A server of each transport, which no test may hurt."""
    with McpProcess("sse") as sse, McpProcess("streamable_http") as http:
        yield {"sse": sse.start(), "streamable_http": http.start()}


@pytest.fixture
def shared(running: dict[str, McpProcess], transport: str) -> McpProcess:
    return running[transport]


@pytest.fixture
def server(transport: str) -> Iterator[McpProcess]:
    """A server of the test's own, not started."""
    with McpProcess(transport) as process:
        yield process


@pytest.fixture
async def make_link() -> AsyncIterator[MakeLink]:
    """Makes started links to a server, or to settings; stopped after the test, which leaves no task."""
    links = []

    def make(server: McpProcess | None = None, name: str = "tools", **more: Any) -> ServerLink:
        settings = {**(server.settings if server else {}), **more}
        link = ServerLink(name, McpServerSettings.model_validate(settings), lambda: None)
        links.append(link)
        link.start()
        return link

    before = asyncio.all_tasks()
    yield make
    begun = time.monotonic()
    for link in links:  # in the order in which they were started, which the MCP library cannot do
        await link.stop()
    assert time.monotonic() - begun < STOPS_WITHIN * max(1, len(links))
    ours = before | {asyncio.current_task()}
    await eventually(lambda: asyncio.all_tasks() <= ours, 30, "no task is left")


@pytest.fixture(autouse=True)
def no_noise(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever happens to a server, no traceback and no error is logged."""
    caplog.set_level(logging.INFO)
    yield
    assert [each for each in caplog.records if each.levelno >= logging.ERROR or each.exc_info] == []


async def said(link: ServerLink, tool: str, **arguments: Any) -> str:
    return str((await link.call_tool(tool, arguments)).content[0].text)


async def in_flight(link: ServerLink, server: McpProcess, seconds: float = 60) -> asyncio.Task[str]:
    """A call that the server has begun to answer."""
    call = asyncio.create_task(said(link, "slow", seconds=seconds))
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(server.running, "slow"):  # noqa: ASYNC110 - it is a process
            await asyncio.sleep(0.01)
    return call


async def test_calls_and_no_list_of_tools_for_them(shared: McpProcess, make_link: MakeLink) -> None:
    before = shared.asked("list_tools")
    link = make_link(shared)
    await link.connected.wait()
    assert [tool.name for tool in link.tools] == list(TOOLS)
    assert await said(link, "add", a=2, b=3) == "5"
    texts = [str(number) for number in range(20)]
    assert await asyncio.gather(*(said(link, "echo", text=text) for text in texts)) == texts
    result = await link.call_tool("fail", {"text": "out of stock"})
    assert result.model_dump(by_alias=True)["isError"]  # as on the wire: mcp 1.x and 2.x name the field apart
    assert "out of stock" in result.content[0].text
    assert shared.asked("list_tools") - before == 1


@pytest.mark.fault("F81")
async def test_a_server_that_is_down_at_the_start(server: McpProcess, make_link: MakeLink) -> None:
    link = make_link(server)
    await link.tried.wait()
    with pytest.raises(CallFailed, match="'tools' is not connected: ConnectError"):
        await said(link, "pid")
    assert link.tools == ()
    server.start()
    await asyncio.wait_for(link.connected.wait(), 30)
    assert await said(link, "pid") == str(server.pid)


@pytest.mark.fault("F81")
async def test_a_server_that_accepts_and_never_answers(transport: str, make_link: MakeLink) -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        finally:
            writer.close()

    async with await asyncio.start_server(swallow, "127.0.0.1", 0) as hole:
        port = hole.sockets[0].getsockname()[1]
        link = make_link(url=f"http://127.0.0.1:{port}/x", transport=transport, timeout=0.3)
        await asyncio.wait_for(link.tried.wait(), 20)
        assert link.failure == "the server did not respond within 0.3 s"
        other = make_link(url=f"http://127.0.0.1:{port}/x", transport=transport)
        await asyncio.sleep(0)
        await other.stop()
        hole.close()
        await link.stop()


@pytest.mark.timed
@pytest.mark.fault("F81")
async def test_a_server_that_is_killed(
    server: McpProcess, shared: McpProcess, make_link: MakeLink, caplog: pytest.LogCaptureFixture
) -> None:
    link, other = make_link(server.start()), make_link(shared, "other")
    await link.connected.wait()
    await other.connected.wait()
    call = await in_flight(link, server)
    unhurt = await in_flight(other, shared, seconds=2)
    begun = time.monotonic()
    server.kill()
    with pytest.raises(CallFailed, match=r"'tools' was lost during 'slow', which may have run"):
        await call
    assert time.monotonic() - begun < AT_ONCE
    waiting = asyncio.create_task(said(link, "pid"))  # calls made now wait for the server
    server.start()
    assert await waiting == str(server.pid)
    assert server.asked("slow") == 0, "a call that may have run is not sent again"
    assert await unhurt == "slept 2 s"
    lines = [record.getMessage() for record in caplog.records if "tools is not" in record.getMessage()]
    assert len(lines) == len(set(lines)), "each failure is told once"


async def test_a_server_that_stops_in_order(server: McpProcess, make_link: MakeLink) -> None:
    link = make_link(server.start())
    await link.connected.wait()
    call = await in_flight(link, server)
    assert await asyncio.to_thread(server.stop) == ""
    with pytest.raises(CallFailed, match="was lost during"):
        await call
    assert not link.connected.is_set()


@pytest.mark.timed
async def test_calls_do_not_wait_for_a_server_that_stays_away(
    server: McpProcess, make_link: MakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_links, "CALL_WAIT", 2.0)
    link = make_link(server.start())
    await link.connected.wait()
    server.kill()
    await eventually(lambda: not link.connected.is_set(), 30, "the loss is seen")
    with pytest.raises(CallFailed, match="is not connected"):
        await said(link, "pid")
    begun = time.monotonic()
    with pytest.raises(CallFailed, match="is not connected"):
        await said(link, "pid")
    assert time.monotonic() - begun < 1.0


async def test_a_wrong_token_is_told_once_and_tried_slowly(
    transport: str, make_link: MakeLink, caplog: pytest.LogCaptureFixture
) -> None:
    with McpProcess(transport, token="right") as server:
        wrong = make_link(server.start(), "wrong", headers={"Authorization": "Bearer hush-hush"})
        right = make_link(server, "right", headers={"Authorization": "Bearer right"})
        await right.connected.wait()
        assert await said(right, "echo", text="x") == "x"
        await wrong.tried.wait()
        assert (
            wrong.failure == "the server responded with HTTP 401 Unauthorized; see headers in agentapp.yaml"
        )
        assert "MCP server wrong is not connected: the server responded with HTTP 401" in caplog.text
        assert "hush-hush" not in caplog.text


def test_delays_grow_and_are_bounded() -> None:
    def longest(failures: int, rejected: bool = False, eager: bool = False) -> float:
        return max(mcp_links._delay(failures, rejected, eager) for _ in range(100))

    assert longest(0) <= 0.1 < longest(2) <= 0.4
    assert mcp_links.MAX_DELAY / 2 < longest(10**9) <= mcp_links.MAX_DELAY
    assert longest(20, eager=True) <= 1
    assert longest(0, rejected=True, eager=True) > mcp_links.REFUSED_DELAY / 2
    assert len({mcp_links._delay(3, False, False) for _ in range(10)}) > 1, "with jitter"


async def test_a_secret_is_not_in_a_failure(make_link: MakeLink, caplog: pytest.LogCaptureFixture) -> None:
    link = make_link(
        url="http://127.0.0.1:9/?key=hush", headers={"X-Key": " hush-hush "}
    )  # not a valid header value
    await link.tried.wait()
    assert "hush" not in link.failure + caplog.text


async def test_a_wrong_path_is_told(shared: McpProcess, make_link: MakeLink) -> None:
    link = make_link(shared, url=f"{shared.url}-not")
    await link.tried.wait()
    assert link.failure == "the server responded with HTTP 404 Not Found"


async def test_a_call_that_takes_too_long(shared: McpProcess, make_link: MakeLink) -> None:
    link = make_link(shared, timeout=2)
    await link.connected.wait()
    lists = shared.asked("list_tools")
    quick = asyncio.create_task(said(link, "slow", seconds=0.3))
    with pytest.raises(CallFailed, match=r"did not answer 'slow' within 2 s"):
        await said(link, "slow", seconds=20)
    assert await quick == "slept 0.3 s"
    assert await said(link, "echo", text="x") == "x"
    assert shared.asked("list_tools") == lists, "the connection is the same"


@pytest.mark.fault("F81")
async def test_a_slow_server(transport: str, make_link: MakeLink) -> None:
    with McpProcess(transport, delay=0.5) as server:
        link = make_link(server.start())
        await link.connected.wait()
        assert await asyncio.gather(*(said(link, "echo", text="x") for _ in range(5))) == ["x"] * 5


async def test_cancelling_a_call(shared: McpProcess, make_link: MakeLink) -> None:
    link = make_link(shared)
    await link.connected.wait()
    call = await in_flight(link, shared, seconds=2)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    async with asyncio.timeout(20):  # this task is sound, and so is the connection
        assert await said(link, "echo", text="x") == "x"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await said(link, "slow", seconds=2)


@pytest.mark.fault("F81")
async def test_a_server_that_hangs_is_found_by_a_ping(
    server: McpProcess, make_link: MakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_connection, "PING_EVERY", 0.1)
    link = make_link(server.start(), timeout=1)
    await link.connected.wait()
    os.kill(server.pid, signal.SIGSTOP)
    try:
        await eventually(lambda: not link.connected.is_set(), 30, "the loss is seen")
    finally:
        os.kill(server.pid, signal.SIGCONT)
    await asyncio.wait_for(link.connected.wait(), 30)
    assert await said(link, "pid") == str(server.pid)


async def test_other_tools_after_a_restart(server: McpProcess, make_link: MakeLink) -> None:
    link = make_link(server.start())
    await link.connected.wait()
    server.kill()
    server.tools = ("echo", "new")
    server.start()
    await eventually(lambda: [t.name for t in link.tools] == ["echo", "new"], 30, "the tools are new")
    assert await said(link, "new") == "fake"
    with pytest.raises(CallFailed, match="no longer has a tool 'add'"):
        await said(link, "add", a=1, b=2)


async def test_other_tools_that_the_server_tells_of(server: McpProcess, make_link: MakeLink) -> None:
    link = make_link(server.start())
    await link.connected.wait()
    await said(link, "grow", name="more")
    await eventually(lambda: link.tools[-1].name == "more", 30, "the tool is there")
    assert await said(link, "more") == "fake"


async def test_stopping_with_a_call_in_flight(shared: McpProcess, make_link: MakeLink) -> None:
    link = make_link(shared)
    await link.connected.wait()
    call = await in_flight(link, shared, seconds=2)
    await link.stop()
    with pytest.raises(CallFailed, match="the worker is shutting down"):
        await call
    with pytest.raises(CallFailed, match="not connected"):
        await said(link, "echo", text="x")


async def test_stopping_twice_and_before_anything_happened(shared: McpProcess, make_link: MakeLink) -> None:
    links = [make_link(shared), make_link(shared)]
    await links[0].stop()
    await links[1].connected.wait()
    await asyncio.gather(*(link.stop() for link in links), links[1].stop())


async def test_stopping_just_as_an_attempt_fails(transport: str) -> None:
    """Its error has been looked at all the same; asyncio logs a traceback of what nobody looks at."""
    unseen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    settings = McpServerSettings.model_validate({"url": "http://127.0.0.1:9/x", "transport": transport})
    link = ServerLink("tools", settings, lambda: None)
    link.start()
    await asyncio.sleep(0)
    (attempt,) = (task for task in asyncio.all_tasks() if task.get_name() == "MCP connection to tools")
    keeper = link._keeper
    assert keeper is not None
    attempt.add_done_callback(lambda _, cancel=keeper.cancel: cancel() and None)
    await asyncio.wait({keeper})
    del attempt, keeper, link
    gc.collect()
    assert unseen == []


class Forgetful:
    """A server as small as the protocol allows: its answers are JSON, it refuses GET and forgets sessions.

    `refusal`: the body with which it tells so. Without `has_sessions` it has no name for them; `is_gone`:
    what is in front of it knows it no longer.
    """

    def __init__(self) -> None:
        self.session = 0
        self.refusal = ""
        self.has_sessions = True
        self.is_gone = False
        self.asked: list[str] = []
        self.breaks_off = False

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        method = body["method"]
        self.asked.append(method)
        if self.is_gone:
            return web.json_response({"detail": "Not Found"}, status=404)
        if method == "initialize":
            self.session += 1
            result: dict[str, Any] = {
                "protocolVersion": body["params"]["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "forgetful", "version": "1"},
            }
        elif self.has_sessions and request.headers.get("mcp-session-id") != str(self.session):
            return web.Response(status=404, text=self.refusal, content_type="application/json")
        elif "id" not in body:
            return web.Response(status=202)
        elif method == "tools/list":
            result = {"tools": [{"name": "hello", "inputSchema": {"type": "object"}}]}
        elif self.breaks_off:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        else:
            result = {"content": [{"type": "text", "text": "hello"}]}
        answer = {"jsonrpc": "2.0", "id": body["id"], "result": result}
        return web.Response(
            body=json.dumps(answer),
            content_type="application/json",
            headers={"mcp-session-id": str(self.session)} if self.has_sessions else None,
        )


@pytest.fixture
async def forgetful() -> AsyncIterator[tuple[Forgetful, str]]:
    server = Forgetful()
    app = web.Application()
    app.router.add_post("/mcp", server.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield server, f"http://127.0.0.1:{runner.addresses[0][1]}/mcp"
    await runner.cleanup()


@pytest.mark.parametrize(
    "refusal",
    [
        "",
        '{"jsonrpc": "2.0", "id": "server-error", "error": {"code": -32600, "message": "Session not found"}}',
    ],
)
async def test_a_refused_call_is_sent_once_more(
    forgetful: tuple[Forgetful, str], make_link: MakeLink, refusal: str
) -> None:
    server, url = forgetful
    server.refusal = refusal
    link = make_link(url=url, transport="streamable_http")
    await link.connected.wait()
    server.session += 1  # it knows the session no longer, and has not done what it was asked
    assert await said(link, "hello") == "hello"
    assert server.asked.count("tools/call") == 2
    assert server.asked.count("initialize") == 2


async def test_a_server_without_sessions_that_is_gone(
    forgetful: tuple[Forgetful, str], make_link: MakeLink
) -> None:
    server, url = forgetful
    server.has_sessions = False
    link = make_link(url=url, transport="streamable_http")
    await link.connected.wait()
    assert await said(link, "hello") == "hello"
    server.is_gone = True
    with pytest.raises(CallFailed, match="HTTP 404 Not Found"):
        await said(link, "hello")
    assert not link.connected.is_set()


async def test_a_call_that_may_have_been_done_is_not_sent_again(
    forgetful: tuple[Forgetful, str], make_link: MakeLink
) -> None:
    server, url = forgetful
    link = make_link(url=url, transport="streamable_http")
    await link.connected.wait()
    server.breaks_off = True
    with pytest.raises(CallFailed, match="may have run"):
        await said(link, "hello")
    assert server.asked.count("tools/call") == 1
