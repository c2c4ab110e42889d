"""The Python client on real instances: both forms of it, every method, and streams over cut connections."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from agentscope_supervisor.client import (
    AppError,
    Client,
    ClientError,
    ConnectionLost,
    Gone,
    Interrupted,
    InvalidRequest,
    NotFound,
    SessionBusy,
    Unauthorized,
)
from tests.conftest import StartInstance
from tests.fakes.cutting_proxy import CuttingProxy
from tests.harness.client import new_session
from tests.harness.instance import Instance
from tests.harness.projects import journal
from tests.harness.python_client import KINDS, Both, client_of, script
from tests.harness.waiting import eventually

PACED: Final = [{"say": "wörd ", "times": 40, "every": 0.005}]

HELD: Final = [{"say": "x"}, {"sleep": 60}]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def client(kind: str, shared: Instance) -> AsyncIterator[Both]:
    async with client_of(kind, shared.port) as both:
        yield both


# -- methods -------------------------------------------------------------------------------------------


async def test_turns(client: Both) -> None:
    session = new_session()
    answer = await client.invoke(script([{"say": "one "}, {"say": "two"}]), session_id=session)
    assert (answer.text, answer.session_id) == ("one two", session)
    messages = await client.read("stream", {"content": script(PACED)}, session_id=session)
    assert [message.text for message in messages] == ["wörd "] * 40
    stream = client.last
    assert (stream.session_id, stream.last, stream.metadata["done"]) == (session, 40, True)
    again = await client.read("resume", stream.run_id)
    assert again == messages
    assert await client.read("resume", stream.run_id, after=37) == messages[38:]
    assert await client.read("resume", stream.run_id, after=40) == []
    made = await client.invoke("hello")
    assert len(made.session_id) == 32
    await client.read("stream", "hello")
    assert len(client.last.session_id) == 32
    told = await client.invoke(script([{"context": 1}]), session_id=session, metadata={"user": "ada"})
    assert '"user": "ada"' in told.text


async def test_runs_and_sessions(client: Both) -> None:
    session = new_session("a/b c")
    await client.read("stream", "first", session_id=session)
    answer = await client.invoke("second", session_id=session)
    page = await client.runs(session, limit=1)
    assert ([run.run_id for run in page.runs], page.runs[0].state) == ([answer.run_id], "ended")
    page = await client.runs(session, state="ended", after=page.next)
    assert ([run.run_id for run in page.runs], page.next) == ([client.last.run_id], None)
    assert [run.text for run in (await client.messages(session)).runs] == ["first", "second"]
    run = await client.run(answer.run_id)
    assert (run.text, run.session_id, run.error) == ("second", session, None)
    assert (await client.session(session)).worker == run.worker
    await client.delete_session(session)
    with pytest.raises(NotFound) as caught:
        await client.delete_session(session)
    assert (caught.value.code, caught.value.status, caught.value.retryable) == ("NOT_FOUND", 404, False)
    assert caught.value.request_id
    health = await client.health()
    assert (health.status, health.is_up) == ("healthy", True)


async def test_errors(client: Both) -> None:
    with pytest.raises(AppError, match="APP_ERROR: KeyError: 'customer'") as early:
        await client.invoke(script([{"raise": "customer", "kind": "KeyError"}]))
    assert early.value.status == 500
    with pytest.raises(AppError, match="APP_ERROR: too late") as late:
        await client.read("stream", script([{"say": "x"}, {"raise": "too late"}]))
    assert (late.value.status, late.value.run_id, client.last.last) == (None, client.last.run_id, 2)
    run = await client.run(client.last.run_id)
    assert isinstance(run.error, AppError)
    with pytest.raises(InvalidRequest, match="session_id must not contain control characters"):
        await client.invoke("x", session_id="a\nb")
    with pytest.raises(Gone):
        await client.read("resume", "0" * 32)


async def test_stops_and_busy_sessions(client: Both, shared: Instance) -> None:
    session = new_session()
    reading = asyncio.create_task(client.read("stream", script(HELD), session_id=session))
    await eventually(lambda: shared.health()["turns"]["open"] == 1, 30, "the turn runs")
    with pytest.raises(SessionBusy):
        await client.invoke("x", session_id=session, on_busy="reject")
    assert await client.stop(session_id=session) == 1
    with pytest.raises(Interrupted):
        await reading
    assert await client.stop(run_id=client.last.run_id) == 0


async def test_a_stream_that_is_left(client: Both) -> None:
    (message,) = await client.read("stream", script(HELD), most=1, idempotency_key=False)
    assert message.text == "x"
    async with asyncio.timeout(10):
        while (await client.run(client.last.run_id)).state != "ended":  # no key: it is cancelled at once
            pass


@pytest.fixture(scope="module")
def guarded(start_module_instance: StartInstance) -> Instance:
    return start_module_instance(workers=1, server={"auth_token": "t0ken"})


async def test_a_token_and_a_socket_in_the_file_system(kind: str, guarded: Instance, tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with client_of(kind, guarded.port) as stranger:
        with pytest.raises(Unauthorized):
            await stranger.invoke("x")
    with UnixRoad(path, guarded.port):
        both = Both(kind, f"unix:{path}", token="t0ken", headers={"X-Request-Id": "mine"})
        assert (await both.invoke("hello")).text == "hello"
        assert [each.text for each in await both.read("stream", "hello")] == ["hello"]
        await both.close()


class UnixRoad:
    """Forwards a socket in the file system to a port."""

    def __init__(self, path: Path, port: int) -> None:
        self._process: Final = subprocess.Popen(
            [sys.executable, "-c", _ROAD, str(path), str(port)], stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


_ROAD: Final = """
import asyncio, sys
async def copy(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
async def serve(reader, writer):
    theirs, ours = await asyncio.open_connection("127.0.0.1", int(sys.argv[2]))
    await asyncio.gather(copy(reader, ours), copy(theirs, writer), return_exceptions=True)
async def main():
    server = await asyncio.start_unix_server(serve, sys.argv[1])
    print("ready", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


async def test_nobody_listens(kind: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with client_of(kind, unused.getsockname()[1], retries=1) as both:
            for name, arguments in (("health", ()), ("invoke", ("x",))):
                with pytest.raises(ConnectionLost):
                    await getattr(both, name)(*arguments)
            with pytest.raises(ConnectionLost) as caught:
                await both.read("stream", "x")
            assert caught.value.run_id is None
    with pytest.raises(ClientError, match="no URL of an instance"):
        Client("ftp://x").health()


def test_the_import_is_light() -> None:
    code = (
        "import sys; import agentscope_supervisor.client; "
        "print([name for name in sys.modules if name.partition('.')[0] in"
        " ('aiohttp', 'asyncio', 'pydantic', 'orjson', 'yaml', 'msgpack', 'agentscope', 'click')])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


# -- cuts ----------------------------------------------------------------------------------------------


async def test_a_retry_runs_the_app_once(kind: str, shared: Instance, tmp_path: Path) -> None:
    """The response is cut before, in and after its head; the request is sent again with its key."""
    path = tmp_path / "journal"
    noted = {"journal": str(path)}
    for number, budget in enumerate((0, 40, 200)):
        async with (
            CuttingProxy(shared.port, "/invoke", [budget] * 3, ("POST",)) as proxy,
            client_of(kind, proxy.port) as both,
        ):
            with pytest.raises(ConnectionLost):
                await both.invoke("hello", idempotency_key=False)
            session = new_session()
            answer = await both.invoke("hello", session_id=session, metadata=noted)
            assert (answer.text, answer.session_id, proxy.cuts) == ("hello", session, 3)
        assert [line["word"] for line in journal(path)].count("begin") == number + 1
