"""Portable access to kernel features: process exit, orphan processes, shared memory, pipes and CPUs.

On Linux, a pidfd refers to one process even if its pid is reused, and becomes readable when the process
exits. Orphan processes are reparented to the supervisor. On other systems, or if a sandbox forbids pidfds, a
thread waits for each child, and orphan processes go to PID 1, which may be the supervisor.

The implementation is chosen once, at import. AGENTSCOPE_SUPERVISOR_PORTABLE=1 in the environment forces the
portable one, for tests. The worker itself arranges that it dies with its supervisor.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

_SO_ATTACH_FILTER: Final = 26
_BPF_RET: Final = 0x06
_PR_SET_DUMPABLE: Final = 4  # prctl(2)
_PR_SET_CHILD_SUBREAPER: Final = 36

_LINUX: Final = sys.platform.startswith("linux") and os.environ.get("AGENTSCOPE_SUPERVISOR_PORTABLE") != "1"
_HAS_MEMFD: Final = hasattr(os, "memfd_create")
_HAS_CHILDREN_FILES: Final = Path("/proc/thread-self/children").exists()

UNKNOWN_STATUS: Final = 255  # the same value as in asyncio
MAX_PID: Final = 2**31 - 1  # what a pid_t can hold


def _has_pidfds() -> bool:
    if not _LINUX:
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


def shared_file(size: int) -> int:
    """Return the descriptor of an unnamed file of `size` zero bytes, which two processes can map.

    On Linux its size is sealed: if a worker could shorten it, the next read would kill the supervisor with
    SIGBUS. Raises: OSError.
    """
    fd = _unnamed_file()
    try:
        os.truncate(fd, size)
        if _HAS_MEMFD:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(fd)
        raise
    return fd


def shared_record() -> int:
    """Return the descriptor of an empty unnamed file, to which several processes can append.

    A process of another user can write to it too, if it inherits the descriptor. Raises: OSError.
    """
    fd = _unnamed_file()
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
    return fd


def _unnamed_file() -> int:
    if _HAS_MEMFD:
        return os.memfd_create("agentscope-shared", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    fd, path = tempfile.mkstemp()
    os.unlink(path)
    return fd


def widen_pipe(fd: int, size: int) -> None:
    """Set the capacity of a pipe to `size` bytes. If the kernel refuses, it stays unchanged."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, size)


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use. The quota of its control group is not applied."""
    count = getattr(os, "process_cpu_count", None)  # Python 3.13; PYTHON_CPU_COUNT overrides it
    if count is None and hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return (count or os.cpu_count)() or 1


OnExit = Callable[[int], None]
"""Called with the exit code, or minus the signal number."""


def on_exit_pidfd(child: subprocess.Popen[bytes], callback: OnExit) -> None:
    """Reap the child when it exits, and call `callback` on the running loop. Raises: OSError."""
    _watch(child.pid, child.poll, callback)


def on_exit_of_adopted(pid: int, callback: OnExit) -> None:
    """Reap a child that another process forked and that was reparented to this process. Requires pidfds.

    Raises: OSError, also if the process does not exist any more or is no child of this one: its pid may come
    from a process that lies.
    """
    if not 0 < pid <= MAX_PID:
        raise ProcessLookupError(f"{pid} is not the pid of a child")
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)

    def poll() -> int | None:
        try:
            ended, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # the status was collected elsewhere
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
    """Reap the child with a thread that waits for it, for kernels without pidfds."""
    loop = asyncio.get_running_loop()

    def wait() -> None:
        status = child.wait()
        if not loop.is_closed():
            loop.call_soon_threadsafe(callback, status)

    threading.Thread(target=wait, name=f"wait-{child.pid}", daemon=True).start()


on_exit: Final = on_exit_pidfd if _has_pidfds() else on_exit_thread


def forbid_inspection() -> bool:
    """Keep other processes of this user away from this one's memory, environment and descriptors.

    This process also writes no core dump, which would contain its secrets. Its children are not affected: a
    process that executes a program can be inspected again. Root can inspect any process. Returns False if the
    system has no such protection.
    """
    return _LINUX and ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0


def drop_handshakes(sock: socket.socket) -> None:
    """Let the kernel ignore clients that connect to this listening socket from now on.

    A client repeats its SYN after a second, and is refused if the socket is closed by then. The effect is
    permanent, for every process that has this socket. Other systems than Linux ignore the call.
    """
    if _LINUX and sock.family in (socket.AF_INET, socket.AF_INET6):
        program = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RET, 0, 0, 0))  # keep 0 bytes
        with contextlib.suppress(OSError):  # a kernel without filters
            sock.setsockopt(
                socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program))
            )


def become_subreaper() -> bool:
    """Ask the kernel to reparent orphaned descendants to this process. Returns False if it cannot.

    PID 1 receives them in any case.
    """
    return _LINUX and ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def children() -> set[int]:
    """Return the pids of the children, with zombies. A child that exits meanwhile may hide another."""
    if _LINUX and _HAS_CHILDREN_FILES:
        found: set[int] = set()
        with contextlib.suppress(OSError):  # no file descriptor is available
            for thread in os.listdir("/proc/self/task"):
                with contextlib.suppress(OSError):  # the thread has ended
                    found.update(map(int, Path("/proc/self/task", thread, "children").read_bytes().split()))
        return found
    import psutil  # imported late: it takes 3 MB, and it scans every process of the machine

    return {child.pid for child in psutil.Process().children()}
