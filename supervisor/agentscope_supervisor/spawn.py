"""Starting and signalling worker processes. Decides nothing; `daemon` tells it what to start and to end.

Each worker is a fresh interpreter with one end of a socketpair, in a session and process group of its own,
with no other descriptor of ours. It asks the kernel itself to die with the supervisor, first thing, so that
this process needs no code between fork and exec. Its output comes through one pipe that is always drained.
"""

import asyncio
import contextlib
import mmap
import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from agentscope_protocol.page import PAGE_SIZE, LifePage
from agentscope_supervisor import kernel

MAX_LINE: Final = 16 * 1024
"""Bytes of a line of output; what is longer is cut into several. Log shippers cut near here too."""

LAST_READS: Final = 16
"""Reads of 64 KiB after the end of a worker: a full pipe, its usual size being that of one read, and more."""

KEPT_LINES: Final = 50
"""Last lines of a worker kept for the report of its death: a traceback and what led to it."""

# They speak of this process: systemd's notify socket, its sockets passed on, its watchdog.
_NOT_INHERITED: Final = (
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
)

# What a terminal would act on must not reach one through the log.
_ESCAPED: Final = {code: f"\\x{code:02x}" for code in [*range(0x20), *range(0x7F, 0xA0)] if code != 0x09}

OnLine = Callable[[str], None]


class Child:
    """One running worker process. `socket` is our end of its link, connected; `page` its signs of life."""

    def __init__(self, pid: int, ours: socket.socket, output: "Output", page: LifePage) -> None:
        self.pid: Final = pid
        self.socket: Final = ours
        self.output: Final = output
        self.page: Final = page

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process; nothing happens if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL to the process and to those it started; nothing happens if all have ended."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


class Output:
    """What a worker prints, line by line."""

    def __init__(self, fd: int, on_line: OnLine) -> None:
        self.last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._fd = fd
        self._on_line = on_line
        self._rest = b""
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._readable)

    def close(self) -> None:
        """Read what is left, and stop. Bounded: what the worker started may go on printing into the pipe."""
        for _ in range(LAST_READS):
            if self._fd < 0 or not self._readable():
                break
        self._finish()

    def _readable(self) -> bool:
        """Read once; returns whether there may be more."""
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return False
        if not data:
            self._finish()
            return False
        *lines, rest = (self._rest + data).split(b"\n")
        while len(rest) >= MAX_LINE:
            lines.append(rest[:MAX_LINE])
            rest = rest[MAX_LINE:]
        self._rest = rest
        for line in lines:
            self._emit(line)
        return True

    def _emit(self, line: bytes) -> None:
        for at in range(0, max(len(line), 1), MAX_LINE):
            text = line[at : at + MAX_LINE].decode("utf-8", "backslashreplace").rstrip("\r")
            text = text.translate(_ESCAPED)
            self.last_lines.append(text)
            self._on_line(text)

    def _finish(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            if self._rest:
                self._emit(self._rest)


def spawn(command: Sequence[str], project: Path, on_line: OnLine, on_exit: kernel.OnExit) -> Child:
    """Start `command` in the project folder, with three more arguments: our pid, the descriptor of its end
    of the link, and that of its page.

    Called on the event loop: the fork takes a millisecond or two, and the parent-death signal is tied to
    the thread that forks, which must live as long as this process.

    Raises: OSError if the process cannot be started; nothing is left open then.
    """
    with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs_only:
        ours, theirs = socket.socketpair()
        undo.callback(ours.close)
        theirs_only.callback(theirs.close)
        read_end, write_end = os.pipe()
        undo.callback(os.close, read_end)
        theirs_only.callback(os.close, write_end)
        page = kernel.shared_file(PAGE_SIZE)
        theirs_only.callback(os.close, page)
        life = LifePage(mmap.mmap(page, PAGE_SIZE))
        inherited = (theirs.fileno(), page)
        popen = subprocess.Popen(
            [*command, str(os.getpid()), *map(str, inherited)],
            cwd=project,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=write_end,
            stderr=write_end,
            pass_fds=inherited,
            start_new_session=True,
            umask=0o077,
        )
        undo.callback(popen.wait)
        undo.callback(popen.kill)
        ours.setblocking(False)
        kernel.on_exit(popen, on_exit)
        undo.pop_all()
    return Child(popen.pid, ours, Output(read_end, on_line), life)


def _environment() -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
    environment["PYTHONUNBUFFERED"] = "1"
    # One thread for each CPU in each worker, made by numpy's import, helps no App and costs memory.
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")
    return environment
