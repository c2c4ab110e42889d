"""Session state as JSON files: one per session, always whole, whatever dies while it is written.

It owns the session directory: names of files, their locks and temporary files. It must never write
a state file in place. The stored form and the order of saves in this process are `store`'s;
which process may run a session is the supervisor's business, but two that save the same session at
once are kept apart here too, by a lock on a file. Where the disk is full, what was stored stays.

A claim (`claims`) is a lock on one byte of one file, at the place that the session's name says: there
is nothing to clean up, the kernel gives it back when a process ends, however that is, and processes that it
has forked do not have it. The process must not close that file but here: that would end all its claims.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from agentscope_worker.runtime.sessions.store import (
    HEAD,
    Key,
    OvertakenError,
    SessionStore,
    number_of,
    numbered,
)

log = logging.getLogger(__name__)

_LOCK_FILES = 64  # shared by all sessions of a directory: few meet, and none is ever removed
_LOCK_WAIT = 30.0  # seconds for another process's save, which takes milliseconds
_LOCK_POLL = 0.005  # seconds; flock has no timeout of its own
_TEMPORARY = ".tmp-"
_CLAIMS = ".turns"  # the file of the claims; it stays empty


class JsonSessions(SessionStore):
    """A directory of files. A state is on disk, and survives a loss of power, when a save returns."""

    def __init__(self, directory: Path, major: int, member: str = "") -> None:
        super().__init__(major, member)
        self._directory = directory
        self._claimed: int | None = None  # descriptor

    async def open(self) -> None:
        """Create the directory, and remove what saves that were killed have left in it."""
        await asyncio.to_thread(self._sweep)
        if self._claimed is None:
            try:
                path = self._directory / _CLAIMS
                self._claimed = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:  # a disk that is full or read-only can still be read from
                log.warning("turns of other processes are not waited for: %s", error)

    async def close(self) -> None:
        """Wait for the saves that are still being written."""
        await super().close()
        if self._claimed is not None:
            os.close(self._claimed)
            self._claimed = None

    async def _claim(self, session: str, token: str) -> bool:
        try:
            await asyncio.to_thread(self._lock_byte, fcntl.LOCK_EX | fcntl.LOCK_NB, session)
        except (BlockingIOError, PermissionError):  # both are allowed to say that another has it
            return False
        return True

    async def _release(self, session: str, token: str) -> None:
        await asyncio.to_thread(self._lock_byte, fcntl.LOCK_UN, session)

    def _lock_byte(self, how: int, session: str) -> None:
        if self._claimed is not None:
            fcntl.lockf(self._claimed, how, 1, int(session[:15], 16))

    async def _write(self, key: Key, data: bytes, token: str | None = None, over: range | None = None) -> int:
        return await asyncio.to_thread(_write, self._file(key), self._lock(key), data, over)

    async def _read(self, key: Key) -> bytes | None:
        return await asyncio.to_thread(_read, self._file(key))

    async def _remove(self, key: Key) -> bool:
        return await asyncio.to_thread(_remove, self._file(key), self._lock(key))

    async def _set_aside(self, key: Key, damaged: bytes) -> str | None:
        return await asyncio.to_thread(_set_aside, self._file(key), self._lock(key), damaged)

    def _place(self, key: Key) -> str:
        return str(self._file(key))

    def _file(self, key: Key) -> Path:
        return self._directory / f"{key.name}.json"

    def _lock(self, key: Key) -> Path:
        return self._directory / f".lock-{int(key.name[:8], 16) % _LOCK_FILES:02d}"

    def _sweep(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in self._directory.glob(f"{_TEMPORARY}*"):
            # A temporary file is written under its session's lock: if that is free, nobody does.
            lock = self._directory / f".lock-{left.name.removeprefix(_TEMPORARY)[:2]}"
            with contextlib.suppress(TimeoutError, FileNotFoundError), _locked(lock, wait=0):
                left.unlink()


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def _set_aside(file: Path, lock: Path, damaged: bytes) -> str | None:
    with _locked(lock):
        if _read(file) != damaged:
            return None
        aside = file.with_suffix(f".{time.time_ns()}.corrupt")
        os.replace(file, aside)
        return aside.name


def _number(file: Path) -> int:
    try:
        with file.open("rb", buffering=0) as stored:
            return number_of(stored.read(HEAD))
    except FileNotFoundError:
        return 0


def _write(file: Path, lock: Path, data: bytes, over: range | None) -> int:
    """Replace `file` by `data`, durably, or leave it as it is and raise. Returns the number of this save."""
    directory = file.parent
    with _locked(lock):
        number = _number(file)
        if over is not None and number not in over:
            raise OvertakenError
        prefix = f"{_TEMPORARY}{lock.name.removeprefix('.lock-')}-"
        descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=prefix)
        try:
            with os.fdopen(descriptor, "wb") as new:
                new.write(numbered(data, number + 1))
                new.flush()
                os.fsync(new.fileno())
            os.replace(temporary, file)
        except BaseException:
            os.unlink(temporary)
            raise
        _keep_entries(directory)
        return number + 1


def _remove(file: Path, lock: Path) -> bool:
    with _locked(lock):
        try:
            file.unlink()
        except FileNotFoundError:
            return False
        _keep_entries(file.parent)
        return True


def _keep_entries(directory: Path) -> None:
    """A file that was renamed or removed is so on disk only when its directory is."""
    entry = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)


@contextlib.contextmanager
def _locked(lock: Path, wait: float = _LOCK_WAIT) -> Iterator[None]:
    """Hold `lock` against all other processes and threads.

    Raises: TimeoutError after `wait` seconds.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"{lock} is held by another process") from None
                time.sleep(_LOCK_POLL)
        yield
    finally:
        os.close(descriptor)
