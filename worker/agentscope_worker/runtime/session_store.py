"""`runtime.session`: what every store of session state has in common, whatever it stores in.

It owns the API that Apps call, the names under which sessions are stored, the stored form with its
header, and the order of saves in this process: one at a time for a session, completed even when its
turn is cancelled, so that a load of the session always sees the newest. It must not know a medium:
`session_json` writes files, `session_redis` keys of a Redis; what a state is made of is in `state`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import unicodedata
import weakref
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import orjson

from agentscope_worker.runtime import agents, state

log = logging.getLogger(__name__)

FORMAT = "agentscope-supervisor session"
VERSION = 1  # of the format; raised when an older reader would misread it

MAX_ID = 256  # characters of a session_id (as at the HTTP door) or a user_id
MAX_BYTES = 64 * 2**20  # of one state: a conversation of that size fits no model's context
_LOOKS = 3  # at a damaged state that another process replaces each time before it is kept aside


class SessionStateError(RuntimeError):
    """A stored session cannot be used; the message names where it is and what to do with it."""


@dataclass(frozen=True, slots=True)
class Key:
    """One session of one user. `name`: 64 hexadecimal digits, safe in every medium."""

    name: str
    session_id: str
    user_id: str


class SessionStore(ABC):
    """Save and load the state of agents, memories, toolkits and own objects.

    Errors of the medium are OSError in every store: a full disk, a Redis that does not answer.
    """

    def __init__(self, major: int) -> None:
        """`major` of AgentScope is stored with each state: it does not fit the other."""
        self._major = major
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._saves: dict[asyncio.Task[None], str] = {}

    async def open(self) -> None:  # noqa: B027 - optional, not abstract
        """Get ready; to be called once, first."""

    async def close(self) -> None:
        """Wait for the saves that were cancelled and are still being written."""
        if self._saves:
            await asyncio.wait(list(self._saves))

    async def save_session_state(self, session_id: str, user_id: str = "", **modules: Any) -> None:
        """Store the state of `modules` under their names, in place of what was stored.

        It is stored when this returns. An agent that has just been stopped is waited for. A
        cancelled save completes in the background, and a load of the session waits for it.
        Raises: TypeError for a module without a state, ValueError for an id or a state that cannot
        be stored, OSError. What was stored before is then still there; only where a Redis is lost
        at the very moment of writing may it be the new state.
        """
        key = _key(session_id, user_id)
        task = asyncio.create_task(self._save(key, modules))
        self._saves[task] = key.name
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
        does not fit its module; SessionStateError for a state that is damaged (it is kept aside,
        and the session begins anew) or of another major of AgentScope; OSError.
        """
        key = _key(session_id, user_id)
        await self._saved(key)
        stored = await self._load(key)
        if stored is None:
            if allow_not_exist:
                return None
            raise ValueError(f"no state is stored for session {session_id!r}, user {user_id!r}")
        for name, module in modules.items():
            if name in stored:
                state.put_back(name, module, stored[name])
        return stored

    async def delete_session_state(self, session_id: str, user_id: str = "") -> bool:
        """Delete what is stored; returns whether there was anything.

        Saves that have begun are waited for, so that none brings it back. What is kept aside of a damaged
        state stays. Raises: TypeError, ValueError for an id that cannot be one; OSError.
        """
        key = _key(session_id, user_id)
        await self._saved(key)
        async with self._turn(key):
            return await self._remove(key)

    # -- what a medium does -----------------------------------------------------------------

    @abstractmethod
    async def _write(self, key: Key, data: bytes) -> None:
        """Replace what is stored by `data` as a whole, or leave it and raise OSError."""

    @abstractmethod
    async def _read(self, key: Key) -> bytes | None:
        """What is stored, None when nothing is. Raises: OSError."""

    @abstractmethod
    async def _remove(self, key: Key) -> bool:
        """Delete what is stored; returns whether anything was. Raises: OSError."""

    @abstractmethod
    async def _set_aside(self, key: Key, damaged: bytes) -> str | None:
        """Move what is stored to another name and return that, unless it is no longer `damaged`."""

    @abstractmethod
    def _place(self, key: Key) -> str:
        """Where a session is stored, for messages; without credentials."""

    # -- the rest ---------------------------------------------------------------------------

    async def _saved(self, key: Key) -> None:
        """Wait for the saves of this session that have begun in this process."""
        saves = [task for task, name in self._saves.items() if name == key.name]
        if saves:
            await asyncio.wait(saves)

    async def _save(self, key: Key, modules: dict[str, Any]) -> None:
        await agents.settled(modules.values())
        states = {name: state.take(name, each) for name, each in modules.items()}
        data = _encode(key, self._major, states)
        # The lock is held by this task, not by the caller: a cancelled caller must not let the
        # next save begin while this one may still arrive.
        async with self._turn(key):
            await self._write(key, data)

    def _turn(self, key: Key) -> asyncio.Lock:
        """The lock under which this process writes one session; first come, first served."""
        lock = self._turns.get(key.name)
        if lock is None:
            lock = self._turns[key.name] = asyncio.Lock()
        return lock

    async def _load(self, key: Key) -> dict[str, Any] | None:
        for _ in range(_LOOKS):
            data = await self._read(key)
            if data is None:
                return None
            try:
                document = await asyncio.to_thread(_decode, data)
            except ValueError as error:
                aside = await self._set_aside(key, data)
                if aside is not None:
                    raise SessionStateError(
                        f"{self._place(key)} is damaged ({error}); it is kept as {aside}, and the "
                        "session begins anew"
                    ) from error
            else:
                return self._fitting(key, document)
        raise SessionStateError(f"{self._place(key)} is damaged, over and over, by another process")

    def _fitting(self, key: Key, document: dict[str, Any]) -> dict[str, Any]:
        major, version = document["agentscope"], document["version"]
        if (major, version) == (self._major, VERSION):
            stored: dict[str, Any] = document["state"]
            return stored
        raise SessionStateError(
            f"{self._place(key)} was saved with AgentScope {major}.x (format {version}), and this "
            f"worker runs {self._major}.x (format {VERSION}), which cannot read it; move it away to "
            "begin the session anew"
        )


def _key(session_id: str, user_id: str) -> Key:
    _check_id("session_id", session_id, smallest=1)
    _check_id("user_id", user_id, smallest=0)
    # As JSON, so that ("a", "b_c") and ("a_b", "c") differ.
    name = hashlib.sha256(json.dumps([user_id, session_id]).encode()).hexdigest()
    return Key(name, session_id, user_id)


def _check_id(name: str, value: object, *, smallest: int) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not smallest <= len(value) <= MAX_ID:
        raise ValueError(f"{name} must have {smallest} to {MAX_ID} characters, not {len(value)}")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise ValueError(f"{name} must not contain control characters or lone surrogates")


def _encode(key: Key, major: int, states: dict[str, Any]) -> bytes:
    """The stored form. Raises: ValueError for what is not JSON, or too large."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "agentscope": major,
        "session_id": key.session_id,
        "user_id": key.user_id,
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
        raise ValueError(f"the state of the session has {len(data)} bytes; at most {MAX_BYTES} are stored")
    return data


def _decode(data: bytes) -> dict[str, Any]:
    """The document of a stored form. Raises: ValueError when it is not one of ours."""
    try:
        document = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError("not a session")
    if not isinstance(document.get("version"), int) or "agentscope" not in document:
        raise ValueError("a session without version")
    if not isinstance(document.get("state"), dict):
        raise ValueError("a session without state")
    return document


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("save of a cancelled turn failed", exc_info=task.exception())
