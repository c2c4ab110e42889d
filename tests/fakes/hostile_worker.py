"""A worker that violates the wire protocol of `agentscope_worker` as a test instructs it.

A program that takes the place of the interpreter in `supervisor.python` (`program` creates it). It loads
neither AgentScope nor an App. The text of a message is a JSON list of steps, as for tests/apps/scripted; any
other text is echoed. Steps name streams relative to their own turn: 0 is this turn's stream, 1 the next.
Steps that run before any turn are in `hostile.json` in the project folder.
"""

import base64
import json
import os
import socket
import sys
import threading
import time
from mmap import mmap
from pathlib import Path
from typing import Any

from agentscope_protocol.wire.codec import FrameReader, encode
from agentscope_protocol.wire.frames import (
    PROTOCOL_VERSION,
    Data,
    End,
    Frame,
    Hello,
    Notice,
    Open,
    StreamKind,
)
from agentscope_protocol.wire.page import PAGE_SIZE, TICK_EVERY, LifePage

Step = dict[str, Any]

ORDERS = "hostile.json"  # {"version": n}: the protocol version to announce


def program(folder: Path) -> str:
    """The path of an executable that runs this module instead of a worker, and Python for all else."""
    path = folder / "python"
    path.write_text(
        f"#!{sys.executable}\n"
        "import os, sys\n"
        "if '-c' in sys.argv[1:2]:\n"  # the supervisor's check of the installation
        f"    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from tests.fakes.hostile_worker import main\n"
        "main()\n"
    )
    path.chmod(0o755)
    return str(path)


def raw(data: bytes) -> Step:
    """The step that sends these bytes unmodified."""
    return {"raw": base64.b64encode(data).decode()}


class HostileWorker:
    """One hostile worker process; `run` returns when the link ends."""

    def __init__(self, link: socket.socket, page: mmap) -> None:
        self._link = link
        self._page = page
        self._life = LifePage(page)
        self._garbage = False
        threading.Thread(target=self._tick, daemon=True).start()

    def run(self) -> None:
        orders = json.loads(Path(ORDERS).read_text()) if Path(ORDERS).exists() else {}
        self.send(Hello(orders.get("version", PROTOCOL_VERSION), {"pid": os.getpid()}), Notice("ready", ""))
        reader = FrameReader()
        while data := self._link.recv(65536):
            for frame in reader.feed(data):
                if isinstance(frame, Open):
                    self._life.begin(frame.stream)
                    self._answer(frame)

    def send(self, *frames: Frame) -> None:
        self._link.sendall(b"".join(map(encode, frames)))

    def _answer(self, turn: Open) -> None:
        text = json.loads(turn.body)["message"]["content"]
        steps = json.loads(text) if text.startswith("[") else [{"say": text}, {"end": 0}]
        said: list[dict[str, str]] = []
        for step in steps:
            self._perform(step, turn, said)

    def _perform(self, step: Step, turn: Open, said: list[dict[str, str]]) -> None:
        match step:
            case {"say": text}:  # on: the stream, unless it is this turn's
                message = {"name": "assistant", "content": text, "role": "assistant"}
                event = f"id: {turn.run_id}-{len(said)}\ndata: {json.dumps(message)}\n\n".encode()
                if turn.kind == StreamKind.EVENTS:
                    self.send(Data(turn.stream + step.get("on", 0), 1, event))
                said.append(message)
            case {"end": offset}:
                whole = json.dumps(said).encode() if turn.kind == StreamKind.WHOLE else b""
                self.send(End(turn.stream + offset, whole))
            case {"raw": data}:
                self._link.sendall(base64.b64decode(data))
            case {"shut": _}:  # close the link, but keep running
                self._link.shutdown(socket.SHUT_WR)
            case {"garbage": _}:  # liveness counters on the page, from now on
                self._garbage = True
            case {"exit": status}:
                os._exit(status)
            case _:
                raise ValueError(f"unknown step: {step}")

    def _tick(self) -> None:
        while True:
            if self._garbage:
                self._page[:] = os.urandom(PAGE_SIZE)
            else:
                self._life.tick_loop()
                self._life.tick_thread()
            time.sleep(0.01 if self._garbage else TICK_EVERY)


def main() -> None:
    """Run as a worker; argv ends like a real worker's: supervisor's pid, link, page, log records."""
    link, page = map(int, sys.argv[-3:-1])
    with socket.socket(fileno=link) as sock:
        HostileWorker(sock, mmap(page, PAGE_SIZE)).run()
