"""Processes that outlived their parent and were given to us: looks for them, reaps them, ends them.

What is to become of each is decided in `reaper_policy`; this finds out what they are, from /proc. It looks
four times a second, for two small files: uvloop keeps SIGCHLD to itself, and an orphan that lives tells
nothing at all. Never touches a worker, whose status belongs to `spawn`.
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

log = logging.getLogger(__name__)

LOOK_EVERY: Final = 0.25  # seconds

LOOK_LAST_EVERY: Final = 0.05  # seconds; at the end of the instance, which waits for its orphans

LAST_LOOKS: Final = round((END_WITHIN + 1.0) / LOOK_LAST_EVERY)
"""What the kernel keeps alive after that, waiting for a disk, is left to PID 1."""

MARK: Final = "AGENTSCOPE_SUPERVISOR_WORKER"
"""The environment variable by which the descendants of a worker are known. Its value: see `mark_of`."""

_INSTANCE: Final = secrets.token_hex(8)


def mark_of(number: int, label: str) -> str:
    """The mark of one worker process: of this run of the supervisor, its number, its name for people."""
    return f"{_INSTANCE}:{number}:{label}"


class Reaper:
    """Looks until `stop`. `workers`: pid and mark of all that have an owner; asked at each look.

    An owner of children that are no workers has them there too, with any mark.
    """

    def __init__(self, workers: Callable[[], Mapping[int, str]]) -> None:
        self._workers: Final = workers
        self._loop: Final = asyncio.get_running_loop()
        self._policy: Final = ReaperPolicy()
        self._pids: set[int] = set()  # of the look before
        self._timer: asyncio.TimerHandle | None = None
        self._reaped = 0
        self._terminated = 0
        self._killed = 0
        if kernel.become_subreaper() or os.getpid() == 1:
            self._look()

    async def stop(self) -> None:
        """Once no worker is left: end what they left behind. Takes six seconds at most, mostly none."""
        if self._timer is None:
            return
        self._timer.cancel()
        for _ in range(LAST_LOOKS):
            if not self._act():
                break
            await asyncio.sleep(LOOK_LAST_EVERY)

    def counts(self) -> dict[str, int]:
        """How many have been reaped, asked to end, and killed."""
        return {"reaped": self._reaped, "terminated": self._terminated, "killed": self._killed}

    def hurry(self) -> None:
        """From now on nothing is given time to end by itself."""
        self._policy.end_within = 0.0

    def _look(self) -> None:
        self._timer = self._loop.call_later(LOOK_EVERY, self._look)
        self._act()

    def _act(self) -> bool:
        """Look once, and do what is to be done; returns whether an orphan that must end lives on."""
        try:
            self._act_on_children()
        except Exception:  # of the next look it may be true no more
            log.exception("looking for orphans failed")
        return self._policy.ending

    def _act_on_children(self) -> None:
        workers = self._workers()
        pids = kernel.children() | self._pids
        adopted = [found for pid in pids - workers.keys() if (found := _seen(pid))]
        self._pids = {child.pid for child in adopted}
        for command in self._policy.look(adopted, workers, self._loop.time()):
            self._do(command)

    def _do(self, command: Command) -> None:
        # Nobody else reaps these, so that a pid cannot have become that of another process.
        match command:
            case Reap(pid):
                self._reaped += 1
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            case Terminate(pid, mark):
                self._terminated += 1
                log.warning("a process that outlived its worker is ended", extra=_told(pid, mark))
                _signal(pid, signal.SIGTERM)
            case Kill(pid, mark):
                self._killed += 1
                log.warning("a process that outlived its worker is killed", extra=_told(pid, mark))
                _signal(pid, signal.SIGKILL)


def _seen(pid: int) -> Adopted | None:
    """What the kernel says of a child of ours; None if it is none, or none any more."""
    state, parent, session = _stat(pid)[1:]
    if parent != os.getpid():
        return None
    # The environment of a process in the disk may be as far away as its disk.
    mark = _mark(pid) if state not in "ZXD" else None
    return Adopted(pid, state in "ZX", session, mark)


def _stat(pid: int) -> tuple[str, str, int, int]:
    """Name, state, parent and session of a process, from proc_pid_stat(5)."""
    try:
        text = Path("/proc", str(pid), "stat").read_text("utf-8", "replace")
    except OSError:
        return "", "", 0, 0
    name, _, rest = text.partition("(")[2].rpartition(")")
    state, parent, _, session, *_ = rest.split()
    return name, state, int(parent), int(session)


def _mark(pid: int) -> str | None:
    """The mark of one of our workers in the environment of a process."""
    prefix = f"{MARK}={_INSTANCE}:".encode()
    try:
        variables = Path("/proc", str(pid), "environ").read_bytes().split(b"\0")
    except OSError:  # of another user, by a setuid program
        return None
    for variable in variables:
        if variable.startswith(prefix):
            return variable.decode("ascii", "replace").partition("=")[2]
    return None


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _told(pid: int, mark: str) -> dict[str, object]:
    return {"worker": mark.rpartition(":")[2], "pid": pid, "command": _stat(pid)[0]}
