"""When turns leave for their worker: together when the loop has turned, and in pieces where they are many."""

import asyncio
from collections.abc import Iterable
from typing import Any

from agentscope_protocol.wire.codec import FrameReader, encode
from agentscope_protocol.wire.frames import PROTOCOL_VERSION, Hello, Open, StreamKind
from agentscope_supervisor.domain.request import TurnRequest
from agentscope_supervisor.domain.turn import Turn
from agentscope_supervisor.runs.client_stream import Answer
from agentscope_supervisor.workers.link import AT_ONCE, WorkerLink


class Socket(asyncio.Transport):
    """Takes everything; keeps which turns came in each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[list[str]] = []

    def writelines(self, data: Iterable[bytes]) -> None:  # type: ignore[override]  # bytes are all we send
        frames = FrameReader().feed(b"".join(data))
        self.writes.append([frame.run_id for frame in frames if isinstance(frame, Open)])

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def is_closing(self) -> bool:
        return False


def connected() -> tuple[WorkerLink, Socket]:
    nobody: Any = None
    link, socket = WorkerLink(1, "0.1", {}, nobody, nobody), Socket()
    link._link.connection_made(socket)
    link._link.data_received(encode(Hello(PROTOCOL_VERSION, {})))
    socket.writes.clear()
    return link, socket


def dispatch(link: WorkerLink, *numbers: int) -> None:
    for number in numbers:
        name = f"r{number}"
        turn = Turn(number, name, "s", 0, 2, "", 0.0)
        link.dispatch(
            turn,
            TurnRequest("s", StreamKind.EVENTS, None, b"{}", "", {}),
            Answer(name, StreamKind.EVENTS, 0.0),
        )


async def test_few_turns_leave_in_one_write_when_the_loop_has_turned() -> None:
    link, socket = connected()
    dispatch(link, 1, 2, 3)
    assert socket.writes == []
    await asyncio.sleep(0)
    assert socket.writes == [["r1", "r2", "r3"]]


async def test_of_many_turns_the_first_leave_before_the_last_are_read() -> None:
    link, socket = connected()
    dispatch(link, *range(2 * AT_ONCE + 1))
    assert [len(turns) for turns in socket.writes] == [AT_ONCE, AT_ONCE]
    await asyncio.sleep(0)
    sent = [name for turns in socket.writes for name in turns]
    assert sent == [f"r{number}" for number in range(2 * AT_ONCE + 1)]
    await asyncio.sleep(0)
    assert len(socket.writes) == 3, "an empty write"
