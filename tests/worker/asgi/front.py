"""The supervisor's end of a link, in memory: opens exchanges with an app, and collects what it answers."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from agentscope_protocol.config.settings import SessionsSettings
from agentscope_protocol.wire.endpoint import Event
from agentscope_protocol.wire.exchange import RequestHead, close_payload, encode_head, read_close
from agentscope_protocol.wire.frames import (
    Cancel,
    CancelReason,
    Data,
    End,
    Fail,
    Head,
    MessageKind,
    Open,
    StreamKind,
)
from agentscope_protocol.wire.link import Link
from agentscope_protocol.wire.requester import Requester
from agentscope_protocol.wire.responder import Responder
from agentscope_worker.asgi.exchanges import Exchanges
from agentscope_worker.runtime.asgi_app import AsgiApp
from tests.harness.waiting import eventually

Headers = Iterable[tuple[str, str]]


class _Wire(asyncio.Transport):
    """Carries the bytes of one link to the other in the next iteration of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.peer: Link[Any]
        self.writes = 0

    def write(self, data: Any) -> None:
        self.writelines([data])

    def writelines(self, list_of_data: Any) -> None:
        self.writes += 1
        asyncio.get_running_loop().call_soon(self.peer.data_received, b"".join(list_of_data))

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None: ...


class _Life:
    def begin(self, stream: int) -> None: ...


@dataclass
class Answer:
    """One exchange, as its client sees it."""

    front: "Front"
    stream: int
    head: Head | None = None
    messages: list[Data] = field(default_factory=list)
    end: End | Fail | None = None

    @property
    def status(self) -> int | None:
        return self.head.status if self.head else None

    @property
    def headers(self) -> dict[str, str]:
        assert self.head
        return {name.decode(): value.decode() for name, value in self.head.headers}

    @property
    def pieces(self) -> list[bytes]:
        return [each.payload for each in self.messages]

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def closed(self) -> tuple[int, str] | None:
        """Code and reason of the close that the app sent."""
        found = [each for each in self.messages if each.count == MessageKind.CLOSE]
        return read_close(found[0].payload) if found else None

    async def ended(self) -> "Answer":
        await eventually(lambda: self.end is not None, 30, "the exchange ends")
        return self

    async def has(self, count: int) -> "Answer":
        await eventually(lambda: len(self.messages) >= count, 30, f"{count} messages arrive")
        return self

    async def begun(self) -> "Answer":
        await eventually(lambda: self.head is not None, 30, "the head arrives")
        return self

    def send(self, kind: MessageKind, payload: bytes = b"") -> bool:
        more = self.front.requester.input(self.stream, kind, payload)
        self.front.link.flush_soon()
        return more

    def close(self, code: int, reason: str = "") -> None:
        self.send(MessageKind.CLOSE, close_payload(code, reason))

    def cancel(self, reason: CancelReason = CancelReason.CLIENT_GONE) -> None:
        self.front.requester.cancel(self.stream, reason)
        self.front.link.flush_soon()


class Front:
    """A link to the exchanges of one app."""

    def __init__(self, app: Any, state: Mapping[str, Any] | None = None, **sessions: Any) -> None:
        """`sessions`: settings of this section."""
        hosted = app if isinstance(app, AsgiApp) else AsgiApp(app, "app")
        hosted.state.update(state or {})
        there, back = _Wire(), _Wire()
        self.requester = Requester({})
        self.answers: dict[int, Answer] = {}
        self.reads = True  # whether clients read what arrives
        self.link: Link[Requester] = Link(self.requester, self._on_event, lambda _, ends: self._lost(ends))
        self.worker: Link[Responder] = Link(Responder({}), self._dispatch, lambda _, ends: self._gone(ends))
        settings = SessionsSettings(**{"cancel_grace": 0.4, **sessions})
        self.exchanges = Exchanges(hosted, self.worker, cast(Any, _Life()), settings)
        there.peer, back.peer = self.worker, self.link
        self.wire = back
        self.link.connection_made(there)
        self.worker.connection_made(back)

    def request(
        self,
        method: str = "GET",
        path: str = "/",
        *,
        query: str = "",
        headers: Headers = (),
        body: bytes | None = b"",
        request_id: str = "r-1",
        session: str = "",
    ) -> Answer:
        """Send a request; with `body=None`, its body follows."""
        head = self._head(method, path, query, headers, "http", ())
        answer = self._open(StreamKind.HTTP, head, request_id, session)
        if body is not None:
            answer.send(MessageKind.LAST, body)
        return answer

    def websocket(
        self, path: str = "/", *, subprotocols: tuple[str, ...] = (), headers: Headers = ()
    ) -> Answer:
        return self._open(StreamKind.WEBSOCKET, self._head("GET", path, "", headers, "ws", subprotocols))

    def _head(
        self, method: str, path: str, query: str, headers: Headers, scheme: str, offers: tuple[str, ...]
    ) -> RequestHead:
        pairs = tuple((name.encode(), value.encode()) for name, value in headers)
        address, server = ("10.0.0.9", 4321), ("example.org", 80)
        return RequestHead(
            method, path.encode(), query.encode(), pairs, address, server, scheme, "1.1", offers
        )

    def _open(
        self, kind: StreamKind, head: RequestHead, request_id: str = "r-1", session: str = ""
    ) -> Answer:
        stream = self.requester.open_exchange(kind, session, request_id, encode_head(head), {})
        self.link.flush_soon()
        return self.expect(stream)

    def expect(self, stream: int) -> Answer:
        """Collect what arrives on a stream."""
        answer = self.answers[stream] = Answer(self, stream)
        return answer

    def _on_event(self, event: Event) -> None:
        match event:
            case Head(stream):
                self.answers[stream].head = event
            case Data(stream, _, payload):
                self.answers[stream].messages.append(event)
                if self.reads:
                    self.requester.consumed(stream, len(payload))
            case End(stream) | Fail(stream):
                assert self.answers[stream].end is None
                self.answers[stream].end = event

    def _dispatch(self, event: Event) -> None:
        taken = self.exchanges.on_event(event)
        assert taken or not isinstance(event, Open)

    def _lost(self, ends: Iterable[Event]) -> None:
        for event in ends:
            self._on_event(event)

    def _gone(self, ends: Iterable[Event]) -> None:
        for event in ends:
            assert isinstance(event, Cancel)
            self._dispatch(event)
