"""The direct way by itself, with what stands in for the front door: that it is taken, and left, as it says.

What it leans on of aiohttp is at work here; that it answers as the plain way does: test_conformance.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, Final

import pytest
from aiohttp import web
from aiohttp.http import RawRequestMessage

from agentscope_protocol.settings import Settings
from agentscope_supervisor import http_direct, http_protocol
from agentscope_supervisor.front_door import FrontDoor
from agentscope_supervisor.http_direct import DirectProtocol, Exchange
from agentscope_supervisor.recorder import Recorder
from agentscope_supervisor.responses import head_bytes, header_lines
from tests.harness.client import JSON, Connection, request, turn_body
from tests.harness.waiting import eventually

pytestmark = pytest.mark.supervisor_only

IDLE: Final = 0.4  # seconds; where the limit is under test
LARGE: Final = 3_000_000  # bytes of a body; more than are taken in before somebody reads it
POST: Final = request("POST", "/invoke", b"hello", JSON)


class Door:
    """Says which way each request came."""

    def __init__(self, idle: float = 60.0) -> None:
        self.left = 0
        self.answers: list[DirectProtocol] = []  # that are not finished
        limits = http_protocol.Limits(5, 2 * LARGE, idle_timeout=idle)
        self.server = http_protocol.Server(self.handle, limits, partial(DirectProtocol, self.take))

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"plain " + await request.read())

    def take(self, head: RawRequestMessage, body: bytes, connection: DirectProtocol) -> Exchange | None:
        if body == b"raise":
            raise RuntimeError("a bug")
        if body == b"silent":
            self.answers.append(connection)
            return self
        answer = b"direct " + body
        connection.send(head_bytes(200, {"Content-Length": str(len(answer))}) + answer)
        if body == b"wait":
            self.answers.append(connection)
            return self
        return None

    def resumed(self) -> None: ...

    def lost(self) -> None:
        self.left += 1

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Connection]:
        lost = asyncio.Event()
        make = partial(self.server.connect, False, lost.set)
        listening = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
        async with asyncio.timeout(30), listening:
            async with Connection(listening.sockets[0].getsockname()[1]) as connection:
                yield connection
            await lost.wait()


async def ask(connection: Connection, asked: bytes) -> bytes:
    await connection.send(asked)
    return (await connection.answer()).body


async def test_usual_turns_go_directly_until_something_else_comes() -> None:
    async with Door().connected() as connection:
        for _ in range(3):
            assert await ask(connection, POST) == b"direct hello"
        assert await ask(connection, request("GET", "/")) == b"plain "
        assert await ask(connection, POST) == b"plain hello"


@pytest.mark.parametrize("fields", [{}, {"Content-Length": "0"}])
async def test_a_turn_without_a_body_is_answered_as_any_other(fields: dict[str, str]) -> None:
    head = b"POST /invoke HTTP/1.1\r\nHost: a\r\n%b\r\n" % header_lines(fields).encode()
    async with Door().connected() as connection:
        assert await ask(connection, head) == b"direct "
        assert await ask(connection, POST) == b"direct hello"


async def test_the_body_may_follow_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_direct, "BODY_FOLLOWS_WITHIN", 60.0)
    door = Door()
    async with door.connected() as connection:
        await connection.send(POST[:-5])
        await eventually(lambda: door.server.connections[0]._messages, 10, "the head has come")
        assert await ask(connection, POST[-5:]) == b"direct hello"


async def test_a_body_that_does_not_follow_is_waited_for_elsewhere() -> None:
    async with Door().connected() as connection:
        await connection.send(POST[:-5])
        assert not await connection.is_closed(within=0.3)
        assert await ask(connection, POST[-5:]) == b"plain hello"


async def test_a_large_body_is_read_elsewhere_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_direct, "BODY_FOLLOWS_WITHIN", 60.0)
    async with Door().connected() as connection:
        answer = await ask(connection, request("POST", "/invoke", b"x" * LARGE, JSON))
        assert answer == b"plain " + b"x" * LARGE


async def test_two_at_once_are_not_direct() -> None:
    async with Door().connected() as connection:
        assert await ask(connection, POST * 2) == b"plain hello"
        assert (await connection.answer()).body == b"plain hello"


async def test_what_comes_during_an_answer_waits_for_its_end() -> None:
    door = Door()
    async with door.connected() as connection:
        assert await ask(connection, request("POST", "/invoke", b"wait", JSON)) == b"direct wait"
        await connection.send(POST)
        assert not await connection.is_closed(within=0.1)
        assert not connection.has_arrived()
        door.answers.pop().answered()
        assert (await connection.answer()).body == b"plain hello"


async def test_idle_connection_is_closed_and_one_that_waits_is_not() -> None:
    door = Door(IDLE)
    async with door.connected() as connection:
        assert await ask(connection, request("POST", "/invoke", b"wait", JSON)) == b"direct wait"
        assert not await connection.is_closed(within=3 * IDLE)
        door.answers.pop().answered()
        assert await connection.is_closed(within=10)
    assert door.left == 0


async def test_who_leaves_is_told_of_once() -> None:
    door = Door()
    async with door.connected() as connection:
        await connection.send(request("POST", "/invoke", b"silent", JSON))
        await eventually(lambda: door.answers, 10, "it waits")
    await eventually(lambda: door.left == 1, 10, "it is told")


async def test_a_bug_of_ours_is_told_and_ends_the_connection_alone() -> None:
    async with Door().connected() as connection:
        await connection.send(request("POST", "/invoke", b"raise", JSON))
        answer = await connection.answer()
        assert (answer.status, answer.headers["connection"]) == (500, "close")
        assert json.loads(answer.body)["error"]["code"] == "INTERNAL_ERROR"
        assert await connection.is_closed(within=10)


async def test_shutdown_ends_idle_connections_and_waits_for_answers() -> None:
    door = Door()
    async with door.connected() as idle, door.connected() as busy:
        assert await ask(idle, POST) == b"direct hello"
        assert await ask(busy, request("POST", "/invoke", b"wait", JSON)) == b"direct wait"
        door.server.pre_shutdown()
        ending = asyncio.create_task(door.server.shutdown(20))
        assert await idle.is_closed(within=10)
        assert not await busy.is_closed(within=0.2)
        door.answers.pop().answered()
        assert await busy.is_closed(within=10)
        await ending


async def test_shutdown_does_not_wait_for_who_has_left() -> None:
    door = Door()
    async with door.connected() as busy:
        await busy.send(request("POST", "/invoke", b"silent", JSON))
        await eventually(lambda: door.answers, 10, "it waits")
        ending = asyncio.create_task(door.server.shutdown(60))
        assert not await busy.is_closed(within=0.2)
        busy.abort()
        async with asyncio.timeout(20):
            await ending


@pytest.mark.as_python
async def test_a_bug_of_ours_counts_as_500_whichever_way_it_came() -> None:
    counted: list[tuple[str, int]] = []
    metrics: Any = SimpleNamespace(request=lambda route, status: counted.append((route, status)))
    desk: Any = SimpleNamespace(ahead=None, leave=None)  # has no method to submit to, nor health
    store: Any = None
    recorder = Recorder(Settings().sessions, store)
    door = FrontDoor(Settings().server, desk, recorder, metrics=metrics)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        await door.listen(sock)
        for asked in (request("POST", "/invoke", turn_body("s", "x"), JSON), request("GET", "/health")):
            async with asyncio.timeout(30), Connection(sock.getsockname()[1]) as connection:
                await connection.send(asked)
                assert (await connection.answer()).status == 500
        await door.close()
    recorder.close()
    assert counted == [("/invoke", 500), ("/health", 500)]
