"""The session store: whatever dies, is cancelled or collides, a stored state is whole and the newest."""

import asyncio
import contextlib
import errno
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from agentscope_worker.runtime import session_json
from agentscope_worker.runtime.session_json import JsonSessions, SessionStateError
from tests.worker.values import Value

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def sessions(tmp_path: Path) -> AsyncIterator[JsonSessions]:
    store = JsonSessions(tmp_path / "sessions", 2)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes that save a session over and over; all are killed after the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(session: str = "s", size: int = 20_000) -> subprocess.Popen[str]:
        module = "tests.worker.session_writer"
        command = [sys.executable, "-m", module, str(tmp_path / "sessions"), session, str(size)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "saving\n"
        return process

    yield begin
    for process in started:
        kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def files(store: JsonSessions, pattern: str) -> list[Path]:
    return sorted(store._directory.glob(pattern))


async def test_what_is_saved_is_loaded(sessions: JsonSessions) -> None:
    await sessions.save_session_state("s", value=Value({"a": [1, "ü"]}), other=Value(2))
    value = Value()
    stored = await sessions.load_session_state("s", value=value, missing=Value())
    assert value.value == {"a": [1, "ü"]}
    assert stored == {"value": {"value": {"a": [1, "ü"]}}, "other": {"value": 2}}


async def test_nothing_stored(sessions: JsonSessions) -> None:
    assert await sessions.load_session_state("s") is None
    with pytest.raises(ValueError, match="no state is stored for session 's'"):
        await sessions.load_session_state("s", allow_not_exist=False)


async def test_sessions_and_users_never_share_a_file(sessions: JsonSessions) -> None:
    names = [("c", "a_b"), ("b_c", "a"), ("a_b_c", ""), ("../c", "a_b"), ("ſ", ""), ("s", "")]
    for session, user in names:
        await sessions.save_session_state(session, user, value=Value([session, user]))
    for session, user in names:
        value = Value()
        await sessions.load_session_state(session, user, value=value)
        assert value.value == [session, user]
    assert len(files(sessions, "*.json")) == len(names)
    assert [path.name for path in sessions._directory.parent.iterdir()] == ["sessions"]


@pytest.mark.parametrize("bad", ["", "a" * 257, "a\0b", "a\nb", "\ud800"])
async def test_ids_that_are_refused(sessions: JsonSessions, bad: str) -> None:
    with pytest.raises(ValueError, match="session_id must"):
        await sessions.save_session_state(bad)
    with pytest.raises(ValueError, match="session_id must"):
        await sessions.load_session_state(bad)


async def test_ids_of_another_type(sessions: JsonSessions) -> None:
    with pytest.raises(TypeError, match="user_id must be a str, not NoneType"):
        await sessions.save_session_state("s", None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="session_id must be a str, not int"):
        await sessions.save_session_state(1)  # type: ignore[arg-type]


async def test_longest_id(sessions: JsonSessions) -> None:
    await sessions.save_session_state("ü" * 256, "ü" * 256, value=Value(1))
    assert await sessions.load_session_state("ü" * 256, "ü" * 256)


async def test_odd_strings_survive(sessions: JsonSessions) -> None:
    odd = ["\ud800", "\x00", 2**80, "😀"]
    await sessions.save_session_state("s", value=Value(odd))
    value = Value()
    await sessions.load_session_state("s", value=value)
    assert value.value == odd


async def test_a_state_that_is_not_json_is_refused_and_nothing_is_lost(
    sessions: JsonSessions,
) -> None:
    await sessions.save_session_state("s", value=Value(1))
    with pytest.raises(ValueError, match="not JSON"):
        await sessions.save_session_state("s", value=Value(object()))
    with pytest.raises(TypeError, match="has no state to save"):
        await sessions.save_session_state("s", value=object())
    assert await sessions.load_session_state("s") == {"value": {"value": 1}}


async def test_a_state_beyond_the_limit_is_refused(
    sessions: JsonSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_json, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="at most 1000"):
        await sessions.save_session_state("s", value=Value("x" * 1000))


async def test_pydantic_models_are_states(sessions: JsonSessions) -> None:
    class Profile(BaseModel):
        name: str = ""
        permission_context: str = "of the host"

    await sessions.save_session_state("s", p=Profile(name="Ann", permission_context="stored"))
    profile = Profile()
    await sessions.load_session_state("s", p=profile)
    assert (profile.name, profile.permission_context) == ("Ann", "of the host")


async def test_a_state_that_does_not_fit(sessions: JsonSessions) -> None:
    class Other(BaseModel):
        number: int

    await sessions.save_session_state("s", value=Value(1))
    with pytest.raises(ValueError, match="stored state of 'value' does not fit"):
        await sessions.load_session_state("s", value=Other(number=1))


async def test_another_major_is_told(sessions: JsonSessions) -> None:
    await sessions.save_session_state("s", value=Value(1))
    older = JsonSessions(sessions._directory, 1)
    with pytest.raises(SessionStateError, match=r"AgentScope 2\.x.*runs 1\.x"):
        await older.load_session_state("s")
    assert await sessions.load_session_state("s")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": 1}', b"\xff", b"[" * 100_000])
async def test_a_damaged_file_is_kept_aside(sessions: JsonSessions, content: bytes) -> None:
    await sessions.save_session_state("s", value=Value(1))
    (file,) = files(sessions, "*.json")
    file.write_bytes(content)
    with pytest.raises(SessionStateError, match="is damaged"):
        await sessions.load_session_state("s")
    (aside,) = files(sessions, "*.corrupt")
    assert aside.read_bytes() == content
    assert await sessions.load_session_state("s") is None


async def test_a_failed_save_raises_and_loses_nothing(
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


async def test_concurrent_saves_and_loads(sessions: JsonSessions) -> None:
    await sessions.save_session_state("s", value=Value([0] * 5000))

    async def save(number: int) -> None:
        await sessions.save_session_state("s", value=Value([number] * 5000))

    async def load() -> None:
        value = Value()
        await sessions.load_session_state("s", value=value)
        assert len(set(value.value)) == 1
        assert len(value.value) == 5000

    await asyncio.gather(*(each for n in range(1, 41) for each in (save(n), load(), load())))
    value = Value()
    await sessions.load_session_state("s", value=value)
    assert value.value[0] == 40
    assert files(sessions, ".tmp-*") == []


async def test_a_cancelled_save_completes_before_the_next_load(
    sessions: JsonSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = session_json._write

    def slow(*arguments: Any) -> None:
        time.sleep(0.1)
        write(*arguments)

    monkeypatch.setattr(session_json, "_write", slow)
    save = asyncio.create_task(sessions.save_session_state("s", value=Value("new")))
    await asyncio.sleep(0)
    save.cancel()
    with pytest.raises(asyncio.CancelledError):
        await save
    assert await sessions.load_session_state("s") == {"value": {"value": "new"}}


async def test_a_cancelled_save_never_overtakes_a_newer_one(sessions: JsonSessions) -> None:
    chance = random.Random(1)
    for number in range(60):
        old = asyncio.create_task(sessions.save_session_state("s", value=Value(-number)))
        await asyncio.sleep(chance.random() * 0.002)
        old.cancel()
        await sessions.save_session_state("s", value=Value(number))
        with contextlib.suppress(asyncio.CancelledError):
            await old
        assert await sessions.load_session_state("s") == {"value": {"value": number}}


async def test_a_cancelled_save_that_fails_is_logged(
    sessions: JsonSessions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError("no")

    monkeypatch.setattr(session_json, "_write", fail)
    save = asyncio.create_task(sessions.save_session_state("s", value=Value(1)))
    await asyncio.sleep(0)
    save.cancel()
    with pytest.raises(asyncio.CancelledError):
        await save
    await sessions.close()
    await asyncio.sleep(0)
    assert "save of a cancelled turn failed" in caplog.text


async def test_anothers_lock_is_waited_for_but_not_for_ever(sessions: JsonSessions) -> None:
    place = sessions._place("s", "")
    with (
        session_json._locked(place.lock),
        pytest.raises(TimeoutError, match="held by another"),
        session_json._locked(place.lock, wait=0.02),
    ):
        raise AssertionError("two hold one lock")


async def test_two_processes_on_one_session(sessions: JsonSessions, writer: Callable[..., Any]) -> None:
    writers = [writer(), writer()]
    for number in range(60):
        stored = await sessions.load_session_state("s")
        assert stored is not None
        assert len(set(stored["value"]["value"])) == 1
        if number % 10 == 0:
            await sessions.save_session_state("s", value=Value([-1] * 10))
    assert all(process.poll() is None for process in writers)
    assert files(sessions, "*.corrupt") == []


async def test_sigkill_during_saves_tears_nothing(sessions: JsonSessions, writer: Callable[..., Any]) -> None:
    chance = random.Random(2)
    for _ in range(6):
        process = writer()
        await asyncio.sleep(chance.random() * 0.05)
        kill(process)
        stored = await sessions.load_session_state("s")
        assert stored is not None
        values = stored["value"]["value"]
        assert len(values) == 20_000
        assert len(set(values)) == 1
    assert files(sessions, "*.corrupt") == []
    await sessions.open()
    assert files(sessions, ".tmp-*") == []


async def test_the_sweep_leaves_the_files_of_running_saves(sessions: JsonSessions) -> None:
    place = sessions._place("s", "")
    stripe = place.lock.name.removeprefix(".lock-")
    running = sessions._directory / f".tmp-{stripe}-running"
    running.touch()
    with session_json._locked(place.lock):
        await sessions.open()
        assert running.exists()
    await sessions.open()
    assert not running.exists()


async def test_the_file_says_what_it_is(sessions: JsonSessions) -> None:
    await sessions.save_session_state("s", "u", value=Value(1))
    (file,) = files(sessions, "*.json")
    document = json.loads(file.read_bytes())
    assert document.pop("state") == {"value": {"value": 1}}
    assert document == {
        "format": "agentscope-supervisor session",
        "version": 1,
        "agentscope": 2,
        "session_id": "s",
        "user_id": "u",
    }
    assert file.stat().st_mode & 0o077 == 0
