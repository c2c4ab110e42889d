"""What only some kernels can do, behind one face: how the end of a child is noticed, orphans, shared memory,
pipes, and whether the kernel kills for want of memory.

Linux: a pidfd, which names one process for ever and is readable when it has ended; orphans come to us.
Elsewhere, or where a sandbox forbids it: a thread that waits; orphans go to PID 1, which may be us. Chosen
once, at import; the environment variable AGENTSCOPE_SUPERVISOR_PORTABLE=1 forces the second, for tests.
(That a worker dies with its supervisor is arranged in the worker.)
"""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

_PR_SET_CHILD_SUBREAPER: Final = 36  # prctl(2)

_LINUX: Final = sys.platform.startswith("linux") and os.environ.get("AGENTSCOPE_SUPERVISOR_PORTABLE") != "1"
_HAS_CHILDREN_FILES: Final = Path("/proc/thread-self/children").exists()

UNKNOWN_STATUS: Final = 255  # as asyncio has it


def _has_pidfds() -> bool:
    if not _LINUX:
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


def shared_file(size: int) -> int:
    """The descriptor of an unnamed file of `size` zero bytes, for two processes to map. Raises: OSError."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("agentscope-life", os.MFD_CLOEXEC)
    else:
        fd, path = tempfile.mkstemp()
        os.unlink(path)
    try:
        os.truncate(fd, size)
    except OSError:
        os.close(fd)
        raise
    return fd


def widen_pipe(fd: int, size: int) -> None:
    """Have a pipe hold `size` bytes. Where the kernel cannot, or will not, it stays as it is."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, size)


def oom_kills(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """How many processes of our control group the kernel has killed for want of memory; 0 if it does not
    say. Source: cgroups(7), and memory.events, memory.oom_control in the kernel's documentation.
    """
    try:
        groups = [line.split(":", 2)[1:] for line in proc.read_text().splitlines()]
    except OSError:
        return 0
    for controllers, group in groups:
        if "memory" in controllers.split(","):
            mount, name = root / "memory", "memory.oom_control"
        elif controllers == "":
            mount, name = root, "memory.events"
        else:
            continue
        # In a container the path may be the host's, while the mount begins with our own group.
        for directory in (mount / group.lstrip("/"), mount):
            try:
                fields = dict(line.split() for line in (directory / name).read_text().splitlines())
                return int(fields["oom_kill"])
            except (OSError, ValueError, KeyError):
                continue
    return 0


OnExit = Callable[[int], None]
"""Gets the exit code, or minus the signal number."""


def on_exit_pidfd(child: subprocess.Popen[bytes], callback: OnExit) -> None:
    """Call `callback` on the running loop when the child has ended; it is reaped then. Raises: OSError."""
    _watch(child.pid, child.poll, callback)


def on_exit_of_adopted(pid: int, callback: OnExit) -> None:
    """The same for a child that was forked by another process and has become ours; pidfds only.

    Raises: OSError, also if there is no such process any more.
    """

    def poll() -> int | None:
        try:
            ended, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # somebody else has taken its status
            return UNKNOWN_STATUS
        return os.waitstatus_to_exitcode(status) if ended else None

    _watch(pid, poll, callback)


def _watch(pid: int, poll: Callable[[], int | None], callback: OnExit) -> None:
    loop = asyncio.get_running_loop()
    fd = os.pidfd_open(pid)

    def readable() -> None:
        status = poll()
        if status is not None:
            loop.remove_reader(fd)
            os.close(fd)
            callback(status)

    loop.add_reader(fd, readable)


def on_exit_thread(child: subprocess.Popen[bytes], callback: OnExit) -> None:
    """The same with a thread that waits: for kernels without pidfds."""
    loop = asyncio.get_running_loop()

    def wait() -> None:
        status = child.wait()
        if not loop.is_closed():
            loop.call_soon_threadsafe(callback, status)

    threading.Thread(target=wait, name=f"wait-{child.pid}", daemon=True).start()


on_exit: Final = on_exit_pidfd if _has_pidfds() else on_exit_thread


def become_subreaper() -> bool:
    """Have the kernel give us the processes that our descendants leave behind; False where it cannot.

    As PID 1 we get them in any case.
    """
    return _LINUX and ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def children() -> set[int]:
    """The pids of our children, zombies too. One that ends at this moment may hide another."""
    if _LINUX and _HAS_CHILDREN_FILES:
        found: set[int] = set()
        with contextlib.suppress(OSError):  # no descriptor is free
            for thread in os.listdir("/proc/self/task"):
                with contextlib.suppress(OSError):  # the thread has ended
                    found.update(map(int, Path("/proc/self/task", thread, "children").read_bytes().split()))
        return found
    import psutil  # looks at every process of the machine, and is 3 MB that others never need

    return {child.pid for child in psutil.Process().children()}
