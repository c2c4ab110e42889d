"""The link on real socket pairs with both event loops, and its writes on a recording transport."""

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, Final

import pytest
import uvloop

from agentscope_protocol.wire.codec import FrameReader, encode
from agentscope_protocol.wire.endpoint import Event
from agentscope_protocol.wire.errors import Code
from agentscope_protocol.wire.frames import (
    PROTOCOL_VERSION,
    Cancel,
    CancelReason,
    Data,
    End,
    Fail,
    Frame,
    Hello,
    Notice,
    Open,
)
from agentscope_protocol.wire.link import Link
from agentscope_protocol.wire.requester import Requester
from agentscope_protocol.wire.responder import Responder

DEADLINE: Final = 5  # seconds
GREETING: Final = encode(Hello(PROTOCOL_VERSION, {}))
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs a scenario on one event loop implementation; an error that the loop reports fails the test."""
    reports: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=request.param) as runner:
        runner.get_loop().set_exception_handler(lambda _loop, context: reports.append(context))

        def run_scenario(scenario: Coroutine[Any, Any, None]) -> None:
            async def within_deadline() -> None:
                async with asyncio.timeout(DEADLINE):
                    await scenario

            runner.run(within_deadline())

        yield run_scenario
    assert reports == []


class Shell:
    """The owner of one link: records the events and can wait for them."""

    def __init__(self, connection: Requester | Responder) -> None:
        self.events: list[Event] = []
        self.lost: list[tuple[str, list[Event]]] = []
        self.on_event: Callable[[Event], None] = lambda _event: None
        self._changed = asyncio.Event()
        self.link: Link[Any] = Link(connection, self._event, self._lost)

    def _event(self, event: Event) -> None:
        self.events.append(event)
        self.on_event(event)
        self._changed.set()

    def _lost(self, reason: str, terminals: Sequence[Event]) -> None:
        self.lost.append((reason, list(terminals)))
        self._changed.set()

    async def until(self, happened: Callable[[], object]) -> None:
        while not happened():
            self._changed.clear()
            await self._changed.wait()

    async def attach(self, sock: socket.socket) -> None:
        await asyncio.get_running_loop().create_connection(lambda: self.link, sock=sock)


class Raw:
    """A peer with a plain socket: the test decides what it sends and when it reads."""

    def __init__(self) -> None:
        self.theirs, self._socket = socket.socketpair()
        self._socket.setblocking(False)
        self._reader = FrameReader()

    async def send(self, *data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, b"".join(data))

    async def read(self, count: int) -> list[Frame]:
        frames: list[Frame] = []
        while len(frames) < count:
            data = await asyncio.get_running_loop().sock_recv(self._socket, 1 << 20)
            assert data, "closed"
            frames += self._reader.feed(data)
        return frames

    async def read_to_end(self) -> int:
        """Number of bytes received until the link was closed."""
        size = 0
        try:
            while data := await asyncio.get_running_loop().sock_recv(self._socket, 1 << 20):
                size += len(data)
        except ConnectionResetError:
            pass  # the other end closed with unread bytes
        return size

    def close(self) -> None:
        self._socket.close()


class Recorder(asyncio.Transport):
    """A transport that accepts and records every write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.aborted = 0
        self.closing = False

    def writelines(self, data: Iterable[bytes]) -> None:  # type: ignore[override]  # only bytes are sent
        self.writes.append(b"".join(data))

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.aborted += 1
        self.closing = True


async def attached(connection: Requester | Responder) -> tuple[Shell, Raw]:
    """A link whose peer is a raw socket; both ends have greeted."""
    shell, raw = Shell(connection), Raw()
    await shell.attach(raw.theirs)
    await raw.send(GREETING)
    assert await raw.read(1) == [Hello(PROTOCOL_VERSION, {})]
    await shell.until(lambda: shell.events)
    return shell, raw


def test_a_turn_runs_over_a_real_socket(run: Run) -> None:
    async def scenario() -> None:
        supervisor, worker = Shell(Requester({})), Shell(Responder({}))
        requester, responder = supervisor.link.connection, worker.link.connection

        def answer(event: Event) -> None:
            if isinstance(event, Open):
                responder.send(event.stream, b"one,")
                responder.send(event.stream, b"two")
                responder.end(event.stream)

        worker.on_event = answer
        for shell, sock in zip((supervisor, worker), socket.socketpair(), strict=True):
            await shell.attach(sock)
        stream = requester.open("s", "r", b"{}")
        supervisor.link.flush_soon()
        await supervisor.until(lambda: len(supervisor.events) == 3)
        assert supervisor.events[1:] == [Data(stream, 2, b"one,two"), End(stream)]
        requester.open("s", "r", b"{}", headers={"traceparent": "t"})
        worker.on_event = lambda _event: None
        supervisor.link.flush()
        await worker.until(lambda: len(worker.events) == 3)

        worker.link.close("leaving")
        assert worker.lost == [("leaving", [Cancel(2, CancelReason.CLIENT_GONE)])]
        await supervisor.until(lambda: supervisor.lost)
        ((reason, terminals),) = supervisor.lost
        assert terminals == [Fail(2, Code.LINK_LOST, reason)]

    run(scenario())


def test_a_closed_peer_fails_open_streams(run: Run) -> None:
    async def scenario() -> None:
        shell, raw = await attached(Requester({}))
        written = shell.link.connection.open("s", "r", b"")
        shell.link.flush()
        await raw.read(1)
        unsent = shell.link.connection.open("s", "r", b"")
        raw.close()
        await shell.until(lambda: shell.lost)
        reason = "the peer closed the link"
        assert shell.lost == [
            (reason, [Fail(written, Code.LINK_LOST, reason), Fail(unsent, Code.UNSENT, reason)])
        ]
        shell.link.close("again")
        await asyncio.sleep(0)
        assert len(shell.lost) == 1

    run(scenario())


def test_a_peer_that_violates_the_protocol_is_dropped(run: Run) -> None:
    async def scenario() -> None:
        shell, raw = await attached(Requester({}))
        stream = shell.link.connection.open("s", "r", b"")
        shell.link.flush()
        await raw.read(1)
        await raw.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        assert await raw.read_to_end() == 0
        raw.close()
        await shell.until(lambda: shell.lost)
        reason = "protocol error: not a frame"
        assert shell.lost == [(reason, [Fail(stream, Code.LINK_LOST, reason)])]

    run(scenario())


def test_a_handler_that_closes_the_link_receives_no_further_event(run: Run) -> None:
    async def scenario() -> None:
        shell, raw = await attached(Requester({}))
        stream = shell.link.connection.open("s", "r", b"")
        shell.link.flush()
        await raw.read(1)
        shell.on_event = lambda event: shell.link.close("enough") if event == Notice("failed", "") else None
        await raw.send(encode(Notice("failed", "")), encode(Notice("ready", "")))
        assert await raw.read_to_end() == 0
        raw.close()
        assert shell.events[1:] == [Notice("failed", "")]
        assert shell.lost == [("enough", [Fail(stream, Code.LINK_LOST, "enough")])]

    run(scenario())


def test_a_handler_that_closes_the_link_loses_no_terminal_event(run: Run) -> None:
    async def scenario() -> None:
        shell, transport = recorded(Requester({}))
        stream = shell.link.connection.open("s", "r", b"")
        shell.link.flush()
        shell.on_event = lambda event: shell.link.close("enough") if event == Notice("failed", "") else None
        shell.link.data_received(encode(Notice("failed", "")) + encode(End(stream)))
        assert shell.lost == [("enough", [Fail(stream, Code.LINK_LOST, "enough")])]
        assert transport.aborted == 1

    run(scenario())


def test_the_first_output_of_a_loop_iteration_can_leave_at_once(run: Run) -> None:
    """The first message leaves even if the App blocks the loop or crashes right after it."""

    async def scenario() -> None:
        shell, transport = recorded(Requester({}))
        writes = len(transport.writes)
        for word in ("a", "b", "c"):
            shell.link.connection.notice(word)
            shell.link.flush_early()
        assert len(transport.writes) == writes + 1, "expected only the first output"
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(transport.writes) == writes + 2, "expected the remaining output in one write"
        shell.link.connection.notice("d")
        shell.link.flush_early()
        assert len(transport.writes) == writes + 3

    run(scenario())


def test_writing_after_close_has_no_effect(run: Run) -> None:
    async def scenario() -> None:
        shell, raw = await attached(Requester({}))
        shell.link.close("enough")
        shell.link.connection.notice("shutdown")
        shell.link.flush()
        shell.link.flush_soon()
        shell.link.data_received(b"late")
        assert await raw.read_to_end() == 0
        raw.close()
        assert shell.lost == [("enough", [])]
        assert len(shell.events) == 1

    run(scenario())


def test_writing_to_a_closed_peer_loses_the_link_once(run: Run) -> None:
    async def scenario() -> None:
        shell, raw = await attached(Requester({}))
        raw.close()
        for _ in range(3):  # the loop has not noticed yet that the socket is closed
            shell.link.connection.notice("shutdown", "x" * 60_000)
            shell.link.flush()
        await shell.until(lambda: shell.lost)
        shell.link.connection.notice("shutdown")
        shell.link.flush_soon()
        await asyncio.sleep(0)
        assert len(shell.lost) == 1

    run(scenario())


# -- writes, counted -------------------------------------------------------------------------


def recorded(connection: Requester | Responder) -> tuple[Shell, Recorder]:
    shell, transport = Shell(connection), Recorder()
    shell.link.connection_made(transport)
    shell.link.data_received(GREETING)
    assert transport.writes == [GREETING]
    transport.writes.clear()
    return shell, transport


def test_output_of_one_loop_iteration_leaves_in_one_write(run: Run) -> None:
    async def scenario() -> None:
        shell, transport = recorded(Requester({}))
        for word in "abc":
            shell.link.connection.notice(word)
            shell.link.flush_soon()
        assert transport.writes == []
        await asyncio.sleep(0)
        assert transport.writes == [b"".join(encode(Notice(word, "")) for word in "abc")]
        shell.link.connection.notice("d")
        shell.link.flush_soon()
        await asyncio.sleep(0)
        assert transport.writes[1:] == [encode(Notice("d", ""))]

    run(scenario())


def test_output_of_the_handlers_of_one_read_leaves_in_one_write(run: Run) -> None:
    async def scenario() -> None:
        shell, transport = recorded(Responder({}))
        responder = shell.link.connection

        def answer(event: Event) -> None:
            assert isinstance(event, Notice)
            responder.notice("answer", event.word)
            shell.link.flush_soon()

        shell.on_event = answer
        shell.link.data_received(encode(Notice("a", "")) + encode(Notice("b", "")))
        assert transport.writes == [encode(Notice("answer", "a")) + encode(Notice("answer", "b"))]
        await asyncio.sleep(0)
        assert len(transport.writes) == 1, "an empty write"

    run(scenario())


def test_a_turn_stays_unsent_until_a_transport_takes_it(run: Run) -> None:
    async def scenario() -> None:
        early = Shell(Requester({}))
        early.link.connection.open("s", "r", b"")
        early.link.flush()
        early.link.close("never connected")
        assert early.lost == [("never connected", [Fail(1, Code.UNSENT, "never connected")])]

        late, transport = recorded(Requester({}))
        late.link.connection.open("s", "r", b"")
        transport.closing = True
        late.link.flush()
        assert transport.writes == []
        late.link.connection_lost(None)
        assert late.lost == [("the link broke", [Fail(1, Code.UNSENT, "the link broke")])]

    run(scenario())


def test_a_broken_link_reports_the_cause(run: Run) -> None:
    async def scenario() -> None:
        shell, transport = recorded(Responder({}))
        shell.link.connection_lost(BrokenPipeError(32, "Broken pipe"))
        assert shell.lost == [("the link broke: [Errno 32] Broken pipe", [])]
        assert transport.aborted == 1

    run(scenario())


def test_the_owner_may_call_close_in_on_lost(run: Run) -> None:
    async def scenario() -> None:
        shell = Shell(Responder({}))
        calls: list[str] = []

        def on_lost(reason: str, _terminals: Sequence[Event]) -> None:
            calls.append(reason)
            link.close("again")

        link: Link[Responder] = Link(Responder({}), shell.events.append, on_lost)
        link.connection_made(Recorder())
        link.eof_received()
        link.connection_lost(None)
        assert calls == ["the peer closed the link"]

    run(scenario())
