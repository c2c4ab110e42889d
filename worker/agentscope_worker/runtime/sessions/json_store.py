"""Session state as JSON files, one per session. A file is always complete, whatever crashes during a save.

Owns the session directory: file names, locks and temporary files. It must never write a state file in place.
`store` owns the stored format and the order of saves in this process. The supervisor decides which process
runs a session; if two processes save the same session anyway, a file lock serializes the saves. If the disk
is full, the stored state is kept.

A claim (`claims`) is a lock on one byte of one file, at the offset that the session's name determines. It
needs no cleanup: the kernel releases it when the process ends for any reason, and forked processes do not
inherit it. The process must close that file only here, because closing it releases all its claims.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agentscope_worker.runtime.sessions.keys import Key
from agentscope_worker.runtime.sessions.store import OvertakenError, SessionStore, next_stamp
from agentscope_worker.runtime.sessions.stored_form import HEAD, NOTHING, Stamp, stamp_of, stamped

log = logging.getLogger(__name__)

_LOCK_FILES = 64  # shared by all sessions of a directory: conflicts are rare, and files are never removed
_LOCK_TIMEOUT = 30.0  # seconds to wait for another process's save, which takes milliseconds
_LOCK_POLL = 0.005  # seconds; flock has no timeout of its own
_TEMPORARY = ".tmp-"
_CLAIMS = ".turns"  # the file with the locks of the claims; it stays empty


class JsonSessions(SessionStore):
    """A directory of files. When a save returns, the state is on disk and survives a loss of power."""

    def __init__(self, directory: Path, major: int, member: str = "") -> None:
        super().__init__(major, member)
        self._directory = directory
        self._claims_file: int | None = None  # file descriptor

    async def open(self) -> None:
        """Create the directory, and remove the temporary files of killed saves."""
        await asyncio.to_thread(self._sweep)
        if self._claims_file is None:
            try:
                path = self._directory / _CLAIMS
                self._claims_file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:  # a full or read-only disk can still be read
                log.warning("sessions are not claimed against other processes: %s", error)

    async def close(self) -> None:
        """Wait for unfinished saves, and release all claims."""
        await super().close()
        if self._claims_file is not None:
            os.close(self._claims_file)
            self._claims_file = None

    async def _claim(self, session: str, token: str) -> bool:
        try:
            await asyncio.to_thread(self._lock_byte, fcntl.LOCK_EX | fcntl.LOCK_NB, session)
        except (BlockingIOError, PermissionError):  # POSIX allows both errors for a lock held by another
            return False
        return True

    async def _release(self, session: str, token: str) -> None:
        await asyncio.to_thread(self._lock_byte, fcntl.LOCK_UN, session)

    def _lock_byte(self, how: int, session: str) -> None:
        if self._claims_file is not None:
            fcntl.lockf(self._claims_file, how, 1, int(session[:15], 16))

    async def _write(
        self, key: Key, data: bytes, by: str, may_replace: Callable[[Stamp], bool], token: str | None = None
    ) -> int:
        return await asyncio.to_thread(_write, self._file(key), self._lock(key), data, by, may_replace)

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
            # A temporary file is written under its session's lock: if the lock is free, its save is dead.
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


def _stamp(file: Path) -> Stamp:
    try:
        with file.open("rb", buffering=0) as stored:
            return stamp_of(stored.read(HEAD))
    except FileNotFoundError:
        return NOTHING


def _write(file: Path, lock: Path, data: bytes, by: str, may_replace: Callable[[Stamp], bool]) -> int:
    """Replace `file` with `data` durably; returns the number of this save. On error, `file` is unchanged."""
    directory = file.parent
    with _locked(lock):
        stored = _stamp(file)
        if not may_replace(stored):
            raise OvertakenError(stored)
        stamp = next_stamp(stored, by)
        prefix = f"{_TEMPORARY}{lock.name.removeprefix('.lock-')}-"
        descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=prefix)
        try:
            with os.fdopen(descriptor, "wb") as new:
                new.write(stamped(data, stamp))
                new.flush()
                os.fsync(new.fileno())
            os.replace(temporary, file)
        except BaseException:
            os.unlink(temporary)
            raise
        _sync_directory(directory)
        return stamp.number


def _remove(file: Path, lock: Path) -> bool:
    with _locked(lock):
        try:
            file.unlink()
        except FileNotFoundError:
            return False
        _sync_directory(file.parent)
        return True


def _sync_directory(directory: Path) -> None:
    """Flush a directory to disk: without it, a rename or removal is not durable."""
    entry = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)


@contextlib.contextmanager
def _locked(lock: Path, wait: float = _LOCK_TIMEOUT) -> Iterator[None]:
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
        # A process that the App has forked meanwhile has a copy of the descriptor, and `close` is not enough.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
