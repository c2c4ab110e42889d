"""Finds, reaps and ends orphan processes: processes that outlived their parent and were reparented.

`reaper_policy` decides about each process; this module reads the facts from /proc. It polls four times per
second, which reads two small files, because uvloop handles SIGCHLD itself and a living orphan process sends
no signal. It must never touch a worker: `spawn` collects the exit status of workers.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from agentscope_supervisor.processes.reaper_policy import (
    END_WITHIN,
    Adopted,
    Command,
    Kill,
    Reap,
    ReaperPolicy,
    Terminate,
)
from agentscope_supervisor.system import kernel
from agentscope_supervisor.system.sweeper import Sweeper

log = logging.getLogger(__name__)

POLL_EVERY: Final = 0.25  # seconds

FINAL_POLL_EVERY: Final = 0.05  # seconds; while the stopping instance waits for orphan processes to end

FINAL_POLLS: Final = round((END_WITHIN + 1.0) / FINAL_POLL_EVERY)
"""Afterwards, a process that the kernel cannot end, because it waits for a disk, is left to PID 1."""

MARK: Final = "AGENTSCOPE_SUPERVISOR_WORKER"
"""Environment variable that identifies the descendants of a worker. `mark_of` returns its value."""

_INSTANCE: Final = secrets.token_hex(8)


def mark_of(number: int, label: str) -> str:
    """Return the mark of one worker process: this supervisor's id, the worker's number and label."""
    return f"{_INSTANCE}:{number}:{label}"


class Reaper:
    """Polls for orphan processes until `stop`.

    `workers` returns the pid and mark of every child that has an owner: the workers, and other children such
    as the zygote, with any mark. It is called for each poll.
    """

    def __init__(self, workers: Callable[[], Mapping[int, str]]) -> None:
        self._workers: Final = workers
        self._loop: Final = asyncio.get_running_loop()
        self._policy: Final = ReaperPolicy()
        self._pids: set[int] = set()  # of the previous poll
        self._sweeper: Sweeper | None = None
        self._reaped = 0
        self._terminated = 0
        self._killed = 0
        if kernel.become_subreaper() or os.getpid() == 1:
            self._sweeper = Sweeper(self._loop, POLL_EVERY, self._poll)
            self._sweeper.soon()
            self._poll()

    async def stop(self) -> None:
        """End the remaining orphan processes. Call it after the last worker has exited.

        Takes at most six seconds, and usually returns at once.
        """
        if self._sweeper is None:
            return
        self._sweeper.close()
        for _ in range(FINAL_POLLS):
            if not self._act():
                break
            await asyncio.sleep(FINAL_POLL_EVERY)

    def counts(self) -> dict[str, int]:
        """Return how many orphan processes were reaped, terminated and killed."""
        return {"reaped": self._reaped, "terminated": self._terminated, "killed": self._killed}

    def hurry(self) -> None:
        """Kill a terminated process at the next poll, starting now."""
        self._policy.end_within = 0.0

    def _poll(self) -> bool:
        self._act()
        return True

    def _act(self) -> bool:
        """Poll once; return whether an orphan process that was asked to end is still alive."""
        try:
            self._act_on_children()
        except Exception:  # the next poll may succeed
            log.exception("poll for orphan processes failed")
        return self._policy.ending

    def _act_on_children(self) -> None:
        workers = self._workers()
        pids = kernel.children() | self._pids
        adopted = [found for pid in pids - workers.keys() if (found := _inspect(pid))]
        self._pids = {child.pid for child in adopted}
        for command in self._policy.decide(adopted, workers, self._loop.time()):
            self._do(command)

    def _do(self, command: Command) -> None:
        # Only this class reaps these children, so a pid cannot have been reused.
        match command:
            case Reap(pid):
                self._reaped += 1
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            case Terminate(pid, mark):
                self._terminated += 1
                log.warning("orphan process is terminated", extra=_fields(pid, mark))
                _signal(pid, signal.SIGTERM)
            case Kill(pid, mark):
                self._killed += 1
                log.warning("orphan process is killed", extra=_fields(pid, mark))
                _signal(pid, signal.SIGKILL)


def _inspect(pid: int) -> Adopted | None:
    """Return what /proc reports about a child, or None if it is not a child of this process (any more)."""
    state, parent, session = _stat(pid)[1:]
    if parent != os.getpid():
        return None
    # Reading the environment of a process in disk sleep may block for as long as its disk does.
    mark = _mark(pid) if state not in "ZXD" else None
    return Adopted(pid, state in "ZX", session, mark)


def _stat(pid: int) -> tuple[str, str, int, int]:
    """Return name, state, parent and session of a process, from proc_pid_stat(5)."""
    try:
        text = Path("/proc", str(pid), "stat").read_text("utf-8", "replace")
    except OSError:
        return "", "", 0, 0
    name, _, rest = text.partition("(")[2].rpartition(")")
    state, parent, _, session, *_ = rest.split()
    return name, state, int(parent), int(session)


def _mark(pid: int) -> str | None:
    """Return the mark of a worker of this instance in the environment of a process, or None."""
    prefix = f"{MARK}={_INSTANCE}:".encode()
    try:
        variables = Path("/proc", str(pid), "environ").read_bytes().split(b"\0")
    except OSError:  # a setuid program runs as another user
        return None
    for variable in variables:
        if variable.startswith(prefix):
            return variable.decode("ascii", "replace").partition("=")[2]
    return None


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _fields(pid: int, mark: str) -> dict[str, object]:
    return {"worker": mark.rpartition(":")[2], "pid": pid, "command": _stat(pid)[0]}
