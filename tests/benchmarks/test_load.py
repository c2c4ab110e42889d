"""The load generator counts what came, times it from the right moment, and says what went wrong.

Against a server that answers as each test says, byte by byte where that could confuse a parser. Run before
each benchmark, not by `make test`: it takes a compiler, as the benchmarks do.
"""

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from tests.benchmarks.candidates import SESSION, http
from tests.benchmarks.load import Load, Options, build, drive

REQUEST: Final = http("POST", "/invoke", f'{{"session_id": "bench-{SESSION}"}}'.encode())
HEAD: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENTS: Final = (b"id: 1\ndata: one\n\n", b": not one\n\n", b"id: 2\ndata: two\n\ndata: thr", b"ee\n\n")
WHOLE: Final = HEAD + b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in EVENTS) + b"0\r\n\r\n"

Answer = Callable[[asyncio.StreamWriter], Awaitable[object]]


class Server:
    """Reads requests, and has `answer` write what follows each."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.sessions: list[int] = []
        self.open: set[int] = set()
        self.shared: list[int] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                (length,) = re.findall(rb"Content-Length: (\d+)", head)
                numbers = set(re.findall(rb"bench-(\d{10})", head + await reader.readexactly(int(length))))
                assert len(numbers) == 1, "the same in the header and in the body"
                session = int(numbers.pop())
                if session in self.open:
                    self.shared.append(session)
                self.sessions.append(session)
                self.open.add(session)
                await self._answer(writer)
                self.open.discard(session)
        except (EOFError, OSError):
            pass
        finally:
            writer.close()


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("load"))


async def loaded(binary: Path, folder: Path, server: Server, options: Options) -> dict[str, Any]:
    """What the load counts, from a server that runs in this loop."""
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        ourselves = {"front": [psutil.Process(os.getpid())]}
        load = Load(binary, folder, port, REQUEST, options)
        result, usage = await asyncio.to_thread(drive, load, ourselves)
    assert usage["front"].before > 1
    assert usage["front"].cores >= 0
    return result


def failures(result: dict[str, Any]) -> dict[str, int]:
    return {name: result[name] for name in ("failed_connects", "cut", "refused")}


NONE: Final = {"failed_connects": 0, "cut": 0, "refused": 0}


async def test_each_turn_and_each_event_is_counted(binary: Path, tmp_path: Path) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(WHOLE)

    options = Options(4, seconds=30, sessions=40, base=7000, requests=400)
    server = Server(answer)
    result = await loaded(binary, tmp_path, server, options)
    assert failures(result) == NONE
    assert result["requests"] >= 400
    assert (
        abs(result["events"] - 3 * result["requests"]) <= 3 * 4
    )  # those under way at both ends of the window
    assert result["open"] == result["served"] == 4
    assert result["request"]["count"] == result["requests"]
    assert 0 < result["request"]["p50"] <= result["request"]["p99"] <= result["request"]["most"] * 1.02
    assert set(server.sessions) == set(range(7000, 7040))
    assert not server.shared, "two requests of one session at a time"


async def test_an_answer_may_come_byte_by_byte(binary: Path, tmp_path: Path) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        for at in range(len(WHOLE)):
            writer.write(WHOLE[at : at + 1])
            await asyncio.sleep(0)

    result = await loaded(binary, tmp_path, Server(answer), Options(2, seconds=30, requests=20))
    assert failures(result) == NONE
    assert abs(result["events"] - 3 * result["requests"]) <= 3 * 2


@pytest.mark.parametrize("closes", [False, True])
async def test_a_body_may_have_a_length_or_end_with_its_connection(
    binary: Path, tmp_path: Path, closes: bool
) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        framing = b"Connection: close" if closes else b"content-length: 11"
        writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\ndata: one\n\n" % framing)
        if closes:
            writer.close()

    result = await loaded(binary, tmp_path, Server(answer), Options(2, seconds=30, requests=20))
    assert failures(result) == NONE
    assert abs(result["events"] - result["requests"]) <= 2


async def test_the_latency_of_an_event_counts_from_when_it_was_due(binary: Path, tmp_path: Path) -> None:
    late = 3.0  # seconds

    async def answer(writer: asyncio.StreamWriter) -> None:
        event = b"data: due @%d.\n\n" % (time.monotonic_ns() - int(late * 1e9))
        writer.write(HEAD + b"".join(b"1\r\n%c\r\n" % byte for byte in event) + b"0\r\n\r\n")

    options = Options(2, seconds=30, requests=20, stamps=True)
    result = await loaded(binary, tmp_path, Server(answer), options)
    assert result["event"]["count"] >= 20 - 2
    assert late * 1000 * 0.98 < result["event"]["p50"] < late * 1000 + 10_000


async def test_what_went_wrong_is_told(binary: Path, tmp_path: Path) -> None:
    answers = 0

    async def answer(writer: asyncio.StreamWriter) -> None:
        nonlocal answers
        answers += 1
        if answers % 3 == 0:  # refused
            writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
        elif answers % 3 == 1:  # cut off in the middle
            writer.write(WHOLE[: len(WHOLE) // 2])
            writer.close()
        else:
            writer.write(WHOLE)

    result = await loaded(binary, tmp_path, Server(answer), Options(1, seconds=30, requests=20))
    assert result["requests"] >= 20
    assert abs(result["refused"] - result["requests"] / 2) <= 2
    assert abs(result["cut"] - result["requests"] / 2) <= 2


async def test_a_slow_reader_takes_no_more_than_its_rate(binary: Path, tmp_path: Path) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        while True:
            writer.write(b"b\r\ndata: one\n\n\r\n")
            await writer.drain()

    options = Options(3, seconds=2, read_rate=10_000)
    result = await loaded(binary, tmp_path, Server(answer), options)
    assert result["open"] == 3
    assert 0 < result["bytes"] < 3 * 10_000 * (result["seconds"] + 1)


async def test_a_silent_stream_is_open(binary: Path, tmp_path: Path) -> None:
    silent = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"b\r\ndata: one\n\n\r\n")
        await silent.wait()

    result = await loaded(binary, tmp_path, Server(answer), Options(50, seconds=0.2, ramp=0.2))
    silent.set()
    assert result["open"] == 50
    assert result["requests"] == 0
    assert result["longest_wait"] >= 200  # of those without an answer, the window at least
    assert failures(result) == NONE


async def test_nobody_listens(binary: Path, tmp_path: Path, unused_tcp_port: int) -> None:
    load = Load(binary, tmp_path, unused_tcp_port, REQUEST, Options(1, seconds=0.3, open_within=0.1))
    result, _ = await asyncio.to_thread(drive, load, {})
    assert result["open"] == 0
    assert result["failed_connects"] > 0
