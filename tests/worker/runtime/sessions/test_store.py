"""The contract of the session store, on each medium: a stored state is complete and the newest, despite
crashes, cancellations and conflicts. For the tests of one medium see test_json_store and test_redis_store."""

import asyncio
import contextlib
import errno
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from agentscope_worker.runtime.sessions import redis_connections, stored_form
from agentscope_worker.runtime.sessions.store import SessionStateError, SessionStore
from tests.worker.session_contract import Medium, refuse_writes, slow_down
from tests.worker.values import Value

ROOT = Path(__file__).parents[4]

Writer = Callable[..., subprocess.Popen[str]]

_ITEMS = 2000  # items of the state that is saved repeatedly: 4 KB


@pytest.fixture
def writer(medium: Medium) -> Iterator[Writer]:
    """Starts processes that save a session repeatedly; all are killed after the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(session: str = "s", size: int = 20_000) -> subprocess.Popen[str]:
        module = "tests.worker.session_writer"
        command = [sys.executable, "-m", module, medium.kind, medium.where, session, str(size)]
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


async def test_a_saved_state_is_loaded(sessions: SessionStore) -> None:
    await sessions.save_session_state("s", value=Value({"a": [1, "ü"]}), other=Value(2))
    value = Value()
    stored = await sessions.load_session_state("s", value=value, missing=Value())
    assert value.value == {"a": [1, "ü"]}
    assert stored == {"value": {"value": {"a": [1, "ü"]}}, "other": {"value": 2}}


async def test_a_load_without_a_stored_state_returns_none_or_raises(sessions: SessionStore) -> None:
    assert await sessions.load_session_state("s") is None
    with pytest.raises(ValueError, match="no state is stored for session 's'"):
        await sessions.load_session_state("s", allow_not_exist=False)


async def test_a_deletion_removes_only_its_state(sessions: SessionStore, medium: Medium) -> None:
    for session, user in (("s", ""), ("s", "ann"), ("t", "")):
        await sessions.save_session_state(session, user, value=Value([session, user]))
    assert await sessions.delete_session_state("s", "ann") is True
    assert await sessions.delete_session_state("s", "ann") is False
    assert await sessions.load_session_state("s", "ann") is None
    assert await sessions.load_session_state("s") is not None
    assert await sessions.delete_session_state("t") is True
    assert len(await medium.contents()) == 1
    assert await medium.leftovers() == []
    with pytest.raises(ValueError, match="session_id"):
        await sessions.delete_session_state("")


async def test_a_deletion_waits_for_a_running_save(sessions: SessionStore) -> None:
    slow_down(sessions, 0.2)
    saving = asyncio.create_task(sessions.save_session_state("s", value=Value(1)))
    await asyncio.sleep(0)
    saving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await saving
    assert await sessions.delete_session_state("s") is True
    assert await sessions.load_session_state("s") is None


async def test_sessions_and_users_never_share_a_state(
    sessions: SessionStore, medium: Medium, tmp_path: Path
) -> None:
    names = [("c", "a_b"), ("b_c", "a"), ("a_b_c", ""), ("../c", "a_b"), ("ſ", ""), ("s", "")]
    for session, user in names:
        await sessions.save_session_state(session, user, value=Value([session, user]))
    for session, user in names:
        value = Value()
        await sessions.load_session_state(session, user, value=value)
        assert value.value == [session, user]
    assert len(await medium.contents()) == len(names)
    assert await medium.leftovers() == []
    assert set(os.listdir(tmp_path)) <= {"sessions"}


@pytest.mark.parametrize("bad", ["", "a" * 257, "a\0b", "a\nb", "\ud800"])
async def test_invalid_ids_are_rejected(sessions: SessionStore, bad: str) -> None:
    with pytest.raises(ValueError, match="session_id must"):
        await sessions.save_session_state(bad)
    with pytest.raises(ValueError, match="session_id must"):
        await sessions.load_session_state(bad)


async def test_ids_of_another_type_are_rejected(sessions: SessionStore) -> None:
    with pytest.raises(TypeError, match="user_id must be a str, not NoneType"):
        await sessions.save_session_state("s", None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="session_id must be a str, not int"):
        await sessions.save_session_state(1)  # type: ignore[arg-type]


async def test_an_id_of_the_maximum_length_is_accepted(sessions: SessionStore) -> None:
    await sessions.save_session_state("ü" * 256, "ü" * 256, value=Value(1))
    assert await sessions.load_session_state("ü" * 256, "ü" * 256)


async def test_unusual_strings_survive(sessions: SessionStore) -> None:
    odd = ["\ud800", "\x00", 2**80, "😀"]
    await sessions.save_session_state("s", value=Value(odd))
    value = Value()
    await sessions.load_session_state("s", value=value)
    assert value.value == odd


async def test_a_state_that_is_not_json_is_rejected_and_the_stored_one_kept(
    sessions: SessionStore,
) -> None:
    await sessions.save_session_state("s", value=Value(1))
    with pytest.raises(ValueError, match="not JSON"):
        await sessions.save_session_state("s", value=Value(object()))
    with pytest.raises(TypeError, match="has no state to save"):
        await sessions.save_session_state("s", value=object())
    assert await sessions.load_session_state("s") == {"value": {"value": 1}}


async def test_a_state_over_the_size_limit_is_rejected(
    sessions: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_form, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="limit is 1000"):
        await sessions.save_session_state("s", value=Value("x" * 1000))


async def test_pydantic_models_are_states(sessions: SessionStore) -> None:
    class Profile(BaseModel):
        name: str = ""
        permission_context: str = "of the host"

    await sessions.save_session_state("s", p=Profile(name="Ann", permission_context="stored"))
    profile = Profile()
    await sessions.load_session_state("s", p=profile)
    assert (profile.name, profile.permission_context) == ("Ann", "of the host")


async def test_a_state_that_does_not_fit_raises(sessions: SessionStore) -> None:
    class Other(BaseModel):
        number: int

    await sessions.save_session_state("s", value=Value(1))
    with pytest.raises(ValueError, match="stored state of 'value' does not fit"):
        await sessions.load_session_state("s", value=Other(number=1))


async def test_a_state_of_another_major_is_reported(sessions: SessionStore, medium: Medium) -> None:
    await sessions.save_session_state("s", value=Value(1))
    older = medium.store(1)
    with pytest.raises(SessionStateError, match=r"AgentScope 2\.x.*runs 1\.x"):
        await older.load_session_state("s")
    await older.close()
    assert await sessions.load_session_state("s")


async def test_a_state_of_another_format_is_reported(sessions: SessionStore, medium: Medium) -> None:
    await sessions.save_session_state("s", value=Value(1))
    (content,) = await medium.contents()
    await medium.spoil(content.replace(b'"version":1', b'"version":2'))
    with pytest.raises(SessionStateError, match=r"format 2.*format 1.*cannot read it"):
        await sessions.load_session_state("s")
    assert await medium.aside() == []


async def test_the_stored_form_describes_itself(sessions: SessionStore, medium: Medium) -> None:
    await sessions.save_session_state("s", "u", value=Value(1))
    (content,) = await medium.contents()
    stamp = stored_form.stamp_of(content)
    assert json.loads(content) == {
        "save": stamp.number,
        "by": stamp.by,
        "format": "agentscope-supervisor session",
        "version": 1,
        "agentscope": 2,
        "session_id": "s",
        "user_id": "u",
        "state": {"value": {"value": 1}},
    }


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": 1}', b"\xff", b"[" * 100_000])
@pytest.mark.fault("F74")
async def test_a_damaged_state_is_moved_aside(sessions: SessionStore, medium: Medium, content: bytes) -> None:
    await sessions.save_session_state("s", value=Value(1))
    await medium.spoil(content)
    with pytest.raises(SessionStateError, match=r"is damaged .*moved to .*corrupt"):
        await sessions.load_session_state("s")
    assert await medium.aside() == [content]
    assert await sessions.load_session_state("s") is None
    await sessions.save_session_state("s", value=Value(2))
    assert await sessions.load_session_state("s") == {"value": {"value": 2}}


async def test_a_state_replaced_by_a_valid_one_is_not_moved_aside(
    sessions: SessionStore, medium: Medium, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sessions.save_session_state("s", value=Value(1))
    (whole,) = await medium.contents()
    await medium.spoil(b"{")
    set_aside = sessions._set_aside

    async def overtaken(key: Any, damaged: bytes) -> str | None:
        await medium.spoil(whole)
        return await set_aside(key, damaged)

    monkeypatch.setattr(sessions, "_set_aside", overtaken)
    assert await sessions.load_session_state("s") == {"value": {"value": 1}}
    assert await medium.aside() == []


@pytest.mark.fault("F73")
async def test_a_failed_save_raises_and_keeps_the_stored_state(
    sessions: SessionStore, medium: Medium
) -> None:
    await sessions.save_session_state("s", value=Value(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "_write", sessions._write)
        refuse_writes(sessions, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(OSError, match="No space left"):
            await sessions.save_session_state("s", value=Value(2))
    assert await sessions.load_session_state("s") == {"value": {"value": 1}}
    assert await medium.leftovers() == []


async def test_concurrent_saves_and_loads_are_consistent(sessions: SessionStore, medium: Medium) -> None:
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
    assert await medium.leftovers() == []


async def test_a_cancelled_save_completes_before_the_next_load(sessions: SessionStore) -> None:
    slow_down(sessions, 0.1)
    save = asyncio.create_task(sessions.save_session_state("s", value=Value("new")))
    await asyncio.sleep(0)
    save.cancel()
    with pytest.raises(asyncio.CancelledError):
        await save
    assert await sessions.load_session_state("s") == {"value": {"value": "new"}}


async def test_a_cancelled_save_never_overtakes_a_newer_one(sessions: SessionStore) -> None:
    chance = random.Random(1)
    for number in range(60):
        old = asyncio.create_task(sessions.save_session_state("s", value=Value(-number)))
        await asyncio.sleep(chance.random() * 0.002)
        old.cancel()
        await sessions.save_session_state("s", value=Value(number))
        with contextlib.suppress(asyncio.CancelledError):
            await old
        assert await sessions.load_session_state("s") == {"value": {"value": number}}


async def test_a_failed_save_of_a_cancelled_turn_is_logged(
    sessions: SessionStore, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_writes(sessions, OSError("no"))
    save = asyncio.create_task(sessions.save_session_state("s", value=Value(1)))
    await asyncio.sleep(0)
    save.cancel()
    with pytest.raises(asyncio.CancelledError):
        await save
    await sessions.close()
    await asyncio.sleep(0)
    assert "save of a cancelled turn failed" in caplog.text


async def test_two_processes_on_one_session_never_mix_states(
    sessions: SessionStore, medium: Medium, writer: Writer
) -> None:
    writers = [writer(), writer()]
    for number in range(60):
        stored = await sessions.load_session_state("s")
        assert stored is not None
        assert len(set(stored["value"]["value"])) == 1
        if number % 10 == 0:
            await sessions.save_session_state("s", value=Value([-1] * 10))
    assert all(process.poll() is None for process in writers)
    assert await medium.aside() == []


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generous timeouts for a busy machine: the stress test checks the stored states, not the time."""
    for bound in ("CONNECT_TIMEOUT", "RESPONSE_TIMEOUT", "OPERATION_TIMEOUT"):
        monkeypatch.setattr(redis_connections, bound, 60.0)


@pytest.mark.usefixtures("patient")
@pytest.mark.fault("F33")
async def test_the_store_survives_kills_under_load(
    sessions: SessionStore, medium: Medium, writer: Writer
) -> None:
    """60 concurrent saves, 200 loads and a SIGKILL, repeated 15 times: no state is torn, no load fails."""
    chance = random.Random(2)
    found: Counter[str] = Counter()
    await sessions.save_session_state("s", value=Value([0] * _ITEMS))

    async def save(number: int) -> None:
        await asyncio.sleep(chance.random() * 0.3)
        await sessions.save_session_state("s", value=Value([number] * _ITEMS))
        found["saved"] += 1

    async def load() -> None:
        await asyncio.sleep(chance.random() * 0.3)
        try:
            stored = await sessions.load_session_state("s")
        except Exception as error:  # any error is counted, and its type is shown
            found[f"failed load: {error!r}"] += 1
            return
        values = stored["value"]["value"] if stored else []
        found["loaded" if len(values) == _ITEMS and len(set(values)) == 1 else "torn"] += 1

    async def kill_one() -> None:
        process = await asyncio.to_thread(writer, size=_ITEMS)
        await asyncio.sleep(chance.random() * 0.05)
        await asyncio.to_thread(kill, process)
        found["killed"] += 1

    for _ in range(15):
        await asyncio.gather(kill_one(), *(save(n) for n in range(60)), *(load() for _ in range(200)))
    assert found == {"saved": 15 * 60, "loaded": 15 * 200, "killed": 15}
    assert await medium.aside() == []
    await sessions.open()  # removes the files of killed saves
    assert await medium.leftovers() == []
