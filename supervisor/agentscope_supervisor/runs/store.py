"""The embedded store: what must outlive this supervisor, written by one thread, off the event loop.

What is written, and what is not, is a matter of who can ask for it again after a restart:

- A turn without an Idempotency-Key, whose client's leaving cancels it: nothing. Its events are kept in memory
  (`log`) for a reconnection; a restart ends the turn anyway. This is the hot path, and it never comes here.
- A turn with a key: its key before it is handed to a worker, committed with fsync, because after that the App
  may have done what must not be done twice; its events in batches while they come, its end when it comes.
  Neither is waited for: a client that has its done event will not ask, and one that asks after a crash in
  between is told that the outcome is unknown, which is true.
- A turn that goes on without its client (`on_disconnect: continue`): the same, without any waiting.

Steps wait in a queue; the thread takes all that are there into one transaction, so that the cost of a commit
is shared the more, the busier it is. A disk that is full, slow, not writable, or a file that is not ours,
makes the store *degraded*: what is asked is answered with nothing and what is written is dropped, so that
no turn ever waits for long; it is tried again every RETRY_EVERY seconds. `health` says so, the log once.
Only the end of a run is *owed*: its key may lie on the disk from before, and would be answered for a day with
an unknown outcome. It is written when the store can again.
"""

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from agentscope_supervisor.runs.database import Database, Refusal, StoreLimits
from agentscope_supervisor.system.instance_dir import InstanceError

log = logging.getLogger(__name__)

T = TypeVar("T")
Step = Callable[[Database], T]

MAX_QUEUED: Final = 32 * 1024 * 1024
"""Bytes of events that wait for the disk: some seconds of a busy instance. Above it events are dropped from
the store, and stay in memory as all are."""

MAX_STEPS: Final = 20_000
"""Steps that wait for the disk: with few bytes each, two seconds of what the thread can do."""

MAX_OWED: Final = 20_000
"""Steps that are owed, and with them at most MAX_QUEUED bytes. What is more is dropped: the outcome of those
runs is told as unknown."""

ANSWER_WITHIN: Final = 2.0
"""Seconds that a request waits for the disk. A disk that takes longer does not do its work."""

GATHER: Final = 0.05
"""Seconds that what nobody waits for is gathered: it rides with the next commit that somebody waits for, and
no request waits for the commit of what another has left behind."""

RETRY_EVERY: Final = 15.0  # seconds between two tries of a degraded store
TIDY_EVERY: Final = 10.0  # seconds
CLOSE_WITHIN: Final = 5.0  # seconds for what waits when the instance stops
AFTER_LAST_WORD: Final = 0.1  # seconds for the end of a thread that has said that it ends; it takes none

_SLOW: Final = f"the disk did not answer within {ANSWER_WITHIN:g} s"
_BEHIND: Final = "the disk is slower than what is to be written"


@dataclass(frozen=True, slots=True)
class _Queued:
    step: Step[Any]
    size: int
    answer: Future[Any] | None
    owed: bool = False


class Store:
    """The store in the file `path`. To be made on the event loop; `start` once, `close` once."""

    def __init__(self, path: Path, limits: StoreLimits) -> None:
        self._path: Final = path
        self._limits: Final = limits
        self._supervisor: Final = uuid.uuid4().hex
        self._changed: Final = threading.Condition()  # guards all below
        self._queue: deque[_Queued] = deque()
        self._queued = 0  # bytes
        self._owed: deque[_Queued] = deque()  # later than all that is in the queue
        self._owed_bytes = 0
        self._asked = False  # somebody waits for one of them
        self._closing = False
        self._failure = ""  # why it is degraded
        self._database: Database | None = None  # the thread's own
        self._tried_at = 0.0
        self._tidied_at = 0.0
        self._ended: Final[Future[None]] = Future()
        # A disk that hangs must not keep the process from ending: hence a daemon.
        self._thread: Final = threading.Thread(target=self._work, name="store", daemon=True)

    @property
    def failure(self) -> str:
        """Why nothing can be kept across a restart now, without a path: everybody may read it. Empty: all is
        well. The log has the details."""
        return self._failure

    def start(self) -> None:
        """Open the file, in the thread; until that is done steps wait."""
        self._thread.start()

    def put(self, step: Step[object], size: int = 0, owed: bool = False) -> None:
        """Do this, after what was asked before. `size`: bytes that it holds. If the store cannot, it is
        dropped; `owed`: it is done when the store can again."""
        self._enqueue(_Queued(step, size, None, owed))

    async def ask(self, step: Step[T]) -> T | None:
        """Do this, after what was asked before, and commit it. None too if the store cannot."""
        answer: Future[T | None] = Future()
        if not self._enqueue(_Queued(step, 0, answer)):
            return None
        try:
            return await asyncio.wait_for(asyncio.wrap_future(answer), ANSWER_WITHIN)
        except TimeoutError:
            with self._changed:
                self._degrade(_SLOW)
            return None

    async def close(self) -> None:
        """Write what waits, and end."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        # No other thread waits for it: the loop's own may all hang by now.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(self._ended), CLOSE_WITHIN)
            self._thread.join(AFTER_LAST_WORD)

    # -- both sides -------------------------------------------------------------------------

    def _enqueue(self, queued: _Queued) -> bool:
        with self._changed:
            if not self._failure and (
                self._queued + queued.size > MAX_QUEUED or len(self._queue) >= MAX_STEPS
            ):
                self._degrade(_BEHIND)
            if self._failure:
                self._owe(queued)
                return False
            self._queue.append(queued)
            self._queued += queued.size
            self._asked |= queued.answer is not None
            if self._asked or len(self._queue) == 1:
                self._changed.notify()
            return True

    def _owe(self, queued: _Queued) -> None:
        """To be called with the lock held."""
        if (
            queued.owed
            and len(self._owed) < MAX_OWED
            and self._owed_bytes + queued.size <= MAX_QUEUED
            and not self._closing
        ):
            self._owed.append(queued)
            self._owed_bytes += queued.size

    def _pay(self) -> None:
        """What is owed is done next, before what is new. To be called with the lock held."""
        self._queue.extend(self._owed)
        self._queued += self._owed_bytes
        self._owed.clear()
        self._owed_bytes = 0

    def _degrade(self, failure: str, detail: str = "") -> None:
        """To be called with the lock held."""
        if not self._failure:
            log.error("runs and idempotency keys are kept in memory only: %s", detail or failure)
        self._failure = failure
        self._tried_at = time.monotonic()

    # -- the thread's side --------------------------------------------------------------------

    def _work(self) -> None:
        self._ended.set_running_or_notify_cancel()  # who gives up waiting cannot cancel it
        try:
            while (batch := self._next_batch()) is not None:
                self._run(batch)
                self._tidy()
            if self._database is not None:
                self._database.close()
        finally:
            self._ended.set_result(None)

    def _next_batch(self) -> list[_Queued] | None:
        """All that waits; empty when something else is due; None at the end."""
        with self._changed:
            if not self._queue and not self._closing:
                if self._database is not None:
                    self._changed.wait(TIDY_EVERY)
                elif self._failure:
                    self._changed.wait(RETRY_EVERY)
            if self._closing:
                self._pay()  # one last try
            if not self._queue and self._closing:
                return None
            if self._queue:
                self._changed.wait_for(lambda: self._asked or self._closing, GATHER)
            batch = list(self._queue)
            self._queue.clear()
            self._queued, self._asked = 0, False
            return batch

    def _run(self, batch: list[_Queued]) -> None:
        batch = _waited_for(batch)
        try:
            answers = self._commit(batch)
        except Exception as error:  # of SQLite, the file system, or a bug: turns must go on
            self._give_up(error)
            # One that fails for another reason than the disk would fail for ever.
            batch += self._drop_all(batch if isinstance(error, OSError | sqlite3.OperationalError) else [])
            answers = [None] * len(batch)
        for queued, answer in zip(batch, answers, strict=True):
            if queued.answer is not None:
                queued.answer.set_result(answer)

    def _drop_all(self, batch: list[_Queued]) -> list[_Queued]:
        """Nothing that waits is done, but what is owed later: first of `batch`, then of the queue, which is
        returned. Otherwise what waits would be done before what was asked earlier."""
        with self._changed:
            later, self._owed, self._owed_bytes = self._owed, deque(), 0
            dropped = list(self._queue)
            self._queue.clear()
            self._queued, self._asked = 0, False
            for queued in (*batch, *dropped, *later):
                self._owe(queued)
        return _waited_for(dropped)

    def _commit(self, batch: list[_Queued]) -> list[object]:
        database = self._database or self._open()
        now = time.monotonic()
        with database.transaction():
            answers = [queued.step(database) for queued in batch]
        with self._changed:
            # Not at once: a disk at its limit would fill the log with its ups and downs.
            if self._failure and now - self._tried_at >= RETRY_EVERY:
                log.info("runs and idempotency keys are kept on disk again")
                self._failure = ""
                self._pay()
        return answers

    def _tidy(self) -> None:
        now = time.monotonic()
        if self._database is None or now - self._tidied_at < TIDY_EVERY:
            return
        try:
            with self._database.transaction():
                more = self._database.tidy(time.time())
            self._database.shrink()
            if not more:
                self._tidied_at = now
        except Exception as error:  # as in `_run`
            self._give_up(error)

    def _open(self) -> Database:
        database = Database(self._path, self._limits, self._supervisor)
        self._database = database
        with database.transaction():
            lost = database.lose(time.time())
        if lost:
            log.warning("runs were lost with an earlier supervisor", extra={"runs": lost})
        return database

    def _give_up(self, error: Exception) -> None:
        if self._database is not None:
            try:
                self._database.close()
            finally:
                self._database = None
        with self._changed:
            self._degrade(_reason(error), f"{self._path}: {error}")


def _waited_for(batch: list[_Queued]) -> list[_Queued]:
    """What nobody waits for any more is not done."""
    return [
        queued for queued in batch if queued.answer is None or queued.answer.set_running_or_notify_cancel()
    ]


def _reason(error: Exception) -> str:
    match error:
        case OSError():
            return error.strerror or "the file system failed"
        case InstanceError():
            return "its directory may be another user's"
        case sqlite3.Error() | Refusal():
            return str(error)
    return f"unexpected {type(error).__name__}"
