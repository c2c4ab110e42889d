"""HTTP requests and WebSockets of a hosted app, through the front door, as their client and the app see them.

The app is tests/apps/asgi. Workers are `tests.fakes.hosting_worker`: these tests are about the supervisor.
"""

import asyncio
import hashlib
import io
import json
import struct
from collections.abc import Iterator
from typing import Any, Final

import aiohttp
import pytest
from yarl import URL

from tests.harness.hosted import client, hosted, raw
from tests.harness.instance import Instance
from tests.harness.waiting import eventually_so

JSON: Final = {"Content-Type": "application/json"}
MB: Final = 1024 * 1024
HANDSHAKE: Final = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    folder = tmp_path_factory.mktemp("hosted")
    server = {"session_cookie": "sid", "session_query": "conversation", "trusted_proxies": ["127.0.0.0/8"]}
    with Instance(hosted(folder / "project", server=server), folder, workers=3) as instance:
        yield instance.start()
        assert "Traceback" not in instance.log


async def pid_of(session: aiohttp.ClientSession, path: str = "/echo", **options: Any) -> int:
    """The process that serves a request."""
    async with session.request(options.pop("method", "GET"), path, **options) as response:
        pid: int = (await response.json())["pid"]
        return pid


FOREIGN: Final = b"Origin: https://evil.example\r\nSec-Fetch-Site: cross-site\r\n"


async def test_without_a_token_a_page_of_another_origin_may_only_read(instance: Instance) -> None:
    get, post = b"GET /echo HTTP/1.1\r\n", b"POST /echo HTTP/1.1\r\nContent-Length: 0\r\n"
    tail = b"Host: localhost\r\nConnection: close\r\n\r\n"
    socket = HANDSHAKE.replace(b"\r\n\r\n", b"\r\n" + FOREIGN + b"\r\n")
    statuses = [(await raw(instance, head)).split(b" ", 2)[1] for head in (get + FOREIGN + tail, post + tail)]
    assert statuses == [b"200", b"200"]
    for head in (post + FOREIGN + tail, socket):
        answer = await raw(instance, head)
        assert answer.split(b" ", 2)[1] == b"403"
        assert b"server.cors_origins" in answer


# -- requests ----------------------------------------------------------------------------------


async def test_the_app_gets_the_request_as_it_was_sent(instance: Instance) -> None:
    head = (
        b"PATCH /a%2Fb/%E4%BD%A0//c?q=1%202&q HTTP/1.1\r\nHost: localhost\r\nX-A: 1\r\nX-A: 2\r\n"
        b"TE: trailers\r\nKeep-Alive: 5\r\nX-Hop: 1\r\nConnection: close, x-hop\r\nContent-Length: 3\r\n"
        b"\r\nabc"
    )
    answer = await raw(instance, head)
    seen = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (seen["method"], seen["path"], seen["query"]) == ("PATCH", "/a%2Fb/%E4%BD%A0//c", "q=1%202&q")
    assert seen["headers"] == [["host", "localhost"], ["x-a", "1"], ["x-a", "2"], ["content-length", "3"]]
    assert (seen["body"], seen["scheme"], seen["client"][0]) == ("abc", "http", "127.0.0.1")


async def test_the_response_is_the_apps_with_the_headers_of_a_server(instance: Instance) -> None:
    answer = await raw(
        instance, b"GET /echo?status=404 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert lines[0] == b"http/1.1 404 not found"
    names = [line.partition(b":")[0] for line in lines[1:]]
    assert names[:4] == [b"content-length", b"content-type", b"x-two", b"x-two"]
    assert sorted(names[4:]) == [b"connection", b"date", b"server", b"x-agentscope-worker", b"x-request-id"]
    assert b"content-length: %d" % len(body) in lines


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3 * MB])
async def test_bodies_arrive_whole_with_a_length_or_in_chunks(instance: Instance, size: int) -> None:
    body = hashlib.shake_128(b"seed").digest(size)

    async def chunks() -> Any:
        for at in range(0, size, 40_000):
            yield body[at : at + 40_000]

    async with client(instance) as session:
        for data in (io.BytesIO(body), chunks()):
            async with session.post("/digest", data=data) as response:
                assert await response.json() == {"size": size, "sha": hashlib.sha256(body).hexdigest()}


async def test_each_message_of_the_app_is_one_chunk(instance: Instance) -> None:
    answer = await raw(
        instance, b"GET /chunks?n=3&gap=0.02 HTTP/1.1\r\nHost: localhost\r\n\r\n", until=b"0\r\n\r\n"
    )
    assert b"transfer-encoding: chunked\r\n" in answer
    assert answer.endswith(b"".join(b"9\r\ndata: %d\n\n\r\n" % n for n in range(3)) + b"0\r\n\r\n")


async def test_http_1_0_gets_no_chunks(instance: Instance) -> None:
    answer = await raw(instance, b"GET /chunks?n=2 HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\ndata: 0\n\ndata: 1\n\n")


async def test_responses_without_a_body_keep_the_connection_usable(instance: Instance) -> None:
    """HEAD, 204 and 304, then a request on the same connection."""
    requests = b"".join(
        b"%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % line
        for line in (b"HEAD /echo", b"GET /echo?status=204", b"GET /echo?status=304", b"GET /early")
    )
    answer = await raw(instance, requests, until=b"early")
    heads = answer.split(b"HTTP/1.1 ")[1:]
    assert [head[:3] for head in heads] == [b"200", b"204", b"304", b"403"]
    for head in heads[:3]:
        assert head.endswith(b"\r\n\r\n"), "a body"
        assert b"chunked" not in head
    assert b"content-length" in heads[0]
    assert b"content-length" not in heads[1]


async def test_a_client_that_expects_it_is_told_to_continue(instance: Instance) -> None:
    for media_type in (b"text/plain", b"application/json"):
        reader, writer = await asyncio.open_connection("127.0.0.1", instance.port)
        writer.write(
            b"POST /echo HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n"
            b"Content-Type: %b\r\nConnection: close\r\n\r\n" % media_type
        )
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_an_early_response_does_not_wait_for_the_body(instance: Instance) -> None:
    async with (
        client(instance) as session,
        session.post("/early", data=io.BytesIO(bytes(5 * MB))) as response,
    ):
        assert (response.status, await response.read()) == (403, b"early")


async def test_requests_on_one_connection_follow_each_other(instance: Instance) -> None:
    request = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx"
    last = b"GET /early HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = await raw(instance, request * 20 + last)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 20
    assert answer.endswith(b"early")


# -- errors --------------------------------------------------------------------------------------


async def test_an_app_that_raises_is_a_500_before_the_head_and_a_cut_after_it(instance: Instance) -> None:
    async with client(instance) as session:
        async with session.get("/boom") as response:
            assert response.status == 500
            assert (await response.json())["error"]["code"] == "APP_ERROR"
        async with session.get("/boom?late=1") as response:
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
    answer = await raw(instance, b"GET /boom?late=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.endswith(b"4\r\npart\r\n"), "the last chunk would make the response complete"


@pytest.mark.parametrize("what", ["break", "name"])
async def test_headers_that_would_split_the_response_are_a_500(instance: Instance, what: str) -> None:
    async with client(instance) as session, session.get(f"/bad?what={what}") as response:
        assert response.status == 500
        assert "x-b" not in response.headers


@pytest.mark.parametrize("says", ["4", "6"])
async def test_a_body_that_differs_from_its_length_ends_the_connection(instance: Instance, says: str) -> None:
    request = b"GET /wrong_length?says=%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % says.encode()
    body = (await raw(instance, request)).partition(b"\r\n\r\n")[2]
    assert len(body) < int(says)


async def test_what_the_parser_refuses_does_not_reach_the_app(instance: Instance) -> None:
    answer = await raw(instance, b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX : 1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 400")
    assert b"x-agentscope-worker" not in answer.lower()


# -- routes ----------------------------------------------------------------------------------------


async def test_own_routes_stay_and_all_others_are_the_apps(instance: Instance) -> None:
    async with client(instance) as session:
        for path in ("/health", "/readyz", "/livez", "/metrics", "/runs/x"):
            async with session.get(path) as response:
                assert "x-agentscope-worker" not in response.headers
        for method, path in [("POST", "/invoke"), ("POST", "/stop"), ("GET", "/"), ("GET", "/sessions/x")]:
            async with session.request(method, path, data=b"{}" if method == "POST" else None) as response:
                assert response.status == 200
                assert (await response.json())["path"] == path
        async with session.get("/metrics") as response:
            assert 'route="hosted",status="200"' in (await response.text()).replace(" ", "").replace(
                "code=", "status="
            )


# -- where a request goes --------------------------------------------------------------------------


async def test_a_session_stays_with_its_worker_wherever_its_id_is(instance: Instance) -> None:
    async with client(instance) as session:
        seen = set()
        for number in range(8):
            name = f"session-{number}"
            pids = {
                await pid_of(session, headers={"X-Session-Id": name}),
                await pid_of(session, f"/echo?conversation={name}"),
                await pid_of(session, headers={"Cookie": f"a=b; sid={name}"}),
                await pid_of(session, method="POST", data=json.dumps({"session_id": name}), headers=JSON),
                await pid_of(
                    session,
                    method="POST",
                    data=json.dumps({"session_id": name, "text": "é" * 100_000}),
                    headers=JSON,
                ),
            }
            assert len(pids) == 1
            seen |= pids
        assert len(seen) > 1


async def test_requests_without_a_session_go_to_the_least_loaded_worker(instance: Instance) -> None:
    async with client(instance) as session:
        assert len({await pid_of(session) for _ in range(6)}) == 3


async def test_a_request_that_names_what_a_worker_has_made_goes_there(instance: Instance) -> None:
    async with client(instance) as session:
        for _ in range(3):
            async with session.post("/task") as response:
                made = await response.json()
            for path, body in (
                (f"/tasks/{made['task']}/state", None),
                (f"/tasks?id={made['task']}", None),
                ("/rpc", json.dumps({"params": {"message": {"taskId": made["task"]}}})),
            ):
                method = "GET" if body is None else "POST"
                assert await pid_of(session, path, method=method, data=body, headers=JSON) == made["pid"]


async def test_a_trusted_proxy_names_client_scheme_and_host(instance: Instance) -> None:
    forwarded = {
        "X-Forwarded-For": "6.6.6.6, 9.9.9.9, 127.0.0.2",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "app.example.com",
    }
    async with client(instance) as session, session.get("/echo", headers=forwarded) as response:
        seen = await response.json()
    assert (seen["client"], seen["scheme"]) == (["9.9.9.9", 0], "https")
    assert dict(seen["headers"])["host"] == "app.example.com"


# -- clients that leave ------------------------------------------------------------------------------


async def state(instance: Instance) -> list[dict[str, Any]]:
    """What each worker has noticed."""
    async with client(instance) as session:
        found = {}
        for number in range(30):
            if len(found) < 3:
                async with session.get("/state", headers={"X-Session-Id": str(number)}) as response:
                    each = await response.json()
                    found[each["pid"]] = each
    assert len(found) == 3
    return list(found.values())


async def test_the_app_notices_that_a_client_has_left(instance: Instance) -> None:
    async def noticed(what: str) -> int:
        return sum(each["gone"].count(what) for each in await state(instance))

    before = await noticed("waits"), await noticed("upload")
    _, writer = await asyncio.open_connection("127.0.0.1", instance.port)
    writer.write(b"GET /waits HTTP/1.1\r\nHost: localhost\r\n\r\n")
    _, upload = await asyncio.open_connection("127.0.0.1", instance.port)
    upload.write(b"POST /digest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\npart")
    await asyncio.gather(writer.drain(), upload.drain())
    await raw(instance, b"GET /early HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    writer.transport.abort()
    upload.transport.abort()

    async def both() -> bool:
        return (await noticed("waits"), await noticed("upload")) == (before[0] + 1, before[1] + 1)

    await eventually_so(both, 15, "both have been noticed")


# -- websockets --------------------------------------------------------------------------------------


async def test_messages_go_both_ways_with_their_kind(instance: Instance) -> None:
    protocols = ("chat", "other")
    async with (
        client(instance) as session,
        session.ws_connect("/ws", protocols=protocols, max_msg_size=0) as socket,
    ):
        assert socket.protocol == "chat"
        await socket.send_str("hé")
        assert await socket.receive_str() == "hé"
        for size in (0, 1, 300_000, 5 * MB):
            await socket.send_bytes(bytes(size))
            assert await socket.receive_bytes() == bytes(size)
        await socket.ping()
        await socket.send_str("close")
        message = await socket.receive()
        assert (message.type, message.data, message.extra) == (aiohttp.WSMsgType.CLOSE, 4001, "bye")


async def test_the_handshake_has_the_apps_headers(instance: Instance) -> None:
    answer = (await raw(instance, HANDSHAKE, until=b"\r\n\r\n")).lower()
    assert answer.startswith(b"http/1.1 101")
    assert b"x-ws: yes" in answer
    assert b"x-agentscope-worker: " in answer


async def test_the_app_can_reject_a_websocket(instance: Instance) -> None:
    async with client(instance) as session:
        for path, status in (("/ws/no", 403), ("/ws/denied", 429)):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(path)
            assert refused.value.status == status
    answer = await raw(instance, HANDSHAKE.replace(b"/ws", b"/ws/denied"))
    assert b"x-why: busy\r\n" in answer
    assert b"later" in answer


async def test_the_app_learns_how_a_websocket_was_closed(instance: Instance) -> None:
    async def noticed(code: int) -> int:
        return sum(each["gone"].count(f"ws {code}") for each in await state(instance))

    async with client(instance) as session:
        before = {code: await noticed(code) for code in (4005, 1006)}
        socket = await session.ws_connect("/ws")
        await socket.close(code=4005)
        socket = await session.ws_connect("/ws")
        await socket.send_str("hello")
        assert await socket.receive_str() == "hello"
        socket._response.connection.transport.abort()  # type: ignore[union-attr]

        async def both() -> bool:
            return [await noticed(code) for code in before] == [count + 1 for count in before.values()]

        await eventually_so(both, 15, "both have been noticed")


async def test_an_app_that_raises_closes_its_websocket_with_1011(instance: Instance) -> None:
    async with client(instance) as session, session.ws_connect("/ws") as socket:
        await socket.send_str("boom")
        message = await socket.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1011)


async def test_a_message_over_the_limit_closes_its_websocket_with_1009(instance: Instance) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", instance.port)
    writer.write(HANDSHAKE)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    writer.write(b"\x82\xff" + struct.pack(">Q", 16 * MB + 1) + bytes(4))  # the head of one masked frame
    assert (await reader.read())[2:4] == struct.pack(">H", 1009)
    writer.close()


async def test_a_websocket_for_a_route_of_the_server_is_refused(instance: Instance) -> None:
    async with client(instance) as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect("/livez")
        assert refused.value.status == 400


# -- settings ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """With a token, a prefix, small limits, and an app of agentscope-runtime's kind."""
    folder = tmp_path_factory.mktemp("guarded")
    server = {"auth_token": "secret", "prefix": "/_ops", "max_upload_mb": 1, "request_timeout": 1}
    project = hosted(folder / "project", server=server)
    (project / "hosted.txt").write_text("agentapp")
    with Instance(project, folder, workers=1) as instance:
        instance.launch()
        instance.wait_listening()
        yield instance


@pytest.fixture
async def locked(guarded: Instance) -> Instance:
    async with client(guarded) as session:

        async def ready() -> bool:
            try:
                async with session.get("/_ops/readyz") as response:
                    return response.status == 200
            except aiohttp.ClientError:
                return False

        await eventually_so(ready, 20, "the instance is ready")
    return guarded


async def test_routes_of_the_app_require_the_token_which_it_does_not_see(locked: Instance) -> None:
    async with client(locked) as session:
        async with session.get("/echo") as response:
            assert response.status == 401
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect("/ws")
        assert refused.value.status == 401
        token = {"Authorization": "Bearer secret"}
        async with session.get("/health", headers=token) as response:
            seen = await response.json()
            assert seen["path"] == "/health", "the path without the prefix is the app's"
            assert "authorization" not in dict(seen["headers"])
        preflight = {"Origin": "http://page", "Access-Control-Request-Method": "PUT"}
        async with session.options("/echo", headers=preflight) as response:
            assert response.status == 200, "a browser sends no token with it"


async def test_limits_hold_and_routes_that_end_a_worker_are_blocked(locked: Instance) -> None:
    token = {"Authorization": "Bearer secret"}
    async with client(locked, headers=token) as session:

        async def chunks() -> Any:
            for _ in range(40):
                yield bytes(50_000)

        for path, data, status, code in (
            ("/digest", io.BytesIO(bytes(2 * MB)), 413, "PAYLOAD_TOO_LARGE"),
            ("/digest", chunks(), 413, "PAYLOAD_TOO_LARGE"),
            ("/shutdown", b"", 403, "FORBIDDEN"),
            ("/%73hutdown", b"", 403, "FORBIDDEN"),
            ("/admin/status", b"", 403, "FORBIDDEN"),
            ("/silent", b"", 504, "TIMEOUT"),
        ):
            async with session.post(URL(path, encoded=True), data=data) as response:
                assert (response.status, (await response.json())["error"]["code"]) == (status, code)
