"""`App.on_session_idle`: when it is called, and that it can do nothing to the turns of its session."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.harness import projects
from tests.harness.client import Stream, call, invoke, new_session, session_in, stop, texts
from tests.harness.instance import Instance
from tests.harness.projects import journal
from tests.harness.waiting import eventually

WITHIN: Final = 30.0  # seconds for what takes one or two
ROLLED_WITHIN: Final = 60.0
SOON: Final = {"idle_after": 0.5}
SOAK: Final[dict[str, Any]] = {"soak": 0.1, "drain_timeout": 20, "stop_timeout": 5}

StartTold = Callable[..., Instance]


@pytest.fixture
def start_told(tmp_path: Path, new_instance: Callable[..., Instance]) -> StartTold:
    """Starts an instance of the App that wants to be told."""

    def start(*, workers: int = 1, **sections: Any) -> Instance:
        return new_instance(projects.told(tmp_path / "told", **sections), workers=workers).start()

    return start


def told(instance: Instance, word: str = "end", session: str | None = None) -> list[dict[str, Any]]:
    """What the App was told and has come to this word with, of one session or of all."""
    lines = journal(instance.project / "left.jsonl")
    return [line for line in lines if line["word"] == word and session in (None, line["session"])]


async def is_told(instance: Instance, session: str, times: int = 1, word: str = "end") -> None:
    found = f"{session} is told of: {word}"
    await eventually(lambda: len(told(instance, word, session)) == times, WITHIN, found)


async def pid_of(instance: Instance, session: str, **more: Any) -> int:
    """The worker in which a turn of this session runs."""
    return int((await texts(instance.port, session, [{"pid": 1}], **more))[0])


async def test_a_session_without_a_turn_is_told_once(start_told: StartTold) -> None:
    instance = start_told(sessions=SOON)
    session, metadata = new_session(), {"user_id": "ann"}
    pid = await pid_of(instance, session, metadata=metadata)
    await is_told(instance, session)
    (line,) = told(instance)
    assert (line["pid"], line["metadata"]) == (pid, metadata), "of its last turn"
    other = new_session()
    await invoke(instance.port, other, "x")
    await is_told(instance, other)
    assert len(told(instance)) == 2, "and not again while nothing happens"
    await invoke(instance.port, session, "x")
    await is_told(instance, session, times=2)
    assert instance.health()["turns"]["accepted"] == 3, "they are no turns of clients"


async def test_a_session_with_a_turn_is_not_idle(start_told: StartTold, tmp_path: Path) -> None:
    instance = start_told(sessions=SOON)
    session, other, go = new_session(), new_session(), tmp_path / "go"
    async with Stream(instance.port, session, [{"say": "x"}, {"wait_for": str(go)}]) as stream:
        await stream.until(events=1)
        for times in (1, 2):
            await invoke(instance.port, other, "x")
            await is_told(instance, other, times)
        assert told(instance, "begin", session) == []
        go.touch()
        await stream.whole()
    await is_told(instance, session)


async def test_a_message_waits_until_the_app_was_told(start_told: StartTold, tmp_path: Path) -> None:
    instance = start_told(sessions=SOON | {"on_busy": "reject"})
    session, go = new_session(), tmp_path / "go"
    await invoke(instance.port, session, "x", metadata={"leaving": [{"wait_for": str(go)}, {"count": 1}]})
    await is_told(instance, session, word="begin")
    async with Stream(instance.port, session, [{"recall": 1}]) as stream:
        await stream.until(comments=1)
        assert await stop(instance.port, session_id=new_session()) == 0
        assert told(instance, "end") == []
        go.touch()
        events = await stream.whole()
    assert [event.text for event in events] == ["1"], "it sees what was saved"


async def test_stop_ends_what_waits_and_not_the_hook(start_told: StartTold, tmp_path: Path) -> None:
    instance = start_told(sessions=SOON)
    session, go = new_session(), tmp_path / "go"
    await invoke(instance.port, session, "x", metadata={"leaving": [{"wait_for": str(go)}]})
    await is_told(instance, session, word="begin")
    async with Stream(instance.port, session, "y") as stream:
        await stream.until(comments=1)
        assert await stop(instance.port, session_id=session) == 1
        await stream.whole("INTERRUPTED")
    go.touch()
    await is_told(instance, session)


@pytest.mark.parametrize("step", [{"raise": "no"}, {"raise": "no", "kind": "SystemExit"}])
async def test_what_the_hook_raises_harms_nothing(start_told: StartTold, step: dict[str, Any]) -> None:
    instance = start_told(sessions=SOON)
    session = new_session()
    pid = await pid_of(instance, session, metadata={"leaving": [step]})
    await is_told(instance, session)
    assert await pid_of(instance, session) == pid
    await eventually(lambda: "on_session_idle" in instance.log, WITHIN, "it is in the log")


async def test_a_hook_that_kills_its_worker_blames_no_message(start_told: StartTold) -> None:
    """Three deaths would have poisoned the session."""
    instance = start_told(sessions=SOON)
    session = new_session()
    for generation in range(2, 6):
        answer = await invoke(instance.port, session, "x", metadata={"leaving": [{"exit": 1}]})
        assert answer.status == 200, answer.body
        await eventually(lambda g=generation: instance.generations() == [g], WITHIN, "it is replaced")
    assert (await invoke(instance.port, session, "x")).status == 200


@pytest.mark.timeout(150)
async def test_a_hook_that_hangs_is_cancelled(start_told: StartTold) -> None:
    instance = start_told(sessions=SOON)
    session = new_session()
    pid = await pid_of(instance, session, metadata={"leaving": [{"sleep": 600}]})
    await is_told(instance, session, word="begin")
    async with Stream(instance.port, session, [{"pid": 1}]) as stream:
        events = await stream.whole(within=60)
    assert [event.text for event in events] == [str(pid)], "after the time that the hook may take"
    assert len(told(instance, "cancelled", session)) == 1
    await eventually(lambda: "App.on_session_idle failed" in instance.log, WITHIN, "the log says so")


@pytest.mark.timeout(150)
async def test_before_a_session_moves_its_old_process_is_told(start_told: StartTold) -> None:
    """With and without a message that waits for it; each new process finds what the old one saved."""
    instance = start_told(workers=2, supervisor=SOAK)
    quiet = [await session_in(instance.port, slot) for slot in (0, 1) for _ in range(10)]
    busy = [await session_in(instance.port, slot) for slot in (0, 1)]
    leaving = {"leaving": [{"count": 1}]}
    pids = {session: await pid_of(instance, session, metadata=leaving) for session in quiet + busy}
    instance.signal(signal.SIGHUP)
    saved = {session: 0 for session in busy}
    while instance.generations() != [2, 2] or len(told(instance)) < len(pids):
        for session in busy:
            (count,) = await texts(instance.port, session, [{"recall": 1}], metadata=leaving)
            assert saved[session] <= int(count) <= 1, "each process was told before it was left"
            saved[session] = int(count)
    await eventually(lambda: instance.generations() == [2, 2], ROLLED_WITHIN, "rolled")
    for session in quiet + busy:
        (line,) = told(instance, "end", session)
        assert line["pid"] == pids[session]
        assert await texts(instance.port, session, [{"recall": 1}], metadata=leaving) == ["1"]
    assert "App.on_session_idle failed" not in instance.log


@pytest.mark.timeout(150)
async def test_scaling_moves_sessions_one_by_one(start_told: StartTold) -> None:
    instance = start_told(workers=1, supervisor=SOAK)
    sessions = [new_session() for _ in range(20)]
    leaving = {"leaving": [{"count": 1}]}
    pids = {session: await pid_of(instance, session, metadata=leaving) for session in sessions}
    instance.signal(signal.SIGTTIN)
    await eventually(lambda: len(instance.ready_workers()) == 2, ROLLED_WITHIN, "there is a second slot")
    moved = [session for session in sessions if await pid_of(instance, session) != pids[session]]
    assert moved
    assert sorted(line["session"] for line in told(instance)) == sorted(moved), "and only these"
    instance.signal(signal.SIGTTOU)
    await eventually(lambda: len(instance.workers()) == 1, ROLLED_WITHIN, "the second slot is gone")
    lines = [line["session"] for line in told(instance)]
    assert sorted(lines) == sorted(moved * 2), "the process that goes is told of all that it has"


async def test_a_deleted_session_leaves_the_memory_first(start_told: StartTold) -> None:
    instance = start_told()
    session = new_session()
    await invoke(instance.port, session, "x", metadata={"leaving": [{"count": 1}]})
    answer = await call(instance.port, "DELETE", f"/sessions/{session}")
    assert answer.status == 204
    assert len(told(instance, "end", session)) == 1
    assert await texts(instance.port, session, [{"recall": 1}]) == ["0"], "what it saved is deleted too"


async def test_the_end_of_the_instance_is_no_move(start_told: StartTold) -> None:
    instance = start_told(supervisor=SOAK)
    await invoke(instance.port, new_session(), "x", metadata={"leaving": [{"sleep": 600}]})
    assert instance.stop() == 0
    assert told(instance, "begin") == []


async def test_a_stop_during_a_rollout_does_not_wait_for_all_to_be_told(start_told: StartTold) -> None:
    instance = start_told(supervisor=SOAK | {"drain_timeout": 5})
    sessions = [new_session() for _ in range(40)]
    metadata = {"leaving": [{"sleep": 600}]}
    await asyncio.gather(*(invoke(instance.port, session, "x", metadata=metadata) for session in sessions))
    instance.signal(signal.SIGHUP)
    await eventually(lambda: len(told(instance, "begin")) > 30, ROLLED_WITHIN, "they are being told")
    assert instance.stop(within=40) == 0
    assert len(told(instance, "begin")) < len(sessions)


async def test_a_reload_brings_another_time(start_told: StartTold) -> None:
    instance = start_told(sessions={"idle_after": 600}, supervisor=SOAK)
    projects.configure(instance.project, sessions=SOON, supervisor=SOAK)
    os.kill(instance.pid, signal.SIGHUP)
    await eventually(lambda: instance.generations() == [2], ROLLED_WITHIN, "rolled")
    await eventually(lambda: "rollout done" in instance.log, ROLLED_WITHIN, "and over")
    session = new_session()
    await invoke(instance.port, session, "x")
    await is_told(instance, session)
    assert "need a restart" not in instance.log
