"""Clients that speak HTTP in old, odd, slow and wrong ways; each one harms nobody but itself."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import pytest

from tests.harness.client import (
    JSON,
    Connection,
    call,
    chunked,
    invoke,
    new_session,
    request,
    texts,
    turn_body,
)
from tests.harness.events import Parser, assert_whole_stream
from tests.harness.instance import Instance

TURN: Final = [{"say": "one"}, {"sleep": 0.05}, {"say": "two"}]


# -- old and odd ---------------------------------------------------------------------------------------


async def test_http_1_0_client_gets_a_stream_without_chunks(shared: Instance) -> None:
    body = turn_body(new_session(), TURN)
    async with Connection(shared.port) as connection:
        await connection.send(request("POST", "/invoke", body, JSON, "HTTP/1.0"))
        answer = await connection.answer()
        assert await connection.is_closed()
    assert answer.status == 200
    assert "transfer-encoding" not in answer.headers
    parser = Parser()
    parser.feed(answer.body, time.monotonic())
    parser.finish()
    assert_whole_stream(parser.events, answer.headers["x-run-id"])
    assert [event.text for event in parser.events[:-1]] == ["one", "two"]


async def test_http_1_0_client_gets_json(shared: Instance) -> None:
    async with Connection(shared.port) as connection:
        await connection.send(request("GET", "/health", version="HTTP/1.0"))
        assert (await connection.answer()).status == 200
        assert await connection.is_closed()


async def test_one_connection_serves_many_requests(shared: Instance) -> None:
    """Streams, JSON, refusals and empty answers: after each one the connection is where it should be."""
    async with Connection(shared.port) as connection:
        for _ in range(3):
            await connection.send(request("POST", "/invoke", turn_body(new_session(), TURN), JSON))
            streamed = await connection.answer()
            assert streamed.body.count(b"data: ") == 3
            await connection.send(request("POST", "/invoke", b"nonsense", JSON))
            assert (await connection.answer()).status == 400
            await connection.send(request("GET", "/nothing"))
            assert (await connection.answer()).status == 404
            await connection.send(request("POST", "/invoke", b"x", {"Content-Type": "text/plain"}))
            assert (await connection.answer()).status == 415
            await connection.send(request("HEAD", "/health"))
            assert (await connection.answer(has_body=False)).status == 200
            body = turn_body(new_session(), "short", stream=False)
            await connection.send(request("POST", "/invoke", body, JSON))
            assert (await connection.answer()).status == 200


async def test_pipelined_requests_are_answered_in_order(shared: Instance) -> None:
    turns = b"".join(
        request("POST", "/invoke", turn_body(new_session(), [{"sleep": 0.1 / n}, {"say": str(n)}]), JSON)
        for n in (1, 2, 3)
    )
    async with Connection(shared.port) as connection:
        await connection.send(turns + request("GET", "/nothing"))
        for number in (1, 2, 3):
            answer = await connection.answer()
            assert f'"{number}"'.encode() in answer.body
        assert (await connection.answer()).status == 404


async def test_connection_close_is_respected(shared: Instance) -> None:
    async with Connection(shared.port) as connection:
        await connection.send(request("GET", "/health", headers={"Connection": "close"}))
        assert (await connection.answer()).status == 200
        assert await connection.is_closed(within=5)


async def test_body_may_come_in_chunks(shared: Instance) -> None:
    body = turn_body(new_session(), "in pieces", stream=False)
    head = request("POST", "/invoke", headers={**JSON, "Transfer-Encoding": "chunked"})
    async with Connection(shared.port) as connection:
        await connection.send(head + chunked(body, 7))
        answer = await connection.answer()
    assert answer.status == 200
    assert b"in pieces" in answer.body


async def test_request_may_come_byte_by_byte(shared: Instance) -> None:
    whole = request("POST", "/invoke", turn_body(new_session(), "slowly", stream=False), JSON)
    async with Connection(shared.port) as connection:
        for at in range(len(whole)):
            await connection.send(whole[at : at + 1])
        answer = await connection.answer()
    assert answer.status == 200
    assert b"slowly" in answer.body


async def test_expect_100_continue(shared: Instance) -> None:
    body = turn_body(new_session(), "go on", stream=False)
    headers = {**JSON, "Expect": "100-continue", "Content-Length": str(len(body))}
    async with Connection(shared.port) as connection:
        await connection.send(request("POST", "/invoke", headers=headers))
        assert (await connection.head()).status == 100
        await connection.send(body)
        assert b"go on" in (await connection.answer()).body


async def test_expect_100_continue_for_what_will_be_refused(shared: Instance) -> None:
    headers = {"Content-Type": "text/plain", "Expect": "100-continue", "Content-Length": "100"}
    async with Connection(shared.port) as connection:
        await connection.send(request("POST", "/invoke", headers=headers))
        assert (await connection.answer()).status == 415, "the body need not be sent to hear that"


@pytest.mark.fault("F65")
async def test_f65_half_closed_client_is_answered_or_closed(shared: Instance) -> None:
    """A client that has closed its side has left, or still listens: either way it does not hang."""
    for script in (TURN, [{"say": "one"}, {"sleep": 60}]):
        async with Connection(shared.port) as connection:
            await connection.send(request("POST", "/invoke", turn_body(new_session(), script), JSON))
            connection.writer.write_eof()
            async with asyncio.timeout(10):
                data = await connection.reader.read()
        assert data == b"" or data.startswith(b"HTTP/1.1 200 ")


# -- slow -----------------------------------------------------------------------------------------------


@pytest.mark.fault("F62")
async def test_f62_body_that_drips_is_408(start_instance: Callable[..., Instance]) -> None:
    instance = start_instance(workers=1, server={"body_timeout": 1})
    body = turn_body(new_session(), "never complete")
    async with Connection(instance.port) as connection:
        await connection.send(request("POST", "/invoke", headers={**JSON, "Content-Length": str(len(body))}))
        began = time.monotonic()
        answering = asyncio.create_task(connection.answer())
        for at in range(len(body) - 1):
            await connection.send(body[at : at + 1])
            if (await asyncio.wait([answering], timeout=0.1))[0]:
                break
        answer = await answering
        took = time.monotonic() - began
        assert (answer.status, answer.code) == (408, "REQUEST_TIMEOUT")
        assert 0.9 < took < 4
    assert (await invoke(instance.port, new_session(), "others are served")).status == 200


@pytest.mark.fault("F61", "F70")
async def test_f61_f70_many_idle_connections_do_no_harm(shared: Instance) -> None:
    connections = [Connection(shared.port) for _ in range(300)]
    try:
        for number, connection in enumerate(connections):
            await connection.__aenter__()
            await connection.send(b"" if number % 2 else b"POST /invoke HTTP/1.1\r\nHost: te")
        answer = await invoke(shared.port, new_session(), "me first")
        assert answer.status == 200
        assert answer.seconds < 1
    finally:
        for connection in connections:
            if hasattr(connection, "writer"):
                connection.abort()


async def test_client_that_leaves_in_the_middle_of_its_request(shared: Instance) -> None:
    whole, logged = request("POST", "/invoke", turn_body(new_session(), "x" * 200_000), JSON), len(shared.log)
    for size in (0, 1, 20, len(whole) // 2, len(whole) - 1):
        async with Connection(shared.port) as connection:
            await connection.send(whole[:size])
    assert await texts(shared.port, new_session(), "still here") == ["still here"]
    assert "Traceback" not in shared.log[logged:]


# -- wrong ----------------------------------------------------------------------------------------------

BODY: Final = turn_body("wrong-http", "x")
LENGTH: Final = b"Content-Length: %d\r\n" % len(BODY)
POST: Final = b"POST /invoke HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"

MALFORMED: Final = {
    "garbage": b"GARBAGE\r\n\r\n",
    "binary": bytes(range(128, 256)) + b"\r\n\r\n",
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40 + b"\r\n\r\n",
    "two words too many": b"GET / x y HTTP/1.1\r\nHost: t\r\n\r\n",
    "version of letters": b"GET / HTTP/x.y\r\nHost: t\r\n\r\n",
    "version of none": b"GET / HTTP/\r\nHost: t\r\n\r\n",
    "another protocol": b"GET / ICE/1.1\r\nHost: t\r\n\r\n",
    "method with a colon": b"GE:T / HTTP/1.1\r\nHost: t\r\n\r\n",
    "NUL in a header": b"GET / HTTP/1.1\r\nHost: t\r\nX-A: a\0b\r\n\r\n",
    "return in a header": b"GET / HTTP/1.1\r\nHost: t\r\nX-A: a\rb\r\n\r\n",
    "header without colon": b"GET / HTTP/1.1\r\nHost: t\r\nnonsense\r\n\r\n",
    "header without name": b"GET / HTTP/1.1\r\nHost: t\r\n: x\r\n\r\n",
    "blank before colon": b"GET / HTTP/1.1\r\nHost: t\r\nX-A : x\r\n\r\n",
    "header name with a blank": b"GET / HTTP/1.1\r\nHost: t\r\nX A: x\r\n\r\n",
    "folded header": b"GET / HTTP/1.1\r\nHost: t\r\nX-A: a\r\n b\r\n\r\n",
    "huge header": b"GET / HTTP/1.1\r\nHost: t\r\nX-A: " + b"a" * 100_000 + b"\r\n\r\n",
    "huge path": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: t\r\n\r\n",
    "length negative": POST + b"Content-Length: -1\r\n\r\n" + BODY,
    "length of letters": POST + b"Content-Length: many\r\n\r\n" + BODY,
    "length with a sign": POST + b"Content-Length: +5\r\n\r\n" + BODY,
    "length in hex": POST + b"Content-Length: 0x10\r\n\r\n" + BODY,
    "length as a list": POST + b"Content-Length: 5, 5\r\n\r\n" + BODY,
    "two lengths": POST + LENGTH + b"Content-Length: 5\r\n\r\n" + BODY,
    "length and chunks": POST + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(BODY),
    "unknown coding": POST + b"Transfer-Encoding: nonsense\r\n\r\n" + chunked(BODY),
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + chunked(BODY),
    "chunked not last": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + chunked(BODY),
    "chunk size of letters": POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "chunk size negative": POST + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
    "chunk too long": POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabcdef\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.fault("F67", "F68")
async def test_f67_f68_malformed_request_is_400_and_the_end(shared: Instance, name: str) -> None:
    async with Connection(shared.port) as connection:
        await connection.send(MALFORMED[name])
        answer = await connection.answer()
        assert answer.status == 400
        assert answer.code == "INVALID_REQUEST"
        assert answer.headers["x-request-id"]
        assert b"Traceback" not in answer.body
        assert b".py" not in answer.body
        assert await connection.is_closed(within=5), "what follows cannot be understood"


@pytest.mark.fault("F68")
async def test_malformed_requests_smuggle_nothing(shared: Instance) -> None:
    """Two readings of one length are where requests are hidden: only one answer may come."""
    hidden = b"GET /liveness HTTP/1.1\r\nHost: t\r\n\r\n"
    for framing in (
        b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(hidden),
    ):
        async with Connection(shared.port) as connection:
            await connection.send(POST + framing + hidden)
            assert (await connection.answer()).status == 400
            assert await connection.is_closed(within=5)


async def test_after_all_that_the_instance_is_well(shared: Instance) -> None:
    assert (await call(shared.port, "GET", "/health")).json["status"] == "healthy"
    assert "request failed" not in shared.log, "nothing of the above was an error of ours"
