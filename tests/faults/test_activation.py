"""Listening sockets that exist before the instance and are passed on to it, as systemd does."""

import asyncio
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from tests.harness.client import new_session, request, texts
from tests.harness.instance import COMMAND, Instance
from tests.harness.waiting import wait_until

CONFIG_ERROR: Final = 78

Start = Callable[..., Instance]


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as sock:
        yield sock


def ask(port: int) -> int:
    """Return the status of /liveness on a new connection, which may have to wait to be accepted."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(request("GET", "/liveness"))
        return int(sock.recv(65536).split()[1])


async def test_connections_from_before_the_start_are_served(
    listening: socket.socket, new_instance: Start, make_project: Callable[..., Path]
) -> None:
    port = listening.getsockname()[1]
    waiting = [asyncio.create_task(asyncio.to_thread(ask, port)) for _ in range(3)]
    instance = new_instance(make_project(), workers=1, port=1, passed_on=[listening]).start()
    assert instance.port == port, "the published address is that of the socket"
    assert await asyncio.gather(*waiting) == [200, 200, 200]
    assert await texts(port, new_session(), "hello") == ["hello"]


def test_a_restart_on_the_same_socket_refuses_no_connection(
    listening: socket.socket, new_instance: Start, make_project: Callable[..., Path]
) -> None:
    port, project, over = listening.getsockname()[1], make_project(), False

    def ask_all_the_time() -> list[int]:
        statuses = []
        while not over:
            statuses.append(ask(port))
        return statuses

    with ThreadPoolExecutor(4) as pool:
        first = new_instance(project, workers=1, passed_on=[listening]).start()
        try:
            asking = [pool.submit(ask_all_the_time) for _ in range(4)]
            for _ in range(3):
                assert first.stop() == 0
                first = new_instance(project, workers=1, passed_on=[listening]).start()
        finally:
            over = True
        statuses = [status for each in asking for status in each.result(60)]
    print(f"{len(statuses)} requests during three restarts")
    assert set(statuses) == {200}


def test_a_unix_socket_is_served_and_published(
    tmp_path: Path, new_instance: Start, make_project: Callable[..., Path]
) -> None:
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        instance = new_instance(make_project(), workers=1, passed_on=[sock]).launch()
        instance.wait_listening()
        assert (instance.address["host"], instance.address["port"]) == (f"unix:{path}", 0)
        wait_until(lambda: "instance is ready" in instance.log, 30, "the instance is ready")
        where = ["--name", instance.name, "--runtime-dir", str(instance.runtime_dir)]
        said = subprocess.run(
            [COMMAND, "invoke", str(instance.project), "-s", "me", "hello", *where],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (said.stdout, said.stderr) == ("hello\n", "")
        assert instance.stop() == 0
    assert path.exists(), "the socket belongs to systemd and is kept"


def test_the_socket_named_http_is_served(
    listening: socket.socket, new_instance: Start, make_project: Callable[..., Path]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        variables = {"LISTEN_FDNAMES": "metrics:http"}
        sockets = [other, listening]
        instance = new_instance(make_project(), workers=1, variables=variables, passed_on=sockets).start()
        assert instance.port == listening.getsockname()[1]


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("two", "2 sockets were passed, and 0 of them are named 'http'"),
        ("udp", "is AF_INET, SOCK_DGRAM; a TCP or Unix stream socket is required"),
        ("not listening", "does not listen (Accept=no is required)"),
    ],
)
def test_unusable_sockets_are_refused(
    new_instance: Start, make_project: Callable[..., Path], kind: str, expected: str
) -> None:
    kinds = {
        "two": [socket.SOCK_STREAM] * 2,
        "udp": [socket.SOCK_DGRAM],
        "not listening": [socket.SOCK_STREAM],
    }
    sockets = [socket.socket(socket.AF_INET, each) for each in kinds[kind]]
    instance = new_instance(make_project(), passed_on=sockets).launch()
    assert instance.wait_exit(10) == CONFIG_ERROR
    assert expected in instance.log
    assert "Traceback" not in instance.log
    for sock in sockets:
        sock.close()
