"""/sessions: which sessions there are, where each is, and what is left of one that was deleted."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest

from tests.harness.client import Response, Stream, call, invoke, new_session, session_in
from tests.harness.console import signed_in
from tests.harness.instance import Instance
from tests.harness.waiting import eventually

SECRET: Final = "s3cret"
AUTHORIZED: Final = {"Authorization": f"Bearer {SECRET}"}
HELD: Final = [{"say": "x"}, {"sleep": 60}]


def path_of(session: str) -> str:
    return f"/sessions/{quote(session, safe='')}"


async def seen(port: int, session: str) -> dict[str, Any]:
    response = await call(port, "GET", path_of(session))
    assert response.status == 200, response.body
    found: dict[str, Any] = response.json
    return found


async def delete(port: int, session: str, query: str = "", **more: Any) -> Response:
    return await call(port, "DELETE", path_of(session) + query, **more)


async def deleted(port: int, session: str, query: str = "") -> None:
    response = await delete(port, session, query)
    assert (response.status, response.body) == (204, b""), response.body
    assert "x-request-id" in response.headers


def assert_refused(response: Response, status: int, code: str) -> None:
    assert (response.status, response.code) == (status, code), response.body


async def all_ended(port: int) -> None:
    async with asyncio.timeout(30):
        while (await call(port, "GET", "/health")).json["turns"]["open"]:
            pass


# -- which there are ----------------------------------------------------------------------------


async def test_a_session_is_shown_with_what_runs_and_waits(shared: Instance) -> None:
    port = shared.port
    session = await session_in(port, 1)
    async with Stream(port, session, HELD) as running, Stream(port, session, "y") as waiting:
        await running.until(events=1)
        await waiting.until(comments=1)
        shown = await seen(port, session)
        assert (shown["session_id"], shown["slot"], shown["worker"]) == (session, 1, running.worker)
        assert (shown["run_id"], shown["events"], shown["waiting"]) == (running.run_id, 1, 1)
        assert shown["seconds"] >= 1, "the comment came after a second"
        assert shown["idle"] is None
    await all_ended(port)
    shown = await seen(port, session)
    assert (shown["run_id"], shown["waiting"], shown["seconds"]) == (None, 0, None)
    assert shown["worker"].startswith("1.")
    assert 0 <= shown["idle"] < 60


async def test_a_session_that_has_had_no_turn_is_unknown(shared: Instance) -> None:
    assert_refused(await call(shared.port, "GET", path_of(new_session())), 404, "NOT_FOUND")


async def test_a_session_is_forgotten_after_its_time(start_instance: Callable[..., Instance]) -> None:
    instance = start_instance(workers=1, sessions={"idle_after": 1}, server={"console": "on"})
    session = new_session()
    await invoke(instance.port, session, "x")
    async with asyncio.timeout(30):
        while (await call(instance.port, "GET", path_of(session))).status != 404:
            pass
    listed = (await call(instance.port, "GET", "/sessions", headers=await signed_in(instance))).json
    assert listed == {"sessions": [], "next": None}


@pytest.fixture(scope="module")
def listing(start_module_instance: Callable[..., Instance]) -> Instance:
    """An instance with a console: the list of sessions is for its operator."""
    return start_module_instance(workers=1, server={"console": "on"})


async def test_pages_have_each_session_once(listing: Instance) -> None:
    port, prefix, operator = listing.port, new_session("page"), await signed_in(listing)
    ours = [f"{prefix}-{number:02d}" for number in range(25)]
    await asyncio.gather(*(invoke(port, session, "x") for session in ours))
    found: list[str] = []
    after: str | None = prefix
    while after is not None:
        page = (await call(port, "GET", f"/sessions?limit=7&after={quote(after)}", headers=operator)).json
        assert len(page["sessions"]) <= 7
        found += [session["session_id"] for session in page["sessions"]]
        after = page["next"]
        await invoke(port, ours[0], "in between")
    assert found == sorted(found)
    assert [session for session in found if session.startswith(prefix)] == ours
    everything = (await call(port, "GET", "/sessions?limit=1000", headers=operator)).json["sessions"]
    assert set(ours) <= {session["session_id"] for session in everything}


async def test_pages_that_cannot_be(listing: Instance) -> None:
    operator = await signed_in(listing)
    for query in (
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=many",
        "limit=",
        "limit=%D9%A3",
        "after=",
        "after=%01",
    ):
        refused = await call(listing.port, "GET", f"/sessions?{query}", headers=operator)
        assert_refused(refused, 400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "session", ["a/b", "a%2Fb", "with space", "ü€😀", "?query=1#x", "+", "..", ".", "%", "a" * 256, ";,=&"]
)
async def test_any_session_id_can_stand_in_a_path(shared: Instance, session: str) -> None:
    await invoke(shared.port, session, "x")
    assert (await seen(shared.port, session))["session_id"] == session
    await deleted(shared.port, session)
    assert (await call(shared.port, "GET", path_of(session))).status == 404


@pytest.mark.parametrize("path", ["/sessions/", "/sessions/%ff", "/sessions/%00", "/sessions/" + "a" * 257])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_paths_that_name_no_session(shared: Instance, method: str, path: str) -> None:
    assert_refused(await call(shared.port, method, path), 400, "INVALID_REQUEST")


@pytest.mark.parametrize("user_id", ["%ff", "%00", "a" * 257])
async def test_user_ids_that_name_no_user(shared: Instance, user_id: str) -> None:
    refused = await call(shared.port, "DELETE", f"/sessions/s?user_id={user_id}")
    assert_refused(refused, 400, "INVALID_REQUEST")
    assert "user_id" in refused.json["error"]["message"]


# -- as for other routes ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS"])
async def test_other_methods(shared: Instance, method: str) -> None:
    for path, allowed in (("/sessions", "GET, HEAD"), ("/sessions/s", "GET, HEAD, DELETE")):
        response = await call(shared.port, method, path)
        assert_refused(response, 405, "METHOD_NOT_ALLOWED")
        assert response.headers["allow"] == allowed


async def test_head_has_no_body(listing: Instance) -> None:
    session, operator = new_session(), await signed_in(listing)
    await invoke(listing.port, session, "x")
    for path in ("/sessions", path_of(session)):
        response = await call(listing.port, "HEAD", path, headers=operator)
        assert (response.status, response.body) == (200, b"")
        assert int(response.headers["content-length"]) > 0
    assert (await call(listing.port, "HEAD", path_of(new_session()))).status == 404


async def test_they_need_the_token(start_instance: Callable[..., Instance]) -> None:
    instance = start_instance(workers=1, server={"auth_token": SECRET})
    session = new_session()
    await invoke(instance.port, session, [{"count": 1}], headers=AUTHORIZED)
    for method, path in (("GET", "/sessions"), ("GET", path_of(session)), ("DELETE", path_of(session))):
        assert_refused(await call(instance.port, method, path), 401, "UNAUTHORIZED")
    assert (await call(instance.port, "GET", path_of(session), headers=AUTHORIZED)).status == 200
    assert (await delete(instance.port, session, headers=AUTHORIZED)).status == 204
    metrics = (await call(instance.port, "GET", "/metrics")).body.decode()
    assert 'route="/sessions/{session_id}",status="204"' in metrics
    assert 'route="/sessions",status="401"' in metrics
    assert session not in metrics


# -- deletion -----------------------------------------------------------------------------------


async def test_what_is_stored_and_kept_of_a_session_is_deleted(shared: Instance) -> None:
    port, session, other = shared.port, new_session(), new_session()
    key = {"Idempotency-Key": new_session("key")}
    first = await invoke(port, session, [{"count": 1}], headers=key)
    await invoke(port, session, [{"count": 1}])
    kept = await invoke(port, other, [{"count": 1}])
    await deleted(port, session)
    assert_refused(await call(port, "GET", f"/runs/{first.headers['x-run-id']}"), 410, "GONE")
    assert (await call(port, "GET", f"/runs/{kept.headers['x-run-id']}")).status == 200
    assert (await call(port, "GET", path_of(session))).status == 404
    again = await invoke(port, session, [{"count": 1}], headers=key)
    assert "idempotent-replayed" not in again.headers
    assert '"1"' in again.body.decode(), "the conversation begins anew"
    assert '"2"' in (await invoke(port, other, [{"count": 1}])).body.decode()


async def test_a_second_deletion_finds_nothing(shared: Instance) -> None:
    session = new_session()
    assert_refused(await delete(shared.port, session), 404, "NOT_FOUND")
    await invoke(shared.port, session, [{"count": 1}])
    await deleted(shared.port, session)
    assert_refused(await delete(shared.port, session), 404, "NOT_FOUND")


async def test_the_state_of_the_user_that_is_named(shared: Instance) -> None:
    """Each user of a session has a state of his own; without a name it is the one without a user."""
    port, session = shared.port, new_session()
    for user in ("ann/1", ""):
        await invoke(port, session, [{"count": 1, "user": user}])
    await deleted(port, session, "?user_id=ann%2F1")
    assert_refused(await delete(port, session, "?user_id=ann%2F1"), 404, "NOT_FOUND")
    assert '"2"' in (await invoke(port, session, [{"count": 1}])).body.decode()
    await deleted(port, session)
    assert '"1"' in (await invoke(port, session, [{"count": 1}])).body.decode()


@pytest.mark.parametrize("user", ["%01", "u" * 257])
async def test_users_that_cannot_be(shared: Instance, user: str) -> None:
    assert_refused(await delete(shared.port, "s", f"?user_id={user}"), 400, "INVALID_REQUEST")


async def test_a_session_with_a_turn_is_not_deleted(shared: Instance) -> None:
    port, session = shared.port, new_session()
    async with Stream(port, session, [{"count": 1}, *HELD]) as stream:
        await stream.until(events=2)
        refused = await delete(port, session)
        assert_refused(refused, 409, "SESSION_BUSY")
        assert refused.json["error"]["retryable"] is True
        assert (await seen(port, session))["run_id"] == stream.run_id
    await all_ended(port)
    await deleted(port, session)


async def test_deletions_and_turns_at_once_follow_each_other(shared: Instance) -> None:
    """Each turn sees all of what was there, or nothing."""
    port, session = shared.port, new_session()
    for _ in range(5):
        turn = invoke(port, session, [{"count": 1}], on_busy="reject")
        answers = await asyncio.gather(turn, *(delete(port, session) for _ in range(3)))
        assert {answer.status for answer in answers} <= {200, 204, 404, 409, 429}
        await all_ended(port)
    await delete(port, session)
    assert '"1"' in (await invoke(port, session, [{"count": 1}])).body.decode()


async def test_a_deletion_outlives_a_restart(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path]
) -> None:
    """Keys are on the disk as well; they must be gone from there."""
    project, session = make_project(), new_session()
    key = {"Idempotency-Key": new_session("key")}
    instance = new_instance(project, workers=1).start()
    await invoke(instance.port, session, [{"count": 1}], headers=key)
    await deleted(instance.port, session)
    instance.stop()
    instance = new_instance(project, workers=1).start()
    again = await invoke(instance.port, session, [{"count": 1}], headers=key)
    assert "idempotent-replayed" not in again.headers
    assert '"1"' in again.body.decode()
    assert_refused(await delete(instance.port, new_session()), 404, "NOT_FOUND")


async def test_a_store_that_fails_is_told(start_instance: Callable[..., Instance]) -> None:
    instance = start_instance(workers=1)
    session = new_session()
    await invoke(instance.port, session, [{"count": 1}])
    (state,) = (instance.project / "sessions").glob("*.json")
    state.unlink()
    state.mkdir()
    assert_refused(await delete(instance.port, session), 500, "APP_ERROR")
    state.rmdir()
    await deleted(instance.port, session)
    await eventually(lambda: "the session store raised" in instance.log, 30, "it is in the log")


async def test_nobody_is_there_to_delete(start_instance: Callable[..., Instance]) -> None:
    """As for a turn, a worker is waited for, and not for ever."""
    instance = start_instance(workers=1, supervisor={"start_timeout": 2, "drain_timeout": 1})
    (instance.project / "app.py").write_text("raise SystemExit(1)")
    os.kill(instance.worker_in(0).pid, signal.SIGKILL)
    await eventually(lambda: not instance.ready_workers(), 30, "the worker is gone")
    refused = await delete(instance.port, new_session(), within=30)
    assert_refused(refused, 503, "NOT_READY")
    assert 1 <= int(refused.headers["retry-after"]) < 120
