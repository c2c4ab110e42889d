"""HTTP as clients speak it, on both ways that a request can go: what leaves must be the same, byte for byte.

A connection begins on the direct way; its first request that is no usual turn hands it over to aiohttp, for
good (`http1.fast_connection`). So a connection that has asked for anything else before is on the plain way.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.harness.client import (
    JSON,
    Connection,
    Head,
    Response,
    chunked,
    invoke,
    new_session,
    request,
    turn_body,
)
from tests.harness.events import Parser, assert_whole_stream, text_of
from tests.harness.instance import Instance
from tests.harness.projects import journal
from tests.harness.waiting import eventually

Connect = Callable[..., AbstractAsyncContextManager[Connection]]

TURN: Final = [{"say": "one"}, {"sleep": 0.05}, {"say": "two"}]
PATIENCE: Final = 30.0  # seconds; for what comes at once unless the machine is busy
RECEIVE_BUFFER: Final = 16 * 1024  # bytes, of a client that reads slowly

OF_ALL: Final = {"x-request-id", "x-run-id", "x-agentscope-worker", "content-type", "date", "server"}
OF_STREAMS: Final = OF_ALL | {"cache-control", "x-accel-buffering"}


@pytest.fixture(params=["direct", "plain"])
def connect(request: pytest.FixtureRequest, shared: Instance) -> Connect:
    """Connects to the shared instance, on one way."""
    return way(shared, request.param)


def way(instance: Instance, name: str) -> Connect:
    @asynccontextmanager
    async def connection(**options: Any) -> AsyncIterator[Connection]:
        async with asyncio.timeout(2 * PATIENCE), Connection(instance.port, **options) as connection:
            if name == "plain":
                await connection.send(request("GET", "/liveness"))
                assert (await connection.answer()).status == 200
            yield connection

    return connection


def turn(script: object = TURN, headers: dict[str, str] | None = None, **fields: Any) -> bytes:
    """The bytes of a turn of a new session."""
    return request("POST", "/invoke", turn_body(new_session(), script, **fields), {**JSON, **(headers or {})})


async def texts_of(connection: Connection, error: str | None = None) -> list[str]:
    """The texts of a stream that is whole and ends as it should."""
    return texts_in(await connection.answer(), error)


def texts_in(answer: Response, error: str | None = None) -> list[str]:
    assert answer.status == 200
    parser = Parser()
    parser.feed(answer.body, time.monotonic())
    parser.finish()
    assert_whole_stream(parser.events, answer.headers["x-run-id"], error)
    return [event.text for event in parser.events[: -1 if error is None else -2]]


async def assert_in_step(connection: Connection) -> None:
    """The connection is where it should be: the next requests on it are answered."""
    await connection.send(turn("next", stream=False))
    assert b"next" in (await connection.answer()).body
    await connection.send(request("GET", "/nothing"))
    assert (await connection.answer()).status == 404


# -- answers -------------------------------------------------------------------------------------------


async def test_heads_are_the_same(connect: Connect, tmp_path: Path) -> None:
    async with connect() as connection:
        await connection.send(turn([{"say": "x"}, {"wait_for": str(tmp_path / "go")}]))
        head = await connection.head()
        (tmp_path / "go").touch()
        body = b"".join([piece async for piece in connection.body(head)])
        assert texts_in(Response(head, body, 0)) == ["x"]
        assert (head.version, head.status, set(head.headers)) == (
            "HTTP/1.1",
            200,
            OF_STREAMS | {"transfer-encoding"},
        )
        assert head.headers["content-type"] == "text/event-stream; charset=utf-8"
        await connection.send(turn("short", stream=False, headers={"X-Request-Id": "mine"}))
        whole = await connection.answer()
        assert set(whole.headers) == OF_ALL | {"content-length"}
        assert (whole.headers["content-type"], whole.headers["x-request-id"]) == ("application/json", "mine")
        assert whole.json["run_id"] == whole.headers["x-run-id"]
        await connection.send(turn([{"raise": "broken"}]))
        failed = await connection.answer()
        assert set(failed.headers) == OF_ALL | {"content-length"}
        assert (failed.status, failed.code) == (500, "APP_ERROR")


async def test_a_turn_that_is_over_at_once_has_a_length_or_chunks(connect: Connect) -> None:
    async with connect() as connection:
        for _ in range(30):
            await connection.send(turn("short"))
            answer = await connection.answer()
            assert ("content-length" in answer.headers) != ("transfer-encoding" in answer.headers)
            assert texts_in(answer) == ["short"]


async def test_tiny_pieces(connect: Connect) -> None:
    async with connect() as connection:
        await connection.send(turn([{"say": "x", "times": 2000}]))
        assert await texts_of(connection) == ["x"] * 2000
        await connection.send(turn([{"say": "y", "times": 100, "every": 0.001}]))
        assert await texts_of(connection) == ["y"] * 100
        await assert_in_step(connection)


async def test_big_pieces(connect: Connect) -> None:
    async with connect() as connection:
        await connection.send(turn([{"big": 1_000_000, "times": 3}]))
        assert [len(text) for text in await texts_of(connection)] == [1_000_000] * 3
        await connection.send(turn([{"big": 3_000_000}], stream=False))
        assert len((await connection.answer()).body) > 3_000_000
        await assert_in_step(connection)


async def test_a_reader_that_waits_gets_all_of_it_in_order(connect: Connect) -> None:
    """Far more than the sockets and the credit of a stream hold."""
    said = [{"say": str(number) + "." * 20_000} for number in range(100)]
    async with connect(receive_buffer=RECEIVE_BUFFER) as connection:
        for stream in (True, False):
            await connection.send(turn(said, stream=stream))
            head = await connection.head()
            assert (await invoke(connection._port, new_session(), "others are served")).status == 200
            body = b"".join([piece async for piece in connection.body(head)])
            answer = Response(head, body, 0)
            found = texts_in(answer) if stream else [answer.json["messages"][0]["content"][0]["text"]]
            assert "".join(found) == "".join(step["say"] for step in said)
        await assert_in_step(connection)


async def test_comments_come_while_it_is_silent(connect: Connect, tmp_path: Path) -> None:
    session = new_session()
    async with connect() as first, connect() as second:
        await first.send(turn_of(session, [{"say": "x"}, {"wait_for": str(tmp_path / "go")}]))
        await first.reader.readuntil(b": keep-alive\n\n\r\n")
        await second.send(turn_of(session, "y"))
        head = await second.head()
        await second.reader.readuntil(b": queued 1\n\n\r\n")
        (tmp_path / "go").touch()
        body = b"".join([piece async for piece in second.body(head)])
        assert texts_in(Response(head, body, 0)) == ["y"]


def turn_of(session: str, script: object) -> bytes:
    return request("POST", "/invoke", turn_body(session, script), JSON)


# -- requests that say little ----------------------------------------------------------------------------


async def test_a_request_may_be_a_text_and_gets_a_session(connect: Connect) -> None:
    context = json.dumps([{"context": 1}])
    async with connect() as connection:
        for stream in (True, False):
            body = json.dumps({"message": context, "stream": stream}).encode()
            await connection.send(request("POST", "/invoke", body, JSON))
            answer = await connection.answer()
            made = answer.headers["x-session-id"]
            assert re.fullmatch("[0-9a-f]{32}", made)
            assert made != answer.headers["x-run-id"], "a run's id is in the log, a session's is not"
            (text,) = texts_in(answer) if stream else [text_of(answer.json["messages"][0])]
            assert json.loads(text)["session_id"] == made
            if not stream:
                assert answer.json["session_id"] == made
        await connection.send(request("POST", "/invoke", turn_body(made, "next", stream=False), JSON))
        answer = await connection.answer()
        assert (answer.json["session_id"], "x-session-id" in answer.headers) == (made, False)


async def test_a_large_text_gets_a_session_too(connect: Connect) -> None:
    async with connect() as connection:
        body = json.dumps({"message": "x" * 100_000, "stream": False}).encode()
        await connection.send(request("POST", "/invoke", body, JSON))
        answer = await connection.answer()
        assert answer.json["session_id"] == answer.headers["x-session-id"]
        assert len(text_of(answer.json["messages"][0])) == 100_000


async def test_a_slash_after_invoke_changes_nothing(connect: Connect) -> None:
    async with connect() as connection:
        for path in ("/invoke", "/invoke/"):
            await connection.send(request("POST", path, turn_body(new_session(), "same"), JSON))
            assert await texts_of(connection) == ["same"]
        await connection.send(request("GET", "/invoke/"))
        assert (await connection.answer()).status == 405


# -- errors --------------------------------------------------------------------------------------------


async def test_errors_before_the_first_byte_and_after_it(connect: Connect) -> None:
    async with connect() as connection:
        await connection.send(turn([{"sleep": 0.05}, {"raise": "too early"}]))
        answer = await connection.answer()
        assert (answer.status, answer.code) == (500, "APP_ERROR")
        await connection.send(turn([{"say": "x"}, {"sleep": 0.05}, {"raise": "too late"}]))
        assert await texts_of(connection, "APP_ERROR") == ["x"]
        await connection.send(turn([{"say": "x"}, {"raise": "too late"}], stream=False))
        answer = await connection.answer()
        assert (answer.status, answer.code) == (500, "APP_ERROR")
        await assert_in_step(connection)


async def test_refusals(connect: Connect) -> None:
    """After each one the connection goes on."""
    session = new_session()
    refused = {
        400: request("POST", "/invoke", b"nonsense", JSON),
        409: request("POST", "/invoke", turn_body(session, "x", on_busy="reject"), JSON),
        415: request("POST", "/invoke", b"x", {"Content-Type": "text/plain"}),
        404: request("GET", "/nothing"),
        405: request("DELETE", "/invoke"),
    }
    async with connect() as holder, connect() as connection:
        await holder.send(turn_of(session, [{"say": "x"}, {"sleep": 60}]))
        await holder.head()
        for status, asked in refused.items():
            await connection.send(asked)
            answer = await connection.answer()
            assert answer.status == status
            assert answer.headers["x-request-id"]
        await assert_in_step(connection)


async def test_a_full_queue_says_when_to_come_back(connect: Connect, shared: Instance) -> None:
    session = new_session()
    async with connect() as holder, connect() as connection:
        await holder.send(turn_of(session, [{"say": "x"}, {"sleep": 60}]))
        await holder.head()
        waiting = [Connection(shared.port) for _ in range(3)]
        for each in waiting:
            await each.__aenter__()
            await each.send(turn_of(session, "waits"))
            await each.reader.readuntil(b": queued")
        await connection.send(turn_of(session, "one too many"))
        answer = await connection.answer()
        assert (answer.status, answer.code) == (429, "TOO_MANY_REQUESTS")
        assert 1 <= int(answer.headers["retry-after"]) <= 5
        for each in waiting:
            each.abort()
        await assert_in_step(connection)


# -- requests ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_http_1_0(connect: Connect, stream: bool) -> None:
    async with connect() as connection:
        body = turn_body(new_session(), TURN, stream=stream)
        await connection.send(request("POST", "/invoke", body, JSON, "HTTP/1.0"))
        answer = await connection.answer()
        assert "transfer-encoding" not in answer.headers
        if stream:
            assert texts_in(answer) == ["one", "two"]
        else:
            assert answer.json["messages"][0]["content"][0]["text"] == "onetwo"
        assert await connection.is_closed()


async def test_one_connection_serves_many_requests(connect: Connect) -> None:
    async with connect() as connection:
        for _ in range(5):
            await connection.send(turn())
            assert await texts_of(connection) == ["one", "two"]
        for _ in range(3):
            await connection.send(turn("short", stream=False))
            assert (await connection.answer()).status == 200
            await connection.send(request("HEAD", "/health"))
            assert (await connection.answer(has_body=False)).status == 200
            await connection.send(request("HEAD", "/invoke"))
            assert (await connection.answer(has_body=False)).status == 405
            await connection.send(turn("short"))
            assert await texts_of(connection) == ["short"]


async def test_pipelined_requests_are_answered_in_order(connect: Connect) -> None:
    turns = b"".join(turn([{"sleep": 0.1 / n}, {"say": str(n)}]) for n in (1, 2, 3))
    async with connect() as connection:
        await connection.send(turns + request("GET", "/nothing"))
        for number in (1, 2, 3):
            assert await texts_of(connection) == [str(number)]
        assert (await connection.answer()).status == 404


async def test_a_request_that_comes_during_an_answer_waits_for_its_end(connect: Connect) -> None:
    async with connect() as connection:
        await connection.send(turn([{"say": "a"}, {"sleep": 0.3}, {"say": "b"}]))
        head = await connection.head()
        await connection.send(turn("c"))
        await connection.send(request("GET", "/nothing")[:10])
        body = b"".join([piece async for piece in connection.body(head)])
        assert texts_in(Response(head, body, 0)) == ["a", "b"]
        assert await texts_of(connection) == ["c"]
        await connection.send(request("GET", "/nothing")[10:])
        assert (await connection.answer()).status == 404


@pytest.mark.parametrize("name", ["Connection", "Proxy-Connection"])
async def test_connection_close_is_respected(connect: Connect, name: str) -> None:
    async with connect() as connection:
        await connection.send(turn(headers={name: "close"}))
        assert await texts_of(connection) == ["one", "two"]
        assert await connection.is_closed()


async def test_body_in_chunks(connect: Connect) -> None:
    body = turn_body(new_session(), "in pieces", stream=False)
    head = request("POST", "/invoke", headers={**JSON, "Transfer-Encoding": "chunked"})
    async with connect() as connection:
        await connection.send(head + chunked(body, 7))
        assert b"in pieces" in (await connection.answer()).body
        await assert_in_step(connection)


async def test_request_byte_by_byte(connect: Connect) -> None:
    async with connect() as connection:
        for byte in turn("slowly", stream=False):
            await connection.send(bytes([byte]))
        assert b"slowly" in (await connection.answer()).body
        await assert_in_step(connection)


async def test_body_after_its_head(connect: Connect, shared: Instance) -> None:
    """At once, as many clients send it, and after a while."""
    async with connect() as connection:
        for pause in (0.0, 0.3):
            for _ in range(3):
                head, _, body = turn("in two").partition(b"\r\n\r\n")
                await connection.send(head + b"\r\n\r\n")
                await invoke(shared.port, new_session(), [{"sleep": pause}])
                await connection.send(body)
                assert await texts_of(connection) == ["in two"]


async def test_big_body(connect: Connect) -> None:
    async with connect() as connection:
        await connection.send(turn("x" * 3_000_000, stream=False))
        assert len((await connection.answer()).body) > 3_000_000
        await assert_in_step(connection)


async def test_expect_100_continue(connect: Connect) -> None:
    body = turn_body(new_session(), "go on", stream=False)
    headers = {**JSON, "Expect": "100-continue", "Content-Length": str(len(body))}
    async with connect() as connection:
        await connection.send(request("POST", "/invoke", headers=headers))
        assert (await connection.head()).status == 100
        await connection.send(body)
        assert b"go on" in (await connection.answer()).body
        await assert_in_step(connection)


async def test_http_1_0_gets_no_interim_response(connect: Connect) -> None:
    body = turn_body(new_session(), "go on", stream=False)
    async with connect() as connection:
        await connection.send(
            request("POST", "/invoke", body, {**JSON, "Expect": "100-continue"}, "HTTP/1.0")
        )
        assert (await connection.answer()).status == 200


async def test_expect_100_continue_for_what_will_be_refused(connect: Connect) -> None:
    headers = {"Content-Type": "text/plain", "Expect": "100-continue", "Content-Length": "100"}
    async with connect() as connection:
        await connection.send(request("POST", "/invoke", headers=headers))
        assert (await connection.answer()).status == 415, "the body need not be sent to hear that"


@pytest.mark.parametrize(
    "head",
    [
        b"POST /invoke#x HTTP/1.1\r\nHost: t\r\n\r\n",
        b"POST /invoke HTTP/1.1\r\nHost: t\r\nSec-WebSocket-Key1: x\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=["fragment", "old-websocket"],
)
async def test_a_head_that_breaks_a_rule_ends_the_connection(connect: Connect, head: bytes) -> None:
    async with connect() as connection:
        await connection.send(turn("before", stream=False))
        assert (await connection.answer()).status == 200
        await connection.send(head)
        answer = await connection.answer()
        assert (answer.status, answer.code) == (400, "INVALID_REQUEST")
        assert await connection.is_closed()


# -- leaving -------------------------------------------------------------------------------------------


async def final_head(connection: Connection) -> Head:
    """The next one that is not of an interim answer."""
    while (head := await connection.head()).status == 100:
        pass
    return head


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_half_closed_client_gets_its_answer(connect: Connect, stream: bool) -> None:
    async with connect() as connection:
        await connection.send(
            turn([{"sleep": 0.4}, {"say": "x"}, {"sleep": 0.4}, {"say": "y"}], stream=stream)
        )
        connection.writer.write_eof()
        head = await final_head(connection)
        answer = Response(head, b"".join([piece async for piece in connection.body(head)]), 0)
        if stream:
            assert texts_in(answer) == ["x", "y"]
        else:
            assert answer.json["messages"][0]["content"][0]["text"] == "xy"
        assert await connection.is_closed()


async def test_half_closed_client_may_read_slowly(connect: Connect, shared: Instance) -> None:
    """What probes whether it is there does not stand behind its answer."""
    async with connect(receive_buffer=RECEIVE_BUFFER) as connection:
        await connection.send(turn([{"big": 3_000_000}], stream=False))
        connection.writer.write_eof()
        head = await final_head(connection)
        await invoke(shared.port, new_session(), [{"sleep": 1}])  # several looks at it
        await connection.reader.readexactly(int(head.headers["content-length"]))
        assert await connection.is_closed()


@pytest.mark.parametrize("leave", ["abort", "close"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_early_close_cancels_the_turn(
    connect: Connect, tmp_path: Path, stream: bool, leave: str
) -> None:
    path, session = tmp_path / "journal", new_session()
    script = [{"say": "x"}, {"sleep": 60}]
    body = turn_body(session, script, stream=stream, metadata={"journal": str(path)})
    async with connect() as connection:
        await connection.send(request("POST", "/invoke", body, JSON))
        await eventually(lambda: journal(path), PATIENCE, "the turn runs")
        if stream:
            await connection.reader.readuntil(b"\n\n")
        if leave == "abort":
            connection.abort()
        else:
            connection.writer.close()
    await eventually(lambda: len(journal(path)) == 2, PATIENCE, "the App's finally has run")
    assert journal(path)[-1]["word"] == "cancelled"


async def test_a_client_that_leaves_without_reading(connect: Connect, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    flood = turn([{"big": 10_000, "times": 3000}], metadata={"journal": str(path)})
    async with connect(receive_buffer=RECEIVE_BUFFER) as connection:
        await connection.send(flood)
        await connection.head()
    await eventually(lambda: len(journal(path)) == 2, PATIENCE, "the App's finally has run")
    assert journal(path)[-1]["word"] == "cancelled"
