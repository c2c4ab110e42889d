"""The zygote alone, controlled like a supervisor does: reasons not to fork, and errors it survives."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from agentscope_worker import zygote

pytestmark = pytest.mark.agentscope

ANSWER_WITHIN: Final = 100.0
"""Seconds; below the time limit of a whole test. An import takes 2 s on an idle machine, and far longer on a
busy one. A zygote that ends in place of an answer ends the wait."""
ONE_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1"}  # set by the supervisor


class Talk:
    """A zygote process and the supervisor's end of its socket."""

    def __init__(self, variables: Mapping[str, str], parts: list[str]) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(ANSWER_WITHIN)
        arguments = ["--preload", str(os.getpid()), str(theirs.fileno())]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "agentscope_worker", *arguments],
            pass_fds=[theirs.fileno()],
            env={**os.environ, **ONE_THREAD, **variables},
        )
        theirs.close()
        self.socket.send(json.dumps({"parts": parts}).encode())

    def told(self) -> Any:
        packet = self.socket.recv(65536)
        return json.loads(packet) if packet else None

    def ask(self, number: int, folder: Path, descriptors: list[int]) -> None:
        request = json.dumps({"number": number, "folder": str(folder), "variables": {}}).encode()
        if descriptors:
            socket.send_fds(self.socket, [request], descriptors)
        else:
            self.socket.send(request)

    def close(self) -> int:
        """Close the socket; returns the exit status."""
        self.socket.close()
        try:
            return self.process.wait(ANSWER_WITHIN)
        finally:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def talks() -> Iterator[list[Talk]]:
    """File descriptors to close after the test."""
    made: list[Talk] = []
    yield made
    for each in made:
        each.close()


def test_a_zygote_reports_ready_and_exits_with_its_socket(talks: list[Talk]) -> None:
    parts = ["mcp", "provider:openai", "redis", "tracing", "what a newer supervisor may know"]
    talk = Talk({}, parts)
    talks.append(talk)
    assert set(talk.told()) == {"ready"}
    assert talk.close() == 0


@pytest.mark.parametrize("provider", ["openai", "anthropic", "dashscope", "gemini", "ollama", "nobody"])
def test_each_provider_is_safe_to_preload(talks: list[Talk], provider: str) -> None:
    talk = Talk({}, [f"provider:{provider}"])
    talks.append(talk)
    assert set(talk.told()) == {"ready"}


def test_a_thread_started_by_an_import_prevents_forking(talks: list[Talk], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=[600], name='collector', daemon=True).start()\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    talk = Talk({"PYTHONPATH": path.rstrip(os.pathsep)}, [])
    talks.append(talk)
    assert talk.told() == {"refused": "the imported modules have started threads: collector"}
    assert talk.told() is None
    assert talk.close() == 0


def test_a_second_thread_is_detected() -> None:
    leave = threading.Event()
    thread = threading.Thread(target=leave.wait, name="second")
    thread.start()
    try:
        with pytest.raises(zygote.CannotFork, match=r"threads: .*second"):
            zygote.check_single_thread()
    finally:
        leave.set()
        thread.join()


def test_a_native_thread_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of a C library, which Python does not know."""
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.main_thread()])
    leave = threading.Event()
    thread = threading.Thread(target=leave.wait)
    thread.start()
    try:
        with pytest.raises(zygote.CannotFork, match="native threads"):
            zygote.check_single_thread()
    finally:
        leave.set()
        thread.join()


def test_a_request_without_file_descriptors_fails_without_side_effects(
    talks: list[Talk], tmp_path: Path
) -> None:
    talk = Talk({}, [])
    talks.append(talk)
    assert "ready" in talk.told()
    for number in (3, 4):
        talk.ask(number, tmp_path, [])
        assert talk.told() == {
            "number": number,
            "failed": "the request came with 0 file descriptors instead of 4",
        }


def test_a_worker_that_is_not_a_child_of_the_supervisor_exits(talks: list[Talk], tmp_path: Path) -> None:
    """This process is not a subreaper, so that the kernel reparents the worker to another process."""
    talk = Talk({}, [])
    talks.append(talk)
    assert "ready" in talk.told()
    ours, link = socket.socketpair()
    with ours, link, (tmp_path / "page").open("wb") as page, (tmp_path / "output").open("wb") as output:
        ours.settimeout(ANSWER_WITHIN)
        talk.ask(1, tmp_path, [link.fileno(), page.fileno(), output.fileno(), output.fileno()])
        link.close()
        assert ours.recv(1) == b"", "the worker must exit without a report"
    talk.ask(2, tmp_path, [])
    assert talk.told()["number"] == 2, "the zygote must keep running"
