"""Clients that leave, half leave, or vanish without a word (F64, F65, F66)."""

import asyncio
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from tests.harness.client import (
    JSON,
    Connection,
    Response,
    call,
    chunked,
    new_session,
    request,
    texts,
    turn_body,
)
from tests.harness.events import Parser, assert_whole_stream
from tests.harness.instance import Instance
from tests.harness.projects import journal
from tests.harness.waiting import eventually

NOTICED_WITHIN: Final = 1.0  # seconds, F64
VANISHED_WITHIN: Final = 8.0  # with the time limits of tests.harness.vanishing

SILENT: Final = [{"sleep": 60}]
BEGUN: Final = [{"say": "x"}, {"sleep": 60}]
LATER: Final = [{"sleep": 0.7}, {"say": "x"}, {"sleep": 0.7}, {"say": "y"}]


async def answered(connection: Connection) -> Response:
    """The next answer that is no interim one."""
    while (head := await connection.head()).status == 100:
        pass
    body = b"".join([piece async for piece in connection.body(head)])
    return Response(head, body, 0)


def assert_whole(answer: Response) -> None:
    parser = Parser()
    parser.feed(answer.body, time.monotonic())
    parser.finish()
    assert_whole_stream(parser.events, answer.headers["x-run-id"])
    assert [event.text for event in parser.events[:-1]] == ["x", "y"]


# -- half-closed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.fault("F65")
async def test_f65_half_closed_client_gets_its_answer(shared: Instance, stream: bool) -> None:
    async with Connection(shared.port) as connection:
        body = turn_body(new_session(), LATER, stream=stream)
        await connection.send(request("POST", "/invoke", body, JSON))
        connection.writer.write_eof()
        answer = await answered(connection)
        assert answer.status == 200
        if stream:
            assert_whole(answer)
        else:
            assert [message["content"][0]["text"] for message in answer.json["messages"]] == ["xy"]
        assert await connection.is_closed(within=5)


@pytest.mark.fault("F65")
async def test_f65_client_that_half_closes_in_the_middle_of_its_stream(shared: Instance) -> None:
    async with Connection(shared.port) as connection:
        await connection.send(request("POST", "/invoke", turn_body(new_session(), LATER), JSON))
        head = await connection.head()
        connection.writer.write_eof()
        body = b"".join([piece async for piece in connection.body(head)])
        assert_whole(Response(head, body, 0))
        assert await connection.is_closed(within=5)


@pytest.mark.fault("F65")
async def test_f65_half_closed_client_gets_all_that_it_asked_for(shared: Instance) -> None:
    turn = turn_body(new_session(), [{"sleep": 0.3}, {"say": "x"}], stream=False)
    async with Connection(shared.port) as connection:
        await connection.send(request("POST", "/invoke", turn, JSON) + request("GET", "/liveness") * 2)
        connection.writer.write_eof()
        assert [(await answered(connection)).status for _ in range(3)] == [200, 200, 200]
        assert await connection.is_closed(within=5)


@pytest.mark.fault("F65")
async def test_f65_client_that_half_closes_before_its_request_is_whole(shared: Instance) -> None:
    whole = request("POST", "/invoke", turn_body(new_session(), "x"), JSON)
    for size in (0, 10, len(whole) - 1):
        async with Connection(shared.port) as connection:
            await connection.send(whole[:size])
            connection.writer.write_eof()
            assert await connection.is_closed(within=5)


# -- gone ------------------------------------------------------------------------------------------


@pytest.mark.timed
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("script", [SILENT, BEGUN], ids=["silent", "begun"])
@pytest.mark.fault("F64")
async def test_f64_client_that_closes_cancels_its_turn(
    shared: Instance, tmp_path: Path, script: list[Any], stream: bool, version: str
) -> None:
    """It closes as most clients do: with nothing left to read, so that no reset tells of it."""
    path, session = tmp_path / "journal", new_session()
    body = turn_body(session, script, stream=stream, metadata={"journal": str(path)})
    async with Connection(shared.port) as connection:
        await connection.send(request("POST", "/invoke", body, JSON, version))
        await eventually(lambda: journal(path), 30, "the turn runs")
        if stream and script is BEGUN:
            await connection.reader.readuntil(b"\n\n")
        connection.writer.close()
        left = time.monotonic()
        await eventually(lambda: len(journal(path)) == 2, 30, "the App's finally has run")
    line = journal(path)[-1]
    assert line["word"] == "cancelled"
    assert line["at"] - left < NOTICED_WITHIN
    assert await texts(shared.port, session, "next") == ["next"]


async def test_client_that_half_closes_and_then_leaves(shared: Instance, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    body = turn_body(new_session(), SILENT, stream=False, metadata={"journal": str(path)})
    async with Connection(shared.port) as connection:
        await connection.send(request("POST", "/invoke", body, JSON))
        connection.writer.write_eof()
        assert (await connection.head()).status == 100
        assert not await connection.is_closed(within=0.1)
        connection.writer.close()
        await eventually(lambda: len(journal(path)) == 2, 30, "it is noticed")


async def test_client_that_leaves_in_the_middle_of_its_body(shared: Instance) -> None:
    """Whatever the framing, and whether it resets or closes."""
    body = turn_body(new_session(), "x" * 100_000)
    framed = (
        request("POST", "/invoke", body, JSON),
        request("POST", "/invoke", headers={**JSON, "Transfer-Encoding": "chunked"}) + chunked(body, 999),
    )
    before = (await call(shared.port, "GET", "/health")).json["turns"]["accepted"]
    for whole in framed:
        for leave in ("abort", "close", "write_eof"):
            async with Connection(shared.port) as connection:
                await connection.send(whole[: len(whole) // 2])
                if leave == "abort":
                    connection.abort()
                else:
                    getattr(connection.writer, leave)()
    after = (await call(shared.port, "GET", "/health")).json["turns"]["accepted"]
    assert after == before, "half a request is none"


# -- vanished --------------------------------------------------------------------------------------


@pytest.mark.timed
@pytest.mark.fault("F66")
async def test_f66_client_that_vanished_is_noticed() -> None:
    """A network that is taken away under silent and talking connections; with shorter time limits."""
    isolated = ["unshare", "-Urn"]
    run = partial(subprocess.run, check=False, capture_output=True, text=True, timeout=60)
    if (await asyncio.to_thread(run, [*isolated, "true"])).returncode != 0:
        pytest.skip("this machine lets no user make a network of his own (unshare -Urn)")
    command = [*isolated, sys.executable, "-m", "tests.harness.vanishing"]
    ended = await asyncio.to_thread(run, command)
    assert ended.returncode == 0, ended.stderr
    noticed = json.loads(ended.stdout)
    assert set(noticed) == {"/silent", "/talking"}
    assert all(1 < seconds < VANISHED_WITHIN for seconds in noticed.values()), noticed
