"""The SQLite file of the embedded store: its tables, and the operations on them.

The file is in WAL mode. Each method is one step inside a transaction that `store` begins and commits, in the
one thread that has the connection; only `shrink` runs outside a transaction. Runs that a killed supervisor
did not finish keep their rows, and are returned without an end.

Commits are `synchronous=FULL`: if a power failure lost a claimed key, the App could run twice for it. A claim
takes 0.2 ms on an idle disk and 0.6 ms on a busy one; without the fsync it takes 0.06 ms. Concurrent claims
share a commit (15,000 claims per second). Only requests with an Idempotency-Key wait for a commit.

Where to read next: `store` has the thread and its queue.
"""

import errno
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain import usage
from agentscope_supervisor.domain.errors import ErrorCode, Failure
from agentscope_supervisor.domain.idempotency import Key
from agentscope_supervisor.domain.run import LOST, RunState
from agentscope_supervisor.runs.listing import Listed, Wanted
from agentscope_supervisor.runs.log import Stored
from agentscope_supervisor.system.instance_dir import make_directory

VERSION: Final = 1  # of the tables, in user_version

MAX_RUNS: Final = 1_000_000
"""Maximum number of runs; above it the oldest are deleted first. Enough for 12 requests with a key per second
for one day; about 300 MB."""

AT_ONCE: Final = 1000
"""Rows, or pages of the file, that one clean-up step deletes: a few milliseconds."""

WAL_LIMIT: Final = 16 * 1024 * 1024  # bytes to which SQLite truncates its log after a checkpoint

_TABLES: Final = (
    """CREATE TABLE runs (
        run_id TEXT PRIMARY KEY,
        supervisor TEXT NOT NULL,  -- id of the supervisor process that runs it
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
    """This version cannot use the file. The text is for the operator."""


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """Limits of the store. `max_bytes`: of events. Times in seconds after the end of a run."""

    max_bytes: int
    replay_ttl: float
    idempotency_ttl: float


class Database:
    """One open file. May be used only in the thread that created this object."""

    def __init__(self, path: Path, limits: StoreLimits, supervisor: str) -> None:
        """`supervisor`: the id of this supervisor process. Raises: Refusal, InstanceError, OSError,
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
        # A kernel lock keeps out a second supervisor, and is released when the process is killed.
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
                raise Refusal(f"another version created the file (tables {version}, expected {VERSION})")
            # Not part of _TABLES: files of this version that were created before the index existed need it.
            self._sql.execute("CREATE INDEX IF NOT EXISTS runs_by_session ON runs (session_id)")
            columns = {row[1] for row in self._sql.execute("PRAGMA table_info(runs)")}
            if "started" not in columns:  # microseconds since 1970; 0: an earlier version wrote the run
                self._sql.execute("ALTER TABLE runs ADD COLUMN started INTEGER NOT NULL DEFAULT 0")
            if "usage" not in columns:  # of models, as JSON
                self._sql.execute("ALTER TABLE runs ADD COLUMN usage BLOB")
            self._sql.execute("CREATE INDEX IF NOT EXISTS runs_by_start ON runs (started, run_id)")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all steps of the block, or none of them. Raises: sqlite3.Error."""
        self._sql.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._sql.execute("COMMIT")
        except BaseException:
            if self._sql.in_transaction:  # when the disk is full, SQLite may already have rolled back
                self._sql.execute("ROLLBACK")
            raise

    def close(self) -> None:
        self._sql.close()

    # -- runs -------------------------------------------------------------------------------

    def lose(self, now: float) -> int:
        """Mark the runs that an earlier supervisor did not finish as lost, so that they expire. Returns their
        number."""
        kept, keyed = now + self._limits.replay_ttl, now + self._limits.idempotency_ttl
        return self._sql.execute(
            "UPDATE runs SET expires = CASE WHEN key IS NULL THEN ? ELSE ? END"
            " WHERE expires IS NULL AND supervisor != ?",
            (kept, keyed, self._supervisor),
        ).rowcount

    def claim(self, run_id: str, session_id: str, form: int, key: Key, now: float) -> Stored | None:
        """Assign a key to a new run. If another run has the key, return that run and change nothing."""
        where = (key.scope, key.value)
        row = self._one("SELECT run_id, expires FROM runs WHERE scope = ? AND key = ?", where)
        if row is not None and (row[1] is None or row[1] > now):
            return self.load(row[0], now)
        if row is not None:
            self.forget(row[0])
        self.open(run_id, session_id, form, key, round(now * 1e6))
        return None

    def open(self, run_id: str, session_id: str, form: int, key: Key | None, started: int = 0) -> None:
        """A run begins. `started`: microseconds since 1970."""
        key_columns = (key.scope, key.value, key.fingerprint) if key is not None else (None, None, None)
        self._sql.execute(
            "INSERT INTO runs (run_id, supervisor, session_id, form, scope, key, fingerprint, started)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (run_id, self._supervisor, session_id, form, *key_columns, started),
        )

    def add(self, run_id: str, first: int, after_last: int, data: bytes) -> None:
        """Add events of a run, in one piece. Without effect if the run is not stored."""
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
        used: bytes | None = None,
    ) -> None:
        """A run has ended, and its events were added. `frees_key`: its key may be claimed again. `used`: the
        usage of models, as JSON."""
        self._sql.execute(
            "UPDATE runs SET next = ?1, worker = ?2, failure = ?3, whole = ?4,"
            " key = CASE WHEN ?5 THEN NULL ELSE key END,"
            " expires = CASE WHEN key IS NULL OR ?5 THEN ?6 ELSE ?7 END, usage = ?9 WHERE run_id = ?8",
            (
                after_last,
                worker,
                _failure_text(failure),
                whole,
                frees_key,
                now + self._limits.replay_ttl,
                now + self._limits.idempotency_ttl,
                run_id,
                used,
            ),
        )

    def forget(self, run_id: str) -> None:
        """Delete a run and its events."""
        self._count_off("SELECT sum(length(data)) FROM events WHERE run_id = ?", (run_id,))
        self._sql.execute("DELETE FROM events WHERE run_id = ?", (run_id,))
        self._sql.execute("DELETE FROM runs WHERE run_id = ?", (run_id,))

    def forget_session(self, session_id: str) -> int:
        """Delete the runs of a session that have ended, and their keys. Returns their number."""
        ended = "SELECT run_id FROM runs WHERE session_id = ? AND expires IS NOT NULL"
        of_session = (session_id,)
        self._count_off(f"SELECT sum(length(data)) FROM events WHERE run_id IN ({ended})", of_session)
        self._sql.execute(f"DELETE FROM events WHERE run_id IN ({ended})", of_session)
        return self._sql.execute(
            "DELETE FROM runs WHERE session_id = ? AND expires IS NOT NULL", of_session
        ).rowcount

    def load(self, run_id: str, now: float) -> Stored | None:
        """A run with its events; None: it is not stored, or has expired."""
        row = self._one(
            "SELECT session_id, form, scope, key, fingerprint, worker, failure, whole, next, started, usage"
            " FROM runs WHERE run_id = ? AND (expires IS NULL OR expires > ?)",
            (run_id, now),
        )
        if row is None:
            return None
        session_id, form, scope, key, fingerprint, worker, failure, whole, after_last, started, used = row
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
            started,
            used,
        )

    def page(self, wanted: Wanted, count: int, now: float) -> list[Listed]:
        """The first `count` of the wanted runs that have ended or were lost. The others are in memory."""
        order, sign = ("DESC", "<") if wanted.newest_first else ("ASC", ">")
        where: list[str] = ["expires > ?"]
        values: list[Any] = [now]
        if wanted.session_id is not None:
            where.append("session_id = ?")
            values.append(wanted.session_id)
        if wanted.after is not None:
            where.append(f"(started, run_id) {sign} (?, ?)")
            values += wanted.after
        rows = self._sql.execute(
            "SELECT started, run_id, session_id, form, worker, failure, next, usage"
            f" FROM runs WHERE {' AND '.join(where)} ORDER BY started {order}, run_id {order} LIMIT ?",
            (*values, count),
        )
        return [
            Listed(
                (started, run_id),
                session_id,
                RunState.ENDED,
                StreamKind(form & 0xFF),
                worker,
                _failure(failure) if after_last is not None else LOST,
                usage.read(used) if used is not None else None,
            )
            for started, run_id, session_id, form, worker, failure, after_last, used in rows
        ]

    # -- clean-up -----------------------------------------------------------------------------

    def tidy(self, now: float) -> bool:
        """Delete expired runs, and what exceeds the limits. Returns whether there may be more to delete."""
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
        """Return some of the free pages to the file system. Must be called outside a transaction."""
        # Not `execute`: that runs only the first step of this statement, which frees one page.
        self._sql.executescript(f"PRAGMA incremental_vacuum({AT_ONCE})")

    def _drop_events(self) -> None:
        """Delete the oldest events until the rest is within `max_bytes`."""
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
    """Make the file, and the files that SQLite keeps beside it, readable by this user only. SQLite creates
    those with the mode of the file, but they may be left over from an earlier process. Raises: OSError."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        if file.is_symlink():
            raise OSError(errno.ELOOP, "is a link, which is not followed", str(file))
        with suppress(FileNotFoundError, PermissionError):  # the file may belong to another user of its group
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
