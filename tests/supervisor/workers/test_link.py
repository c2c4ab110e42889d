"""When turns are sent to a worker: together in one write, or in batches if there are many."""

import asyncio
from collections.abc import Iterable
from typing import Any

from agentscope_protocol.wire.codec import FrameReader, encode
from agentscope_protocol.wire.frames import PROTOCOL_VERSION, Hello, Open, StreamKind
from agentscope_supervisor.domain.request import TurnRequest
from agentscope_supervisor.domain.run import Run
from agentscope_supervisor.domain.turn import Turn
from agentscope_supervisor.web.dialects.native import NATIVE
from agentscope_supervisor.workers.link import AT_ONCE, WorkerLink


class Socket(asyncio.Transport):
    """Accepts all writes and records the turns in each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[list[str]] = []

    def writelines(self, data: Iterable[bytes]) -> None:  # type: ignore[override]  # only bytes are sent
        frames = FrameReader().feed(b"".join(data))
        self.writes.append([frame.run_id for frame in frames if isinstance(frame, Open)])

    def is_closing(self) -> bool:
        return False


def connected() -> tuple[WorkerLink, Socket]:
    unused: Any = None
    link, socket = WorkerLink(1, "0.1", {}, unused, unused), Socket()
    link._link.connection_made(socket)
    link._link.data_received(encode(Hello(PROTOCOL_VERSION, {})))
    socket.writes.clear()
    return link, socket


def dispatch(link: WorkerLink, *numbers: int) -> None:
    for number in numbers:
        name = f"r{number}"
        request = TurnRequest("s", StreamKind.EVENTS, None, b"{}", "", {}, NATIVE)
        turn = Turn(number, request, Run(name, "s", StreamKind.EVENTS, NATIVE, 0.0), 0, 0.0)
        link.dispatch(turn)
        assert turn.run.worker == "0.1"


async def test_a_few_turns_are_sent_in_one_write_at_the_end_of_the_iteration() -> None:
    link, socket = connected()
    dispatch(link, 1, 2, 3)
    assert socket.writes == []
    await asyncio.sleep(0)
    assert socket.writes == [["r1", "r2", "r3"]]


async def test_many_turns_are_sent_in_batches() -> None:
    link, socket = connected()
    dispatch(link, *range(2 * AT_ONCE + 1))
    assert [len(turns) for turns in socket.writes] == [AT_ONCE, AT_ONCE]
    await asyncio.sleep(0)
    sent = [name for turns in socket.writes for name in turns]
    assert sent == [f"r{number}" for number in range(2 * AT_ONCE + 1)]
    await asyncio.sleep(0)
    assert len(socket.writes) == 3, "an empty write"
