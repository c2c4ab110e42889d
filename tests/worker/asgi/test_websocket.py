"""WebSocket exchanges with small ASGI apps."""

import asyncio
from typing import Any

import pytest

from agentscope_protocol.wire.errors import Code
from agentscope_protocol.wire.flow import INITIAL_CREDIT
from agentscope_protocol.wire.frames import CancelReason, End, Fail, MessageKind
from tests.harness.waiting import eventually
from tests.worker.asgi.front import Front

ACCEPT = {"type": "websocket.accept"}


def text(value: str) -> dict[str, Any]:
    return {"type": "websocket.send", "text": value}


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Accepts, and returns each message; ends with what `scope["state"]["log"]` gets."""
    log = scope["state"]["log"]
    log.append(await receive())
    offers = scope["subprotocols"]
    await send({**ACCEPT, "subprotocol": offers[0] if offers else None, "headers": [(b"X-Ws", b"1")]})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            log.append(message)
            assert await receive() == message, "again"
            return
        if message.get("text") == "close":
            await send({"type": "websocket.close", "code": 4002, "reason": "asked"})
            log.append(await receive())
            return
        answer = {name: message[name] for name in ("text", "bytes") if message.get(name) is not None}
        await send({"type": "websocket.send", **answer})


def front_of(app: Any, **options: Any) -> tuple[Front, list[Any]]:
    log: list[Any] = []
    return Front(app, state={"log": log}, **options), log


async def test_messages_go_both_ways() -> None:
    front, log = front_of(echo)
    socket = await front.websocket(subprotocols=("chat", "other")).begun()
    assert socket.status == 101
    assert socket.headers == {"x-ws": "1", "sec-websocket-protocol": "chat"}
    socket.send(MessageKind.TEXT, "h\u00e9".encode())
    socket.send(MessageKind.BINARY, b"\x00\xff")
    socket.send(MessageKind.BINARY, b"")
    socket.send(MessageKind.TEXT, b"x" * 300_000)
    await socket.has(4)
    kinds = [(each.count, each.payload[:3]) for each in socket.messages]
    assert kinds == [
        (MessageKind.TEXT, "h\u00e9".encode()[:3]),
        (MessageKind.BINARY, b"\x00\xff"),
        (MessageKind.BINARY, b""),
        (MessageKind.TEXT, b"xxx"),
    ]
    socket.send(MessageKind.TEXT, b"close")
    await socket.ended()
    assert socket.closed == (4002, "asked")
    assert log == [
        {"type": "websocket.connect"},
        {"type": "websocket.disconnect", "code": 4002, "reason": "asked"},
    ]


async def test_the_scope_is_that_of_a_websocket() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await send({"type": "websocket.close"})

    socket = await Front(app).websocket("/ws", subprotocols=("a",), headers=[("x", "1")]).ended()
    assert (socket.status, socket.messages, type(socket.end)) == (403, [], End)
    assert "method" not in seen[0]
    assert {name: seen[0][name] for name in ("type", "scheme", "path", "subprotocols", "extensions")} == {
        "type": "websocket",
        "scheme": "ws",
        "path": "/ws",
        "subprotocols": ["a"],
        "extensions": {"websocket.http.response": {}},
    }


async def test_a_close_of_the_client_has_its_code() -> None:
    front, log = front_of(echo)
    socket = await front.websocket().begun()
    socket.close(4005, "bye")
    await socket.ended()
    assert log[1] == {"type": "websocket.disconnect", "code": 4005, "reason": "bye"}
    assert isinstance(socket.end, End)


async def test_messages_before_the_close_are_answered() -> None:
    front, log = front_of(echo)
    socket = await front.websocket().begun()
    socket.send(MessageKind.TEXT, b"last")
    socket.close(1000)
    await socket.ended()
    assert socket.pieces[0] == b"last"
    assert log[1]["code"] == 1000


@pytest.mark.parametrize("reason, code", [(CancelReason.CLIENT_GONE, 1005), (CancelReason.DRAINING, 1012)])
async def test_a_cancelled_websocket_is_disconnected(reason: CancelReason, code: int) -> None:
    front, log = front_of(echo)
    socket = await front.websocket().begun()
    socket.cancel(reason)
    await socket.ended()
    assert log[1] == {"type": "websocket.disconnect", "code": code, "reason": ""}
    assert socket.end == Fail(socket.stream, Code.CANCELLED, "cancelled")


async def test_a_close_is_not_replaced_by_the_cancel_after_it() -> None:
    front, log = front_of(echo)
    socket = await front.websocket().begun()
    socket.close(4005)
    socket.cancel()
    await socket.ended()
    assert log[1]["code"] == 4005


async def test_sends_to_a_client_that_has_gone_raise_an_oserror(caplog: pytest.LogCaptureFixture) -> None:
    raised: list[Exception] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        try:
            while True:
                await send(text("x" * 10_000))
                await asyncio.sleep(0)
        except OSError as error:
            raised.append(error)
            raise

    front = Front(app)
    front.reads = False
    socket = await front.websocket().has(10)
    socket.cancel()
    await socket.ended()
    second = await front.websocket().has(3)
    second.close(1001)
    await second.ended()
    assert len(raised) == 2
    assert not caplog.records


async def test_a_slow_client_holds_the_app_back() -> None:
    made = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal made
        await send(ACCEPT)
        while True:
            await send(text("x" * 10_000))
            made += 1

    front = Front(app)
    front.reads = False
    socket = await front.websocket().has(20)
    for _ in range(10):
        await asyncio.sleep(0)
    assert made * 10_000 <= INITIAL_CREDIT + 10_000
    socket.cancel()
    await socket.ended()


async def test_an_app_can_reject_with_a_response() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"X-Why", b"no")]
        await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b"x" * 70_000, "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"end"})

    socket = await Front(app).websocket().ended()
    assert (socket.status, socket.headers, len(socket.body)) == (401, {"x-why": "no"}, 70_003)
    assert isinstance(socket.end, End)


class TestEnds:
    async def test_a_return_closes_normally(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(ACCEPT)

        socket = await Front(app).websocket().ended()
        assert socket.closed == (1000, "")

    async def test_an_error_after_the_accept_is_a_failure(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(ACCEPT)
            raise ValueError

        socket = await Front(app).websocket().ended()
        assert (socket.status, socket.end) == (101, Fail(1, Code.APP_ERROR, "the app raised ValueError"))

    @pytest.mark.parametrize(
        "messages, said",
        [
            ([], "the app returned without completing the handshake"),
            ([{"type": "websocket.http.response.start", "status": 401}], "did not complete its response"),
            ([text("x")], "the app raised RuntimeError"),
        ],
    )
    async def test_a_missing_handshake_is_a_failure(self, messages: list[Any], said: str) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            for message in messages:
                await send(message)

        socket = await Front(app).websocket().ended()
        assert isinstance(socket.end, Fail)
        assert said in socket.end.message

    @pytest.mark.parametrize(
        "messages, said",
        [
            ([text("x")], "Expected ASGI message 'websocket.accept', 'websocket.close' or"),
            ([ACCEPT, ACCEPT], "Expected ASGI message 'websocket.send' or 'websocket.close', but got"),
            (
                [ACCEPT, {"type": "websocket.close"}, text("x")],
                "Unexpected ASGI message 'websocket.send', after",
            ),
            ([{"type": "websocket.close"}, text("x")], "Unexpected ASGI message 'websocket.send', after"),
            (
                [{"type": "websocket.http.response.start", "status": 401}, ACCEPT],
                "Expected ASGI message 'websocket.http.response.body' but got 'websocket.accept'.",
            ),
        ],
    )
    async def test_messages_out_of_order_raise(
        self, messages: list[Any], said: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            for message in messages:
                await send(message)

        await Front(app).websocket().ended()
        await eventually(lambda: bool(caplog.records), 30, "it is logged")
        (record,) = caplog.records
        assert record.exc_info is not None
        assert said in str(record.exc_info[1])

    async def test_a_message_over_the_limit_raises(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(ACCEPT)
            await send({"type": "websocket.send", "bytes": bytes(16 * 1024 * 1024 + 1)})

        socket = await Front(app).websocket().ended()
        assert socket.end == Fail(1, Code.APP_ERROR, "the app raised RuntimeError")
