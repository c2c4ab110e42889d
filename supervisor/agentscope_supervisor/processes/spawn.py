"""Starts and signals worker processes. Makes no decisions; `launcher` calls it.

Each worker has its own session and process group. It inherits one end of a socketpair and no other descriptor
of the supervisor except its page and its two pipes, for output and for log records. The worker itself asks
the kernel to kill it when the supervisor dies, as its first action, so the supervisor needs no code between
fork and exec. A worker that is started here runs in a new interpreter; for a worker that is forked by a
`zygote`, `Child` is the same.
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

from agentscope_protocol.wire.page import PAGE_SIZE, WRITES, LifePage
from agentscope_supervisor.processes.output_pipe import OnLine, ProcessOutput
from agentscope_supervisor.processes.reaper import MARK
from agentscope_supervisor.processes.worker_user import WorkerUser
from agentscope_supervisor.system import kernel

# Variables about the supervisor process: notify socket, passed sockets and watchdog of systemd. And the
# encoding of its output, which UTF-8 mode would not override.
_NOT_INHERITED: Final = (
    "PYTHONIOENCODING",
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
)


class Child:
    """One running worker process.

    `socket` is the supervisor's end of its link, connected. `page` holds its heartbeat counters.
    """

    def __init__(self, pid: int, ours: socket.socket, output: ProcessOutput, memory: mmap.mmap) -> None:
        self.pid: Final = pid
        self.socket: Final = ours
        self.output: Final = output
        self.page: Final = LifePage(memory)
        self._memory: Final = memory

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process. Does nothing if it has exited, or runs as another user now."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask the process to exit. The page tells it that this SIGTERM is the supervisor's."""
        self.page.ask_stop()
        self.signal(signal.SIGTERM)

    def dump_stacks(self) -> None:
        """Ask the process to print the stacks of its threads. They replace an earlier dump in `output`."""
        self.output.stacks.clear()
        self.signal(signal.SIGQUIT)

    def kill(self) -> None:
        """Send SIGKILL to the process group: the process and the processes that it started.

        Does nothing if all of them have exited, or the remaining ones run as another user.
        """
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Release the resources of a process that has exited. Its page cannot be read afterwards.

        Without this call, the mapping keeps its file open until it is garbage collected.
        """
        self.output.close()
        self._memory.close()


class WorkerChannels:
    """Both ends of the channels between the supervisor and a worker, created before the worker.

    `theirs` are the worker's descriptors: link, page, output and log records. The worker gets copies of them;
    `close_theirs` closes the originals. `child` takes over the supervisor's ends. If the worker does not
    start, call `close`.
    """

    def __init__(self, user: WorkerUser | None = None) -> None:
        """`user`: that of the worker, if it is another one.

        Raises: OSError. No descriptor is left open then.
        """
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs_only:
            self._ours, link = socket.socketpair()
            undo.callback(self._ours.close)
            theirs_only.callback(link.close)
            self._output, output = os.pipe()
            undo.callback(os.close, self._output)
            theirs_only.callback(os.close, output)
            self._records, records = os.pipe()
            undo.callback(os.close, self._records)
            theirs_only.callback(os.close, records)
            if user is not None:
                user.owns(output)
            page = kernel.shared_file(PAGE_SIZE)
            theirs_only.callback(os.close, page)
            self._memory = mmap.mmap(page, PAGE_SIZE)
            self._ours.setblocking(False)
            self.theirs: Final = (link.fileno(), page, output, records)
            self.close_theirs: Final = theirs_only.pop_all().close
            self.close: Final = undo.pop_all().close

    def child(self, pid: int, on_line: OnLine) -> Child:
        """Return the worker that was started with these channels."""
        output = ProcessOutput(self._output, on_line, self._records)
        return Child(pid, self._ours, output, self._memory)


def spawn(
    command: Sequence[str],
    project: Path,
    umask: int,
    mark: str,
    on_line: OnLine,
    on_exit: kernel.OnExit,
    user: WorkerUser | None = None,
) -> Child:
    """Start `command` in the project folder. `mark` identifies its descendants.

    `umask` and `user`: see `execute`.

    The command gets four more arguments: the pid of the supervisor, and the descriptors of its link, its page
    and its pipe for log records.

    Call it on the event loop: the fork takes one or two milliseconds, and the parent-death signal belongs to
    the thread that forks, which must live as long as this process.

    Raises: OSError if the process cannot be started. No descriptor is left open then.
    """
    with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs_only:
        channels = WorkerChannels(user)
        undo.callback(channels.close)
        theirs_only.callback(channels.close_theirs)
        link, page, output, records = channels.theirs
        inherited = (link, page, records)
        arguments = map(str, (os.getpid(), *inherited))
        popen = execute([*command, *arguments], project, output, inherited, {MARK: mark}, umask, user)
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
    umask: int,
    user: WorkerUser | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in the project folder, with its output to the descriptor `output`.

    Its environment is `environment()` with `variables`. The secrets of the supervisor are not in it: see
    `project.config`. A descriptor that it names (`WRITES`) is inherited too.
    `umask` -1: that of the supervisor. `user`: None is this user.

    Raises: OSError.
    """
    return subprocess.Popen(
        command,
        cwd=project,
        env={**environment(), **(user.variables if user is not None else {}), **variables},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=(*inherited, *map(int, filter(None, [os.environ.get(WRITES)]))),
        start_new_session=True,
        umask=umask,
        **(user.options if user is not None else {}),
    )


def environment() -> dict[str, str]:
    """Return the environment of every worker: that of the supervisor, without what only the supervisor needs.

    Python runs in UTF-8 mode in it, so that an App can print and read every text, whatever the locale is.
    """
    environment = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
    environment["PYTHONUTF8"] = "1"
    environment["PYTHONUNBUFFERED"] = "1"
    # By default, the import of numpy starts one thread for each CPU in each worker, which only costs memory.
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")
    return environment


def path_for_worker(path: Path) -> str | bytes:
    """Return a path in the form in which a worker understands it: as text in UTF-8 mode, otherwise as bytes.

    The supervisor decodes paths with the encoding of its locale, which may be another one.
    """
    encoded = os.fsencode(path)
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        return encoded
