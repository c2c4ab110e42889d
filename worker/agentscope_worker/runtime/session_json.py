"""Session state as JSON files: one per session, always whole, whatever dies while it is written.

It owns the session directory: names, the file format, locks and temporary files. It must never
write a state file in place, and never let an older save overtake a newer one. What a state is made
of belongs to `state`; which process may run a session is the supervisor's business, but two that
save the same session at once are kept apart here too.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import tempfile
import time
import unicodedata
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from agentscope_worker.runtime import agents, state

log = logging.getLogger(__name__)

FORMAT = "agentscope-supervisor session"
VERSION = 1  # of the format; raised when an older reader would misread it

MAX_ID = 256  # characters of a session_id (as at the HTTP door) or a user_id
MAX_BYTES = 64 * 2**20  # of one state: a conversation of that size fits no model's context
_LOCK_FILES = 64  # shared by all sessions of a directory: few meet, and none is ever removed
_LOCK_WAIT = 30.0  # seconds for another process's save, which takes milliseconds
_LOCK_POLL = 0.005  # seconds; flock has no timeout of its own
_TEMPORARY = ".tmp-"


class SessionStateError(RuntimeError):
    """A stored session cannot be used; the message names the file and what to do with it."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one session is stored."""

    file: Path
    lock: Path
    session_id: str
    user_id: str


class JsonSessions:
    """`runtime.session`: save and load the state of agents, memories, toolkits and own objects."""

    def __init__(self, directory: Path, major: int) -> None:
        """`major` of AgentScope is written into each file: its state does not fit the other."""
        self._directory = directory
        self._major = major
        self._turns: weakref.WeakValueDictionary[Path, asyncio.Lock] = weakref.WeakValueDictionary()
        self._saves: dict[asyncio.Task[None], Path] = {}

    async def open(self) -> None:
        """Create the directory, and remove what saves that were killed have left in it."""
        await asyncio.to_thread(self._sweep)

    async def close(self) -> None:
        """Wait for the saves that were cancelled and still write."""
        if self._saves:
            await asyncio.wait(list(self._saves))

    async def save_session_state(self, session_id: str, user_id: str = "", **modules: Any) -> None:
        """Store the state of `modules` under their names, in place of what was stored.

        It is on disk when this returns. An agent that has just been stopped is waited for. A
        cancelled save completes in the background, and a load of the session waits for it.
        Raises: TypeError for a module without a state, ValueError for an id or a state that cannot
        be stored, OSError. What was stored before is then still there.
        """
        place = self._place(session_id, user_id)
        task = asyncio.create_task(self._save(place, modules))
        self._saves[task] = place.file
        task.add_done_callback(self._saves.pop)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_failure)
            raise

    async def load_session_state(
        self, session_id: str, user_id: str = "", allow_not_exist: bool = True, **modules: Any
    ) -> dict[str, Any] | None:
        """Bring `modules` to their stored state, as far as there is one under their names.

        Returns everything that is stored for the session, or None when nothing is.
        Raises: ValueError when nothing is stored and `allow_not_exist` is false, or when a state
        does not fit its module; SessionStateError for a file that is damaged (it is kept aside,
        and the session begins anew) or of another major of AgentScope.
        """
        place = self._place(session_id, user_id)
        saves = [task for task, file in self._saves.items() if file == place.file]
        if saves:
            await asyncio.wait(saves)
        stored = await asyncio.to_thread(self._read, place)
        if stored is None:
            if allow_not_exist:
                return None
            raise ValueError(f"no state is stored for session {session_id!r}, user {user_id!r}")
        for name, module in modules.items():
            if name in stored:
                state.put_back(name, module, stored[name])
        return stored

    def _place(self, session_id: str, user_id: str) -> _Place:
        _check_id("session_id", session_id, smallest=1)
        _check_id("user_id", user_id, smallest=0)
        # As JSON, so that ("a", "b_c") and ("a_b", "c") differ.
        name = hashlib.sha256(json.dumps([user_id, session_id]).encode()).hexdigest()
        lock = self._directory / f".lock-{int(name[:8], 16) % _LOCK_FILES:02d}"
        return _Place(self._directory / f"{name}.json", lock, session_id, user_id)

    def _turn(self, place: _Place) -> asyncio.Lock:
        """The lock under which this process writes one session's file; first come, first served."""
        lock = self._turns.get(place.file)
        if lock is None:
            lock = self._turns[place.file] = asyncio.Lock()
        return lock

    def _encode(self, place: _Place, states: dict[str, Any]) -> bytes:
        document = {
            "format": FORMAT,
            "version": VERSION,
            "agentscope": self._major,
            "session_id": place.session_id,
            "user_id": place.user_id,
            "state": states,
        }
        try:
            data = orjson.dumps(document)
        except TypeError:  # lone surrogates and large integers, which json writes in ASCII
            try:
                data = json.dumps(document).encode("ascii")
            except (TypeError, ValueError) as error:
                raise ValueError(f"the state of the session is not JSON: {error}") from error
        if len(data) > MAX_BYTES:
            raise ValueError(
                f"the state of the session has {len(data)} bytes; at most {MAX_BYTES} are stored"
            )
        return data

    async def _save(self, place: _Place, modules: dict[str, Any]) -> None:
        await agents.settled(modules.values())
        data = self._encode(place, {name: state.take(name, each) for name, each in modules.items()})
        # The lock is held by this task, not by the caller: a cancelled caller must not let the
        # next save begin while the thread of this one may still rename its file.
        async with self._turn(place):
            await asyncio.to_thread(_write, place, data)

    def _read(self, place: _Place) -> dict[str, Any] | None:
        try:
            document = _parse(place.file)
        except ValueError:
            return self._set_aside(place)
        if document is None:
            return None
        major, version = document["agentscope"], document["version"]
        if (major, version) == (self._major, VERSION):
            stored: dict[str, Any] = document["state"]
            return stored
        raise SessionStateError(
            f"{place.file} was saved with AgentScope {major}.x (format {version}), and this worker "
            f"runs {self._major}.x (format {VERSION}), which cannot read it; move the file away to "
            "begin the session anew"
        )

    def _set_aside(self, place: _Place) -> dict[str, Any] | None:
        with _locked(place.lock):
            try:
                _parse(place.file)
            except ValueError as error:
                aside = place.file.with_suffix(f".{time.time_ns()}.corrupt")
                os.replace(place.file, aside)
                raise SessionStateError(
                    f"{place.file} is damaged ({error}); it is kept as {aside.name}, and the "
                    "session begins anew"
                ) from error
        return self._read(place)  # another process has replaced it meanwhile

    def _sweep(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in self._directory.glob(f"{_TEMPORARY}*"):
            # A temporary file is written under its session's lock: if that is free, nobody does.
            lock = self._directory / f".lock-{left.name.removeprefix(_TEMPORARY)[:2]}"
            with contextlib.suppress(TimeoutError, FileNotFoundError), _locked(lock, wait=0):
                left.unlink()


def _check_id(name: str, value: object, *, smallest: int) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not smallest <= len(value) <= MAX_ID:
        raise ValueError(f"{name} must have {smallest} to {MAX_ID} characters, not {len(value)}")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise ValueError(f"{name} must not contain control characters or lone surrogates")


def _parse(file: Path) -> dict[str, Any] | None:
    """The document in `file`, or None when there is none.

    Raises: ValueError when it is not one of ours.
    """
    try:
        document = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError("not a session file")
    if not isinstance(document.get("version"), int) or "agentscope" not in document:
        raise ValueError("a session file without version")
    if not isinstance(document.get("state"), dict):
        raise ValueError("a session file without state")
    return document


def _write(place: _Place, data: bytes) -> None:
    """Replace the file of a session by `data`, durably, or leave it as it is and raise."""
    directory = place.file.parent
    with _locked(place.lock):
        prefix = f"{_TEMPORARY}{place.lock.name.removeprefix('.lock-')}-"
        descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=prefix)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, place.file)
        except BaseException:
            os.unlink(temporary)
            raise
        # The rename itself is on disk only when its directory is.
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


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("save of a cancelled turn failed", exc_info=task.exception())
