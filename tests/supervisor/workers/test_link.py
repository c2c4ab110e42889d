"""The link to one worker: when turns leave for it, and what it reports of them and to their runs."""

import asyncio
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, Final

import orjson
import pytest

from agentscope_protocol.wire.codec import FrameReader, encode
from agentscope_protocol.wire.errors import Code, LocalProtocolError
from agentscope_protocol.wire.frames import (
    INITIAL_CREDIT,
    PROTOCOL_VERSION,
    Cancel,
    CancelReason,
    Credit,
    Data,
    End,
    Fail,
    Frame,
    Hello,
    Notice,
    Open,
    StreamKind,
    Usage,
)
from agentscope_supervisor.domain.request import TurnRequest
from agentscope_supervisor.domain.run import Run
from agentscope_supervisor.domain.turn import Turn
from agentscope_supervisor.domain.usage import ModelUsage
from agentscope_supervisor.domain.usage import Usage as UsageOfRun
from agentscope_supervisor.domain.wire_format import WireFormat
from agentscope_supervisor.runs.client_stream import ClientStream
from agentscope_supervisor.web.dialects import native
from agentscope_supervisor.web.dialects.native import NATIVE
from agentscope_supervisor.workers.link import AT_ONCE, WorkerLink

HEADERS: Final = {"traceparent": "t"}


class Socket(asyncio.Transport):
    """Takes everything; keeps the frames of each write."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[list[Frame]] = []

    @property
    def writes(self) -> list[list[str]]:
        """The runs of the turns that came in each write."""
        return [[frame.run_id for frame in frames if isinstance(frame, Open)] for frames in self.frames]

    @property
    def sent(self) -> list[Frame]:
        return [frame for frames in self.frames for frame in frames]

    def writelines(self, data: Iterable[bytes]) -> None:  # type: ignore[override]  # only bytes are sent
        self.frames.append(list(FrameReader().feed(b"".join(data))))

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass


class Worker:
    """A worker whose end of the link is the test, and what the link reports of it."""

    def __init__(self) -> None:
        self.reports: list[tuple[object, ...]] = []
        self.begun = 0
        page: Any = SimpleNamespace(begun=0, loop=0)
        self.page = page
        self.link: Final = WorkerLink(1, "0.1", {}, page, self)
        self.socket: Final = Socket()
        self.link._link.connection_made(self.socket)
        self.says(Hello(PROTOCOL_VERSION, {}))
        self.socket.frames.clear()

    def says(self, *frames: Frame) -> None:
        self.link._link.data_received(b"".join(map(encode, frames)))

    # What the link reports.

    def noticed(self, process: int, word: str, detail: str) -> None:
        self.reports.append(("noticed", process, word, detail))

    def turn_ended(self, turn: Turn, json_body: bytes) -> None:
        self.reports.append(("ended", turn, json_body))

    def turn_failed(self, turn: Turn, code: Code, message: str) -> None:
        self.reports.append(("failed", turn, code, message))

    def link_lost(self, process: int, reason: str, lost: int) -> None:
        self.reports.append(("lost", process, lost))


def turn(number: int, kind: StreamKind = StreamKind.EVENTS, wire: WireFormat = NATIVE) -> Turn:
    request = TurnRequest("s", kind, None, b"{}", "", HEADERS, wire)
    return Turn(number, request, Run(f"r{number}", "s", kind, wire, 0.0), 0, 0.0)


def dispatch(link: WorkerLink, *numbers: int) -> None:
    for number in numbers:
        link.dispatch(turn(number))


async def test_a_few_turns_are_sent_in_one_write_at_the_end_of_the_iteration() -> None:
    worker = Worker()
    dispatch(worker.link, 1, 2, 3)
    assert worker.socket.writes == []
    await asyncio.sleep(0)
    assert worker.socket.writes == [["r1", "r2", "r3"]]


async def test_many_turns_are_sent_in_batches() -> None:
    worker = Worker()
    dispatch(worker.link, *range(2 * AT_ONCE + 1))
    assert [len(turns) for turns in worker.socket.writes] == [AT_ONCE, AT_ONCE]
    await asyncio.sleep(0)
    sent = [name for turns in worker.socket.writes for name in turns]
    assert sent == [f"r{number}" for number in range(2 * AT_ONCE + 1)]
    await asyncio.sleep(0)
    assert len(worker.socket.writes) == 3, "an empty write"


async def test_a_turn_leaves_with_its_kind_and_its_dialect() -> None:
    worker = Worker()
    other = WireFormat(3, {}, native.comment, native.tail, native.end_of, native.messages, native.json_body)
    one = turn(1, StreamKind.WHOLE, other)
    worker.link.dispatch(one)
    await asyncio.sleep(0)
    assert worker.socket.sent == [Open(1, StreamKind.WHOLE, "s", "r1", b"{}", HEADERS, 3)]
    assert (one.stream, one.run.worker) == (1, "0.1")
    assert one.run.taken_at is not None


async def test_events_go_to_the_run_of_their_turn_and_credit_comes_back() -> None:
    worker, one, other = Worker(), turn(1), turn(2)
    worker.link.dispatch(one)
    worker.link.dispatch(other)
    half = b"x" * (INITIAL_CREDIT // 2)
    worker.says(Data(1, 1, half), Data(2, 2, b"yy"))
    assert (one.run.events, one.run.bytes, other.run.events, other.run.bytes) == (1, len(half), 2, 2)
    assert [frame for frame in worker.socket.sent if isinstance(frame, Credit)] == [Credit(1, len(half))]


async def test_credit_waits_for_the_client_that_paces_the_run() -> None:
    worker, one = Worker(), turn(1)
    stream = ClientStream(one.run, 0, 0.0, paces=True)
    worker.link.dispatch(one)
    await asyncio.sleep(0)
    worker.says(Data(1, 1, b"x" * INITIAL_CREDIT))
    await asyncio.sleep(0)
    assert not any(isinstance(frame, Credit) for frame in worker.socket.sent)
    stream.ack()
    await asyncio.sleep(0)
    assert worker.socket.sent[-1] == Credit(1, INITIAL_CREDIT)


async def test_the_end_of_a_turn_is_reported_once() -> None:
    worker, one, other = Worker(), turn(1), turn(2)
    worker.link.dispatch(one)
    worker.link.dispatch(other)
    worker.says(End(1, b'["x"]'), Fail(2, Code.APP_ERROR, "no"))
    assert worker.reports == [("ended", one, b'["x"]'), ("failed", other, Code.APP_ERROR, "no")]
    worker.link.worker_ended()
    assert worker.reports[2:] == [("lost", 1, 0)]


async def test_the_usage_of_a_turn_is_kept_with_its_run() -> None:
    worker, one, other = Worker(), turn(1), turn(2)
    worker.link.dispatch(one)
    worker.link.dispatch(other)
    used = UsageOfRun((ModelUsage("m", 1, 2, 3, 4),))
    worker.says(Usage(1, orjson.dumps(used.fields)), Usage(2, b"nonsense"))
    assert (one.run.usage, other.run.usage) == (used, None)


async def test_notices_are_reported() -> None:
    worker = Worker()
    worker.says(Notice("ready", "{}"))
    assert worker.reports == [("noticed", 1, "ready", "{}")]


async def test_only_a_turn_that_the_worker_has_is_cancelled() -> None:
    worker, one, elsewhere = Worker(), turn(1), turn(2)
    worker.link.dispatch(one)
    elsewhere.stream = one.stream  # its number on another link
    worker.link.cancel(elsewhere, CancelReason.TIMEOUT)
    worker.link.cancel(turn(3), CancelReason.TIMEOUT)
    worker.link.cancel(one, CancelReason.INTERRUPTED)
    await asyncio.sleep(0)
    assert worker.socket.sent[1:] == [Cancel(1, CancelReason.INTERRUPTED)]
    worker.says(Fail(1, Code.CANCELLED, "cancelled"))
    worker.link.cancel(one, CancelReason.TIMEOUT)
    await asyncio.sleep(0)
    assert len(worker.socket.sent) == 2


@pytest.mark.parametrize("begun, code", [(0, Code.UNSENT), (1, Code.LINK_LOST)])
async def test_a_turn_that_the_worker_never_began_is_as_if_it_had_not_been_sent(
    begun: int, code: Code
) -> None:
    worker, one = Worker(), turn(1)
    worker.link.dispatch(one)
    await asyncio.sleep(0)
    worker.page.begun = begun
    worker.link.worker_ended()
    lost, failed = worker.reports
    assert lost == ("lost", 1, int(code is Code.LINK_LOST)), "first, so that nothing is dispatched to it"
    assert failed[:3] == ("failed", one, code)
    assert (worker.link.closed, worker.link.violated) == (True, False)
    with pytest.raises(LocalProtocolError):
        worker.link.dispatch(turn(2))


async def test_a_worker_that_breaks_the_rules_loses_its_link() -> None:
    worker, one = Worker(), turn(1)
    worker.link.dispatch(one)
    await asyncio.sleep(0)
    worker.says(Open(7, 0, "s", "r", b""))
    assert [report[0] for report in worker.reports] == ["lost", "failed"]
    assert worker.reports[1][2] is Code.LINK_LOST, "it lives, and may have begun"
    assert worker.link.violated
