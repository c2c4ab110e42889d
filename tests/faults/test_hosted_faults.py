"""A hosted app under faults: dead workers, slow clients, large bodies, rolling restarts and the end of the
instance. Workers are `tests.fakes.hosting_worker`."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import aiohttp
import psutil
import pytest

from tests.harness.hosted import client, hosted, raw
from tests.harness.instance import Instance
from tests.harness.waiting import eventually, eventually_so

MB: Final = 1024 * 1024
FLAT: Final = 48 * MB
"""Bytes by which the supervisor may grow while a body of 200 MB passes: buffers of sockets and the link."""


@pytest.fixture(scope="module")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    folder = tmp_path_factory.mktemp("faults")
    with Instance(hosted(folder / "project"), folder, workers=2) as instance:
        yield instance.start()
        assert "Traceback" not in instance.log


@pytest.fixture
async def instance(_shared: Instance) -> Instance:
    """An instance with two ready workers, shared by most tests."""
    (_shared.project / "go").unlink(missing_ok=True)
    await eventually(lambda: len(_shared.ready_workers()) == 2, 30, "both workers are back")
    return _shared


def memory(instance: Instance) -> int:
    """Bytes of the supervisor and its workers."""
    return sum(psutil.Process(pid).memory_info().rss for pid in (instance.pid, *_pids(instance)))


def _pids(instance: Instance) -> list[int]:
    return [worker.pid for worker in instance.ready_workers()]


@contextlib.asynccontextmanager
async def flat_memory(instance: Instance) -> AsyncIterator[None]:
    """Fails if the instance grows by more than FLAT within."""
    before, most = memory(instance), 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, memory(instance))
            await asyncio.sleep(0.1)

    watching = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        watching.cancel()
    assert most - before < FLAT


async def pieces(size: int) -> AsyncIterator[bytes]:
    piece = bytes(MB)
    for _ in range(size // MB):
        yield piece


async def upload_and_download(instance: Instance, size: int) -> None:
    async with client(instance) as session, flat_memory(instance):
        async with session.post("/digest", data=pieces(size)) as response:
            assert (await response.json())["size"] == size
        received = 0
        async with session.get(f"/chunks?n={size // 65_536}&size=65536") as response:
            async for piece in response.content.iter_any():
                received += len(piece)
        assert received == size


async def test_bodies_of_200_mb_pass_in_flat_memory(instance: Instance) -> None:
    await upload_and_download(instance, 200 * MB)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_bodies_of_2_gb_pass_in_flat_memory(instance: Instance) -> None:
    await upload_and_download(instance, 2048 * MB)


async def test_an_app_that_does_not_read_stops_its_client(instance: Instance) -> None:
    sent = 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal sent
        async for piece in pieces(200 * MB):
            sent += len(piece)
            yield piece

    async with client(instance) as session, flat_memory(instance):
        upload = asyncio.ensure_future(session.post("/stalled", data=counted()))
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.5)
        assert sent < 64 * MB, "the client was not stopped"
        (await session.get("/state")).close()
        (instance.project / "go").touch()
        async with await upload as response:
            assert (await response.json())["size"] == 200 * MB


async def test_a_client_that_does_not_read_stops_its_app(instance: Instance) -> None:
    slow = socket.create_connection(("127.0.0.1", instance.port))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.sendall(b"GET /chunks?n=100000&size=65536 HTTP/1.1\r\nHost: localhost\r\nX-Session-Id: a\r\n\r\n")

    async with client(instance, headers={"X-Session-Id": "a"}) as session:

        async def made() -> int:
            async with session.get("/state") as response:
                count: int = (await response.json())["made"]
                return count

        before, now = -1, 0
        while now != before:
            before = now
            await asyncio.sleep(0.3)
            now = await made()
        assert 0 < now < 200, "about 6 MB of socket buffers, and the credit"
        async with session.ws_connect("/ws") as flooded:  # of a WebSocket that is not read, too
            await flooded.send_str("flood")
            await eventually_so(made, 30, "it floods")
    slow.close()


async def arrived(session: aiohttp.ClientSession, headers: dict[str, str]) -> int:
    """The process of a session, once its app has a request for /silent; 0: it has none yet."""
    async with session.get("/state", headers=headers) as response:
        state = await response.json()
        return int(state["pid"]) if state["silent"] else 0


# -- a worker dies -------------------------------------------------------------------------------------


async def test_a_dead_worker_is_a_502_before_the_head_and_a_cut_after_it(instance: Instance) -> None:
    async with client(instance) as session, session.get("/holds", headers={"X-Session-Id": "a"}) as other:
        other_worker = other.headers["x-agentscope-worker"]
        assert await other.content.read(5) == b"first"
        names = [f"s{number}" for number in range(20)]
        for name in names:  # a session of the other worker
            async with session.get("/early", headers={"X-Session-Id": name}) as response:
                if response.headers["x-agentscope-worker"] != other_worker:
                    break
        pinned = {"X-Session-Id": name}
        async with (
            session.get("/holds", headers=pinned) as chunked,
            session.get("/holds?length=1", headers=pinned) as sized,
            session.ws_connect("/ws", headers=pinned) as web_socket,
        ):
            assert await chunked.content.read(5) == await sized.content.read(5) == b"first"
            waiting = asyncio.ensure_future(session.get("/silent", headers=pinned))
            async with session.get("/state", headers=pinned) as response:
                os.kill((await response.json())["pid"], signal.SIGKILL)
            async with await waiting as response:
                assert response.status == 502
                assert (await response.json())["error"]["code"] == "WORKER_LOST"
            for cut in (chunked, sized):
                with pytest.raises(aiohttp.ClientPayloadError):
                    await cut.read()
            message = await web_socket.receive()
            assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1011)
        async with session.get("/early", headers=pinned) as response:  # waits for the new worker
            assert response.status == 403
        (instance.project / "go").touch()
        assert await other.content.read() == b"last", "another worker's exchange goes on"


async def test_a_client_of_http_1_0_sees_that_its_response_is_cut(instance: Instance) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", instance.port)
    writer.write(b"GET /holds HTTP/1.0\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b"first")
    for pid in _pids(instance):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


# -- replacements and the end --------------------------------------------------------------------------


async def test_a_rolling_restart_closes_websockets_with_1012_and_lets_requests_end(
    instance: Instance,
) -> None:
    async with client(instance, connector=aiohttp.TCPConnector(limit=0)) as session:
        sockets = [await session.ws_connect("/ws") for _ in range(200)]
        async with session.get("/holds") as held:
            assert await held.content.read(5) == b"first"
            before = instance.generations()
            restarting = asyncio.ensure_future(asyncio.to_thread(instance.command, "reload", "--wait"))
            codes = []
            for web_socket in sockets:
                message = await web_socket.receive()
                assert message.type is aiohttp.WSMsgType.CLOSE
                codes.append(message.data)
            assert set(codes) == {1012}
            again = [await session.ws_connect("/ws") for _ in range(20)]
            for web_socket in again:
                await web_socket.send_str("hello")
                assert await web_socket.receive_str() == "hello"
                await web_socket.close()
            (instance.project / "go").touch()
            assert await held.content.read() == b"last"
        assert (await restarting).returncode == 0
        await eventually(
            lambda: instance.generations() == [n + 1 for n in before], 15, "both workers were replaced"
        )


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Instance]:
    """An instance that a test stops."""
    with Instance(hosted(tmp_path / "project"), tmp_path, workers=1) as instance:
        yield instance.start()


async def test_a_stopping_instance_refuses_new_requests_and_ends_the_running_ones(own: Instance) -> None:
    instance = own
    pinned = {"X-Session-Id": "a"}
    async with (
        client(instance, headers=pinned) as session,
        session.get("/holds") as held,
        session.ws_connect("/ws") as web_socket,
    ):
        assert await held.content.read(5) == b"first"
        silent = asyncio.ensure_future(session.get("/silent"))
        await eventually_so(lambda: arrived(session, pinned), 30, "the app has the request")
        idle = await session.get("/early")  # its connection stays open
        await idle.read()
        stopping = asyncio.ensure_future(asyncio.to_thread(instance.stop))
        message = await web_socket.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1012)
        async with session.get("/early") as response:
            assert response.status == 503
            assert (await response.json())["error"]["code"] == "DRAINING"
        (instance.project / "go").touch()
        assert await held.content.read() == b"last"
        async with await silent as response:  # after drain_timeout
            assert response.status == 503
        assert await stopping == 0


async def test_a_hosted_app_is_not_known_before_a_worker_is_ready(tmp_path: Path) -> None:
    project = hosted(tmp_path / "project")
    with Instance(project, tmp_path, workers=1) as instance:
        (project / "app.py").write_text("import time\ntime.sleep(2)\n" + (project / "app.py").read_text())
        instance.launch()
        instance.wait_listening()
        answer = await raw(instance, b"GET /early HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"NOT_READY" in answer
        instance.wait_ready()
