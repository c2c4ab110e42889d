"""One reader beside the client: each event once, in order, at its own pace, or its connection is cut."""

import asyncio
from collections.abc import Awaitable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain import sse
from agentscope_supervisor.runs.client_stream import Answer
from agentscope_supervisor.runs.log import Run, RunLog
from agentscope_supervisor.runs.reader import RunReader

RUN = "r1"


def events(first: int, count: int = 1, size: int = 2) -> bytes:
    return b"".join(sse.event(RUN, number, b"x" * size) for number in range(first, first + count))


class Socket:
    """Takes so many bytes until it is drained."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.got = b""
        self.is_cut = False
        self._waiting = 0
        self._drained = asyncio.Event()

    def write(self, data: bytes) -> None:
        self.got += data
        self._waiting += len(data)

    def is_full(self) -> bool:
        return self._waiting >= self.room

    def cut(self) -> None:
        self.is_cut = True

    def take(self) -> None:
        """The other side reads all that waits."""
        self._waiting = 0
        self._drained.set()

    async def drain(self) -> None:
        self._drained.clear()
        if self.is_full():
            await self._drained.wait()


class Scene:
    """A run with its answer, and readers."""

    def __init__(self, max_bytes: int = 1 << 20) -> None:
        self.runs = RunLog(max_bytes, 60.0, 60.0)
        self.run = Run(RUN, "session", StreamKind.EVENTS)
        self.runs.open(self.run)
        self.answer = Answer(RUN, StreamKind.EVENTS, 0.0)
        self.answer.keep(self.runs, self.run)
        self.answer.abandon()
        self.said = b""
        self.tasks: list[asyncio.Task[bool]] = []

    def say(self, count: int = 1, size: int = 2) -> None:
        payload = events(self.answer.events, count, size)
        self.said += payload
        self.answer.data(count, payload, 1.0)

    def end(self) -> None:
        self.said += sse.done(RUN, self.answer.events)
        self.answer.settle(None, 2.0)
        self.runs.end(self.run, None, 2.0)
        for follower in self.answer.followers:
            follower.wake()

    def reader(self, number: int = 0, room: int = 1 << 30) -> tuple[RunReader, Socket]:
        viewer, sock = RunReader(self.run, number, 0.0), Socket(room)
        self.answer.followers.append(viewer)
        self.tasks.append(asyncio.create_task(viewer.read(sock, sock.drain, lambda: 3.0)))
        return viewer, sock


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def soon(what: Awaitable[bool]) -> bool:
    async with asyncio.timeout(5):
        return await what


async def test_what_is_kept_comes_first_and_then_what_comes() -> None:
    scene = Scene()
    scene.say(3)
    _, sock = scene.reader(1)
    await turns()
    assert sock.got == events(1, 2)
    scene.say(2)
    assert sock.got == events(1, 4), "at once: no turn of the loop between"
    scene.end()
    assert await soon(scene.tasks[0]) is True
    assert sock.got == events(1, 4) + sse.done(RUN, 5)
    assert not sock.is_cut


async def test_one_that_is_behind_reads_on_when_it_has_room() -> None:
    scene = Scene()
    _, slow = scene.reader(room=50)
    _, quick = scene.reader()
    await turns()
    for _ in range(6):
        scene.say()
        await turns()
    assert len(slow.got) < 100
    assert quick.got == scene.said
    scene.end()
    while not scene.tasks[0].done():
        slow.take()
        await turns()
    assert slow.got == quick.got == scene.said


async def test_one_whose_events_are_gone_is_cut() -> None:
    scene = Scene(max_bytes=2000)
    _, slow = scene.reader(room=50)
    await turns()
    for _ in range(20):
        scene.say(size=400)
        await turns(1)
    slow.take()
    assert await soon(scene.tasks[0]) is False
    assert slow.is_cut
    assert scene.said.startswith(slow.got)


async def test_one_that_keeps_up_is_not_cut_by_what_is_dropped() -> None:
    scene = Scene(max_bytes=500)
    _, sock = scene.reader()
    await turns()
    for _ in range(20):
        scene.say(size=400)
    scene.end()
    assert await soon(scene.tasks[0]) is True
    assert sock.got == scene.said


async def test_comments_come_to_those_who_are_not_behind() -> None:
    scene = Scene()
    viewer, sock = scene.reader(room=60)
    viewer.say(b": early\n\n", 1.0)
    await turns()
    viewer.say(b": one\n\n", 9.0)
    assert (sock.got, viewer.last_write) == (b": one\n\n", 9.0)
    for _ in range(4):
        scene.say()
        await turns()
    got = sock.got
    viewer.say(b": two\n\n", 10.0)
    assert sock.got == got
    viewer.cut()
    assert sock.is_cut
    scene.tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await scene.tasks[0]


async def test_one_that_has_not_begun_to_read_can_be_spoken_to_and_cut_without_harm() -> None:
    viewer = RunReader(Scene().run, 0, 0.0)
    viewer.say(b": x\n\n", 1.0)
    viewer.cut()
    viewer.wake()


@pytest.mark.parametrize("ends", [False, True])
async def test_a_run_has_begun_with_its_first_event_or_its_end(ends: bool) -> None:
    scene = Scene()
    viewer = RunReader(scene.run, 0, 0.0)
    scene.answer.followers.append(viewer)
    begun, ended = asyncio.create_task(viewer.begun()), None
    await turns()
    assert not begun.done()
    scene.end() if ends else scene.say()
    await begun
    ended = asyncio.create_task(viewer.ended())
    await turns()
    assert ended.done() is ends
    if not ends:
        scene.end()
        await ended


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(["say", "big", "take", "turn", "join"]), max_size=40),
    st.sampled_from([30, 200, 10_000]),
)
def test_any_order_of_events_and_reading(steps: list[str], room: int) -> None:
    """Each reader has a beginning of what followed its first event, and all of it unless it was cut."""

    async def play() -> None:
        scene = Scene(max_bytes=1500)
        readers: list[tuple[int, Socket, asyncio.Task[bool]]] = []
        for step in steps:
            match step:
                case "say":
                    scene.say(2)
                case "big":
                    scene.say(size=300)
                case "take":
                    for _, sock, _ in readers:
                        sock.take()
                case "turn":
                    await turns(1)
                case _:
                    _, sock = scene.reader(scene.run.first, room)
                    readers.append((len(scene.said) - kept_size(scene), sock, scene.tasks[-1]))
        scene.end()
        while not all(task.done() for task in scene.tasks):
            for _, sock, _ in readers:
                sock.take()
            await turns()
        for began, sock, task in readers:
            assert scene.said[began:].startswith(sock.got)
            assert task.result() is (sock.got == scene.said[began:])
            assert sock.is_cut is not task.result()

    asyncio.run(play())


def kept_size(scene: Scene) -> int:
    piece = scene.run.read(scene.run.first, 1 << 30)
    assert piece is not None
    return len(piece[0])
