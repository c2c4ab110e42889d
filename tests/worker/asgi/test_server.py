"""The whole server of an ASGI app: exchanges, session states, and no turns."""

import json
from typing import Any, cast

import pytest

from agentscope_protocol.config.settings import Settings
from agentscope_protocol.wire.endpoint import Event
from agentscope_protocol.wire.errors import Code
from agentscope_protocol.wire.frames import Cancel, CancelReason, End, Fail, StreamKind
from agentscope_worker.asgi.server import AsgiServer
from agentscope_worker.runtime.asgi_app import AsgiApp
from agentscope_worker.runtime.compat.majors import seam
from tests.worker.asgi.front import Front

pytestmark = pytest.mark.agentscope

MESSAGE = json.dumps({"message": {"content": "hello"}}).encode()


class Store:
    """A session store with the state of one session."""

    async def delete_session_state(self, session_id: str, user_id: str) -> bool:
        return (session_id, user_id) == ("s", "ann")


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hi"})


class Behind(Front):
    """A link to the whole server of an app."""

    def __init__(self) -> None:
        super().__init__(app)
        life = cast(Any, type("Life", (), {"begin": lambda self, stream: None})())
        self.server = AsgiServer(
            AsgiApp(app, "app"), self.worker, life, cast(Any, Store()), Settings(), lambda _: None
        )

    def _dispatch(self, event: Event) -> None:
        self.server.on_event(event)

    async def ask(self, kind: StreamKind, body: bytes) -> End | Fail:
        stream = self.requester.open("s", "r-1", body, kind)
        answer = self.expect(stream)
        self.link.flush_soon()
        end = (await answer.ended()).end
        assert end is not None
        return end


async def test_it_serves_exchanges_and_session_states_and_no_turns() -> None:
    seam().adapt("bypass")
    front = Behind()
    assert set(front.server.stream_kinds) == {StreamKind.FORGET, StreamKind.HTTP, StreamKind.WEBSOCKET}
    forgotten = await front.ask(StreamKind.FORGET, b'{"user_id": "ann"}')
    assert isinstance(forgotten, End)
    assert forgotten.payload == b"true"
    turn = await front.ask(StreamKind.EVENTS, MESSAGE)
    assert isinstance(turn, Fail)
    assert (turn.code, turn.message) == (Code.APP_ERROR, "the project has an ASGI app, and no class App")
    assert (await front.request().ended()).body == b"hi"
    front.server.on_event(Cancel(1, CancelReason.CLIENT_GONE))  # its end has crossed it
    await front.server.stop(asked=True)
