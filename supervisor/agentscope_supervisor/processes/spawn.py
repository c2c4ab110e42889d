"""Starting and signalling worker processes. Decides nothing; `workers.pool` calls it.

Each worker has one end of a socketpair, a session and process group of its own, and no other descriptor of
ours. It asks the kernel itself to die with the supervisor, first thing, so that this process needs no code
between fork and exec. Its output comes through one pipe that is always drained. It is a fresh interpreter
here; one that is forked by a `zygote` has the same face.
"""

import contextlib
import mmap
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from agentscope_protocol.wire.page import PAGE_SIZE, LifePage
from agentscope_supervisor.processes.output_pipe import OnLine, OutputPipe
from agentscope_supervisor.processes.reaper import MARK
from agentscope_supervisor.system import kernel

# They speak of this process: systemd's notify socket, its sockets passed on, its watchdog.
_NOT_INHERITED: Final = (
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
)


class Child:
    """One running worker process. `socket` is our end of its link, connected; `page` its signs of life."""

    def __init__(self, pid: int, ours: socket.socket, output: OutputPipe, memory: mmap.mmap) -> None:
        self.pid: Final = pid
        self.socket: Final = ours
        self.output: Final = output
        self.page: Final = LifePage(memory)
        self._memory: Final = memory

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process; nothing happens if it has ended, or has become another user's."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, number)

    def dump_stacks(self) -> None:
        """Have it print the stacks of its threads; they replace those kept of an earlier dump."""
        self.output.stacks.clear()
        self.signal(signal.SIGQUIT)

    def kill(self) -> None:
        """SIGKILL to the process and to those it started; nothing happens if all have ended, or if those
        that are left are another user's."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Give back what is held of a process that has ended. Its page cannot be read any more: a mapping
        keeps its file open, until the collector finds it."""
        self.output.close()
        self._memory.close()


class WorkerChannels:
    """What ties a worker to us, both ends of it, made before the worker is.

    Of `theirs`, the link, the page and where it prints, the worker gets copies; ours are closed with
    `close_theirs`. `child` takes over our ends; without a worker, `close` is to be called.
    """

    def __init__(self) -> None:
        """Raises: OSError; nothing is left open then."""
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs_only:
            self._ours, link = socket.socketpair()
            undo.callback(self._ours.close)
            theirs_only.callback(link.close)
            self._read_end, write_end = os.pipe()
            undo.callback(os.close, self._read_end)
            theirs_only.callback(os.close, write_end)
            page = kernel.shared_file(PAGE_SIZE)
            theirs_only.callback(os.close, page)
            self._memory = mmap.mmap(page, PAGE_SIZE)
            self._ours.setblocking(False)
            self.theirs: Final = (link.fileno(), page, write_end)
            self.close_theirs: Final = theirs_only.pop_all().close
            self.close: Final = undo.pop_all().close

    def child(self, pid: int, on_line: OnLine) -> Child:
        """The worker that has been started with these."""
        return Child(pid, self._ours, OutputPipe(self._read_end, on_line), self._memory)


def spawn(command: Sequence[str], project: Path, mark: str, on_line: OnLine, on_exit: kernel.OnExit) -> Child:
    """Start `command` in the project folder, with three more arguments: our pid, the descriptor of its end
    of the link, and that of its page. Its descendants are known by `mark`.

    Called on the event loop: the fork takes a millisecond or two, and the parent-death signal is tied to
    the thread that forks, which must live as long as this process.

    Raises: OSError if the process cannot be started; nothing is left open then.
    """
    with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs_only:
        channels = WorkerChannels()
        undo.callback(channels.close)
        theirs_only.callback(channels.close_theirs)
        link, page, output = channels.theirs
        popen = execute(
            [*command, str(os.getpid()), str(link), str(page)], project, output, (link, page), {MARK: mark}
        )
        undo.callback(popen.wait)
        undo.callback(popen.kill)
        kernel.on_exit(popen, on_exit)
        undo.pop_all()
    return channels.child(popen.pid, on_line)


def execute(
    command: Sequence[str],
    project: Path,
    output: int,
    inherited: Sequence[int],
    variables: Mapping[str, str],
) -> subprocess.Popen[bytes]:
    """Start a process of ours in the project folder that prints to `output`; it has `variables` beside those
    of our environment. Raises: OSError.
    """
    return subprocess.Popen(
        command,
        cwd=project,
        env={**_environment(), **variables},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=inherited,
        start_new_session=True,
        umask=0o077,
    )


def _environment() -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
    environment["PYTHONUNBUFFERED"] = "1"
    # One thread for each CPU in each worker, made by numpy's import, helps no App and costs memory.
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")
    return environment
