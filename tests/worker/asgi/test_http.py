"""HTTP exchanges with small ASGI apps: the messages that an app gets, and what leaves for each of its own."""

import asyncio
import contextvars
import logging
from collections.abc import Callable
from typing import Any

import pytest

from agentscope_protocol.wire.errors import Code
from agentscope_protocol.wire.exchange import PIECE
from agentscope_protocol.wire.flow import INITIAL_CREDIT
from agentscope_protocol.wire.frames import CancelReason, End, Fail, MessageKind
from agentscope_worker import log_output
from agentscope_worker.asgi import http_exchange, response_ids
from tests.harness.waiting import eventually
from tests.worker.asgi.front import Front

START = {"type": "http.response.start", "status": 200, "headers": [(b"Content-Type", b"text/plain")]}


def body(data: bytes = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def app_that_sends(*messages: dict[str, Any]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


async def test_the_scope_is_that_of_the_request() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        scope["state"]["own"] = 1
        await send(START)
        await send(body(b"hi"))

    state = {"pool": object()}
    front = Front(app, state=state)
    answer = front.request("POST", "/a%2Fb/%E4%BD%A0", query="q=1%202", headers=[("x-a", "1"), ("x-a", "2")])
    await answer.ended()
    assert seen[0] == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "server": ("example.org", 80),
        "client": ("10.0.0.9", 4321),
        "root_path": "",
        "path": "/a/b/\u4f60",
        "raw_path": b"/a%2Fb/%E4%BD%A0",
        "query_string": b"q=1%202",
        "headers": [(b"x-a", b"1"), (b"x-a", b"2")],
        "state": {**state, "own": 1},
        "extensions": {},
    }
    assert (answer.status, answer.headers, answer.body) == (200, {"content-type": "text/plain"}, b"hi")
    assert isinstance(answer.end, End)
    assert front.exchanges.on_event(answer.messages[0]) is False, "not an event of a worker"
    await front.request().ended()
    assert seen[1]["state"] == {**state, "own": 1}, "a copy for each request"


async def test_a_short_response_leaves_in_one_write() -> None:
    front = Front(app_that_sends(START, body(b"hi")))
    await asyncio.sleep(0)
    before = front.wire.writes
    await front.request().ended()
    assert front.wire.writes == before + 1


async def test_each_message_of_a_stream_leaves_at_once() -> None:
    gate = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(body(b"one", True))
        await send(body(b"", True))
        await gate.wait()
        await send(body(b"two", True))
        await send(body(b"three"))

    answer = await Front(app).request().has(1)
    assert (answer.pieces, answer.end) == ([b"one"], None)
    gate.set()
    assert (await answer.ended()).pieces == [b"one", b"two", b"three"]


async def test_the_head_of_a_silent_stream_leaves_without_a_body() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await receive()
        await asyncio.get_running_loop().create_future()

    front = Front(app)
    answer = await front.request().begun()
    assert answer.status == 200
    await front.exchanges.stop(asked=True, within=0)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_large_messages_are_sent_in_pieces(kind: Callable[[bytes], Any]) -> None:
    data = bytes(range(256)) * 1024
    answer = await Front(app_that_sends(START, body(kind(data)))).request().ended()
    assert answer.body == data
    assert {len(piece) for piece in answer.pieces} == {PIECE}


async def test_the_body_of_a_request_arrives_as_it_is_sent() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while not seen or seen[-1]["more_body"]:
            seen.append(await receive())
        await send(START)
        await send(body(b"ok"))
        seen.append(await receive())

    front = Front(app)
    answer = front.request("POST", body=None)
    answer.send(MessageKind.BODY, b"one")
    await eventually(lambda: len(seen) == 1, 30, "the app has the first piece")
    answer.send(MessageKind.BODY, b"two")
    answer.send(MessageKind.LAST)
    await answer.ended()
    assert seen[:3] == [
        {"type": "http.request", "body": b"one", "more_body": True},
        {"type": "http.request", "body": b"two", "more_body": True},
        {"type": "http.request", "body": b"", "more_body": False},
    ]
    await eventually(lambda: len(seen) == 4, 30, "the app has the end")
    assert seen[3] == {"type": "http.disconnect"}


async def test_an_app_that_does_not_read_holds_its_client_back() -> None:
    gate = asyncio.Event()
    size = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal size
        await gate.wait()
        while True:
            message = await receive()
            size += len(message["body"])
            if not message["more_body"]:
                break
        await send(START)
        await send(body(b"ok"))

    front = Front(app)
    answer = front.request("PUT", body=None)
    sent = 0
    while front.requester.can_input(answer.stream):
        answer.send(MessageKind.BODY, b"x" * PIECE)
        sent += PIECE
    assert sent <= INITIAL_CREDIT + PIECE
    await asyncio.sleep(0)
    assert not front.requester.can_input(answer.stream)
    gate.set()
    await eventually(lambda: front.requester.can_input(answer.stream), 30, "the client may send again")
    answer.send(MessageKind.LAST, b"end")
    await answer.ended()
    assert size == sent + 3


async def test_a_slow_client_holds_the_app_back() -> None:
    made = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal made
        await send(START)
        for _ in range(100):
            await send(body(b"x" * PIECE, True))
            made += 1
        await send(body())

    front = Front(app)
    front.reads = False
    answer = await front.request().has(4)
    for _ in range(10):
        await asyncio.sleep(0)
    assert made * PIECE <= INITIAL_CREDIT
    front.reads = True
    for message in list(answer.messages):
        front.requester.consumed(answer.stream, len(message.payload))
    front.link.flush()
    await answer.ended()
    assert made == 100


async def test_a_slow_client_that_leaves_releases_the_app() -> None:
    over = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for _ in range(100):
            await send(body(b"x" * PIECE, True))
        over.set()

    front = Front(app)
    front.reads = False
    answer = await front.request().has(4)
    answer.cancel()
    await answer.ended()
    assert over.is_set()


class TestDisconnect:
    async def test_it_is_received_at_once(self) -> None:
        seen: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send(START)
            both = await asyncio.gather(receive(), receive())  # frameworks listen in several tasks
            seen.extend(both)
            await send(body(b"not sent"))

        front = Front(app)
        answer = await front.request().begun()
        answer.cancel()
        await answer.ended()
        assert seen == [{"type": "http.disconnect"}] * 2
        assert answer.end == Fail(answer.stream, Code.CANCELLED, "cancelled")
        assert answer.messages == []

    async def test_an_app_that_ignores_it_is_cancelled_after_the_grace(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        log: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                log.append("finally")

        front = Front(app, cancel_grace=0.1)
        answer = front.request()
        await asyncio.sleep(0)
        answer.cancel(CancelReason.TIMEOUT)
        await answer.ended()
        assert log == ["finally"]
        assert answer.end == Fail(answer.stream, Code.CANCELLED, "cancelled")
        assert not caplog.records, "nothing went wrong"

    async def test_an_app_may_finish_if_the_settings_say_so(self) -> None:
        gate = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await gate.wait()

        front = Front(app, cancel_grace=0, on_disconnect="continue")
        answer, late = front.request(), front.request()
        await asyncio.sleep(0)
        answer.cancel()
        late.cancel(CancelReason.TIMEOUT)
        await late.ended()
        assert answer.end is None
        gate.set()
        await answer.ended()

    async def test_the_end_of_the_link_is_a_disconnect(self) -> None:
        seen: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            seen.append(await receive())

        front = Front(app)
        front.request()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        front.worker.close("gone")
        await eventually(lambda: seen == [{"type": "http.disconnect"}], 30, "the app knows")


class TestStop:
    async def test_open_exchanges_are_disconnected_and_background_work_goes_on(self) -> None:
        log: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            if scope["path"] == "/stream":
                await send(START)
                log.append((await receive())["type"])
            else:
                await send(START)
                await send(body(b"ok"))
                await asyncio.sleep(0.05)
                log.append("background")

        front = Front(app)
        stream, done = front.request(path="/stream"), front.request(path="/background")
        await stream.begun()
        await done.ended()
        await front.exchanges.stop(asked=True, within=5)
        assert log == ["http.disconnect", "background"]
        await stream.ended()
        late = front.request()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert late.end is None, "the supervisor gives it to another worker when the link ends"

    async def test_work_that_takes_too_long_is_cancelled(self, caplog: pytest.LogCaptureFixture) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(START)
            await send(body(b"ok"))
            await asyncio.get_running_loop().create_future()

        front = Front(app)
        await front.request().ended()
        await front.exchanges.stop(asked=True, within=0.05)
        await front.exchanges.stop(asked=True, within=0.05)
        assert [record.getMessage() for record in caplog.records] == [
            "1 calls of the app were cancelled: they did not end within 0.05 s"
        ]

    async def test_an_end_that_nobody_asked_for_is_not_reported(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await receive()

        front = Front(app)
        answer = front.request()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await front.exchanges.stop(asked=False, within=5)
        assert answer.end is None


class TestErrors:
    async def test_an_error_before_the_head_is_a_failure(self, caplog: pytest.LogCaptureFixture) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            raise KeyError("secret")

        answer = await Front(app).request().ended()
        assert (answer.head, answer.end) == (None, Fail(1, Code.APP_ERROR, "the app raised KeyError"))
        (record,) = caplog.records
        assert record.exc_info is not None
        assert record.exc_info[0] is KeyError

    async def test_an_error_after_the_head_cuts_the_response(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(START)
            await send(body(b"one", True))
            raise ValueError

        answer = await Front(app).request().ended()
        assert (answer.status, answer.body) == (200, b"one")
        assert answer.end == Fail(1, Code.APP_ERROR, "the app raised ValueError")

    async def test_an_error_after_the_response_is_only_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(START)
            await send(body(b"one"))
            raise ValueError

        answer = await Front(app).request().ended()
        assert isinstance(answer.end, End)
        await eventually(lambda: len(caplog.records) == 1, 30, "it is logged")

    async def test_an_exit_ends_only_the_exchange(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            raise SystemExit(3)

        front = Front(app)
        assert isinstance((await front.request().ended()).end, Fail)
        assert isinstance((await front.request().ended()).end, Fail)

    @pytest.mark.parametrize(
        "messages, said",
        [
            ([], "the app returned without a response"),
            ([START, body(b"x", True)], "the app did not complete its response"),
        ],
    )
    async def test_a_missing_end_is_a_failure(self, messages: list[dict[str, Any]], said: str) -> None:
        answer = await Front(app_that_sends(*messages)).request().ended()
        assert answer.end == Fail(1, Code.APP_ERROR, said)

    @pytest.mark.parametrize(
        "messages, said",
        [
            ([body()], "Expected ASGI message 'http.response.start', but got 'http.response.body'."),
            ([START, START], "Expected ASGI message 'http.response.body', but got 'http.response.start'."),
            ([START, body(), body()], "Unexpected ASGI message 'http.response.body' sent, after"),
            ([{**START, "headers": [(b"a b", b"")]}], "Invalid HTTP header name."),
            ([{**START, "headers": [(b"a", b"1\r\nb: 2")]}], "Invalid HTTP header value."),
            (
                [{**START, "headers": [(b"a", bytes(70_000).replace(b"\0", b"x"))]}],
                "head of the response cannot",
            ),
            ([{**START, "headers": [(b"Content-Length", b"1")]}, body(b"12")], "longer than Content-Length"),
            ([{**START, "headers": [(b"Content-Length", b"3")]}, body(b"12")], "shorter than Content-Length"),
        ],
    )
    async def test_messages_out_of_order_raise(
        self, messages: list[dict[str, Any]], said: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        await Front(app_that_sends(*messages)).request().ended()
        await eventually(lambda: bool(caplog.records), 30, "it is logged")
        (record,) = caplog.records
        assert record.exc_info is not None
        assert said in str(record.exc_info[1])


@pytest.mark.parametrize(
    "method, status, length", [("HEAD", 200, b"5"), ("GET", 204, b"0"), ("GET", 304, b"5")]
)
async def test_a_response_without_a_body_has_none(method: str, status: int, length: bytes) -> None:
    start = {**START, "status": status, "headers": [(b"content-length", length)]}
    answer = await Front(app_that_sends(start, body(b"hello"))).request(method).ended()
    assert (answer.status, answer.messages) == (status, [])
    assert answer.headers["content-length"] == length.decode()
    assert isinstance(answer.end, End)


async def test_trailers_are_ignored() -> None:
    trailers = {"type": "http.response.trailers", "headers": [(b"x", b"1")]}
    app = app_that_sends({**START, "trailers": True}, body(b"hi"), trailers)
    answer = await Front(app).request().ended()
    assert (answer.body, type(answer.end)) == (b"hi", End)


JSON = {**START, "headers": [(b"Content-Type", b"application/json; charset=utf-8")]}
EVENTS = {**START, "headers": [(b"Content-Type", b"text/event-stream")]}


class TestIds:
    async def test_the_head_names_the_ids_in_the_beginning_of_the_body(self) -> None:
        data = b'{"id": "task-12345678", "contextId":"c-87654321", "name": "long enough"}'
        answer = await Front(app_that_sends(JSON, body(data))).request().ended()
        assert answer.head
        assert answer.head.ids == ("task-12345678", "c-87654321")
        assert answer.body == data

    async def test_other_bodies_are_not_searched(self) -> None:
        answer = await Front(app_that_sends(START, body(b'{"id": "task-12345678"}'))).request().ended()
        assert answer.head
        assert answer.head.ids == ()

    async def test_a_head_does_not_wait_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http_exchange, "HEAD_DELAY", 0.01)
        gate = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(EVENTS)
            await gate.wait()
            await send(body(b'data: {"id": "task-12345678"}\n\n'))

        answer = await Front(app).request().begun()
        assert answer.status == 200
        gate.set()
        assert b"task" in (await answer.ended()).body

    async def test_a_head_that_waits_is_forgotten_with_its_response(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http_exchange, "HEAD_DELAY", 0.01)
        answer = await Front(app_that_sends(JSON)).request().ended()
        await asyncio.sleep(0.03)
        assert (answer.head, type(answer.end)) == (None, Fail)

    def test_ids_are_listed_once_and_limited(self) -> None:
        text = b'{"task_id": "aaaaaaaa", "taskId": "aaaaaaaa", "id": "x", "id": "no spaces here"}'
        assert response_ids.ids_in(text) == ("aaaaaaaa",)
        many = b",".join(b'"id": "%08d"' % number for number in range(9))
        assert len(response_ids.ids_in(many)) == response_ids.MAX_IDS


async def test_log_records_name_the_request(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []
    mine: contextvars.ContextVar[int] = contextvars.ContextVar("mine", default=0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((dict(log_output.current_turn()), mine.get()))
        mine.set(1)
        logging.getLogger("app").warning("x")
        seen.append(await asyncio.to_thread(lambda: (dict(log_output.current_turn()), mine.get())))
        await send(START)
        await send(body())

    front = Front(app)
    await front.request(request_id="r-7").ended()
    await front.request(request_id="r-8", session="s").ended()
    assert seen[:2] == [({"request": "r-7"}, 0), ({"request": "r-7"}, 1)]
    assert seen[2][0].keys() == {"request", "session"}
    assert seen[2][1] == 0, "a context for each request"
