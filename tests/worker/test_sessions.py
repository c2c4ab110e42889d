"""The work for sessions between their turns, with an App and a store in memory."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentscope_protocol.wire.frames import StreamKind
from agentscope_worker import sessions as sessions_module
from agentscope_worker.runtime import AgentApp, SessionContext
from agentscope_worker.runtime.sessions import claims as session_claims
from agentscope_worker.runtime.sessions.json_store import JsonSessions
from agentscope_worker.runtime.sessions.store import SessionStateError
from agentscope_worker.sessions import Sessions
from tests.worker.values import Value


def no_replacement(reason: str) -> None:
    raise AssertionError(f"the worker may not be replaced: {reason}")


class Plain(AgentApp):
    async def __call__(self, msg: Any, ctx: SessionContext) -> AsyncIterator[Any]:
        yield msg


class Told(Plain):
    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.left: list[SessionContext] = []

    async def on_session_idle(self, ctx: SessionContext) -> None:
        self.left.append(ctx)
        if self.error is not None:
            raise self.error


class Stale(Plain):
    """An App that keeps sessions in memory."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.dropped: list[SessionContext] = []

    async def on_session_stale(self, ctx: SessionContext) -> None:
        self.dropped.append(ctx)
        if self.error is not None:
            raise self.error


@pytest.fixture
async def store(tmp_path: Path) -> JsonSessions:
    made = JsonSessions(tmp_path / "sessions", 2)
    await made.open()
    return made


async def test_only_an_app_with_the_hook_accepts_idle_streams(store: JsonSessions) -> None:
    assert Sessions(Told(), store, no_replacement).stream_kinds == [StreamKind.IDLE, StreamKind.FORGET]
    plain = Sessions(Plain(), store, no_replacement)
    assert plain.stream_kinds == [StreamKind.FORGET]
    plain.begins(SessionContext("s", {"user_id": "ann"}))
    assert not plain._metadata, "no metadata may be kept without the hook"


async def test_the_hook_receives_the_session_and_its_metadata(store: JsonSessions) -> None:
    app = Told()
    sessions = Sessions(app, store, no_replacement)
    sessions.begins(SessionContext("s", {"user_id": "ann"}))
    sessions.begins(SessionContext("s", {"user_id": "bob"}))
    assert await sessions.leaves("s", "tell-1") == b""
    assert app.left == [SessionContext("s", {"user_id": "bob"}, run_id="tell-1")]
    await sessions.leaves("s", "tell-2")
    assert app.left[1].metadata == {}, "the metadata must be removed"


async def test_the_number_of_kept_sessions_is_limited(
    store: JsonSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions_module, "MAX_REMEMBERED", 2)
    sessions = Sessions(Told(), store, no_replacement)
    for session in "abac":
        sessions.begins(SessionContext(session, {"of": session}))
    assert list(sessions._metadata) == ["a", "c"]


async def test_an_exception_in_the_hook_is_logged(
    store: JsonSessions, caplog: pytest.LogCaptureFixture
) -> None:
    sessions = Sessions(Told(KeyError("memory")), store, no_replacement)
    assert await sessions.leaves("s", "tell-1") == b""
    (record,) = caplog.records
    assert (record.levelno, record.exc_info is not None) == (logging.ERROR, True)
    assert "on_session_idle" in record.message


async def test_a_hook_can_be_cancelled(store: JsonSessions) -> None:
    with pytest.raises(asyncio.CancelledError):
        await Sessions(Told(asyncio.CancelledError()), store, no_replacement).leaves("s", "tell-1")


async def test_a_deletion_reports_whether_a_state_existed(store: JsonSessions) -> None:
    sessions = Sessions(Plain(), store, no_replacement)
    await store.save_session_state("s", "ann", value=Value(1))
    assert await sessions.forget("s", b'{"user_id": ""}') == b"false"
    assert await sessions.forget("s", b'{"user_id": "ann"}') == b"true"
    assert await sessions.forget("s", b'{"user_id": "ann"}') == b"false"


async def lose_an_update(sessions: Sessions, store: JsonSessions) -> None:
    """Save a session, let another process save it, and save it again."""
    store.on_stale = sessions.is_stale
    other = JsonSessions(store._directory, 2)
    for each in (store, other):
        with session_claims.turn("s", "run-1"):
            await each.load_session_state("s")
            await each.save_session_state("s", value=Value(1))
    with session_claims.turn("s", "run-2"), pytest.raises(SessionStateError, match="another process"):
        await store.save_session_state("s", value=Value(2))


async def test_an_app_is_told_of_a_session_that_another_process_has_saved(store: JsonSessions) -> None:
    app = Stale()
    sessions = Sessions(app, store, no_replacement)
    sessions.begins(SessionContext("s", {"user_id": "ann"}))
    await lose_an_update(sessions, store)
    assert app.dropped == [SessionContext("s", {"user_id": "ann"}, run_id="run-2")]


@pytest.mark.parametrize("app", [Plain(), Stale(KeyError("memory")), Stale(TimeoutError())])
async def test_a_worker_whose_app_cannot_drop_a_stale_session_is_replaced(
    store: JsonSessions, app: AgentApp
) -> None:
    reasons: list[str] = []
    await lose_an_update(Sessions(app, store, reasons.append), store)
    (reason,) = reasons
    assert "memory of a session is outdated" in reason
