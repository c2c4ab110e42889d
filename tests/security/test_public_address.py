"""An address that other machines reach: no instance listens on it without a token by accident."""

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from agentscope_supervisor.cli import instance_commands
from agentscope_supervisor.client import NotReady
from tests.conftest import StartInstance
from tests.harness.instance import COMMAND, Instance, run

START = ("--host", "0.0.0.0")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "example.com"])
def test_a_start_without_a_token_is_refused(
    make_project: Callable[..., Path], tmp_path: Path, host: str
) -> None:
    project = make_project(server={"port": 0})
    where = ("--runtime-dir", tmp_path / "run", "--state-dir", tmp_path / "state")
    ended = run(COMMAND, "start", project, "--host", host, *where)
    assert ended.returncode == 78, ended.stderr
    assert f"other machines reach {host}, and server.auth_token is not set" in ended.stderr
    assert "server.open: true" in ended.stderr
    assert "listening" not in ended.stderr


def test_check_refuses_it_too(make_project: Callable[..., Path]) -> None:
    ended = run(COMMAND, "check", make_project(server={"host": "0.0.0.0"}))
    assert ended.returncode == 78
    assert "server.auth_token is not set" in ended.stderr


@pytest.mark.parametrize("server", [{"auth_token": "t0ken"}, {"open": True}], ids=["token", "open"])
def test_a_token_or_an_explicit_setting_lets_it_start(
    new_instance: StartInstance, make_project: Callable[..., Path], server: dict[str, object]
) -> None:
    instance: Instance = new_instance(make_project(server=server), workers=1, arguments=START)
    instance.launch().wait_listening()
    assert instance.address["host"] == "0.0.0.0"
    instance.destroy()


async def test_the_command_invoke_reaches_an_instance_on_any_address() -> None:
    """Without a token, the address of a network is not a name under which the instance is served."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        body = b'{"error": {"code": "NOT_READY", "message": "later"}}'
        head = b"HTTP/1.1 503 Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    for token in (None, "t0ken"):
        client = instance_commands.client(f"http://127.0.0.1:{port}", token)
        with pytest.raises(NotReady):
            await asyncio.to_thread(client.invoke, "x", session_id="s")
    listening.close()
    assert b"\r\nHost: localhost\r\n" in heads[0]
    assert b"\r\nContent-Type: application/json\r\n" in heads[0]
    assert b"\r\nAuthorization: Bearer t0ken\r\n" in heads[1]


def test_a_passed_socket_counts_by_its_own_address(
    new_instance: StartInstance, make_project: Callable[..., Path], tmp_path: Path
) -> None:
    with socket.socket() as public, socket.socket(socket.AF_UNIX) as local:
        public.bind(("0.0.0.0", 0))
        public.listen()
        refused: Instance = new_instance(make_project(), workers=1, passed_on=[public])
        assert refused.launch().wait_exit(30.0) == 78
        assert "other machines reach 0.0.0.0" in refused.log
        local.bind(os.fspath(tmp_path / "s"))
        local.listen()
        served: Instance = new_instance(
            make_project("other"), name="other", workers=1, passed_on=[local], arguments=START
        )
        served.launch().wait_listening()
        served.destroy()
