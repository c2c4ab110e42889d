"""`runtime.session`: the common part of every session store, independent of the medium.

Owns the API that Apps call, the names under which sessions are stored, the stored format with its header, and
the order of saves in this process: one at a time per session, and completed even if the turn is cancelled, so
that a load always returns the newest state. It must not know a medium: `json_store` writes files,
`redis_store` writes Redis keys. `state` extracts and restores the state of objects. `claims` prevents turns
of other processes, and late saves of this one, from overwriting newer state.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import unicodedata
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from agentscope_worker.runtime.compat import agents
from agentscope_worker.runtime.sessions import claims as session_claims
from agentscope_worker.runtime.sessions import state
from agentscope_worker.runtime.sessions.claims import Attempt, Claims

log = logging.getLogger(__name__)

FORMAT = "agentscope-supervisor session"
VERSION = 1  # of the format; increased when an older reader would misinterpret it

MAX_ID = 256  # characters of a session_id (the limit of the HTTP API) or a user_id
MAX_BYTES = 64 * 2**20  # of one state: a conversation of that size exceeds every model's context
HEAD = 32  # leading bytes of a stored form that contain the number of its save
_NUMBER = re.compile(rb'\{"save":(\d{1,18}),')
_MAX_READS = 3  # of a damaged state, if another process replaces it each time before it is moved aside


class SessionStateError(RuntimeError):
    """A stored state cannot be used, or must not be overwritten. The message names it and the reason."""


class ClaimLostError(SessionStateError):
    """The claim of a turn was lost: it expired, or another process took it."""


class OvertakenError(SessionStateError):
    """The stored state is not the state that the saving turn has seen."""


@dataclass(frozen=True, slots=True)
class Key:
    """One session of one user. `name`: 64 hexadecimal digits, valid in every medium."""

    name: str
    session_id: str
    user_id: str

    @property
    def session(self) -> str:
        """The name under which the session is claimed."""
        return session_claims.name_of(self.session_id)


class SessionStore(ABC):
    """Saves and loads the state of agents, memories, toolkits and your own objects.

    An object has a state if it has `state_dict` and `load_state_dict`, or is a pydantic model, or is an
    AgentScope 2.x agent. A state is at most 64 MiB of JSON. Failures of the disk or of Redis are OSError.
    """

    def __init__(self, major: int, member: str = "") -> None:
        """`major` of AgentScope is stored with each state, because the other major cannot read it. `member`:
        see `Claims`."""
        self._major = major
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._saves: dict[asyncio.Task[None], tuple[str, Attempt | None]] = {}
        self._claims = Claims(member, self._claim, self._release, self._saves_of)

    async def open(self) -> None:  # noqa: B027 - optional, not abstract
        """Prepare the store. Call once, before any other method."""

    async def close(self) -> None:
        """Wait for unfinished saves of cancelled turns, and for the release of claims."""
        if self._saves:
            await asyncio.wait(list(self._saves))
        await self._claims.close()

    async def save_session_state(self, session_id: str, user_id: str = "", **modules: Any) -> None:
        """Replace the stored state of a session by the states of `modules`, under their names.

        The state is durable when the call returns. A cancelled save completes in the background, and the next
        load of the session waits for it. If another process has a turn of the session, the call waits for it.
        After a failure the previous state is still stored; only if the connection to Redis breaks during the
        write, the new state may be stored.

        Args:
            session_id: The session, 1 to 256 characters.
            user_id: The owner of the state, up to 256 characters. Users of one session have separate states.
            modules: Objects with a state, by name.

        Raises:
            TypeError: A module has no state, or an id is not a string.
            ValueError: An id or a state is invalid, or the state is larger than 64 MiB.
            SessionStateError: A later turn of the session has begun, or has saved or deleted the state.
            OSError: The store failed. TimeoutError: the turn of another process did not end.
        """
        key, attempt = _key(session_id, user_id), session_claims.current(session_id)
        task = asyncio.create_task(self._save(key, modules, attempt))
        self._saves[task] = key.name, attempt
        task.add_done_callback(self._saves.pop)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_failure)
            raise

    async def load_session_state(
        self, session_id: str, user_id: str = "", allow_not_exist: bool = True, **modules: Any
    ) -> dict[str, Any] | None:
        """Restore the stored state of each of `modules`, by name.

        A module without a stored state is left as it is. If another process has a turn of the session, the
        call waits for it.

        Args:
            session_id: The session, 1 to 256 characters.
            user_id: The owner of the state, as in `save_session_state`.
            allow_not_exist: Whether a session without a stored state is allowed.
            modules: Objects with a state, by name.

        Returns:
            All stored states of the session by name, or None if nothing is stored.

        Raises:
            ValueError: Nothing is stored and `allow_not_exist` is false, or a state does not fit its module.
            SessionStateError: The state is damaged, or it was saved with the other major of AgentScope. A
                damaged state is moved aside, and the next load finds nothing.
            OSError: The store failed. TimeoutError: the turn of another process did not end.
        """
        key, attempt = _key(session_id, user_id), session_claims.current(session_id)
        if attempt is not None and not attempt.ended:
            await self._claims.acquire(attempt)
        await self._wait_for_saves(key)
        stored, number = await self._load(key)
        if attempt is not None:
            attempt.seen_saves[key.name] = number
        if stored is None:
            if allow_not_exist:
                return None
            raise ValueError(f"no state is stored for session {session_id!r}, user {user_id!r}")
        for name, module in modules.items():
            if name in stored:
                state.restore(name, module, stored[name])
        return stored

    async def delete_session_state(self, session_id: str, user_id: str = "") -> bool:
        """Delete the stored state of a session.

        The call waits for saves that have begun, and a later save of an older turn is refused. If another
        process has a turn of the session, the call waits for it. A damaged state that was moved aside stays.

        Args:
            session_id: The session, 1 to 256 characters.
            user_id: The owner of the state, as in `save_session_state`.

        Returns:
            Whether a state was stored.

        Raises:
            TypeError: An id is not a string.
            ValueError: An id is invalid.
            OSError: The store failed. TimeoutError: the turn of another process did not end.
        """
        key, attempt = _key(session_id, user_id), session_claims.current(session_id)
        if attempt is not None:
            if not attempt.ended:
                await self._claims.acquire(attempt)
            attempt.seen_saves[key.name] = 0
        await self._wait_for_saves(key)
        async with self._write_lock(key):
            return await self._remove(key)

    # -- implemented by a medium ------------------------------------------------------------

    @abstractmethod
    async def _claim(self, session: str, token: str) -> bool:
        """The `claim` of `Claims`."""

    @abstractmethod
    async def _release(self, session: str, token: str) -> None:
        """The `release` of `Claims`."""

    @abstractmethod
    async def _write(
        self, key: Key, data: bytes, token: str | None = None, expected: range | None = None
    ) -> int:
        """Replace the stored state with `data`; returns the number of this save, the next after the stored
        one.

        Atomic: on error, the stored state is unchanged. Writes only while `token` holds the claim, and only
        if the number of the stored state is in `expected`; None disables either check.

        Raises: OSError, ClaimLostError, OvertakenError.
        """

    @abstractmethod
    async def _read(self, key: Key) -> bytes | None:
        """The stored form, or None if there is none. Raises: OSError."""

    @abstractmethod
    async def _remove(self, key: Key) -> bool:
        """Delete the stored state; returns whether there was any. Raises: OSError."""

    @abstractmethod
    async def _set_aside(self, key: Key, damaged: bytes) -> str | None:
        """Rename the stored state and return its new name; returns None if it is no longer `damaged`."""

    @abstractmethod
    def _place(self, key: Key) -> str:
        """The location of a session for messages, without credentials."""

    # -- common to all media ----------------------------------------------------------------

    async def _wait_for_saves(self, key: Key) -> None:
        """Wait for the running saves of this session in this process."""
        saves = [task for task, (name, _) in self._saves.items() if name == key.name]
        if saves:
            await asyncio.wait(saves)

    async def _save(self, key: Key, modules: dict[str, Any], attempt: Attempt | None) -> None:
        await agents.wait_until_stopped(modules.values())
        states = {name: state.extract(name, each) for name, each in modules.items()}
        data = _encode(key, self._major, states)
        if attempt is not None and not attempt.ended:
            await self._claims.acquire(attempt)
        # This task holds the lock, not the caller: after a cancellation of the caller, the next save must
        # still wait for this one.
        async with self._write_lock(key):
            if attempt is None:
                await self._write(key, data)
            else:
                async with attempt.save_lock:
                    attempt.seen_saves[key.name] = await self._replace(key, data, attempt)

    async def _replace(self, key: Key, data: bytes, attempt: Attempt) -> int:
        token = self._claims.token(attempt)
        if self._claims.holds(attempt):
            try:
                return await self._write(key, data, token)
            except ClaimLostError:
                log.warning("turn %s has lost the claim of its session", attempt.run_id)
        later = f"{self._place(key)} was not saved: a later turn of the session has"
        if not await self._claims.try_acquire(attempt):
            raise SessionStateError(f"{later} begun")
        seen, expected = attempt.seen_saves.get(key.name), None
        if seen is not None:
            # A lower number means that the store has lost saves; the turn may then save again. Once the turn
            # has ended, a lower number may also mean that the session was deleted, which a save must not
            # undo.
            expected = range(seen if attempt.ended else 0, seen + 1)
        try:
            return await self._write(key, data, token, expected)
        except OvertakenError:
            raise OvertakenError(f"{later} saved or deleted it; the later state is kept") from None
        except ClaimLostError:
            raise ClaimLostError(f"{later} begun") from None
        finally:
            if attempt.ended:
                await self._claims.release(attempt)

    def _saves_of(self, attempt: Attempt) -> Iterator[asyncio.Task[None]]:
        return (task for task, (_, other) in self._saves.items() if other is attempt)

    def _write_lock(self, key: Key) -> asyncio.Lock:
        """The lock for writing one session in this process, in order of arrival."""
        lock = self._locks.get(key.name)
        if lock is None:
            lock = self._locks[key.name] = asyncio.Lock()
        return lock

    async def _load(self, key: Key) -> tuple[dict[str, Any] | None, int]:
        """The stored document and the number of its save; (None, 0) if there is none."""
        for _ in range(_MAX_READS):
            data = await self._read(key)
            if data is None:
                return None, 0
            try:
                document = await asyncio.to_thread(_decode, data)
            except ValueError as error:
                aside = await self._set_aside(key, data)
                if aside is not None:
                    raise SessionStateError(
                        f"{self._place(key)} is damaged ({error}); it was moved to {aside}, and the "
                        "session starts empty"
                    ) from error
            else:
                return self._fitting(key, document), save_number(data)
        raise SessionStateError(f"{self._place(key)} is damaged, and another process keeps replacing it")

    def _fitting(self, key: Key, document: dict[str, Any]) -> dict[str, Any]:
        major, version = document["agentscope"], document["version"]
        if (major, version) == (self._major, VERSION):
            stored: dict[str, Any] = document["state"]
            return stored
        raise SessionStateError(
            f"{self._place(key)} was saved with AgentScope {major}.x (format {version}), and this "
            f"worker runs {self._major}.x (format {VERSION}), which cannot read it; move it away to "
            "start with an empty session"
        )


def save_number(stored: bytes) -> int:
    """The number of the save that wrote this stored form; 0 if it has none. The first HEAD bytes suffice."""
    found = _NUMBER.match(stored)
    return int(found[1]) if found is not None else 0


def with_save_number(data: bytes, number: int) -> bytes:
    """The stored form with the number of its save inserted."""
    return b'{"save":%d,%b' % (number, data[1:])


def _key(session_id: str, user_id: str) -> Key:
    _check_id("session_id", session_id, smallest=1)
    _check_id("user_id", user_id, smallest=0)
    # Encoded as JSON, so that ("a", "b_c") and ("a_b", "c") have different names.
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
    """The stored form. Raises: ValueError for a state that is not JSON, or too large."""
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
    except TypeError:  # lone surrogates and large integers, which json can encode as ASCII
        try:
            data = json.dumps(document).encode("ascii")
        except (TypeError, ValueError) as error:
            raise ValueError(f"the state of the session is not JSON: {error}") from error
    if len(data) > MAX_BYTES:
        raise ValueError(f"the state of the session has {len(data)} bytes; the limit is {MAX_BYTES}")
    return data


def _decode(data: bytes) -> dict[str, Any]:
    """The document of a stored form. Raises: ValueError if it is not in our format."""
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
        log.error("the save of a cancelled turn failed", exc_info=task.exception())
