"""A real Redis for tests: on a free port, without persistence, stopped at the end of the test.

`make redis` installs the program. A test that needs it fails, and says so, if it is missing.
"""

import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Final, Self

from tests.harness.instance import free_port
from tests.harness.waiting import wait_until

MISSING: Final = (
    "these tests need redis-server, and it is not on PATH; run `make redis` as root, or install it with "
    "your system's packages (apt-get install redis-server, brew install redis)"
)
UP_WITHIN: Final = 10.0  # seconds; 0.01 s on an idle machine


class RedisServer:
    """One server; `start` after `kill` starts an empty one at the same address."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        """`folder`: its working directory. `arguments`: further options."""
        self.port: Final = free_port()
        self._folder: Final = folder
        self._arguments: Final = arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> Self:
        program = shutil.which("redis-server")
        assert program is not None, MISSING
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            [program, *options, *self._arguments],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._answers, UP_WITHIN, "redis-server answers")
        return self

    def kill(self) -> None:
        """Send SIGKILL if the server runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stop answering: connections are still accepted."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "redis-server exited at its start"
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                answer = connection.recv(64)
        except OSError:
            return False
        return answer.startswith((b"+PONG", b"-NOAUTH"))
