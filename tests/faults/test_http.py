"""Clients that speak HTTP in old, odd, slow and wrong ways; each one harms nobody but itself."""

import time
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


# -- slow -----------------------------------------------------------------------------------------------


@pytest.mark.fault("F61", "F70")
async def test_f61_f70_many_idle_connections_do_no_harm(shared: Instance) -> None:
    connections = [Connection(shared.port) for _ in range(300)]
    try:
        for number, connection in enumerate(connections):
            await connection.__aenter__()
            await connection.send(b"" if number % 2 else b"POST /invoke HTTP/1.1\r\nHost: te")
        answer = await invoke(shared.port, new_session(), "me first")
        assert answer.status == 200
        assert answer.seconds < 5
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


async def test_after_all_that_the_instance_is_well(shared: Instance) -> None:
    assert (await call(shared.port, "GET", "/health")).json["status"] == "healthy"
    assert "request failed" not in shared.log, "nothing of the above was an error of ours"
