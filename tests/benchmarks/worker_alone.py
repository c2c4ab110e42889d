"""One worker without its supervisor, behind the thinnest front there can be: thin_front.c.

Started as a supervisor starts it, greeted here, and handed to the front once it is ready. What is missing
between its figures and those of the product with one worker is what the supervisor does.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import psutil

from agentscope_protocol.config import settings
from agentscope_protocol.wire.frames import Notice
from agentscope_protocol.wire.page import PAGE_SIZE
from agentscope_protocol.wire.requester import Requester
from agentscope_supervisor.system import kernel
from tests.benchmarks.load import Failed, build
from tests.harness.instance import environment

SOURCE: Final = Path(__file__).with_name("thin_front.c")
BACKLOG: Final = 4096
READY_WITHIN: Final = 60.0  # seconds without a word of the worker


@contextmanager
def worker_alone(project: Path, folder: Path, port: int) -> Iterator[tuple[psutil.Process, psutil.Process]]:
    """The front, which listens at `port`, and the worker, which is ready. Raises: Failed; OSError."""
    with ExitStack() as stack, ExitStack() as handed_on:
        ours, link = map(handed_on.enter_context, socket.socketpair())
        listener = handed_on.enter_context(socket.create_server(("127.0.0.1", port), backlog=BACKLOG))
        page = kernel.shared_file(PAGE_SIZE)
        handed_on.callback(os.close, page)
        fds = (link.fileno(), page)
        arguments = map(str, (os.getpid(), *fds))
        worker = started(stack, [sys.executable, "-P", "-m", "agentscope_worker", *arguments], project, fds)
        link.close()  # so that the end of the worker is seen
        greet(ours, project)
        fds = (listener.fileno(), ours.fileno())
        front = started(stack, [str(build(folder, SOURCE)), *map(str, fds)], folder, fds)
        handed_on.close()
        yield front, worker


def started(stack: ExitStack, command: list[str], folder: Path, fds: tuple[int, int]) -> psutil.Process:
    """A process with two descriptors of ours, killed with the stack."""
    with (folder / "alone-log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment(),
            pass_fds=fds,
            start_new_session=True,
        )
    stack.callback(process.wait)
    stack.callback(process.kill)
    return psutil.Process(process.pid)


def greet(sock: socket.socket, project: Path) -> None:
    """Tell a worker what it is to host, and wait until it can. Raises: Failed."""
    requester = Requester(
        {
            "settings": settings.dump(settings.load("{}", source="nothing", env={})),
            "project": str(project),
            "slot": 0,
            "generation": 1,
        }
    )
    sock.settimeout(READY_WITHIN)
    sock.sendall(b"".join(requester.take_output()))
    while data := sock.recv(64 * 1024):
        for event in requester.receive(data):
            match event:
                case Notice("ready"):
                    return
                case Notice("failed", detail):
                    raise Failed(f"the worker does not start: {detail}")
    raise Failed("the worker ended before it was ready")
