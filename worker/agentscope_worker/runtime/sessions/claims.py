"""Which turn may write a session: turns claim theirs, against those of other processes and earlier ones.

A turn claims its session when it first loads or saves it, and holds the claim until it is over and what it
saves is stored. While another turn holds it, wherever that runs, it waits: so two instances that share a
store keep the order which one instance keeps by itself. A turn that is over, or has lost its claim because
it was taken for dead, may still save as long as nobody has claimed or saved the session since; else its save
is refused (`store`), so that what it knows, which is old, replaces nothing that is newer.

It owns the claims of this process. It must not know a medium: what a claim is there, and that it ends with a
process that is killed, is the business of `json_store` and `redis_store`. Who is not in a turn of the
session (on_startup, another session's turn, an author's test) has no claim, and is not held up by any.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import cached_property, partial
from typing import Final

log = logging.getLogger(__name__)

PATIENCE: Final = 600.0
"""Seconds that a turn waits for another's: the default of server.request_timeout, which ends most waits."""

TOLD_AFTER: Final = 1.0  # seconds of waiting after which the log says so: longer than a worker takes to die
FIRST_PAUSE: Final = 0.001  # seconds; the turn before, in this process, has just ended
LONGEST_PAUSE: Final = 0.05  # seconds between two looks; twenty a second for each turn that waits


class Attempt:
    """One turn in this process, while it is entered. `known`: for each state that it has seen, the number of
    its save."""

    def __init__(self, session_id: str, run_id: str) -> None:
        self.session_id: Final = session_id
        self.run_id: Final = run_id
        self.known: Final[dict[str, int]] = {}
        self.over = False
        self.when_over: Callable[[], None] | None = None

    # What only a turn needs that loads or saves.

    @cached_property
    def session(self) -> str:
        """What its session is claimed under."""
        return name_of(self.session_id)

    @cached_property
    def name(self) -> str:
        """By which its claim is known; a run that is repeated has another."""
        return secrets.token_hex(8)

    @cached_property
    def saving(self) -> asyncio.Lock:
        """Of one save at a time: a late one gives the claim back."""
        return asyncio.Lock()

    def __enter__(self) -> None:
        self._entered = _current.set(self)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._entered)
        self.over = True
        if self.when_over is not None:
            self.when_over()


def name_of(session_id: str) -> str:
    """What a session is claimed under: 64 hexadecimal digits, safe in every medium."""
    return hashlib.sha256(session_id.encode()).hexdigest()


_current: Final[ContextVar[Attempt | None]] = ContextVar("attempt", default=None)


def turn(session_id: str, run_id: str) -> AbstractContextManager[None]:
    """What runs inside, and what that starts, belongs to this turn; at the end the turn is over."""
    return Attempt(session_id, run_id)


def current(session_id: str) -> Attempt | None:
    """The turn that the caller belongs to, if it is one of this session."""
    attempt = _current.get()
    return attempt if attempt is not None and attempt.session_id == session_id else None


class Claims:
    """The claims of this process. `member`: "<instance>.<number of the process in it>", where a process that
    was started later has a higher number; without one, this process is an instance by itself.

    `claim` and `release` are the medium's, with the name of a session and the token of an attempt,
    "<member>/<attempt>": claim it, unless another process has it; give it back. Both raise OSError.
    `saves`: those of an attempt that are under way.
    """

    def __init__(
        self,
        member: str,
        claim: Callable[[str, str], Awaitable[bool]],
        release: Callable[[str, str], Awaitable[None]],
        saves: Callable[[Attempt], Iterable[asyncio.Task[None]]],
    ) -> None:
        self._prefix: Final = f"{member or f'{secrets.token_hex(8)}.0'}/"
        self._claim: Final = claim
        self._release: Final = release
        self._saves: Final = saves
        self._waits: Final[dict[Attempt, asyncio.Task[None]]] = {}  # ended well: it holds the claim
        self._holders: Final[dict[str, Attempt]] = {}  # by session; also who is about to hold it
        self._endings: Final[dict[Attempt, asyncio.Task[None]]] = {}  # of turns that are over
        self._leaving: Final[set[Attempt]] = set()  # whose claim is being given back

    async def close(self) -> None:
        """Wait until the claims of turns that are over have been given back."""
        if self._endings:
            await asyncio.wait(self._endings.values())

    def token(self, attempt: Attempt) -> str:
        """What the medium knows this attempt by."""
        return self._prefix + attempt.name

    def holds(self, attempt: Attempt) -> bool:
        """Whether it has the claim, as far as this process knows."""
        return self._holders.get(attempt.session) is attempt and attempt not in self._leaving

    async def obtain(self, attempt: Attempt) -> None:
        """Wait for the claim of a turn that is not over. May be cancelled.

        Raises: TimeoutError after PATIENCE, OSError of the medium.
        """
        wait = self._waits.get(attempt)
        if wait is None or (wait.done() and wait.exception() is not None):
            wait = self._waits[attempt] = asyncio.create_task(self._wait(attempt))
            attempt.when_over = partial(self._end, attempt)
        await asyncio.shield(wait)

    async def seize(self, attempt: Attempt) -> bool:
        """Claim now or not at all. Not to be cancelled."""
        while (holder := self._holders.get(attempt.session)) is not None and not self.holds(attempt):
            ending = self._endings.get(holder)
            if ending is None:  # its turn goes on
                return False
            await asyncio.wait([ending])
        self._holders[attempt.session] = attempt
        taken = False
        try:
            taken = await self._claim(attempt.session, self.token(attempt))
        finally:
            if not taken:
                del self._holders[attempt.session]
        return taken

    async def release(self, attempt: Attempt) -> None:
        """Give a claim back; the next turn may have it then."""
        self._leaving.add(attempt)
        try:
            await self._release(attempt.session, self.token(attempt))
        except OSError as error:  # it ends by itself
            log.warning("the claim of turn %s was not given back: %s", attempt.run_id, error)
        finally:
            del self._holders[attempt.session]
            self._leaving.discard(attempt)

    async def _wait(self, attempt: Attempt) -> None:
        loop = asyncio.get_running_loop()
        began, pause, told = loop.time(), FIRST_PAUSE, False
        while not await self.seize(attempt) and not attempt.over:
            waited = loop.time() - began
            if waited >= PATIENCE:
                raise TimeoutError(f"another turn of the session has not ended within {PATIENCE:g} s")
            if waited >= TOLD_AFTER and not told:
                told = True
                log.info("turn %s waits: another process has a turn of its session", attempt.run_id)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _end(self, attempt: Attempt) -> None:
        self._endings[attempt] = asyncio.create_task(self._let_go(attempt))
        self._endings[attempt].add_done_callback(lambda _: self._endings.pop(attempt))

    async def _let_go(self, attempt: Attempt) -> None:
        """The turn is over: wait for what it still does with the session, and give the claim back."""
        await asyncio.gather(self._waits.pop(attempt), return_exceptions=True)
        while saves := list(self._saves(attempt)):
            await asyncio.wait(saves)
        if self.holds(attempt):
            await self.release(attempt)
