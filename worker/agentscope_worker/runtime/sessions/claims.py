"""Claims decide which turn may write a session, among turns of this process, earlier ones and other
processes.

A turn claims its session when it first loads or saves it. It holds the claim until it has ended and its saves
are stored. While another turn holds the claim, in any process, the turn waits: two instances that share a
store thereby keep the order that a single instance keeps by itself. A turn that has ended, or has lost its
claim because its process was considered dead, may still save as long as no other turn has claimed or saved
the session since. Otherwise `store` rejects the save, so that outdated state never replaces newer state.

Owns the claims of this process. It must not know a medium: `json_store` and `redis_store` define what a claim
is, and ensure that it ends with a killed process. Code outside of the session's turns (on_startup, a turn of
another session, an author's test) has no claim, and waits for none.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import cached_property, partial
from typing import Final

from agentscope_worker.runtime.sessions.keys import claim_name

log = logging.getLogger(__name__)

WAIT_TIMEOUT: Final = 600.0
"""Seconds that a turn waits for another turn: the default of server.request_timeout, which ends most
waits."""

LOG_WAIT_AFTER: Final = 1.0  # seconds of waiting before it is logged: longer than a worker takes to exit
MIN_POLL: Final = 0.001  # seconds; the previous turn of this process has usually just ended
MAX_POLL: Final = 0.05  # seconds between two attempts; 20 per second for each waiting turn


class Attempt:
    """One turn in this process, as a context manager. `seen_saves`: for each state that the turn has loaded
    or saved, the number of that save."""

    def __init__(self, session_id: str, run_id: str) -> None:
        self.session_id: Final = session_id
        self.run_id: Final = run_id
        self.seen_saves: Final[dict[str, int]] = {}
        self.ended = False
        self.on_end: Callable[[], None] | None = None

    # The following attributes are computed on demand: only turns that load or save need them.

    @cached_property
    def session(self) -> str:
        """The name under which its session is claimed."""
        return claim_name(self.session_id)

    @cached_property
    def name(self) -> str:
        """The name of its claim; a repeated run has a different one."""
        return secrets.token_hex(8)

    @cached_property
    def save_lock(self) -> asyncio.Lock:
        """Held for each save, one at a time: a save after the end of the turn returns the claim."""
        return asyncio.Lock()

    def __enter__(self) -> None:
        self._entered = _current.set(self)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._entered)
        self.ended = True
        if self.on_end is not None:
            self.on_end()


_current: Final[ContextVar[Attempt | None]] = ContextVar("attempt", default=None)


def turn(session_id: str, run_id: str) -> AbstractContextManager[None]:
    """A context for one turn: code inside, and tasks it starts, belong to the turn; it ends with the
    block."""
    return Attempt(session_id, run_id)


def current(session_id: str) -> Attempt | None:
    """The turn that the caller belongs to, if it is a turn of this session."""
    attempt = _current.get()
    return attempt if attempt is not None and attempt.session_id == session_id else None


class Claims:
    """The claims of this process.

    `member`: "<instance>.<process number>", with higher numbers for processes that started later; without it,
    this process counts as an instance of its own.

    `claim` and `release` are implemented by the medium. Both receive the name of a session and the token of
    an attempt, "<member>/<attempt>", and raise OSError. `claim` returns False if another process holds the
    claim. `saves` returns the running saves of an attempt.
    """

    def __init__(
        self,
        member: str,
        claim: Callable[[str, str], Awaitable[bool]],
        release: Callable[[str, str], Awaitable[None]],
        saves: Callable[[Attempt], Iterable[asyncio.Task[int]]],
    ) -> None:
        self._prefix: Final = f"{member or f'{secrets.token_hex(8)}.0'}/"
        self._claim: Final = claim
        self._release: Final = release
        self._saves: Final = saves
        self._waits: Final[dict[Attempt, asyncio.Task[None]]] = {}  # done without error: it holds the claim
        self._holders: Final[dict[str, Attempt]] = {}  # by session; includes attempts about to hold it
        self._endings: Final[dict[Attempt, asyncio.Task[None]]] = {}  # of turns that have ended
        self._releasing: Final[set[Attempt]] = set()  # attempts whose claim is being released

    async def close(self) -> None:
        """Wait until the claims of ended turns have been released."""
        if self._endings:
            await asyncio.wait(self._endings.values())

    def token(self, attempt: Attempt) -> str:
        """The name of this attempt in the medium."""
        return self._prefix + attempt.name

    def holds(self, attempt: Attempt) -> bool:
        """Whether the attempt holds the claim, as far as this process knows."""
        return self._holders.get(attempt.session) is attempt and attempt not in self._releasing

    async def acquire(self, attempt: Attempt) -> None:
        """Wait for the claim of a turn that has not ended. May be cancelled.

        Raises: TimeoutError after WAIT_TIMEOUT, OSError of the medium.
        """
        wait = self._waits.get(attempt)
        if wait is None or (wait.done() and wait.exception() is not None):
            wait = self._waits[attempt] = asyncio.create_task(self._wait(attempt))
            attempt.on_end = partial(self._end, attempt)
        await asyncio.shield(wait)

    async def try_acquire(self, attempt: Attempt) -> bool:
        """Acquire the claim without waiting for another turn; returns whether it worked. Must not be
        cancelled."""
        while (holder := self._holders.get(attempt.session)) is not None and not self.holds(attempt):
            ending = self._endings.get(holder)
            if ending is None:  # its turn is still running
                return False
            await asyncio.wait([ending])
        self._holders[attempt.session] = attempt
        claimed = False
        try:
            claimed = await self._claim(attempt.session, self.token(attempt))
        finally:
            if not claimed:
                del self._holders[attempt.session]
        return claimed

    async def release(self, attempt: Attempt) -> None:
        """Release a claim, so that the next turn can acquire it."""
        self._releasing.add(attempt)
        try:
            await self._release(attempt.session, self.token(attempt))
        except OSError as error:  # the claim expires by itself
            log.warning("the claim of turn %s was not released: %s", attempt.run_id, error)
        finally:
            del self._holders[attempt.session]
            self._releasing.discard(attempt)

    async def _wait(self, attempt: Attempt) -> None:
        loop = asyncio.get_running_loop()
        began, pause, logged = loop.time(), MIN_POLL, False
        while not await self.try_acquire(attempt) and not attempt.ended:
            waited = loop.time() - began
            if waited >= WAIT_TIMEOUT:
                raise TimeoutError(f"another turn of the session did not end within {WAIT_TIMEOUT:g} s")
            if waited >= LOG_WAIT_AFTER and not logged:
                logged = True
                log.info("turn %s waits for a turn of its session in another process", attempt.run_id)
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_POLL)

    def _end(self, attempt: Attempt) -> None:
        self._endings[attempt] = asyncio.create_task(self._release_at_end(attempt))
        self._endings[attempt].add_done_callback(lambda _: self._endings.pop(attempt))

    async def _release_at_end(self, attempt: Attempt) -> None:
        """Wait for the remaining work of an ended turn on its session, then release the claim."""
        await asyncio.gather(self._waits.pop(attempt), return_exceptions=True)
        while saves := list(self._saves(attempt)):
            await asyncio.wait(saves)
        if self.holds(attempt):
            await self.release(attempt)
