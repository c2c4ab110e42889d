"""Web pages of strangers, and other clients of an instance without a token, in front of a real instance."""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Final

import pytest

from tests.conftest import StartInstance
from tests.harness import console
from tests.harness.client import (
    JSON,
    Connection,
    Response,
    Stream,
    call,
    invoke,
    new_session,
    request,
    turn_body,
)
from tests.harness.instance import Instance
from tests.harness.waiting import eventually

APP: Final = "https://app.example.com"
MOST: Final = 2  # turns of one caller
HELD: Final = [{"say": "x"}, {"sleep": 60}]

WAYS: Final = {"fast": {}, "plain": {"Trailer": "X-A"}}
"""Headers that select the way of a request to /invoke: in the connection's callbacks, or through aiohttp."""


@pytest.fixture(scope="module")
def instance(start_module_instance: StartInstance) -> Instance:
    """An instance with a console and no token, which two names and one web page may use."""
    server = {
        "console": "on",
        "cors_origins": [APP],
        "hosts": ["agents.internal"],
        "max_turns_per_principal": MOST,
    }
    return start_module_instance(workers=1, server=server)


def accepted(instance: Instance) -> int:
    """Return the number of turns that the instance has accepted."""
    number: int = instance.health()["turns"]["accepted"]
    return number


def assert_refused(response: Response, status: int, code: str) -> None:
    assert (response.status, response.code) == (status, code), response.body


@pytest.mark.parametrize("way", WAYS)
async def test_a_body_without_a_json_type_runs_no_turn(instance: Instance, way: str) -> None:
    """A browser sends such a body for any page, without a preflight."""
    before, body = accepted(instance), turn_body(new_session(), "x")
    for kind in (None, "", "text/plain", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded"):
        headers = WAYS[way] | ({"Content-Type": kind} if kind is not None else {})
        for path in ("/invoke", "/stop", "/runs/x/ticket", "/console/restart"):
            refused = await call(instance.port, "POST", path, body=body, headers=headers)
            assert_refused(refused, 415, "UNSUPPORTED_MEDIA_TYPE")
    assert accepted(instance) == before


@pytest.mark.parametrize("way", WAYS)
async def test_a_page_of_another_origin_drives_nothing(instance: Instance, way: str) -> None:
    before, body = accepted(instance), turn_body(new_session(), "x")
    for page in (
        {"Origin": "https://evil.com"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        for method, path in (
            ("POST", "/invoke"),
            ("POST", "/stop"),
            ("POST", "/console"),
            ("POST", "/console/restart"),
            ("DELETE", "/sessions/s"),
            ("GET", "/sessions"),
            ("GET", "/runs/x"),
            ("GET", "/"),
        ):
            sent = body if method == "POST" else None
            headers = JSON | WAYS[way] | page
            refused = await call(instance.port, method, path, body=sent, headers=headers)
            assert_refused(refused, 403, "FORBIDDEN")
            assert "access-control-allow-origin" not in refused.headers
    assert accepted(instance) == before


@pytest.mark.parametrize("way", WAYS)
async def test_a_name_that_resolves_to_this_machine_reads_nothing(instance: Instance, way: str) -> None:
    """DNS rebinding: for the browser, the page has the same origin."""
    before, body = accepted(instance), turn_body(new_session(), "x")
    page = {"Host": f"evil.com:{instance.port}", "Sec-Fetch-Site": "same-origin"}
    for method, path in (("POST", "/invoke"), ("GET", "/sessions/s"), ("GET", "/sessions"), ("GET", "/")):
        sent = body if method == "POST" else None
        headers = JSON | WAYS[way] | page
        assert_refused(await call(instance.port, method, path, body=sent, headers=headers), 403, "FORBIDDEN")
    assert accepted(instance) == before
    for name in ("localhost", f"127.0.0.1:{instance.port}", "[::1]:80", "agents.internal"):
        served = await invoke(instance.port, new_session(), "x", headers=WAYS[way] | {"Host": name})
        assert served.status == 200, name
    probe = await call(instance.port, "GET", "/readyz", headers={"Host": "10.1.2.3:8080"})
    assert probe.status == 200  # as a kubelet asks


@pytest.mark.parametrize("way", WAYS)
async def test_a_configured_page_may_use_the_instance(instance: Instance, way: str) -> None:
    page = {"Origin": APP, "Sec-Fetch-Site": "cross-site"}
    asked = {
        **page,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    granted = await call(instance.port, "OPTIONS", "/invoke", headers=asked)
    assert (granted.status, granted.body) == (204, b"")
    assert granted.headers["access-control-allow-origin"] == APP
    assert granted.headers["access-control-allow-methods"] == "POST"
    assert "Content-Type" in granted.headers["access-control-allow-headers"]
    session = new_session()
    served = await invoke(instance.port, session, "x", headers=page | WAYS[way])
    assert served.status == 200
    async with Stream(instance.port, session, "x", headers=page | WAYS[way]) as stream:
        await stream.whole()
        assert "X-Run-Id" in stream.head.headers["access-control-expose-headers"]
    failed = await invoke(instance.port, session, {}, headers=page | WAYS[way])
    assert_refused(failed, 400, "INVALID_REQUEST")
    for response in (served, stream, failed):
        headers = response.headers if isinstance(response, Response) else response.head.headers
        assert (headers["access-control-allow-origin"], headers["vary"]) == (APP, "Origin")
    stranger = await call(instance.port, "OPTIONS", "/invoke", headers=asked | {"Origin": "https://evil.com"})
    assert_refused(stranger, 403, "FORBIDDEN")


async def test_an_invented_authorization_does_not_evade_the_limit_of_a_caller(instance: Instance) -> None:
    async with AsyncExitStack() as stack:
        for number in range(MOST):
            headers = {"Authorization": f"Bearer {number}"}
            stream = Stream(instance.port, new_session(), HELD, headers=headers)
            await (await stack.enter_async_context(stream)).until(events=1)
        for way in WAYS.values():
            headers = {"Authorization": "Bearer another", **way}
            refused = await invoke(instance.port, new_session(), "x", headers=headers)
            assert_refused(refused, 429, "TOO_MANY_REQUESTS")
    await eventually(lambda: instance.health()["turns"]["open"] == 0, 30.0, "every turn has ended")


@pytest.mark.parametrize(
    "path",
    [
        *("/%6detrics", "/metric%73", "/%2Fmetrics", "//metrics", "/./metrics", "/x/../metrics", "/metrics/"),
        *("/metrics%0A", "/metrics%0a", "/metrics%00", "/metrics%20", "/METRICS", "/%68ealth", "/runs%2Fx"),
        *("/%73essions/s", "/sessions%2Fs", "/%63onsole", "/console%0A", "/console/%6cive", "/%"),
    ],
)
async def test_another_spelling_of_a_path_is_another_path(instance: Instance, path: str) -> None:
    """The rules of a proxy see the path as it was sent."""
    assert_refused(await call(instance.port, "GET", path), 404, "NOT_FOUND")
    refused = await call(instance.port, "POST", path, body=b"{}", headers=JSON)
    assert_refused(refused, 404, "NOT_FOUND")


async def test_responses_do_not_name_versions(instance: Instance) -> None:
    async with Connection(instance.port) as connection:
        for asked in (
            request("GET", "/health"),
            request("GET", "/nothing"),
            request("GET", "/console"),
            request("POST", "/invoke", turn_body(new_session(), "x", stream=False), JSON),
            b"nonsense\r\n\r\n",
        ):
            await connection.send(asked)
            assert (await connection.answer()).headers["server"] == "agentscope-supervisor"


# -- the console without a token -----------------------------------------------------------------------


async def test_a_client_behind_a_plain_proxy_is_not_the_operator(instance: Instance) -> None:
    """A proxy on this machine that adds no header connects as the operator's browser does."""
    ours = console.page_headers(instance)
    for method, path in (
        ("GET", "/console/live"),
        ("POST", "/console/restart"),
        ("POST", "/console/maintenance"),
        ("DELETE", "/console"),
    ):
        body = b'{"on": true}' if method == "POST" else None
        refused = await call(instance.port, method, path, body=body, headers=ours)
        assert_refused(refused, 401, "UNAUTHORIZED")
    assert instance.health()["status"] == "healthy"
    assert_refused(await call(instance.port, "GET", "/sessions", headers=ours), 403, "FORBIDDEN")


async def test_the_logged_link_signs_in_one_browser_until_it_signs_out(instance: Instance) -> None:
    secret = console.link(instance).partition("#token=")[2]
    body, ours = json.dumps({"token": secret}).encode(), console.page_headers(instance)
    answer = await call(instance.port, "POST", "/console", body=body, headers=ours)
    assert answer.status == 204
    again = await call(instance.port, "POST", "/console", body=body, headers=ours)
    assert_refused(again, 401, "UNAUTHORIZED")

    cookie = answer.headers["set-cookie"]
    assert secret not in cookie
    browser = ours | {"Cookie": cookie.partition(";")[0]}
    session = new_session()
    await invoke(instance.port, session, "x")
    listed = await call(instance.port, "GET", f"/sessions?after={session[:-1]}", headers=browser)
    assert session in [each["session_id"] for each in listed.json["sessions"]]
    on = await call(instance.port, "POST", "/console/maintenance", body=b'{"on": false}', headers=browser)
    assert on.json == {"on": False}
    foreign = browser | {"Sec-Fetch-Site": "same-site"}
    assert_refused(await call(instance.port, "GET", "/console/live", headers=foreign), 403, "FORBIDDEN")

    async with Connection(instance.port) as live:
        await live.send(request("GET", "/console/live", None, browser))
        head = await live.head()
        assert head.status == 200
        gone = await call(instance.port, "DELETE", "/console", headers=browser)
        assert (gone.status, "Max-Age=0" in gone.headers["set-cookie"]) == (204, True)
        async with asyncio.timeout(30):
            assert [piece async for piece in live.body(head)]
    assert_refused(await call(instance.port, "GET", "/console/live", headers=browser), 401, "UNAUTHORIZED")
    await console.signed_in(instance)  # by the link that replaces the used one


# -- clients that reconnect ----------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "reconnects"}], ids=["plain", "with a key"])
async def test_a_post_with_last_event_id_resumes_the_run(instance: Instance, headers: dict[str, str]) -> None:
    session, script = new_session(), [{"say": "one"}, {"say": "two"}, {"say": "three"}]
    async with Stream(instance.port, session, script, headers=headers) as stream:
        events = await stream.whole()
    before = accepted(instance)
    assert len(events) == 3
    seen = {"Last-Event-ID": events[0].id}
    async with Stream(instance.port, session, script, headers=headers | seen) as resumed:
        await resumed.to_end()
    assert resumed.run_id == stream.run_id
    assert [event.id for event in resumed.events] == [f"{stream.run_id}-{number}" for number in (1, 2, 3)]
    after_the_end = {"Last-Event-ID": f"{stream.run_id}-3"}
    body = turn_body(session, script)
    ended = await call(instance.port, "POST", "/invoke", body=body, headers=JSON | headers | after_the_end)
    assert (ended.status, ended.body) == (204, b"")
    assert accepted(instance) == before

    other = await call(
        instance.port, "POST", "/invoke", body=turn_body(new_session(), "x"), headers=JSON | seen
    )
    assert_refused(other, 400, "INVALID_REQUEST")
    unknown = {"Last-Event-ID": f"{'0' * 32}-1"}
    gone = await call(instance.port, "POST", "/invoke", body=body, headers=JSON | unknown)
    assert_refused(gone, 410, "GONE")
    if headers:
        changed = turn_body(session, "another text")
        refused = await call(instance.port, "POST", "/invoke", body=changed, headers=JSON | headers | seen)
        assert_refused(refused, 422, "IDEMPOTENCY_MISMATCH")
    assert accepted(instance) == before
    for foreign in ("", "42", "of-another-server-7"):
        served = await invoke(instance.port, session, "x", headers={"Last-Event-ID": foreign})
        assert served.status == 200


async def test_a_post_with_last_event_id_follows_a_run_in_progress(instance: Instance) -> None:
    session, script = new_session(), [{"say": "one"}, {"sleep": 60}]
    async with Stream(instance.port, session, script) as stream:
        await stream.until(events=1)
        before = accepted(instance)
        seen = {"Last-Event-ID": stream.events[0].id}
        async with Stream(instance.port, session, script, headers=seen) as resumed:
            await resumed.begun()
            assert (resumed.run_id, accepted(instance)) == (stream.run_id, before)
            stopped = json.dumps({"run_id": stream.run_id}).encode()
            await call(instance.port, "POST", "/stop", body=stopped, headers=JSON)
            await resumed.to_end()
            assert [event.id for event in resumed.events] == [
                f"{stream.run_id}-{number}" for number in (1, 2)
            ]
