"""`runtime.session`: what every store of session state has in common, whatever it stores in.

It owns the API that Apps call, the names under which sessions are stored, the stored form with its
header, and the order of saves in this process: one at a time for a session, completed even when its
turn is cancelled, so that a load of the session always sees the newest. It must not know a medium:
`json_store` writes files, `redis_store` keys of a Redis; what a state is made of is in `state`. Turns
of other processes, and late ones of this, are kept from overwriting what is newer by `claims`.
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
VERSION = 1  # of the format; raised when an older reader would misread it

MAX_ID = 256  # characters of a session_id (as at the HTTP door) or a user_id
MAX_BYTES = 64 * 2**20  # of one state: a conversation of that size fits no model's context
HEAD = 32  # first bytes of a stored form, in which the number of its save is
_NUMBER = re.compile(rb'\{"save":(\d{1,18}),')
_LOOKS = 3  # at a damaged state that another process replaces each time before it is kept aside


class SessionStateError(RuntimeError):
    """A stored state cannot be used, or must not be overwritten. The message names it and the reason."""


class ClaimLostError(SessionStateError):
    """The claim of a turn has ended without its doing."""


class OvertakenError(SessionStateError):
    """What is stored is not what the turn that saves has seen."""


@dataclass(frozen=True, slots=True)
class Key:
    """One session of one user. `name`: 64 hexadecimal digits, safe in every medium."""

    name: str
    session_id: str
    user_id: str

    @property
    def session(self) -> str:
        """What its claim is under."""
        return session_claims.name_of(self.session_id)


class SessionStore(ABC):
    """Saves and loads the state of agents, memories, toolkits and your own objects.

    An object has a state if it has `state_dict` and `load_state_dict`, or is a pydantic model, or is an
    AgentScope 2.x agent. A state is at most 64 MiB of JSON. Failures of the disk or of Redis are OSError.
    """

    def __init__(self, major: int, member: str = "") -> None:
        """`major` of AgentScope is stored with each state: it does not fit the other. `member`: see
        `Claims`."""
        self._major = major
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._saves: dict[asyncio.Task[None], tuple[str, Attempt | None]] = {}
        self._claims = Claims(member, self._claim, self._release, self._saves_of)

    async def open(self) -> None:  # noqa: B027 - optional, not abstract
        """Get ready; to be called once, first."""

    async def close(self) -> None:
        """Wait for the saves that were cancelled and are still being written, and for claims."""
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
        if attempt is not None and not attempt.over:
            await self._claims.obtain(attempt)
        await self._saved(key)
        stored, number = await self._load(key)
        if attempt is not None:
            attempt.known[key.name] = number
        if stored is None:
            if allow_not_exist:
                return None
            raise ValueError(f"no state is stored for session {session_id!r}, user {user_id!r}")
        for name, module in modules.items():
            if name in stored:
                state.put_back(name, module, stored[name])
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
            if not attempt.over:
                await self._claims.obtain(attempt)
            attempt.known[key.name] = 0
        await self._saved(key)
        async with self._turn(key):
            return await self._remove(key)

    # -- what a medium does -----------------------------------------------------------------

    @abstractmethod
    async def _claim(self, session: str, token: str) -> bool:
        """See `Claims`."""

    @abstractmethod
    async def _release(self, session: str, token: str) -> None:
        """See `Claims`."""

    @abstractmethod
    async def _write(self, key: Key, data: bytes, token: str | None = None, over: range | None = None) -> int:
        """Replace what is stored by `data` as a whole, with the next number, which is returned; or leave it
        and raise. All in one step: only under the claim of `token`, only over what has one of these numbers.

        Raises: OSError, ClaimLostError, OvertakenError.
        """

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
        saves = [task for task, (name, _) in self._saves.items() if name == key.name]
        if saves:
            await asyncio.wait(saves)

    async def _save(self, key: Key, modules: dict[str, Any], attempt: Attempt | None) -> None:
        await agents.settled(modules.values())
        states = {name: state.take(name, each) for name, each in modules.items()}
        data = _encode(key, self._major, states)
        if attempt is not None and not attempt.over:
            await self._claims.obtain(attempt)
        # The lock is held by this task, not by the caller: a cancelled caller must not let the
        # next save begin while this one may still arrive.
        async with self._turn(key):
            if attempt is None:
                await self._write(key, data)
            else:
                async with attempt.saving:
                    attempt.known[key.name] = await self._replace(key, data, attempt)

    async def _replace(self, key: Key, data: bytes, attempt: Attempt) -> int:
        token = self._claims.token(attempt)
        if self._claims.holds(attempt):
            try:
                return await self._write(key, data, token)
            except ClaimLostError:
                log.warning("turn %s has lost the claim of its session", attempt.run_id)
        later = f"{self._place(key)} was not saved: a later turn of the session has"
        if not await self._claims.seize(attempt):
            raise SessionStateError(f"{later} begun")
        known, over = attempt.known.get(key.name), None
        if known is not None:
            # A store that has lost what was saved may get it back, but not one in which it was deleted.
            over = range(known if attempt.over else 0, known + 1)
        try:
            return await self._write(key, data, token, over)
        except OvertakenError:
            raise OvertakenError(f"{later} saved or deleted it, and that stands") from None
        except ClaimLostError:
            raise ClaimLostError(f"{later} begun") from None
        finally:
            if attempt.over:
                await self._claims.release(attempt)

    def _saves_of(self, attempt: Attempt) -> Iterator[asyncio.Task[None]]:
        return (task for task, (_, other) in self._saves.items() if other is attempt)

    def _turn(self, key: Key) -> asyncio.Lock:
        """The lock under which this process writes one session; first come, first served."""
        lock = self._turns.get(key.name)
        if lock is None:
            lock = self._turns[key.name] = asyncio.Lock()
        return lock

    async def _load(self, key: Key) -> tuple[dict[str, Any] | None, int]:
        """What is stored, and the number of its save: 0 of nothing."""
        for _ in range(_LOOKS):
            data = await self._read(key)
            if data is None:
                return None, 0
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
                return self._fitting(key, document), number_of(data)
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


def number_of(stored: bytes) -> int:
    """The number of the save that wrote this stored form, of which the first HEAD bytes are enough; 0 where
    it has none."""
    found = _NUMBER.match(stored)
    return int(found[1]) if found is not None else 0


def numbered(data: bytes, number: int) -> bytes:
    """The stored form with the number of its save."""
    return b'{"save":%d,%b' % (number, data[1:])


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
