"""An instance with a token: wrong tokens, the list of sessions, tickets for runs, the console's cookie."""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Final

import pytest

from agentscope_supervisor.web.access.guesses import FREE_GUESSES, GUESSES_PER_SECOND, MAX_DELAY
from tests.conftest import StartInstance
from tests.harness import console
from tests.harness.client import (
    JSON,
    Connection,
    Response,
    Stream,
    Watch,
    call,
    invoke,
    new_session,
    request,
    turn_body,
)
from tests.harness.instance import Instance

TOKEN: Final = "s3cret"
AUTHORIZED: Final = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def instance(start_module_instance: StartInstance) -> Instance:
    return start_module_instance(workers=1, server={"auth_token": TOKEN, "console": "on"})


def assert_refused(response: Response, status: int, code: str) -> None:
    assert (response.status, response.code) == (status, code), response.body


async def test_the_token_does_not_list_the_sessions_of_others(instance: Instance) -> None:
    session = new_session()
    await invoke(instance.port, session, "x", headers=AUTHORIZED)
    refused = await call(instance.port, "GET", "/sessions", headers=AUTHORIZED)
    assert_refused(refused, 403, "FORBIDDEN")
    assert "operator" in refused.json["error"]["message"]
    assert session.encode() not in refused.body
    assert_refused(await call(instance.port, "GET", "/console/live", headers=AUTHORIZED), 401, "UNAUTHORIZED")
    for query in ("", "?state=ended", "?limit=1"):
        runs = await call(instance.port, "GET", f"/runs{query}", headers=AUTHORIZED)
        assert_refused(runs, 403, "FORBIDDEN")
        assert session.encode() not in runs.body
    for path in (f"/runs?session_id={session}", f"/sessions/{session}/messages"):
        assert_refused(await call(instance.port, "GET", path), 401, "UNAUTHORIZED")
        own = await call(instance.port, "GET", path, headers=AUTHORIZED)
        assert [run["session_id"] for run in own.json["runs"]] == [session]

    known = await call(instance.port, "GET", f"/sessions/{session}", headers=AUTHORIZED)
    assert known.json["session_id"] == session
    operator = await console.signed_in(instance, TOKEN)
    listed = (await call(instance.port, "GET", "/sessions", headers=operator)).json["sessions"]
    assert session in [each["session_id"] for each in listed]
    runs = (await call(instance.port, "GET", "/runs", headers=operator)).json["runs"]
    assert session in [each["session_id"] for each in runs]
    async with Stream(instance.port, session, [{"say": "x"}, {"sleep": 60}], headers=AUTHORIZED) as stream:
        await stream.until(events=1)
        shown = await asyncio.to_thread(instance.command, "sessions", "--json")
        assert (shown.returncode, session in shown.stdout) == (0, True)


async def test_the_cookie_is_not_made_from_the_token(instance: Instance) -> None:
    """Each sign-in has a cookie of its own, which a sign-out or a restart ends."""
    one, two = await console.signed_in(instance, TOKEN), await console.signed_in(instance, TOKEN)
    assert one["Cookie"] != two["Cookie"]
    assert one["Cookie"].partition("=")[0] == two["Cookie"].partition("=")[0]
    assert (await call(instance.port, "DELETE", "/console", headers=one)).status == 204
    body = turn_body(new_session(), "x", stream=False)
    refused = await call(instance.port, "POST", "/invoke", body=body, headers=one)
    assert_refused(refused, 401, "UNAUTHORIZED")
    assert (await call(instance.port, "POST", "/invoke", body=body, headers=two)).status == 200


async def test_a_browser_reads_a_run_with_a_ticket_instead_of_the_token(instance: Instance) -> None:
    async with Stream(
        instance.port, new_session(), [{"say": "a"}, {"say": "b"}], headers=AUTHORIZED
    ) as stream:
        events = await stream.whole()
    path = f"/runs/{stream.run_id}"
    assert_refused(await call(instance.port, "POST", f"{path}/ticket"), 401, "UNAUTHORIZED")
    issued = await call(instance.port, "POST", f"{path}/ticket", headers=AUTHORIZED)
    assert (issued.status, issued.headers["cache-control"]) == (200, "no-store")
    ticket, url = issued.json["ticket"], issued.json["url"]
    assert (url, issued.json["expires_in"]) == (f"{path}/events?ticket={ticket}", 60)

    read = await call(instance.port, "GET", url)
    assert read.status == 200
    assert [f"id: {event.id}".encode() in read.body for event in events] == [True, True]
    later = await call(instance.port, "GET", url, headers={"Last-Event-ID": events[0].id})
    assert f"id: {events[0].id}".encode() not in later.body
    assert_refused(
        await call(instance.port, "GET", url, headers={"Origin": "https://evil.com"}), 403, "FORBIDDEN"
    )
    for elsewhere in (f"/runs/{'0' * 32}/events", path, f"{path}/ticket", "/sessions/s"):
        method = "POST" if elsewhere.endswith("/ticket") else "GET"
        refused = await call(instance.port, method, f"{elsewhere}?ticket={ticket}")
        assert_refused(refused, 401, "UNAUTHORIZED")
    assert_refused(await call(instance.port, "GET", f"{url}0"), 401, "UNAUTHORIZED")
    unknown = await call(instance.port, "POST", f"/runs/{'0' * 32}/ticket", headers=AUTHORIZED)
    assert_refused(unknown, 410, "GONE")
    async with Watch(instance.port, stream.run_id, headers=AUTHORIZED) as watch:
        await watch.whole()


async def test_wrong_tokens_are_slowed_down_and_logged(instance: Instance) -> None:
    """And the right token is not, meanwhile: it has come from this address before."""
    body = turn_body(new_session(), "x", stream=False)
    first = await call(instance.port, "POST", "/invoke", body=body, headers=JSON | AUTHORIZED)
    assert first.status == 200
    began = time.monotonic()
    wrong = JSON | {"Authorization": "Bearer guess"}
    guesses = int(FREE_GUESSES) + 6
    for number in range(guesses):
        path, headers = (("/invoke", wrong), ("/invoke", wrong | {"Trailer": "X-A"}), ("/stop", wrong))[
            number % 3
        ]
        refused = await call(instance.port, "POST", path, body=body, headers=headers)
        assert_refused(refused, 401, "UNAUTHORIZED")
    assert time.monotonic() - began >= (guesses - FREE_GUESSES - 1) / GUESSES_PER_SECOND - 1
    slow = asyncio.create_task(call(instance.port, "POST", "/invoke", body=body, headers=wrong))
    leaves = asyncio.create_task(call(instance.port, "POST", "/invoke", body=body, headers=wrong))
    for _ in range(5):
        served = await call(instance.port, "POST", "/invoke", body=body, headers=JSON | AUTHORIZED)
        assert served.status == 200
    assert not slow.done()
    leaves.cancel()
    guess = b'{"token": "guess"}'
    login = await call(instance.port, "POST", "/console", body=guess, headers=console.page_headers(instance))
    assert_refused(login, 401, "UNAUTHORIZED")
    assert_refused(await slow, 401, "UNAUTHORIZED")
    assert "requests with a wrong token" in instance.log
    assert "guess" not in instance.log


async def test_the_tokens_of_an_address_that_guesses_are_checked_late(instance: Instance) -> None:
    """Else a client takes a late answer for a wrong token, and does not wait for it.

    So even its right guess waits. Other clients do not.
    """
    stranger, body = "127.0.0.77", turn_body(new_session(), "x", stream=False)
    wrong = request("POST", "/invoke", body, JSON | {"Authorization": "Bearer guess"})
    right = request("POST", "/invoke", body, JSON | AUTHORIZED)
    assert (await call(instance.port, "POST", "/invoke", body=body, headers=JSON | AUTHORIZED)).status == 200
    async with AsyncExitStack() as stack:
        guessing = [
            await stack.enter_async_context(Connection(instance.port, source=stranger))
            for _ in range(int(FREE_GUESSES + MAX_DELAY * GUESSES_PER_SECOND) + 2)
        ]
        for connection in guessing:
            await connection.send(wrong)
        assert (await call(instance.port, "GET", "/livez")).status == 200  # after the guesses
        late = await stack.enter_async_context(Connection(instance.port, source=stranger))
        await late.send(right)
        answer = asyncio.create_task(late.answer())
        for _ in range(3):
            served = await call(instance.port, "POST", "/invoke", body=body, headers=JSON | AUTHORIZED)
            assert served.status == 200
        assert not answer.done()
        assert (await answer).status == 200
    async with Connection(instance.port, source=stranger) as known, Connection(instance.port) as other:
        await known.send(right)
        await other.send(right)
        assert (await known.answer()).status == (await other.answer()).status == 200
