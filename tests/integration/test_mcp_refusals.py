"""An MCP server, or the gateway before it, refuses requests: only the refused call fails.

The server is the library's own, on both transports. `McpProcess.refuse` answers in its place.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import pytest
from aiohttp import web

from agentscope_protocol.config.settings import McpServerSettings
from agentscope_worker.runtime.mcp import connection as mcp_connection
from agentscope_worker.runtime.mcp import links as mcp_links
from agentscope_worker.runtime.mcp.connection import Connection
from agentscope_worker.runtime.mcp.links import CallFailed, ServerLink
from tests.harness.mcp_process import McpProcess
from tests.harness.waiting import eventually

pytestmark = [pytest.mark.agentscope, pytest.mark.fault("F81")]

BACK_WITHIN: Final = 5.0  # seconds after the end of a refusal
TRANSPORTS: Final = ("sse", "streamable_http")


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, McpProcess]]:
    with contextlib.ExitStack() as stack:
        yield {each: stack.enter_context(McpProcess(each)).start() for each in TRANSPORTS}


@pytest.fixture(params=TRANSPORTS)
def server(request: pytest.FixtureRequest, running: dict[str, McpProcess]) -> Iterator[McpProcess]:
    """A server that accepts everything before and after the test."""
    process = running[request.param]
    yield process
    process.accept()


@pytest.fixture(autouse=True)
def no_noise(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No refusal logs a traceback or an error."""
    caplog.set_level(logging.INFO)
    yield
    assert [each for each in caplog.records if each.levelno >= logging.ERROR or each.exc_info] == []


@contextlib.asynccontextmanager
async def connected(server: McpProcess, **more: Any) -> AsyncIterator[ServerLink]:
    settings = {**server.settings, **more}
    link = ServerLink("tools", McpServerSettings.model_validate(settings), lambda: None)
    link.start()
    try:
        await asyncio.wait_for(link.connected.wait(), 10)
        yield link
    finally:
        await link.stop()


async def said(link: ServerLink, tool: str, **arguments: Any) -> str:
    return str((await link.call_tool(tool, arguments)).content[0].text)


async def in_flight(link: ServerLink, server: McpProcess, seconds: float) -> asyncio.Task[str]:
    """A call that the server has begun to answer."""
    call = asyncio.create_task(said(link, "slow", seconds=seconds))
    async with asyncio.timeout(10):
        while not await asyncio.to_thread(server.running, "slow"):  # noqa: ASYNC110 - it is a process
            await asyncio.sleep(0.01)
    return call


async def test_a_refused_call_fails_alone_and_the_calls_of_other_sessions_go_on(server: McpProcess) -> None:
    async with connected(server) as link:
        connection = link._connection
        other = await in_flight(link, server, seconds=3)
        for status in (400, 401, 403, 408, 413, 429, 500, 502, 503):
            server.refuse(status, "echo")
            with pytest.raises(CallFailed, match=f"'tools' did not answer 'echo': .* HTTP {status} "):
                await said(link, "echo", text="x")
            assert await said(link, "add", a=2, b=3) == "5", status
        assert not other.done()
        assert await other == "slept 3 s"
        server.accept()
        assert await said(link, "echo", text="x") == "x"
        assert link._connection is connection


async def test_a_refused_ping_or_list_of_tools_does_not_end_the_connection(
    server: McpProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mcp_connection, "PING_EVERY", 0.1)
    async with connected(server) as link:
        connection, before = link._connection, len(link.tools)
        server.refuse(503, "tools/list")
        await said(link, "grow", name="more")
        problem = "MCP server tools has other tools, but does not list them"
        await eventually(lambda: problem in caplog.text, 30, "the refusal is logged")
        assert len(link.tools) == before
        server.refuse(429, "ping")
        await eventually(lambda: len(link.tools) == before + 1, 30, "the new tool is listed")
        assert await said(link, "more") == server.name
        assert link._connection is connection
        server.offer(server.tools)


@pytest.mark.timed
@pytest.mark.parametrize("status", [400, 401, 404, 503])
async def test_a_server_that_refuses_everything_for_a_while_is_back_soon(
    server: McpProcess, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_connection, "PING_EVERY", 0.1)
    async with connected(server) as link:
        server.refuse(status)
        if status == 503:  # says nothing about the session
            with pytest.raises(CallFailed, match="HTTP 503"):
                await said(link, "pid")
        else:
            await eventually(lambda: not link.connected.is_set(), 30, "the loss is noticed")
            attempts = set()
            await eventually(
                lambda: attempts.add(link._connection) or len(attempts) == 5, 20, "four attempts are refused"
            )
        server.accept()
        await asyncio.wait_for(link.connected.wait(), BACK_WITHIN)
        assert await said(link, "pid") == str(server.pid)


def test_only_a_rejection_that_lasts_is_retried_slowly() -> None:
    assert mcp_links.MAX_DELAY < BACK_WITHIN
    assert max(mcp_links._delay(100, False, False) for _ in range(100)) <= mcp_links.MAX_DELAY
    assert min(mcp_links._delay(100, True, False) for _ in range(100)) >= mcp_links.REFUSED_DELAY / 2


@pytest.mark.parametrize("text", ["\ud83d", float("nan")])
async def test_arguments_that_have_no_json_form_fail_only_their_call(
    server: McpProcess, text: object
) -> None:
    async with connected(server) as link:
        connection = link._connection
        other = await in_flight(link, server, seconds=0.5)
        with pytest.raises(CallFailed, match="the arguments of 'echo' cannot be sent as JSON"):
            await said(link, "echo", text=text)
        assert await other == "slept 0.5 s"
        assert link._connection is connection


async def test_a_response_that_is_late_fails_only_its_call(server: McpProcess) -> None:
    async with connected(server, timeout=3, sse_read_timeout=1) as link:
        connection = link._connection
        late = asyncio.create_task(said(link, "slow", seconds=2))
        with contextlib.suppress(CallFailed):  # over sse, pings keep the common stream open
            assert await late == "slept 2 s"
        assert await said(link, "echo", text="x") == "x"
        assert link._connection is connection


async def test_a_call_does_not_wait_for_a_hundred_others(running: dict[str, McpProcess]) -> None:
    async with connected(running["streamable_http"]) as link:
        others = [asyncio.create_task(said(link, "slow", seconds=5)) for _ in range(101)]
        server = running["streamable_http"]
        async with asyncio.timeout(20):
            while await asyncio.to_thread(server.running, "slow") < len(others):  # noqa: ASYNC110 - a process
                await asyncio.sleep(0.05)
        assert await said(link, "echo", text="x") == "x"
        assert not any(each.done() for each in others)
        for each in others:
            each.cancel()
        await asyncio.wait(others)


# -- redirects --------------------------------------------------------------------------------


async def test_a_url_with_a_slash_too_many_works(server: McpProcess) -> None:
    async with connected(server, url=f"{server.url}/") as link:
        assert await said(link, "echo", text="x") == "x"


class Redirecting:
    """An HTTP server whose path /STATUS redirects to `target`, or from 400 on reports a JSON-RPC error.

    Notes what arrives at other paths.
    """

    def __init__(self) -> None:
        self.target = ""
        self.arrived: list[tuple[str, str, str]] = []  # method, Authorization header, body

    async def answer(self, request: web.Request) -> web.StreamResponse:
        status = int(request.path[1:]) if request.path[1:].isdigit() else 200
        if status >= 400:
            error = {"code": -32602, "message": "no such city"}
            return web.json_response({"jsonrpc": "2.0", "id": None, "error": error}, status=status)
        if status >= 300:
            return web.Response(status=status, headers={"Location": self.target})
        body = await request.text()
        self.arrived.append((request.method, request.headers.get("x-key", ""), body))
        return web.json_response({})


@contextlib.asynccontextmanager
async def redirecting() -> AsyncIterator[tuple[Redirecting, str]]:
    server, app = Redirecting(), web.Application()
    app.router.add_route("*", "/{tail:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield server, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_redirect_is_followed_with_its_body_within_the_origin_only() -> None:
    async with redirecting() as (here, url), redirecting() as (elsewhere, other_url):
        settings = McpServerSettings.model_validate({"url": f"{url}/307", "transport": "streamable_http"})
        connection = Connection(settings, lambda _: None)
        connection.client = object()  # as if it were connected
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
        async with connection._http({"x-key": "hush"}) as client:
            for status in (307, 308):
                here.target = "/mcp/"
                assert (await client.post(f"{url}/{status}", json=call)).json() == {}
                method, key, body = here.arrived.pop()
                assert (method, key) == ("POST", "hush")
                assert '"tools/call"' in body
            for status, target in ((307, f"{other_url}/mcp?token=hush"), (302, "/mcp/")):
                here.target = target
                refused = (await client.post(f"{url}/{status}", json=call)).json()["error"]["message"]
                assert f"the server responded with HTTP {status}" in refused
                assert "which is not followed" in refused
                assert "hush" not in refused
            here.target = "/307"
            refused = (await client.post(f"{url}/307", json=call)).json()["error"]["message"]
            assert "the server responded with HTTP 307" in refused
        assert here.arrived == []
        assert elsewhere.arrived == [], "the headers are for the configured server"


async def test_the_error_in_the_body_of_a_refusal_is_what_the_caller_gets() -> None:
    async with redirecting() as (_, url):
        settings = McpServerSettings.model_validate({"url": url, "transport": "streamable_http"})
        connection = Connection(settings, lambda _: None)
        connection.client = object()  # as if it were connected
        async with connection._http() as client:
            for status in (400, 404, 500):
                call = {"jsonrpc": "2.0", "id": status, "method": "tools/call"}
                answer = (await client.post(f"{url}/{status}", json=call)).json()
                assert answer["id"] == status
                assert answer["error"] == {"code": -32602, "message": "no such city"}
            notification = {"jsonrpc": "2.0", "method": "notifications/cancelled"}
            assert (await client.post(f"{url}/500", json=notification)).status_code == 202
        assert connection.lost is None


async def test_a_redirect_to_another_origin_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async with redirecting() as (here, url), redirecting() as (elsewhere, other_url):
        here.target = f"{other_url}/mcp?token=hush"
        settings = McpServerSettings.model_validate({"url": f"{url}/307", "transport": "streamable_http"})
        link = ServerLink("tools", settings, lambda: None)
        link.start()
        try:
            await asyncio.wait_for(link.tried.wait(), 10)
        finally:
            await link.stop()
        assert f"HTTP 307 Temporary Redirect to {other_url}/mcp, which is not followed" in link.failure
        assert "hush" not in caplog.text
        assert elsewhere.arrived == []
