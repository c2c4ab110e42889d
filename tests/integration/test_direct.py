"""The direct way by itself, with what stands in for the front door: that it is taken, and left, as it says.

That it answers as the plain way does: test_conformance. Which requests are usual turns: test_turn_head.
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

from agentscope_protocol.config.settings import Settings
from agentscope_supervisor.exchanges.service import ExchangeService
from agentscope_supervisor.http1 import aiohttp_connection, fast_connection
from agentscope_supervisor.http1.channel import Exchange
from agentscope_supervisor.http1.fast_connection import FastConnection, FastServer
from agentscope_supervisor.http1.fast_head import FastHead
from agentscope_supervisor.http1.responses import head_bytes
from agentscope_supervisor.runs.recorder import Recorder
from agentscope_supervisor.telemetry.metrics import Metrics
from agentscope_supervisor.turns.service import TurnService
from agentscope_supervisor.web.access.tokens import Tokens
from agentscope_supervisor.web.app import FrontDoor
from tests.harness.client import JSON, Connection, request, turn_body
from tests.harness.waiting import eventually

IDLE: Final = 0.4  # seconds; where the limit is under test
LARGE: Final = 3_000_000  # bytes of a body; more than are taken in before somebody reads it
ONE_READ: Final = 256 * 1024  # bytes; a loop reads no more at once
POST: Final = request("POST", "/invoke", b"hello", JSON)
WAIT: Final = request("POST", "/invoke", b"wait", JSON)  # is answered, and its answer does not end


class Door(Exchange):
    """Says which way each request came."""

    def __init__(self, idle: float = 60.0, head: float = 5.0, body_within: float = 0.05) -> None:
        self.left = 0
        self.answers: list[FastConnection] = []  # that are not finished
        limits = aiohttp_connection.HttpLimits(head, 2 * LARGE, idle_timeout=idle)
        self.plain = aiohttp_connection.Server(self.handle, limits)
        self.server = FastServer(self.take, self.plain, limits, body_within)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"plain " + await request.read())

    def take(self, head: FastHead, body: bytes, connection: FastConnection) -> Exchange | None:
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

    def probe(self) -> bool:
        return False

    def lost(self) -> None:
        self.left += 1

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Connection]:
        lost: list[None] = []
        make = partial(self.server.connect, False, lambda: lost.append(None))
        listening = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
        async with asyncio.timeout(30), listening:
            async with Connection(listening.sockets[0].getsockname()[1]) as connection:
                yield connection
            await eventually(lambda: lost, 30, "its end is reported")
            assert len(lost) == 1


async def ask(connection: Connection, asked: bytes) -> bytes:
    await connection.send(asked)
    return (await connection.answer()).body


async def test_usual_turns_go_directly_until_something_else_comes() -> None:
    async with Door().connected() as connection:
        for _ in range(3):
            assert await ask(connection, POST) == b"direct hello"
        assert await ask(connection, request("GET", "/")) == b"plain "
        assert await ask(connection, POST) == b"plain hello"


async def test_a_turn_without_a_body_is_answered_as_any_other() -> None:
    head = b"POST /invoke HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    async with Door().connected() as connection:
        assert await ask(connection, head + b"Content-Length: 0\r\n\r\n") == b"direct "
        assert await ask(connection, POST) == b"direct hello"
        assert await ask(connection, head + b"\r\n") == b"plain "


async def test_the_body_may_follow_its_head() -> None:
    door = Door(body_within=60.0)
    async with door.connected() as connection:
        for _ in range(2):
            for piece in (POST[:-5], POST[-5:-1]):
                await connection.send(piece)
                assert not await connection.is_closed(within=0.1)
            assert await ask(connection, POST[-1:]) == b"direct hello"


async def test_a_body_that_does_not_follow_is_waited_for_elsewhere() -> None:
    async with Door().connected() as connection:
        await connection.send(POST[:-5])
        assert not await connection.is_closed(within=0.3)
        assert await ask(connection, POST[-5:]) == b"plain hello"


async def test_a_head_in_pieces_is_read_elsewhere() -> None:
    async with Door().connected() as connection:
        await connection.send(POST[:20])
        assert not await connection.is_closed(within=0.1)
        assert await ask(connection, POST[20:]) == b"plain hello"


async def test_a_large_body_is_read_elsewhere_at_once() -> None:
    async with Door(body_within=60.0).connected() as connection:
        answer = await ask(connection, request("POST", "/invoke", b"x" * LARGE, JSON))
        assert answer == b"plain " + b"x" * LARGE


async def test_two_at_once_are_not_direct() -> None:
    async with Door().connected() as connection:
        assert await ask(connection, POST * 2) == b"plain hello"
        assert (await connection.answer()).body == b"plain hello"


async def test_what_comes_during_an_answer_waits_for_its_end() -> None:
    door = Door()
    async with door.connected() as connection:
        assert await ask(connection, WAIT) == b"direct wait"
        await connection.send(POST)
        assert not await connection.is_closed(within=0.1)
        assert not connection.has_arrived()
        door.answers.pop().done()
        assert (await connection.answer()).body == b"plain hello"


async def test_much_that_comes_during_an_answer_is_left_in_the_socket() -> None:
    door = Door()
    async with door.connected() as connection:
        assert await ask(connection, WAIT) == b"direct wait"
        [direct] = door.server.connections
        large = request("POST", "/invoke", b"x" * LARGE, JSON)
        sending = asyncio.create_task(connection.send(large))
        await eventually(lambda: len(direct._data) > fast_connection.MAX_EARLY, 30, "enough has come")
        assert not await connection.is_closed(within=0.2)
        assert len(direct._data) <= fast_connection.MAX_EARLY + ONE_READ
        door.answers.pop().done()
        await sending
        assert (await connection.answer()).body == b"plain " + b"x" * LARGE


async def test_who_asks_nothing_is_told_so() -> None:
    async with Door(head=0.3).connected() as connection:
        assert (await connection.answer()).status == 408
        assert await connection.is_closed(within=10)


@pytest.mark.timed
async def test_the_first_head_has_one_time_limit_on_both_ways() -> None:
    began = asyncio.get_running_loop().time()
    async with Door(head=1.0).connected() as connection:
        assert not await connection.is_closed(within=0.7)
        await connection.send(POST[:20])
        assert (await connection.answer()).status == 408
        assert asyncio.get_running_loop().time() - began < 1.6  # not 0.7 and one more


async def test_idle_connection_is_closed_and_one_that_waits_is_not() -> None:
    door = Door(IDLE)
    async with door.connected() as connection:
        assert await ask(connection, WAIT) == b"direct wait"
        assert not await connection.is_closed(within=3 * IDLE)
        door.answers.pop().done()
        assert await connection.is_closed(within=10)
    assert door.left == 0


async def test_who_leaves_is_told_of_once() -> None:
    door = Door()
    async with door.connected() as connection:
        await connection.send(request("POST", "/invoke", b"silent", JSON))
        await eventually(lambda: door.answers, 30, "it waits")
    await eventually(lambda: door.left == 1, 30, "the door leaves")


async def test_who_sends_no_more_in_the_moment_of_the_answer_is_not_waited_for() -> None:
    """The end of the answer and the end of the client's requests come in one turn of the loop."""
    door = Door()
    async with door.connected() as connection:
        assert await ask(connection, WAIT) == b"direct wait"
        [direct] = door.server.connections
        assert direct.eof_received()
        door.answers.pop().done()
        assert await connection.is_closed(within=10)


async def half_closed(door: Door, connection: Connection, asked: bytes) -> None:
    """While an answer is under way, send what is asked, and that it was the last."""
    [direct] = door.server.connections
    connection.writer.write(asked)
    connection.writer.write_eof()
    await eventually(lambda: direct._half_close is not None, 30, "its end has come")
    await asyncio.sleep(0)  # a turn of the loop, in which it is looked at


async def test_who_sends_no_more_gets_the_answer_and_then_the_end() -> None:
    door = Door()
    async with door.connected() as connection:
        assert await ask(connection, WAIT) == b"direct wait"
        await half_closed(door, connection, b"")
        assert not await connection.is_closed(within=0.2)
        door.answers.pop().done()
        assert await connection.is_closed(within=10)
    assert door.left == 0


async def test_what_was_asked_before_the_end_is_answered() -> None:
    door = Door()
    async with door.connected() as connection:
        assert await ask(connection, WAIT) == b"direct wait"
        await half_closed(door, connection, POST)
        door.answers.pop().done()
        assert (await connection.answer()).body == b"plain hello"
        assert await connection.is_closed(within=10)


async def test_half_a_request_before_the_end_is_none() -> None:
    door = Door()
    async with door.connected() as connection:
        assert await ask(connection, WAIT) == b"direct wait"
        await half_closed(door, connection, POST[:20])
        door.answers.pop().done()
        assert await connection.is_closed(within=10)


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
        assert await ask(busy, WAIT) == b"direct wait"
        ending = asyncio.create_task(door.server.shutdown(20))
        assert await idle.is_closed(within=10)
        assert not await busy.is_closed(within=0.2)
        door.answers.pop().done()
        assert await busy.is_closed(within=10)
        await ending


async def test_shutdown_waits_no_longer_than_it_is_told() -> None:
    door = Door()
    async with door.connected() as busy:
        await busy.send(request("POST", "/invoke", b"silent", JSON))
        await eventually(lambda: door.answers, 30, "it waits")
        await door.server.shutdown(0.2)
        assert await busy.is_closed(within=10)
    assert door.left == 1
    assert not door.server.connections


async def test_a_body_that_is_awaited_on_a_connection_that_closes_is_nobody_elses() -> None:
    door = Door(body_within=0.3)
    async with door.connected() as connection:
        await connection.send(POST[:-5])
        await eventually(lambda: [each for each in door.server.connections if each._data], 30, "it came")
        [direct] = door.server.connections
        direct.send(b"x" * 4 * LARGE)  # more than the sockets take: it closes, and is not closed
        direct.close()
        await asyncio.sleep(0.6)
        assert not door.plain.connections
        await connection.reader.read(-1)


async def test_shutdown_does_not_wait_for_who_has_left() -> None:
    door = Door()
    async with door.connected() as busy:
        await busy.send(request("POST", "/invoke", b"silent", JSON))
        await eventually(lambda: door.answers, 30, "it waits")
        ending = asyncio.create_task(door.server.shutdown(60))
        assert not await busy.is_closed(within=0.2)
        busy.abort()
        async with asyncio.timeout(20):
            await ending


async def test_a_bug_of_ours_counts_as_500_whichever_way_it_came() -> None:
    broken: Any = SimpleNamespace()  # has no method
    settings = Settings()
    recorder = Recorder(settings.sessions, broken, {})
    turns = TurnService(settings, 1, broken, recorder, None)
    metrics = Metrics(broken, broken, [], [])
    exchanges = ExchangeService(settings, turns, broken)
    door = FrontDoor(
        settings.server,
        Tokens(None, settings.auth),
        turns,
        exchanges,
        broken,
        broken,
        recorder,
        tracing=broken,
        metrics=metrics,
    )
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        await door.listen(sock)
        body = turn_body("s", "x")
        for asked in (
            request("POST", "/invoke", body, JSON),  # directly
            request("POST", "/invoke", body, {**JSON, "Connection": "close"}),
            request("GET", "/health"),
        ):
            async with asyncio.timeout(30), Connection(sock.getsockname()[1]) as connection:
                await connection.send(asked)
                assert (await connection.answer()).status == 500
        await door.close()
    recorder.close()
    metrics.close()
    assert metrics._requests == {("/invoke", 500): 2, ("/health", 500): 1}
