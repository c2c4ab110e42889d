"""The JSON store: its directory, its locks, and a full disk."""

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentscope_supervisor.project.archive_rules import is_session, why_not
from agentscope_worker.runtime.sessions import json_store
from agentscope_worker.runtime.sessions.json_store import JsonSessions
from agentscope_worker.runtime.sessions.keys import key_of
from tests.worker.values import Value


@pytest.fixture
async def sessions(tmp_path: Path) -> AsyncIterator[JsonSessions]:
    store = JsonSessions(tmp_path / "sessions", 2)
    await store.open()
    yield store
    await store.close()


def files(store: JsonSessions, pattern: str) -> list[Path]:
    return sorted(store._directory.glob(pattern))


@pytest.mark.fault("F73")
async def test_a_full_disk_keeps_the_stored_state(
    sessions: JsonSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sessions.save_session_state("s", value=Value(1))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            await sessions.save_session_state("s", value=Value(2))
    assert await sessions.load_session_state("s") == {"value": {"value": 1}}
    assert files(sessions, ".tmp-*") == []


async def test_pack_recognises_the_files_of_sessions(sessions: JsonSessions) -> None:
    """Also if they are in a folder that is no longer `save_dir`."""
    await sessions.save_session_state("s", value=Value(1))
    await sessions.save_session_state("s2", value=Value(2**80))
    assert all(is_session(file.read_bytes()) for file in files(sessions, "*.json"))
    assert {why_not(file.name, folder=False) for file in files(sessions, ".lock-*")} == {"sessions"}


async def test_a_save_waits_for_a_lock_of_another_process_up_to_a_timeout(sessions: JsonSessions) -> None:
    lock = sessions._lock(key_of("s", ""))
    with (
        json_store._locked(lock),
        pytest.raises(TimeoutError, match="held by another"),
        json_store._locked(lock, wait=0.02),
    ):
        raise AssertionError("two hold one lock")


def test_a_process_that_is_forked_beside_a_save_does_not_keep_its_lock(tmp_path: Path) -> None:
    lock, (reader, writer) = tmp_path / "lock", os.pipe()
    with json_store._locked(lock):
        child = os.fork()
        if not child:
            os.close(writer)
            os.read(reader, 1)  # until the end of the test
            os._exit(0)
    try:
        with json_store._locked(lock, wait=0):
            pass
    finally:
        os.close(writer)
        os.close(reader)
        os.waitpid(child, 0)


async def test_the_cleanup_keeps_the_files_of_running_saves(sessions: JsonSessions) -> None:
    lock = sessions._lock(key_of("s", ""))
    stripe = lock.name.removeprefix(".lock-")
    running = sessions._directory / f".tmp-{stripe}-running"
    running.touch()
    with json_store._locked(lock):
        await sessions.open()
        assert running.exists()
    await sessions.open()
    assert not running.exists()


async def test_files_are_readable_only_by_their_owner(sessions: JsonSessions) -> None:
    await sessions.save_session_state("s", value=Value(1))
    (file,) = files(sessions, "*.json")
    assert file.stat().st_mode & 0o077 == 0
