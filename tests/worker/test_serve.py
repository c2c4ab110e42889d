"""The turns of a worker on a link whose other end is the test: what leaves, and in which writes."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import pytest

from agentscope_protocol.wire.codec import FrameReader, encode
from agentscope_protocol.wire.errors import Code
from agentscope_protocol.wire.flow import INITIAL_CREDIT
from agentscope_protocol.wire.frames import (
    Cancel,
    CancelReason,
    Credit,
    Data,
    End,
    Fail,
    Frame,
    Hello,
    Open,
    StreamKind,
)
from agentscope_protocol.wire.link import Link
from agentscope_protocol.wire.responder import Responder
from agentscope_worker.runtime import AgentApp, SessionContext
from agentscope_worker.runtime.compat.majors import seam
from agentscope_worker.serve import Server
from agentscope_worker.sessions import Sessions
from tests.harness.waiting import eventually

pytestmark = pytest.mark.agentscope

seam().adapt("bypass")  # as `host.boot` does before the first turn
BODY = json.dumps({"message": {"content": "hello"}}).encode()


class Life:
    def begin(self, stream: int) -> None: ...


class Echo(AgentApp):
    """Answers with the message; `before` and `after` happen around that."""

    def __init__(self) -> None:
        self.called = 0
        self.before: Callable[[], Awaitable[None]] | None = None
        self.after: Callable[[], Awaitable[None]] | None = None

    async def __call__(self, msg: Any, ctx: SessionContext) -> AsyncIterator[Any]:
        self.called += 1
        if self.before is not None:
            await self.before()
        yield msg
        if self.after is not None:
            await self.after()


class Peer(asyncio.Transport):
    """The supervisor: each write to it is kept by itself, as frames."""

    def __init__(self, app: AgentApp) -> None:
        super().__init__()
        self.writes: list[list[Frame]] = []
        self._reader = FrameReader()
        link: Link[Responder] = Link(
            Responder({}), lambda event: self.server.on_event(event), lambda *_: None
        )
        self.link = link
        self.server = Server(app, link, cast(Any, Life()), Sessions(app, cast(Any, None), cast(Any, None)))
        link.connection_made(self)
        link.data_received(encode(Hello(1, {})))
        self.writes.clear()

    def tell(self, *frames: Frame) -> None:
        self.link.data_received(b"".join(map(encode, frames)))

    async def ends(self, count: int) -> None:
        def ended() -> bool:
            return len([frame for frame in self.frames if isinstance(frame, End | Fail)]) >= count

        await eventually(ended, 30, f"{count} turns end")

    @property
    def frames(self) -> list[Frame]:
        return [frame for write in self.writes for frame in write]

    def write(self, data: Any) -> None:
        self.writelines([data])

    def writelines(self, list_of_data: Any) -> None:
        self.writes.append(list(self._reader.feed(b"".join(list_of_data))))

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


@pytest.fixture
def app() -> Echo:
    return Echo()


async def for_ever() -> None:
    await asyncio.get_running_loop().create_future()


def opened(stream: int) -> Open:
    return Open(stream, StreamKind.EVENTS, f"s{stream}", f"run-{stream}", BODY)


async def test_a_short_turn_ends_in_the_step_of_its_event(app: Echo) -> None:
    """So that the supervisor, which takes longer to wake, finds both."""
    peer = Peer(app)
    peer.tell(opened(1))
    await asyncio.sleep(0)  # one turn of the loop
    assert [list(map(type, write)) for write in peer.writes] == [[Data], [End]]


async def test_turns_that_run_beside_each_other_leave_together(app: Echo) -> None:
    peer = Peer(app)
    peer.tell(*map(opened, range(1, 9)))
    await peer.ends(8)
    assert len(peer.writes) == 2, "what came first, and the rest when the last turn had ended"
    assert [frame.stream for frame in peer.frames if isinstance(frame, End)] == list(range(1, 9))


async def test_what_was_said_before_the_app_waits_is_out(app: Echo) -> None:
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    app.after = wait
    peer = Peer(app)
    peer.tell(opened(1), opened(2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [type(frame) for frame in peer.frames] == [Data, Data]
    gate.set()
    await peer.ends(2)


@pytest.mark.parametrize("together", [True, False], ids=["with-its-open", "before-it-begins"])
async def test_a_turn_that_is_cancelled_before_it_begins_never_reaches_the_app(
    app: Echo, together: bool
) -> None:
    peer = Peer(app)
    if together:
        peer.tell(opened(1), Cancel(1, CancelReason.CLIENT_GONE))
    else:
        peer.tell(opened(1))
        peer.tell(Cancel(1, CancelReason.CLIENT_GONE))
    await peer.ends(1)
    assert peer.frames == [Fail(1, Code.CANCELLED, "cancelled")]
    assert app.called == 0


async def test_a_turn_that_is_cancelled_while_it_waits_ends_once(app: Echo) -> None:
    app.before = for_ever
    peer = Peer(app)
    peer.tell(opened(1))
    await asyncio.sleep(0)
    peer.tell(Cancel(1, CancelReason.INTERRUPTED))
    await peer.ends(1)
    await asyncio.sleep(0)
    assert peer.frames == [Fail(1, Code.CANCELLED, "cancelled")]


async def test_draining_ends_turns_that_run_and_turns_that_have_not_begun(app: Echo) -> None:
    app.before = for_ever
    peer = Peer(app)
    peer.tell(opened(1))
    await asyncio.sleep(0)
    peer.tell(opened(2))
    await peer.server.stop(asked=True)
    assert {type(frame) for frame in peer.frames} == {Fail}
    assert sorted(frame.stream for frame in peer.frames) == [1, 2]
    assert app.called == 1


async def test_a_stop_that_the_supervisor_did_not_ask_for_reports_no_end(app: Echo) -> None:
    """The turns are lost with the worker; a turn that was cancelled before ends as cancelled."""
    app.before = for_ever
    peer = Peer(app)
    peer.tell(opened(1), opened(2))
    await asyncio.sleep(0)
    peer.tell(Cancel(2, CancelReason.INTERRUPTED))
    async with asyncio.timeout(30):
        await peer.server.stop(asked=False)
    peer.tell(opened(3))
    await asyncio.sleep(0)
    assert peer.frames == [Fail(2, Code.CANCELLED, "cancelled")]
    assert app.called == 2, "a turn that arrives later does not begin"


async def test_credit_for_a_turn_that_was_lost_in_a_stop_has_no_effect(app: Echo) -> None:
    peer = Peer(app)
    body = json.dumps({"message": {"content": "x" * INITIAL_CREDIT}}).encode()
    peer.tell(Open(1, StreamKind.EVENTS, "s1", "run-1", body))
    await eventually(lambda: peer.frames, 30, "the message is sent, and the App waits for credit")
    await peer.server.stop(asked=False)
    peer.tell(Credit(1, INITIAL_CREDIT))
    assert [type(frame) for frame in peer.frames] == [Data]


async def test_an_app_that_cancels_its_own_task_ends_its_turn_alone(app: Echo) -> None:
    async def cancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    app.before = cancel
    peer = Peer(app)
    peer.tell(opened(1))
    await peer.ends(1)
    assert peer.frames == [Fail(1, Code.APP_ERROR, "the App's turn was cancelled from within")]


class Panic(BaseException):
    """As an extension in Rust raises it."""


async def test_an_app_that_raises_what_is_no_exception_ends_its_turn(app: Echo) -> None:
    async def panic() -> None:
        raise Panic("at the disco")

    app.before = panic
    peer = Peer(app)
    peer.tell(opened(1))
    await peer.ends(1)
    assert peer.frames == [Fail(1, Code.APP_ERROR, "Panic: at the disco")]
    async with asyncio.timeout(30):
        await peer.server.stop(asked=True)


async def test_a_turn_whose_task_somebody_else_cancels_before_it_begins_ends(app: Echo) -> None:
    """As an App does that cancels all tasks which it finds."""
    peer = Peer(app)
    peer.tell(opened(1))
    (task,) = (task for task in asyncio.all_tasks() if task.get_name() == "run-1")
    task.cancel()
    await peer.ends(1)
    assert peer.frames == [Fail(1, Code.APP_ERROR, "the App's turn was cancelled from within")]
    assert app.called == 0
