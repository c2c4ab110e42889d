"""Hostile clients of the control socket (F85) are disconnected; turns and commands are not affected."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import pytest

from tests.harness.client import Stream, new_session
from tests.harness.instance import Instance
from tests.harness.waiting import eventually

pytestmark = pytest.mark.fault("F85")

TICK: Final = 0.05  # seconds between two events of the running turn
NOBODY: Final = 65534
CUT_WITHIN: Final = 15.0  # seconds; the time limit of a request is 5 s

Connect = Callable[[], socket.socket]


@pytest.fixture(scope="module")
def _instance(start_module_instance: Callable[..., Instance]) -> Instance:
    return start_module_instance(workers=1)


@pytest.fixture
async def instance(_instance: Instance) -> AsyncIterator[Instance]:
    """An instance with a turn that streams during the test and must not be delayed."""
    async with Stream(_instance.port, new_session(), [{"say": "tick", "times": 600, "every": TICK}]) as turn:
        reading = asyncio.create_task(turn.to_end(within=60))
        await eventually(lambda: len(turn.events) >= 5, 30, "the turn streams")
        yield _instance
        seen = len(turn.events)
        await eventually(lambda: len(turn.events) > seen + 5, 30, "the turn still streams")
        gaps = [b.at - a.at for a, b in zip(turn.events, turn.events[1:], strict=False)]
        assert max(gaps) < 2, "no event was delayed"
        reading.cancel()
    assert (await command(_instance, "status")).returncode == 0
    assert _instance.ready_workers()[0].generation == 1
    assert "Traceback" not in _instance.log


async def command(instance: Instance, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return await asyncio.to_thread(instance.command, *arguments)


async def connected(instance: Instance) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_unix_connection(str(instance.directory / "control.sock"))


async def everything(reader: asyncio.StreamReader) -> bytes:
    """Return all bytes up to the end of the connection."""
    try:
        return await asyncio.wait_for(reader.read(-1), CUT_WITHIN)
    except ConnectionError:
        return b""


async def sent(instance: Instance, data: bytes) -> bytes:
    """Send bytes and return the complete answer."""
    reader, writer = await connected(instance)
    try:
        writer.write(data)
        return await everything(reader)
    finally:
        writer.transport.abort()


@pytest.mark.parametrize(
    "data",
    [
        os.urandom(4096),
        b"\x00" * 100 + b"\r\n\r\n",
        b"status\n\n",
        b"GET /status HTTP/x\r\n\r\n",
        b"GET /status HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /scale HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n{{{",
        b"POST /scale HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n\r\n" + b'{"slots": 1e9',
        b"POST /scale HTTP/1.1\r\nHost: x\r\nContent-Length: 18\r\n\r\n" + b'{"slots": 1000000}',
        b"POST /kill HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n" + b'{"worker": []}',
        b"DELETE /status HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /logs?last=many HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=range(12),
)
async def test_f85_garbage_gets_an_error_and_the_connection_is_closed(
    instance: Instance, data: bytes
) -> None:
    answer = await sent(instance, data)
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
    assert b'{"error":{"code":"' in answer


@pytest.mark.parametrize(
    "head",
    [
        b"GET /",
        b"GET / HTTP/1.1\r\nX: ",
        b"POST /scale HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n",
        b"POST /scale HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n40000000\r\n",
    ],
    ids=["line", "header", "body", "chunk"],
)
async def test_f85_an_endless_request_is_cut_off_early(instance: Instance, head: bytes) -> None:
    _reader, writer = await connected(instance)
    piece, passed = b"x" * 65536, 0
    try:
        writer.write(head)
        async with asyncio.timeout(CUT_WITHIN):
            while passed < 1_000_000_000:
                writer.write(piece)
                await writer.drain()
                passed += len(piece)
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
    assert passed < 20_000_000, "the connection is closed early"


async def test_f85_a_hundred_idle_clients_are_disconnected_and_lock_nobody_out(instance: Instance) -> None:
    clients = [await connected(instance) for _ in range(100)]
    began = time.monotonic()
    ends = await asyncio.gather(*(everything(reader) for reader, _ in clients))
    assert time.monotonic() - began < CUT_WITHIN
    assert len(ends) == 100
    for _, writer in clients:
        writer.transport.abort()
    assert (await command(instance, "status")).returncode == 0


async def test_f85_half_a_request_gets_408(instance: Instance) -> None:
    head = b"POST /stop HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{"
    answer = await sent(instance, head)
    assert b"408" in answer.split(b"\r\n")[0]
    assert instance.running


async def test_f85_followers_that_do_not_read_affect_no_other_client(instance: Instance) -> None:
    """Eight followers are the limit: lines that they do not read are dropped, and a ninth is refused."""
    request = b"GET /logs?follow=1&last=0 HTTP/1.1\r\nHost: x\r\n\r\n"
    mute: list[Any] = []
    for _ in range(8):
        reader, writer = await connected(instance)
        writer.write(request)
        await reader.readuntil(b"\r\n\r\n")
        mute.append(writer)
    assert b"OVERLOADED" in await sent(instance, request)
    async with Stream(instance.port, new_session(), [{"print": "x" * 1000, "times": 3000}]) as printing:
        await printing.whole()
    for writer in mute:
        writer.transport.abort()


async def test_a_slow_follower_gets_the_number_of_lost_lines(instance: Instance) -> None:
    reader, writer = await connected(instance)
    writer.write(b"GET /logs?follow=1&last=0 HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.pause_reading()
    second = [{"print": "x" * 1000, "times": 900}, {"sleep": 1.1}]  # as much as the log accepts per second
    async with Stream(instance.port, new_session(), [*second * 4, {"say": "done"}]) as printing:
        await printing.whole()
    writer.transport.resume_reading()
    async with asyncio.timeout(CUT_WITHIN):
        end = b""
        while b'{"lost": ' not in end:
            piece = await reader.read(65536)
            assert piece, "a slow follower stays connected"
            end = end[-20:] + piece
    writer.transport.abort()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can change its user")
async def test_f85_another_user_is_refused_whatever_the_file_modes_are(instance: Instance) -> None:
    place, socket_file = instance.directory, instance.directory / "control.sock"
    place.chmod(0o777)
    socket_file.chmod(0o777)
    # The script enters the directory before it drops the uid: other users cannot pass the parent directories.
    script = (
        "import os, socket, sys\n"
        "os.chdir(sys.argv[1])\n"
        f"os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "s.connect('control.sock')\n"
        "try:\n"
        "    s.sendall(b'POST /stop HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\n"
        "    print(s.recv(100))\n"
        "except ConnectionError:\n    print(b'')\n"
    )
    try:
        ended = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", script, str(place)], capture_output=True, text=True
        )
    finally:
        place.chmod(0o700)
        socket_file.chmod(0o600)
    assert ended.stdout == "b''\n", ended.stderr
    assert f"uid={NOBODY}" in instance.log
    assert instance.running
