"""Apps that keep sessions in memory while another process saves them, on each medium: no update is lost
without an error."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentscope_worker.runtime.sessions import seen_saves
from agentscope_worker.runtime.sessions.seen_saves import SeenSaves
from agentscope_worker.runtime.sessions.store import SessionStateError, SessionStore
from agentscope_worker.runtime.sessions.stored_form import Stamp
from tests.worker.session_contract import Medium, OneTurn
from tests.worker.values import Value

OUTDATED = "was not saved: another process has saved it since this process last loaded or saved it"


@pytest.fixture
async def theirs(medium: Medium) -> AsyncIterator[SessionStore]:
    """The store of a worker of another instance."""
    store = medium.store()
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def told(sessions: SessionStore) -> list[tuple[str, str]]:
    """The sessions and runs with which `on_stale` was called."""
    calls: list[tuple[str, str]] = []

    async def note(session: str, run: str) -> None:
        calls.append((session, run))

    sessions.on_stale = note
    return calls


async def turn(store: SessionStore, value: Any, *, load: bool = False) -> Any:
    """A turn that saves `value`; returns what was stored before, if it loads it."""
    one = OneTurn(store)
    try:
        before = await one.load() if load else None
        await one.save(value)
    finally:
        one.end()
        await store._claims.close()
    return before


async def test_two_instances_on_one_store_lose_no_turn(
    sessions: SessionStore, theirs: SessionStore, told: list[tuple[str, str]]
) -> None:
    """Both keep the session in memory, and a balancer sends turn 3 to the other instance."""
    assert await turn(sessions, "one", load=True) is None
    await turn(sessions, "one,two")
    assert await turn(theirs, "one,two,three", load=True) == "one,two"
    for attempt in (1, 2):
        with pytest.raises(SessionStateError, match=OUTDATED):
            await turn(sessions, "one,two,four")
        assert told == [("s", "run")] * attempt
    assert await turn(sessions, "one,two,three,four", load=True) == "one,two,three"
    with pytest.raises(SessionStateError, match=OUTDATED):
        await turn(theirs, "one,two,three,five")


async def test_a_process_that_stops_does_not_save_outdated_memory(
    sessions: SessionStore, theirs: SessionStore, told: list[tuple[str, str]]
) -> None:
    """`on_shutdown` and background tasks save outside of the session's turns."""
    await turn(sessions, "ours", load=True)
    await sessions.save_session_state("s", value=Value("ours at rest"))
    await turn(sessions, "ours again")
    await turn(theirs, "theirs", load=True)
    with pytest.raises(SessionStateError, match=OUTDATED):
        await sessions.save_session_state("s", value=Value("ours at the end"))
    assert told == [("s", "")]
    assert await theirs.load_session_state("s") == {"value": {"value": "theirs"}}


async def test_other_code_may_replace_the_state_that_it_has_loaded(
    sessions: SessionStore, theirs: SessionStore
) -> None:
    await turn(sessions, "ours", load=True)
    await turn(theirs, "theirs", load=True)
    assert await sessions.load_session_state("s") == {"value": {"value": "theirs"}}
    for each in ("a summary", "another summary"):
        await sessions.save_session_state("s", value=Value(each))
    with pytest.raises(SessionStateError, match=OUTDATED):
        await turn(sessions, "from the memory of the turns")
    assert await turn(sessions, "new", load=True) == "another summary"


async def test_a_save_whose_result_was_lost_does_not_make_the_memory_outdated(
    sessions: SessionStore, told: list[tuple[str, str]]
) -> None:
    await turn(sessions, "one", load=True)
    write = sessions._write

    async def broken(*arguments: Any) -> int:
        await write(*arguments)
        raise ConnectionError("lost")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "_write", broken)
        with pytest.raises(ConnectionError):
            await turn(sessions, "one,two")
    await turn(sessions, "one,two,three")
    assert not told


async def test_a_conversation_that_was_begun_anew_is_not_overwritten(
    sessions: SessionStore, theirs: SessionStore
) -> None:
    """The numbers of saves continue after a deletion, and after a store has lost its data."""
    for number in range(3):
        await turn(sessions, number, load=True)
    assert await theirs.delete_session_state("s") is True
    await turn(theirs, "new", load=True)
    with pytest.raises(SessionStateError, match=OUTDATED):
        await turn(sessions, "old")


async def test_a_load_that_fails_leaves_the_memory_outdated(
    sessions: SessionStore, theirs: SessionStore
) -> None:
    await turn(sessions, "ours", load=True)
    await turn(theirs, "theirs", load=True)

    class Other(Value):
        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise KeyError("of another version")

    one = OneTurn(sessions)
    with pytest.raises(ValueError, match="does not fit"):
        await one.start(sessions.load_session_state("s", value=Other()))
    one.end()
    with pytest.raises(SessionStateError, match=OUTDATED):
        await turn(sessions, "ours again")


async def test_the_app_is_told_after_the_turn_was_cancelled(
    sessions: SessionStore, theirs: SessionStore, told: list[tuple[str, str]]
) -> None:
    await turn(sessions, "ours", load=True)
    await turn(theirs, "theirs", load=True)
    one = OneTurn(sessions)
    saving = one.start(sessions.save_session_state("s", value=Value("ours again")))
    await asyncio.sleep(0)
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    one.end()
    await sessions.close()
    assert told == [("s", "run")]


async def test_the_hook_may_load_and_save_the_session(sessions: SessionStore, theirs: SessionStore) -> None:
    await turn(sessions, "ours", load=True)
    await turn(theirs, "theirs", load=True)
    found: list[Any] = []

    async def reload(session: str, run: str) -> None:
        with pytest.raises(SessionStateError, match=OUTDATED):
            await sessions.save_session_state(session, value=Value("ours, from the hook"))
        found.append(await sessions.load_session_state(session))

    sessions.on_stale = reload
    with pytest.raises(SessionStateError, match=OUTDATED):
        await turn(sessions, "ours again")
    assert found == [{"value": {"value": "theirs"}}]
    await turn(sessions, "after the load")


def test_the_number_of_remembered_sessions_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_saves, "MAX_SESSIONS", 2)
    seen = SeenSaves("us", "other")
    for name in "abac":
        seen.of_turn(name, 1)
    assert [seen.may_replace(name)(Stamp(2, "them")) for name in "abc"] == [False, True, False]
