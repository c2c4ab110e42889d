"""`runtime.session`: the common part of every session store, independent of the medium.

Owns the API that Apps call and the order of saves in this process: one at a time per session, and completed
even if the turn is cancelled, so that a load always returns the newest state. It must not know a medium:
`json_store` writes files, `redis_store` writes Redis keys. `state` extracts and restores the state of
objects, `stored_form` encodes it. `claims` prevents turns of other processes, and late saves of this one,
from overwriting newer state; `seen_saves` prevents saves of outdated memory.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from agentscope_worker.runtime.compat import agents, tool_calls
from agentscope_worker.runtime.sessions import claims as session_claims
from agentscope_worker.runtime.sessions import state
from agentscope_worker.runtime.sessions.claims import Attempt, Claims
from agentscope_worker.runtime.sessions.keys import Key, key_of
from agentscope_worker.runtime.sessions.seen_saves import SeenSaves
from agentscope_worker.runtime.sessions.stored_form import VERSION, Stamp, decode, encode, stamp_of

log = logging.getLogger(__name__)

_MAX_READS = 3  # of a damaged state, if another process replaces it each time before it is moved aside


class SessionStateError(RuntimeError):
    """A stored state cannot be used, or must not be overwritten. The message names it and the reason."""


class ClaimLostError(SessionStateError):
    """The claim of a turn was lost: it expired, or another process took it."""


class OvertakenError(SessionStateError):
    """The stored state, with the stamp `stored`, is not one that the save may replace."""

    def __init__(self, stored: Stamp, message: str = "") -> None:
        super().__init__(message)
        self.stored = stored


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
        self._saves: dict[asyncio.Task[int], tuple[str, Attempt | None]] = {}
        self._claims = Claims(member, self._claim, self._release, self._saves_of)
        self._by = secrets.token_hex(8)
        self._seen = SeenSaves(self._by, secrets.token_hex(8))
        self._reports: dict[str, asyncio.Task[None]] = {}  # running calls of on_stale, by session
        self.on_stale: Callable[[str, str], Coroutine[Any, Any, None]] | None = None
        """Called with the session and the run when a save was rejected because another process has saved the
        session: what this process has in memory is outdated."""

    async def open(self) -> None:  # noqa: B027 - optional, not abstract
        """Prepare the store. Call once, before any other method."""

    async def close(self) -> None:
        """Wait for unfinished saves of cancelled turns, and for the release of claims."""
        while waiting := [*self._saves, *self._reports.values()]:
            await asyncio.wait(waiting)
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
            ValueError: An id is invalid, the state is larger than 64 MiB, or JSON would change it, as it does
                with NaN, infinity, a tuple, a datetime, an Enum or a key that is not a string. The message
                names the place, such as `state.memory[3].score: nan is not JSON`.
            SessionStateError: A later turn of the session has begun, or has saved or deleted the state. Or
                another process has saved it since this process last loaded or saved it; then
                `App.on_session_stale` has been called.
            OSError: The store failed. TimeoutError: the turn of another process did not end.
        """
        key, attempt = key_of(session_id, user_id), session_claims.current(session_id)
        task = asyncio.create_task(self._save(key, modules, attempt))
        self._saves[task] = key.name, attempt
        task.add_done_callback(self._saves.pop)
        try:
            number = await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda task: self._failed_in_background(task, key, attempt))
            raise
        except OvertakenError as error:
            if (report := self._report(error, key, attempt)) is not None:
                await asyncio.shield(report)
            raise
        if attempt is None:
            self._seen.replaced_outside(key.name, number)

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
        key, attempt = key_of(session_id, user_id), session_claims.current(session_id)
        if attempt is not None and not attempt.ended:
            await self._claims.acquire(attempt)
        await self._wait_for_saves(key)
        stored, number = await self._load(key)
        if attempt is not None:
            attempt.seen_saves[key.name] = number
        if stored is not None:
            stored = tool_calls.mended_state(stored)
            for name, module in modules.items():
                if name in stored:
                    state.restore(name, module, stored[name])
        # Only now: a state that does not fit has not reached the memory of the App.
        if attempt is not None:
            self._seen.of_turn(key.name, number)
        else:
            self._seen.loaded_outside(key.name, number)
        if stored is None and not allow_not_exist:
            raise ValueError(f"no state is stored for session {session_id!r}, user {user_id!r}")
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
        key, attempt = key_of(session_id, user_id), session_claims.current(session_id)
        if attempt is not None:
            if not attempt.ended:
                await self._claims.acquire(attempt)
            attempt.seen_saves[key.name] = 0
        await self._wait_for_saves(key)
        async with self._write_lock(key):
            removed = await self._remove(key)
        if attempt is not None:
            self._seen.of_turn(key.name, 0)
        else:
            self._seen.replaced_outside(key.name, 0)
        return removed

    # -- implemented by a medium ------------------------------------------------------------

    @abstractmethod
    async def _claim(self, session: str, token: str) -> bool:
        """The `claim` of `Claims`."""

    @abstractmethod
    async def _release(self, session: str, token: str) -> None:
        """The `release` of `Claims`."""

    @abstractmethod
    async def _write(
        self, key: Key, data: bytes, by: str, may_replace: Callable[[Stamp], bool], token: str | None = None
    ) -> int:
        """Replace the stored state with `data` and the stamp after the stored one; returns its number.

        Atomic: on error, the stored state is unchanged. Writes only if the stored stamp passes `may_replace`,
        which is called in any thread, and only while `token` holds the claim; None disables this check.

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

    async def _save(self, key: Key, modules: dict[str, Any], attempt: Attempt | None) -> int:
        await agents.wait_until_stopped(modules.values())
        extracted = {name: state.extract(name, each) for name, each in modules.items()}
        states = tool_calls.mended_state(extracted)
        data = encode(key.session_id, key.user_id, self._major, states)
        if attempt is not None and not attempt.ended:
            await self._claims.acquire(attempt)
        # This task holds the lock, not the caller: after a cancellation of the caller, the next save must
        # still wait for this one.
        async with self._write_lock(key):
            if attempt is None:
                return await self._write_unless_newer(key, data, None)
            async with attempt.save_lock:
                number = attempt.seen_saves[key.name] = await self._replace(key, data, attempt)
                self._seen.of_turn(key.name, number)
                return number

    async def _write_unless_newer(self, key: Key, data: bytes, token: str | None) -> int:
        """Write, unless the stored state is newer than what this process has seen. `token`: of a turn that
        holds its claim; None for code outside of the session's turns."""
        by = self._by if token is not None else self._seen.mark_outside(key.name)
        may_replace = self._seen.may_replace(key.name, outside=token is None)
        try:
            return await self._write(key, data, by, may_replace, token)
        except OvertakenError as error:
            raise OvertakenError(
                error.stored,
                f"{self._place(key)} was not saved: another process has saved it since this process last "
                "loaded or saved it; the newer state is kept",
            ) from None

    async def _replace(self, key: Key, data: bytes, attempt: Attempt) -> int:
        token = self._claims.token(attempt)
        if self._claims.holds(attempt):
            try:
                return await self._write_unless_newer(key, data, token)
            except ClaimLostError:
                log.warning("turn %s has lost the claim of its session", attempt.run_id)
        later = f"{self._place(key)} was not saved: a later turn of the session has"
        if not await self._claims.try_acquire(attempt):
            raise SessionStateError(f"{later} begun")
        seen = attempt.seen_saves.get(key.name)
        # A lower number means that the store has lost saves; the turn may then save again. Once the turn
        # has ended, a lower number may also mean that the session was deleted, which a save must not undo.
        may_replace = self._seen.may_replace(key.name)
        if seen is not None:
            expected = range(seen if attempt.ended else 0, seen + 1)
            may_replace = lambda stored: stored.number in expected  # noqa: E731
        try:
            return await self._write(key, data, self._by, may_replace, token)
        except OvertakenError as error:
            raise OvertakenError(
                error.stored, f"{later} saved or deleted it; the later state is kept"
            ) from None
        except ClaimLostError:
            raise ClaimLostError(f"{later} begun") from None
        finally:
            if attempt.ended:
                await self._claims.release(attempt)

    def _report(self, error: OvertakenError, key: Key, attempt: Attempt | None) -> asyncio.Task[None] | None:
        """Call `on_stale` if the memory of this process is outdated. None: there is nothing to wait for. That
        includes a call for this session that runs already, because it may itself try to save."""
        session = key.session_id
        is_stale = not self._seen.may_replace(key.name)(error.stored)
        if self.on_stale is None or not is_stale or session in self._reports:
            return None
        task = asyncio.create_task(self.on_stale(session, attempt.run_id if attempt is not None else ""))
        self._reports[session] = task
        task.add_done_callback(lambda _: self._reports.pop(session))
        return task

    def _failed_in_background(self, task: asyncio.Task[int], key: Key, attempt: Attempt | None) -> None:
        """The save of a turn that was cancelled meanwhile has ended."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("the save of a cancelled turn failed", exc_info=error)
        if isinstance(error, OvertakenError):
            self._report(error, key, attempt)

    def _saves_of(self, attempt: Attempt) -> Iterator[asyncio.Task[int]]:
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
                document = await asyncio.to_thread(decode, data)
            except ValueError as error:
                aside = await self._set_aside(key, data)
                if aside is not None:
                    raise SessionStateError(
                        f"{self._place(key)} is damaged ({error}); it was moved to {aside}, and the "
                        "session starts empty"
                    ) from error
            else:
                return self._fitting(key, document), stamp_of(data).number
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


def next_stamp(stored: Stamp, by: str) -> Stamp:
    """The stamp of a save that replaces the state with the stamp `stored`."""
    return stored.next(by, time.time_ns() // 1000)
