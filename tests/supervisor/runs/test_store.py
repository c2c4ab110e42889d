"""The embedded store on a real file: what it gives back, what it forgets, and what it does without a disk."""

import asyncio
import logging
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import orjson
import psutil
import pytest

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain.errors import ErrorCode, Failure
from agentscope_supervisor.domain.idempotency import Key
from agentscope_supervisor.domain.run import LOST, RunState
from agentscope_supervisor.domain.usage import ModelUsage, Usage
from agentscope_supervisor.runs import database, store
from agentscope_supervisor.runs.database import Database, Refusal, StoreLimits
from agentscope_supervisor.runs.listing import Listed, Wanted
from agentscope_supervisor.runs.log import Stored
from agentscope_supervisor.runs.store import Store
from agentscope_supervisor.system.instance_dir import PROGRAM
from agentscope_supervisor.web.dialects import native
from tests.harness.waiting import eventually

LIMITS = StoreLimits(max_bytes=100_000, replay_ttl=60.0, idempotency_ttl=600.0)
APP_ERROR = Failure(ErrorCode.APP_ERROR, "nö\ud800")
NOW = 1_000_000.0
USED = Usage((ModelUsage("m", 1, 2, 3, 4),))


def key(value: str = "k", scope: str = "me", fingerprint: bytes = b"print") -> Key:
    return Key(scope, value, fingerprint)


def events(run: str, first: int, count: int, size: int = 2) -> bytes:
    return b"".join(native.event(run, number, b"x" * size) for number in range(first, first + count))


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that others use may take longer than a client should wait; the tests of that set their own."""
    monkeypatch.setattr(store, "ANSWER_WITHIN", 30.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "runs.db"


def opened(path: Path, supervisor: str = "one", limits: StoreLimits = LIMITS) -> Database:
    return Database(path, limits, supervisor)


def claimed(db: Database, run: str, value: str = "k", now: float = NOW) -> Stored | None:
    with db.transaction():
        return db.claim(run, "s", StreamKind.EVENTS, key(value), now)


def ended(
    db: Database, run: str, failure: Failure | None = None, now: float = NOW, frees: bool = False
) -> None:
    with db.transaction():
        db.add(run, 0, 2, events(run, 0, 2))
        db.end(run, 2, "0.1", failure, b'["w"]', frees, now, orjson.dumps(USED.fields))


# -- lists of runs -------------------------------------------------------------------------------


def test_pages_of_ended_runs(path: Path) -> None:
    names = [f"{number:032x}" for number in range(6)]
    with closing(opened(path)) as db:
        with db.transaction():
            for number, name in enumerate(names):
                kind = StreamKind.WHOLE if number == 1 else StreamKind.EVENTS
                db.open(name, "b" if number == 3 else "a", kind, None, started=number // 2)
        for name in names[:5]:  # the last one runs
            ended(db, name, APP_ERROR if name == names[0] else None)
        everything = db.page(Wanted(), 10, NOW)
        assert [each.run_id for each in everything] == names[4::-1]
        assert everything[-1] == Listed(
            (0, names[0]), "a", RunState.ENDED, StreamKind.EVENTS, "0.1", APP_ERROR, USED
        )
        assert [each.run_id for each in db.page(Wanted("a"), 2, NOW)] == [names[4], names[2]]
        after = db.page(Wanted("a", after=(1, names[2])), 10, NOW)
        assert [each.run_id for each in after] == [names[1], names[0]]
        oldest = Wanted("a", after=(0, names[0]), newest_first=False)
        assert [each.run_id for each in db.page(oldest, 10, NOW)] == [names[1], names[2], names[4]]
        assert db.page(Wanted(), 10, NOW + LIMITS.replay_ttl) == []
    with closing(opened(path, "two")) as db:
        with db.transaction():
            db.lose(NOW)
        (lost, *_) = db.page(Wanted(), 1, NOW)
        assert (lost.run_id, lost.failure) == (names[5], LOST)


def test_a_file_of_an_earlier_version_gets_the_starts_of_runs(path: Path) -> None:
    with closing(opened(path)) as db:
        claimed(db, "r")
    with closing(sqlite3.connect(path)) as sql:
        sql.execute("DROP INDEX runs_by_start")
        sql.execute("ALTER TABLE runs DROP COLUMN started")
        sql.execute("ALTER TABLE runs DROP COLUMN usage")
    with closing(opened(path)) as db:
        found = db.load("r", NOW)
        assert found is not None
        assert (found.started, found.usage) == (0, None)


# -- the file ------------------------------------------------------------------------------------


def test_a_run_comes_back_as_it_was_written(path: Path) -> None:
    with closing(opened(path)) as db:
        assert claimed(db, "r") is None
        ended(db, "r", APP_ERROR)
    with closing(opened(path, "two")) as db:
        found = db.load("r", NOW)
        assert found == Stored(
            *("r", "s", StreamKind.EVENTS, 0, key(), "0.1", APP_ERROR, b'["w"]', 2),
            [(0, 2, events("r", 0, 2))],
            round(NOW * 1e6),
            orjson.dumps(USED.fields),
        )
        assert found.key is not None
        assert found.key.fingerprint == b"print"
        assert db.load("other", NOW) is None


def test_a_run_comes_back_with_its_kind_and_its_dialect(path: Path) -> None:
    with closing(opened(path)) as db:
        with db.transaction():
            db.open("r", "s", StreamKind.WHOLE | 3 << 8, None)
            db.end("r", 0, "0.1", None, b"[]", False, NOW)
        found = db.load("r", NOW)
    assert found is not None
    assert (found.kind, found.dialect) == (StreamKind.WHOLE, 3)


def test_only_this_user_can_read_it(path: Path) -> None:
    with closing(opened(path)):
        assert path.parent.stat().st_mode & 0o777 == 0o700
        files = list(path.parent.iterdir())
        assert {file.name for file in files} >= {"runs.db", "runs.db-wal"}
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_a_file_that_others_could_read_is_closed_to_them(path: Path) -> None:
    before = os.umask(0)
    try:
        path.parent.mkdir()
        for name in ("runs.db", "runs.db-wal"):
            (path.parent / name).touch()
        with closing(opened(path)):
            assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    finally:
        os.umask(before)


async def test_a_place_that_may_be_anothers_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = tmp_path / f"{PROGRAM}-{os.getuid()}"
    own.symlink_to(tmp_path)
    async with running(own / PROGRAM / "app" / "runs.db") as made:
        await eventually(lambda: made.failure, 30, "it says so")
        assert made.failure == "its directory may be another user's"
    assert not (tmp_path / PROGRAM).exists()


def test_a_key_is_claimed_once(path: Path) -> None:
    with closing(opened(path)) as db:
        assert claimed(db, "a") is None
        second = claimed(db, "b")
        assert second is not None
        assert (second.run_id, second.next) == ("a", None)
        assert db.load("b", NOW) is None
        with db.transaction():
            assert db.claim("c", "s", StreamKind.WHOLE, key(scope="you"), NOW) is None, (
                "it is another caller's"
            )
            db.open("d", "s", StreamKind.EVENTS, None)
            db.open("e", "s", StreamKind.EVENTS, None)


def test_a_key_that_is_forgotten_or_freed_or_too_old_can_be_claimed_again(path: Path) -> None:
    with closing(opened(path)) as db:
        claimed(db, "refused")
        with db.transaction():
            db.forget("refused")
        assert claimed(db, "freed") is None
        ended(db, "freed", APP_ERROR, frees=True)
        assert claimed(db, "kept") is None
        ended(db, "kept")
        late = NOW + LIMITS.idempotency_ttl
        assert claimed(db, "early", now=late - 1) is not None
        assert claimed(db, "new", now=late) is None
        assert db.load("kept", NOW) is None


def test_runs_are_forgotten_after_their_time(path: Path) -> None:
    with closing(opened(path)) as db:
        claimed(db, "keyed")
        claimed(db, "freed", "f")
        with db.transaction():
            db.open("plain", "s", StreamKind.EVENTS, None)
            db.open("running", "s", StreamKind.EVENTS, None)
        for run in ("keyed", "plain"):
            ended(db, run)
        ended(db, "freed", frees=True)

        def left(now: float) -> set[str]:
            with db.transaction():
                assert db.tidy(now) is False
            return {run for run in ("keyed", "freed", "plain", "running") if db.load(run, 0.0)}

        assert left(NOW + LIMITS.replay_ttl - 1) == {"keyed", "freed", "plain", "running"}
        assert db.load("plain", NOW + LIMITS.replay_ttl) is None, "before it is tidied up too"
        assert left(NOW + LIMITS.replay_ttl) == {"keyed", "running"}
        assert left(NOW + LIMITS.idempotency_ttl) == {"running"}
        with closing(opened_raw(path, db)) as raw:
            assert raw.execute("SELECT DISTINCT run_id FROM events").fetchall() == []


def test_the_runs_of_a_session_are_forgotten_when_they_have_ended(path: Path) -> None:
    with closing(opened(path)) as db:
        claimed(db, "ended", "a")
        ended(db, "ended")
        claimed(db, "going", "b")
        with db.transaction():
            db.open("other", "another", StreamKind.EVENTS, None)
        ended(db, "other")
        before = db._bytes
        with db.transaction():
            assert db.forget_session("s") == 1
            assert db.forget_session("s") == 0
        assert [name for name in ("ended", "going", "other") if db.load(name, NOW)] == ["going", "other"]
        assert db._bytes == before // 2
        assert claimed(db, "again", "a") is None, "its key is free"


def test_a_file_from_before_sessions_could_be_deleted_is_taken_over(path: Path) -> None:
    with closing(opened(path)) as db:
        claimed(db, "r")
        ended(db, "r")
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("DROP INDEX runs_by_session")
    with closing(opened(path)) as db:
        plan = "EXPLAIN QUERY PLAN SELECT run_id FROM runs WHERE session_id = 's'"
        assert "runs_by_session" in str(db._one(plan))
        assert db.load("r", NOW) is not None


def opened_raw(path: Path, db: Database) -> sqlite3.Connection:
    db.close()
    return sqlite3.connect(path)


def test_what_a_dead_supervisor_left_running_is_lost_and_expires(path: Path) -> None:
    with closing(opened(path)) as db:
        claimed(db, "keyed")
        claimed(db, "done", "d")
        ended(db, "done")
        with db.transaction():
            db.open("plain", "s", StreamKind.EVENTS, None)
    with closing(opened(path, "two")) as db:
        claimed(db, "mine", "m")
        with db.transaction():
            assert db.lose(NOW) == 2
        with db.transaction():
            assert db.lose(NOW) == 0
            db.tidy(NOW + LIMITS.replay_ttl)
        found = db.load("keyed", NOW)
        assert found is not None
        assert found.next is None
        assert db.load("plain", NOW) is None
        with db.transaction():
            db.tidy(NOW + LIMITS.idempotency_ttl)
        assert (db.load("keyed", NOW), db.load("mine", NOW) is None) == (None, False)


def first_events(db: Database, run: str) -> list[int]:
    found = db.load(run, NOW)
    assert found is not None
    return [first for first, _, _ in found.pieces]


def test_events_that_were_written_first_make_room(path: Path) -> None:
    with closing(opened(path, limits=StoreLimits(10_000, 60.0, 600.0))) as db:
        for run in ("a", "b", "c"):
            claimed(db, run, run)
        with db.transaction():
            for first in range(4):
                for run in ("a", "b", "c"):
                    db.add(run, first, first + 1, b"x" * 1000)
            db.add("nobody", 0, 1, b"x" * 100_000)
            db.tidy(NOW)
        assert [first_events(db, run) for run in "abc"] == [[1, 2, 3], [1, 2, 3], [0, 1, 2, 3]]
    with closing(opened(path, limits=StoreLimits(3_000, 60.0, 600.0))) as db:
        with db.transaction():
            db.tidy(NOW)
        assert [first_events(db, run) for run in "abc"] == [[3], [3], [3]]


def test_the_number_of_runs_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "MAX_RUNS", 3)
    with closing(opened(path)) as db:
        for number in range(6):
            claimed(db, str(number), str(number))
            ended(db, str(number), now=NOW + number)
        with db.transaction():
            db.tidy(NOW + 10)
        assert [db.load(str(number), NOW + 10) is not None for number in range(6)] == [False] * 3 + [True] * 3


def test_room_is_given_back_to_the_disk(path: Path) -> None:
    with closing(opened(path, limits=StoreLimits(10**8, 60.0, 600.0))) as db:
        claimed(db, "r")
        with db.transaction():
            for first in range(1000):
                db.add("r", first, first + 1, b"x" * 4000)
        with db.transaction():
            db.forget("r")
        for _ in range(5):
            db.shrink()
    assert path.stat().st_size < 1_000_000


def test_a_step_that_fails_changes_nothing(path: Path) -> None:
    with closing(opened(path)) as db:
        with suppress(ZeroDivisionError), db.transaction():
            db.open("r", "s", StreamKind.EVENTS, None)
            raise ZeroDivisionError
        assert db.load("r", NOW) is None


def test_a_file_of_another_version_is_refused_and_left_alone(path: Path) -> None:
    with closing(opened(path)):
        pass
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA user_version = 99")
    with pytest.raises(Refusal, match="another version"):
        opened(path)
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA user_version").fetchall() == [(99,)]


def test_a_file_that_is_none_of_ours_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("not a database " * 100)
    with pytest.raises(sqlite3.DatabaseError):
        opened(path)
    assert path.read_text() == "not a database " * 100


def test_a_second_supervisor_is_kept_out(path: Path) -> None:
    with closing(opened(path)), pytest.raises(sqlite3.OperationalError, match="locked"):
        opened(path, "two")


# -- the thread ----------------------------------------------------------------------------------


@asynccontextmanager
async def running(path: Path, limits: StoreLimits = LIMITS) -> AsyncIterator[Store]:
    made = Store(path, limits)
    made.start()
    try:
        yield made
    finally:
        await made.close()


def claim(run: str, value: str = "k") -> Callable[[Database], Stored | None]:
    return lambda db: db.claim(run, "s", StreamKind.EVENTS, key(value), NOW)


async def test_of_many_claims_at_once_one_is_the_first(path: Path) -> None:
    async with running(path) as made:
        found = await asyncio.gather(*(made.ask(claim(str(number))) for number in range(50)))
        assert found[0] is None
        assert {stored.run_id for stored in found[1:] if stored} == {"0"}
        assert made.failure == ""


async def test_what_waits_is_written_before_the_end(path: Path) -> None:
    async with running(path) as made:
        for number in range(100):
            made.put(claim(str(number), str(number)))
    async with running(path) as made:
        found = await asyncio.gather(*(made.ask(lambda db, n=n: db.load(str(n), NOW)) for n in range(100)))
        assert all(found)


async def test_it_ends_while_every_thread_of_the_loop_hangs(path: Path) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    free = threading.Event()
    hanging = asyncio.create_task(asyncio.to_thread(free.wait, 60))
    try:
        async with asyncio.timeout(30), running(path) as made:
            made.put(claim("a"))
    finally:
        free.set()
        await hanging
    with closing(opened(path, "two")) as db:
        assert db.load("a", NOW) is not None


async def test_a_disk_that_hangs_at_the_end_is_not_waited_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CLOSE_WITHIN", 0.05)
    free = threading.Event()
    async with asyncio.timeout(30), running(path) as made:
        made.put(lambda db: free.wait(60))
    free.set()
    await eventually(lambda: not made._thread.is_alive(), 30, "the thread ends, once it can")


async def test_steps_come_in_the_order_in_which_they_were_asked(path: Path) -> None:
    async with running(path) as made:
        made.put(claim("a"))
        made.put(lambda db: db.forget("a"))
        assert await made.ask(claim("b")) is None


async def test_one_that_gives_up_waiting_disturbs_nobody(path: Path) -> None:
    async with running(path) as made:
        free = threading.Event()
        made.put(lambda db: free.wait(10))
        task = asyncio.create_task(made.ask(claim("a")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        free.set()
        assert await made.ask(claim("b")) is None, "what nobody waits for is not done"


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


async def test_an_unwritable_place_is_told_once_and_nobody_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("a file where a folder should be")
    async with running(tmp_path / "state" / "runs.db") as made:
        await eventually(lambda: made.failure, 30, "it says so")
        for number in range(100):
            made.put(claim(str(number)))
            assert await made.ask(claim(str(number))) is None
        (told,) = errors(caplog)
        assert told.startswith("runs and idempotency keys are kept in memory only: ")
        assert str(tmp_path / "state") in told
        assert made.failure == "Not a directory"


async def test_it_comes_back_when_the_disk_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store, "RETRY_EVERY", 0.05)
    blocked = tmp_path / "state"
    blocked.write_text("")
    async with running(blocked / "runs.db") as made:
        await eventually(lambda: made.failure, 30, "it says so")
        blocked.unlink()
        await eventually(lambda: not made.failure, 30, "it tries again")
        assert await made.ask(claim("a")) is None
        assert (await made.ask(claim("b"))) is not None
    assert len(errors(caplog)) == 1


async def test_a_disk_that_hangs_holds_nobody_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "ANSWER_WITHIN", 0.05)
    async with running(path) as made:
        free = threading.Event()
        made.put(lambda db: free.wait(30))
        assert await made.ask(claim("a")) is None
        assert "did not answer" in made.failure
        made.put(claim("b"))
        assert await made.ask(claim("c")) is None
        free.set()


async def test_what_waits_for_a_slow_disk_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_QUEUED", 1000)
    async with running(path) as made:
        free, begun = threading.Event(), threading.Event()

        def hang(_: Database) -> None:
            begun.set()
            free.wait(30)

        made.put(hang)
        await eventually(begun.is_set, 30, "the thread is busy")
        made.put(lambda db: None, 900)
        assert made.failure == ""
        made.put(lambda db: None, 200)
        assert "too slow for the writes" in made.failure
        free.set()


async def test_an_unexpected_error_is_no_end_of_the_thread(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "RETRY_EVERY", 0.05)
    async with running(path) as made:
        assert await made.ask(claim("a")) is None

        def broken(_: Database) -> None:
            raise ZeroDivisionError

        assert await made.ask(broken) is None
        assert made.failure == "unexpected ZeroDivisionError"
        await eventually(lambda: not made.failure, 30, "it goes on")
        assert (await made.ask(claim("b"))) is not None


async def test_its_files_are_closed_with_it(path: Path) -> None:
    async with running(path) as made:
        await made.ask(claim("a"))
    files = [file.path for file in psutil.Process().open_files()]
    assert not [file for file in files if str(path) in file]
    assert not [thread for thread in threading.enumerate() if thread.name == "store"]


async def test_only_the_log_says_where_a_file_of_another_version_is(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(opened(path)):
        pass
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA user_version = 99")
    async with running(path) as made:
        await eventually(lambda: made.failure, 30, "it says so")
        assert made.failure.startswith("another version created the file")
        assert str(path) in errors(caplog)[0]


# -- what is owed --------------------------------------------------------------------------------


def end(run: str) -> Callable[[Database], None]:
    return lambda db: db.end(run, 0, "0.1", None, b'["w"]', False, time.time())


async def failing(made: Store) -> None:
    def full(_: Database) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    await made.ask(full)
    assert made.failure


@pytest.fixture
def slow_retry(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """No try until it is called."""
    monkeypatch.setattr(store, "RETRY_EVERY", 1e6)

    def retry() -> None:
        monkeypatch.setattr(store, "RETRY_EVERY", 0.0)

    return retry


async def recovered(made: Store, retry: Callable[[], None]) -> None:
    retry()

    def is_well() -> bool:
        with made._changed:
            made._changed.notify()
        return not made.failure

    await eventually(is_well, 30, "it is tried again")


async def test_an_end_that_came_while_the_disk_was_full_is_written_afterwards(
    path: Path, slow_retry: Callable[[], None]
) -> None:
    async with running(path) as made:
        await made.ask(claim("ended"))
        await made.ask(claim("refused", "other"))
        await failing(made)
        made.put(end("ended"), owed=True)
        made.put(lambda db: db.forget("refused"), owed=True)
        made.put(claim("dropped", "third"))
        await recovered(made, slow_retry)
        found = await made.ask(claim("again"))
        assert found is not None
        assert (found.run_id, found.next, found.json_body) == ("ended", 0, b'["w"]')
        assert await made.ask(claim("new", "other")) is None
        assert await made.ask(lambda db: db.load("dropped", NOW)) is None


async def test_an_end_in_a_commit_that_failed_is_written_afterwards(
    path: Path, slow_retry: Callable[[], None]
) -> None:
    async with running(path) as made:
        await made.ask(claim("ended"))
        made.put(end("ended"), owed=True)
        await failing(made)
        await recovered(made, slow_retry)
        found = await made.ask(claim("again"))
        assert found is not None
        assert found.next == 0


async def test_an_end_that_was_owed_is_written_when_the_store_closes(
    path: Path, slow_retry: Callable[[], None]
) -> None:
    async with running(path) as made:
        await made.ask(claim("ended"))
        await failing(made)
        made.put(end("ended"), owed=True)
    async with running(path) as made:
        found = await made.ask(claim("again"))
        assert found is not None
        assert found.next == 0


async def test_a_claim_that_commits_after_its_time_gets_its_end(
    path: Path, slow_retry: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    free, begun = threading.Event(), threading.Event()

    def slow(db: Database) -> Stored | None:
        begun.set()
        free.wait(30)
        return claim("late")(db)

    async with running(path) as made:
        await made.ask(lambda _: True)  # the file is open: what follows is begun at once
        monkeypatch.setattr(store, "ANSWER_WITHIN", 1.0)
        assert await made.ask(slow) is None
        assert begun.is_set(), "it gave up before"
        assert "did not answer" in made.failure
        monkeypatch.setattr(store, "ANSWER_WITHIN", 30.0)
        made.put(end("late"), owed=True)
        free.set()
        await recovered(made, slow_retry)
        found = await made.ask(claim("again"))
        assert found is not None
        assert (found.run_id, found.next) == ("late", 0)


async def test_what_fails_for_another_reason_than_the_disk_is_not_tried_for_ever(
    path: Path, slow_retry: Callable[[], None]
) -> None:
    def broken(_: Database) -> None:
        raise ZeroDivisionError

    async with running(path) as made:
        made.put(broken, owed=True)
        assert await made.ask(claim("a")) is None
        await recovered(made, slow_retry)
        assert await made.ask(claim("b")) is None
        assert made.failure == ""


@pytest.mark.parametrize(("bound", "size"), [("MAX_OWED", 0), ("MAX_QUEUED", 100)])
async def test_what_is_owed_is_bounded(
    bound: str, size: int, path: Path, slow_retry: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(path) as made:
        await made.ask(claim("first", "1"))
        await made.ask(claim("second", "2"))
        await failing(made)
        monkeypatch.setattr(store, bound, max(size, 1))
        for run in ("first", "second"):
            made.put(end(run), size, owed=True)
        await recovered(made, slow_retry)
        found = [await made.ask(claim("again", value)) for value in "12"]
        assert [stored and stored.next for stored in found] == [0, None]


@pytest.mark.parametrize("name", ["runs.db", "runs.db-wal"])
def test_a_file_of_the_store_is_never_written_through_a_link(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    victim.chmod(0o644)
    (tmp_path / name).symlink_to(victim)
    with pytest.raises(OSError, match="link"):
        opened(tmp_path / "runs.db")
    assert (victim.read_text(), victim.stat().st_mode & 0o777) == ("mine", 0o644)
