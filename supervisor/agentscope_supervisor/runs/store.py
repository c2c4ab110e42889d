"""The embedded store: the runs that must survive a restart of the supervisor, written by one thread.

The store gets only what a client can ask for after a restart:

- A turn without an Idempotency-Key that is cancelled when its client disconnects: nothing. Its events are
  kept in memory (`log`) for a reconnect; a restart ends the turn anyway. This is the hot path, and it never
  uses the store.
- A turn with a key: the key is committed with fsync before the turn is dispatched, because from then on the
  App may have side effects that must not happen twice. Its events follow in batches, its end when it ends.
  Neither is waited for: a client that has received the done event does not ask again, and a client that asks
  after a crash in between gets an error that says that the outcome is unknown.
- A turn that continues without its client (`on_disconnect: continue`): the same, but nothing is waited for.

Steps wait in a queue. The thread takes all queued steps into one transaction, so that a busy instance shares
the cost of a commit among more steps. The store becomes *degraded* when the disk is full, slow or not
writable, or when the file is unusable. A degraded store returns None to queries and drops writes, so that no
turn waits for long. It retries every RETRY_EVERY seconds. The health routes report it, and the log has one
line.

Only ends of runs are *owed*: the key of such a run may already be on disk, and requests with it would get an
unknown outcome for a day. Owed steps are executed as soon as the store works again.

Where to read next: `database` has the steps, `recorder` queues them.
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
"""Maximum size in bytes of the events that wait for the disk: several seconds of a busy instance. Above it
the store becomes degraded; events stay in memory as always."""

MAX_STEPS: Final = 20_000
"""Maximum number of steps that wait for the disk: if they are small, 2 seconds of work for the thread."""

MAX_OWED: Final = 20_000
"""Maximum number of owed steps; together they hold at most MAX_QUEUED bytes. Further ones are dropped, and
the outcome of their runs is reported as unknown."""

ANSWER_WITHIN: Final = 2.0
"""Seconds that a request waits for the disk. A disk that takes longer counts as failed."""

GATHER: Final = 0.05
"""Seconds for which writes are collected while no request waits for a commit. They join the next commit that
a request waits for, and no request waits for a commit of earlier writes alone."""

RETRY_EVERY: Final = 15.0  # seconds between two attempts of a degraded store
TIDY_EVERY: Final = 10.0  # seconds between two clean-ups
CLOSE_WITHIN: Final = 5.0  # seconds for the queued steps when the instance stops
AFTER_LAST_WORD: Final = 0.1  # seconds for the thread to exit after its last step; it needs almost none

_SLOW: Final = f"the disk did not answer within {ANSWER_WITHIN:g} s"
_BEHIND: Final = "the disk is too slow for the writes of this instance"


@dataclass(frozen=True, slots=True)
class _Queued:
    step: Step[Any]
    size: int
    answer: Future[Any] | None
    owed: bool = False


class Store:
    """The store in the file `path`. Must be created on the event loop; `start` and `close` are called once
    each."""

    def __init__(self, path: Path, limits: StoreLimits) -> None:
        self._path: Final = path
        self._limits: Final = limits
        self._supervisor: Final = uuid.uuid4().hex
        self._changed: Final = threading.Condition()  # guards all below
        self._queue: deque[_Queued] = deque()
        self._queued = 0  # bytes
        self._owed: deque[_Queued] = deque()  # executed after all that is in the queue
        self._owed_bytes = 0
        self._asked = False  # a request waits for a step in the queue
        self._closing = False
        self._failure = ""  # why the store is degraded
        self._database: Database | None = None  # used by the thread only
        self._tried_at = 0.0
        self._tidied_at = 0.0
        self._ended: Final[Future[None]] = Future()
        # A daemon thread: a disk that hangs must not keep the process from exiting.
        self._thread: Final = threading.Thread(target=self._work, name="store", daemon=True)

    @property
    def failure(self) -> str:
        """Why runs do not survive a restart at present; empty: they do. The text has no path, because the
        health routes show it without a token. The log has the details."""
        return self._failure

    def start(self) -> None:
        """Start the thread, which opens the file. Steps wait until the file is open."""
        self._thread.start()

    def put(self, step: Step[object], size: int = 0, owed: bool = False) -> None:
        """Queue a step. `size`: bytes that it holds. A degraded store drops the step; `owed`: it executes the
        step when it works again."""
        self._enqueue(_Queued(step, size, None, owed))

    async def ask(self, step: Step[T]) -> T | None:
        """Queue a step, and wait until it is committed. Returns its result; None also if the store is
        degraded."""
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
        """Execute the queued steps, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        # Not `to_thread`: the threads of the loop's executor may all hang on the disk.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(self._ended), CLOSE_WITHIN)
            self._thread.join(AFTER_LAST_WORD)

    # -- called by both threads -------------------------------------------------------------

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
        """Keep a step until the store works again, if it is owed. The caller holds the lock."""
        if (
            queued.owed
            and len(self._owed) < MAX_OWED
            and self._owed_bytes + queued.size <= MAX_QUEUED
            and not self._closing
        ):
            self._owed.append(queued)
            self._owed_bytes += queued.size

    def _pay(self) -> None:
        """Queue the owed steps, before new ones. The caller holds the lock."""
        self._queue.extend(self._owed)
        self._queued += self._owed_bytes
        self._owed.clear()
        self._owed_bytes = 0

    def _degrade(self, failure: str, detail: str = "") -> None:
        """Become degraded. The caller holds the lock."""
        if not self._failure:
            log.error("runs and idempotency keys are kept in memory only: %s", detail or failure)
        self._failure = failure
        self._tried_at = time.monotonic()

    # -- called by the store's thread ---------------------------------------------------------

    def _work(self) -> None:
        self._ended.set_running_or_notify_cancel()  # `close` may time out, but must not cancel it
        try:
            while (batch := self._next_batch()) is not None:
                self._run(batch)
                self._tidy()
            if self._database is not None:
                self._database.close()
        finally:
            self._ended.set_result(None)

    def _next_batch(self) -> list[_Queued] | None:
        """The queued steps; empty when only a clean-up or a retry is due; None at the end."""
        with self._changed:
            if not self._queue and not self._closing:
                if self._database is not None:
                    self._changed.wait(TIDY_EVERY)
                elif self._failure:
                    self._changed.wait(RETRY_EVERY)
            if self._closing:
                self._pay()  # one last attempt
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
        except Exception as error:  # from SQLite, the file system, or a bug: turns must continue
            self._give_up(error)
            # A step that failed for any other reason than the disk would fail again, and is not kept.
            batch += self._drop_all(batch if isinstance(error, OSError | sqlite3.OperationalError) else [])
            answers = [None] * len(batch)
        for queued, answer in zip(batch, answers, strict=True):
            if queued.answer is not None:
                queued.answer.set_result(answer)

    def _drop_all(self, batch: list[_Queued]) -> list[_Queued]:
        """Drop `batch` and the queue, and keep their owed steps in order, before those that are owed already.
        Returns the dropped queue. If the queue stayed, its steps would be executed before the earlier ones of
        `batch`."""
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
            # Only after RETRY_EVERY: a disk at its limit would otherwise fill the log with changes of state.
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
    """The steps without those whose caller has stopped waiting."""
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
