"""The file of the embedded store: its tables, and each thing that is done to them.

SQLite in WAL mode. Every method is one step inside a transaction that `store` begins and commits, in the one
thread that has the connection; only `shrink` stands outside. Runs that a dead supervisor left unfinished keep
their rows, and are given back as what they are: without an end.

Commits are `synchronous=FULL`: a key that was claimed must not be forgotten by a power failure, or the App
runs twice for it. A claim takes 0.2 ms on an idle disk and 0.6 ms on a busy one, where one without the fsync
takes 0.06 ms; many at once share a commit (15,000 claims a second). Only requests with a key wait for it.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain.errors import ErrorCode, Failure
from agentscope_supervisor.domain.idempotency import Key
from agentscope_supervisor.runs.log import Stored
from agentscope_supervisor.system.instance_dir import make_directory

VERSION: Final = 1  # of the tables, in user_version

MAX_RUNS: Final = 1_000_000
"""Rows of runs; above it the oldest go first. A day of 12 keyed requests a second, some 300 MB."""

AT_ONCE: Final = 1000
"""Rows, or pages of the file, that one step of tidying up touches: a few milliseconds."""

WAL_LIMIT: Final = 16 * 1024 * 1024  # bytes to which the log is cut after a checkpoint

_TABLES: Final = (
    """CREATE TABLE runs (
        run_id TEXT PRIMARY KEY,
        supervisor TEXT NOT NULL,  -- the life of a supervisor in which it runs
        session_id TEXT NOT NULL,
        form INTEGER NOT NULL,
        scope TEXT, key TEXT, fingerprint BLOB,  -- NULL without a key
        worker TEXT,
        failure TEXT,
        whole BLOB NOT NULL DEFAULT x'5b5d',
        next INTEGER,  -- NULL until its end is known
        expires REAL  -- seconds since the epoch; NULL while it runs
    )""",
    "CREATE UNIQUE INDEX runs_by_key ON runs (scope, key) WHERE key IS NOT NULL",
    "CREATE INDEX runs_by_expiry ON runs (expires) WHERE expires IS NOT NULL",
    """CREATE TABLE events (
        run_id TEXT NOT NULL,
        first INTEGER NOT NULL,
        next INTEGER NOT NULL,  -- the number after the last
        data BLOB NOT NULL
    )""",
    "CREATE INDEX events_by_run ON events (run_id, first)",
)


class Refusal(Exception):
    """The file is not one that this version can use; the text is for a person."""


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """`max_bytes`: of events. Times in seconds after the end of a run."""

    max_bytes: int
    replay_ttl: float
    idempotency_ttl: float


class Database:
    """One open file. To be used in the thread that made it."""

    def __init__(self, path: Path, limits: StoreLimits, supervisor: str) -> None:
        """`supervisor`: the id of this life of the supervisor. Raises: Refusal, InstanceError, OSError,
        sqlite3.Error."""
        self._limits: Final = limits
        self._supervisor: Final = supervisor
        make_directory(path.parent)
        _make_private(path)
        self._sql: Final = sqlite3.connect(path, timeout=1.0, isolation_level=None, cached_statements=32)
        try:
            self._open()
            self._bytes: int = self._one("SELECT coalesce(sum(length(data)), 0) FROM events")[0]
        except BaseException:
            self._sql.close()
            raise

    def _open(self) -> None:
        # The kernel keeps a second supervisor out, and a killed one leaves no lock.
        self._sql.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._sql.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._sql.execute("PRAGMA journal_mode = WAL")
        self._sql.execute("PRAGMA synchronous = FULL")
        self._sql.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
        with self.transaction():
            version = self._one("PRAGMA user_version")[0]
            if version == 0:
                for statement in _TABLES:
                    self._sql.execute(statement)
                self._sql.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                raise Refusal(f"it was made by another version (tables {version}, this one has {VERSION})")
            # Not with the tables: a file from before it is one of the same version.
            self._sql.execute("CREATE INDEX IF NOT EXISTS runs_by_session ON runs (session_id)")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is done in it is committed, or nothing. Raises: sqlite3.Error."""
        self._sql.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._sql.execute("COMMIT")
        except BaseException:
            if self._sql.in_transaction:  # after a full disk SQLite may have rolled back by itself
                self._sql.execute("ROLLBACK")
            raise

    def close(self) -> None:
        self._sql.close()

    # -- runs -------------------------------------------------------------------------------

    def lose(self, now: float) -> int:
        """Runs that an earlier supervisor left unfinished will not end any more; returns how many."""
        kept, keyed = now + self._limits.replay_ttl, now + self._limits.idempotency_ttl
        return self._sql.execute(
            "UPDATE runs SET expires = CASE WHEN key IS NULL THEN ? ELSE ? END"
            " WHERE expires IS NULL AND supervisor != ?",
            (kept, keyed, self._supervisor),
        ).rowcount

    def claim(self, run_id: str, session_id: str, form: int, key: Key, now: float) -> Stored | None:
        """Take a key for a run; if a run has it already, that run, and nothing is changed."""
        where = (key.scope, key.value)
        row = self._one("SELECT run_id, expires FROM runs WHERE scope = ? AND key = ?", where)
        if row is not None and (row[1] is None or row[1] > now):
            return self.load(row[0], now)
        if row is not None:
            self.forget(row[0])
        self.open(run_id, session_id, form, key)
        return None

    def open(self, run_id: str, session_id: str, form: int, key: Key | None) -> None:
        """A run begins."""
        told = (key.scope, key.value, key.fingerprint) if key is not None else (None, None, None)
        self._sql.execute(
            "INSERT INTO runs (run_id, supervisor, session_id, form, scope, key, fingerprint)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (run_id, self._supervisor, session_id, form, *told),
        )

    def add(self, run_id: str, first: int, after_last: int, data: bytes) -> None:
        """Events of a run, in one piece. Nothing happens if the run is not here."""
        inserted = self._sql.execute(
            "INSERT INTO events SELECT run_id, ?, ?, ? FROM runs WHERE run_id = ?",
            (first, after_last, data, run_id),
        )
        self._bytes += len(data) * inserted.rowcount

    def end(
        self,
        run_id: str,
        after_last: int,
        worker: str | None,
        failure: Failure | None,
        whole: bytes,
        frees_key: bool,
        now: float,
    ) -> None:
        """A run has ended, and its events are there. `frees_key`: its key may be claimed again."""
        self._sql.execute(
            "UPDATE runs SET next = ?1, worker = ?2, failure = ?3, whole = ?4,"
            " key = CASE WHEN ?5 THEN NULL ELSE key END,"
            " expires = CASE WHEN key IS NULL OR ?5 THEN ?6 ELSE ?7 END WHERE run_id = ?8",
            (
                after_last,
                worker,
                _failure_text(failure),
                whole,
                frees_key,
                now + self._limits.replay_ttl,
                now + self._limits.idempotency_ttl,
                run_id,
            ),
        )

    def forget(self, run_id: str) -> None:
        """A run that will not be, or that is too old."""
        self._count_off("SELECT sum(length(data)) FROM events WHERE run_id = ?", (run_id,))
        self._sql.execute("DELETE FROM events WHERE run_id = ?", (run_id,))
        self._sql.execute("DELETE FROM runs WHERE run_id = ?", (run_id,))

    def forget_session(self, session_id: str) -> int:
        """Forget the runs of a session that have ended, and their keys; returns how many."""
        ended = "SELECT run_id FROM runs WHERE session_id = ? AND expires IS NOT NULL"
        of_session = (session_id,)
        self._count_off(f"SELECT sum(length(data)) FROM events WHERE run_id IN ({ended})", of_session)
        self._sql.execute(f"DELETE FROM events WHERE run_id IN ({ended})", of_session)
        return self._sql.execute(
            "DELETE FROM runs WHERE session_id = ? AND expires IS NOT NULL", of_session
        ).rowcount

    def load(self, run_id: str, now: float) -> Stored | None:
        """A run with its events, if it is here and not too old."""
        row = self._one(
            "SELECT session_id, form, scope, key, fingerprint, worker, failure, whole, next FROM runs"
            " WHERE run_id = ? AND (expires IS NULL OR expires > ?)",
            (run_id, now),
        )
        if row is None:
            return None
        session_id, form, scope, key, fingerprint, worker, failure, whole, after_last = row
        pieces = self._sql.execute(
            "SELECT first, next, data FROM events WHERE run_id = ? ORDER BY first", (run_id,)
        ).fetchall()
        return Stored(
            run_id,
            session_id,
            StreamKind(form & 0xFF),
            form >> 8,
            Key(scope, key, fingerprint) if key is not None else None,
            worker,
            _failure(failure),
            whole,
            after_last,
            pieces,
        )

    # -- what may be kept ---------------------------------------------------------------------

    def tidy(self, now: float) -> bool:
        """Forget what is too old or too much; returns whether there may be more."""
        old = "SELECT run_id FROM runs WHERE expires <= ? LIMIT ?"
        gone = self._sql.execute(old, (now, AT_ONCE)).fetchall()
        excess = self._one("SELECT count(*) FROM runs")[0] - len(gone) - MAX_RUNS
        if excess > 0:
            first = "SELECT run_id FROM runs WHERE expires > ? ORDER BY expires LIMIT ?"
            gone += self._sql.execute(first, (now, min(excess, AT_ONCE))).fetchall()
        for (run_id,) in gone:
            self.forget(run_id)
        self._drop_events()
        return len(gone) >= AT_ONCE

    def shrink(self) -> None:
        """Give room that is free back to the disk, a part of it. To be called outside of a transaction."""
        # Not `execute`: it takes the first step of this statement only, which frees one page.
        self._sql.executescript(f"PRAGMA incremental_vacuum({AT_ONCE})")

    def _drop_events(self) -> None:
        """Drop the events that were written first, until the rest is not too much."""
        while self._bytes > self._limits.max_bytes:
            rows = self._sql.execute(
                "SELECT rowid, length(data) FROM events ORDER BY rowid LIMIT 100"
            ).fetchall()
            for rowid, size in rows:
                self._sql.execute("DELETE FROM events WHERE rowid = ?", (rowid,))
                self._bytes -= size
                if self._bytes <= self._limits.max_bytes:
                    break

    def _count_off(self, query: str, values: tuple[Any, ...]) -> None:
        self._bytes -= self._one(query, values)[0] or 0

    def _one(self, query: str, values: tuple[Any, ...] = ()) -> Any:
        return self._sql.execute(query, values).fetchone()


def _make_private(path: Path) -> None:
    """Only this user can read the file, and what SQLite keeps beside it: which gets the mode of the file when
    it is made, but may be left from before. Raises: OSError."""
    path.touch(0o600)
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        with suppress(FileNotFoundError, PermissionError):  # the file may be shared by its group
            file.chmod(0o600)


def _failure_text(failure: Failure | None) -> str | None:
    if failure is None:
        return None
    return json.dumps([failure.code, failure.message, failure.retryable])


def _failure(text: str | None) -> Failure | None:
    if text is None:
        return None
    code, message, retryable = json.loads(text)
    return Failure(ErrorCode(code), message, retryable)
