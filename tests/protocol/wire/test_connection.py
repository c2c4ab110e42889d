"""Both ends of a link over a simulated wire: any split, any crossing, and loss at any point."""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentscope_protocol.wire import requester
from agentscope_protocol.wire.codec import encode, header
from agentscope_protocol.wire.endpoint import Event, Writable
from agentscope_protocol.wire.errors import Code, LocalProtocolError, RemoteProtocolError
from agentscope_protocol.wire.frames import (
    INITIAL_CREDIT,
    INPUTS,
    MAX_ANSWER,
    MAX_BODY,
    MAX_NUMBER,
    MAX_WORDS,
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
    Tag,
    Usage,
    Will,
)
from agentscope_protocol.wire.requester import Requester
from agentscope_protocol.wire.responder import Responder
from tests.protocol.frame_strategies import cut, hostile_bytes

ALL: Final = 2**40
TURN_KINDS: Final = [kind for kind in StreamKind if kind not in INPUTS]
GREETING: Final = encode(Hello(PROTOCOL_VERSION, {}))


def receive(end: Requester | Responder, data: bytes) -> list[Event]:
    return list(end.receive(data))


class Ends:
    """A requester, a responder, and the bytes in transit between them."""

    def __init__(self) -> None:
        self.requester = Requester({"settings": b"{}"})
        self.responder = Responder({"pid": 7})
        self.to_responder = bytearray()
        self.to_requester = bytearray()

    @classmethod
    def greeted(cls) -> "Ends":
        ends = cls()
        assert ends.to_worker() == [Hello(PROTOCOL_VERSION, {"settings": b"{}"})]
        assert ends.to_supervisor() == [Hello(PROTOCOL_VERSION, {"pid": 7})]
        return ends

    def flush_requester(self) -> None:
        self.to_responder += b"".join(self.requester.take_output())

    def flush_responder(self) -> None:
        self.to_requester += b"".join(self.responder.take_output())

    def deliver_to_responder(self, size: int = ALL) -> list[Event]:
        data, self.to_responder[:] = bytes(self.to_responder[:size]), self.to_responder[size:]
        return receive(self.responder, data)

    def deliver_to_requester(self, size: int = ALL) -> list[Event]:
        data, self.to_requester[:] = bytes(self.to_requester[:size]), self.to_requester[size:]
        return receive(self.requester, data)

    def to_worker(self) -> list[Event]:
        self.flush_requester()
        return self.deliver_to_responder()

    def to_supervisor(self) -> list[Event]:
        self.flush_responder()
        return self.deliver_to_requester()

    def open(self) -> int:
        """Open a stream that both ends know."""
        stream = self.requester.open("session", "run", b"{}")
        assert self.to_worker() == [Open(stream, StreamKind.EVENTS, "session", "run", b"{}")]
        return stream


# -- the link as a state machine -------------------------------------------------------------------

PIECES = st.sampled_from([ALL, ALL, ALL, 1, 20, 21, 22, 100, INITIAL_CREDIT])
EVENT_SIZES = st.sampled_from(
    [0, 1, 30, 30, 5000, INITIAL_CREDIT // 2, INITIAL_CREDIT - 1, INITIAL_CREDIT + 1]
)
PICK = st.integers(0, 100)


@dataclass
class Turn:
    """The test's model of one stream."""

    written: bool = False  # its Open was taken from the output
    cancelled: bool = False  # by the requester
    cancel_received: bool = False  # the responder has received the Cancel
    answering: bool = False  # at the responder: opened, and no terminal frame sent
    blocked: bool = False  # `send` returned False, and no Writable followed
    finished: End | Fail | None = None  # the terminal frame that the responder sent
    terminals: list[End | Fail] = field(default_factory=list)  # at the requester
    events: deque[bytes] = field(default_factory=deque)  # sent, not yet received
    held: int = 0  # bytes received that the client has not consumed


class LinkMachine(RuleBasedStateMachine):
    """Each rule is one action of a supervisor, a worker, a client, an App or the wire."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: dict[int, Turn] = {}
        self.dead = False
        self.serial = 0
        self.asked: deque[str] = deque()  # notices that the worker has not answered yet
        self.greeted = False  # the responder has received the Hello

    @initialize(met=st.sampled_from([True, True, True, False]))
    def start(self, met: bool) -> None:
        self.greeted = met
        self.ends = Ends.greeted() if met else Ends()

    # Actions of the supervisor.

    @precondition(lambda self: not self.dead and len(self.turns) < 6)
    @rule(kind=st.sampled_from(TURN_KINDS), body=st.binary(max_size=40))
    def open(self, kind: StreamKind, body: bytes) -> None:
        number = len(self.turns) + 1
        stream = self.ends.requester.open(f"s{number}", f"r{number}", body, kind, {"traceparent": "t"})
        assert stream not in self.turns
        self.turns[stream] = Turn()

    @precondition(lambda self: not self.dead and self.turns)
    @rule(pick=PICK, reason=st.sampled_from(CancelReason))
    def cancel(self, pick: int, reason: CancelReason) -> None:
        stream, turn = self._any(self.turns, pick)
        self.ends.requester.cancel(stream, reason)
        turn.cancelled = turn.cancelled or not turn.terminals

    @precondition(lambda self: any(turn.held for turn in self.turns.values()))
    @rule(pick=PICK, part=st.sampled_from([1, 1, 1, 2, 3]))
    def take(self, pick: int, part: int) -> None:
        stream, turn = self._any({s: t for s, t in self.turns.items() if t.held}, pick)
        size = -(-turn.held // part)
        turn.held -= size
        self.ends.requester.consumed(stream, size)

    @precondition(lambda self: not self.dead)
    @rule()
    def ask(self) -> None:
        self.serial += 1
        self.asked.append(str(self.serial))
        self.ends.requester.notice("ask", str(self.serial))

    # Actions of the worker.

    @precondition(lambda self: not self.dead and any(self._sendable()))
    @rule(pick=PICK, sizes=st.lists(EVENT_SIZES, min_size=1, max_size=4))
    def send(self, pick: int, sizes: list[int]) -> None:
        stream, turn = self._any(self._sendable(), pick)
        for size in sizes:
            self.serial += 1
            event = b"%d." % self.serial if size else b""
            event += b"." * (size - len(event))
            turn.events.append(event)
            turn.blocked = not self.ends.responder.send(stream, event)
            if turn.blocked:
                break

    @precondition(lambda self: not self.dead and any(t.answering for t in self.turns.values()))
    @rule(pick=PICK, fail=st.booleans())
    def finish(self, pick: int, fail: bool) -> None:
        stream, turn = self._any({s: t for s, t in self.turns.items() if t.answering}, pick)
        if fail:
            turn.finished = Fail(stream, Code.CANCELLED, "stopped")
            self.ends.responder.fail(stream, Code.CANCELLED, "stopped")
        else:
            turn.finished = End(stream, b"[]")
            self.ends.responder.end(stream, b"[]")
        turn.answering = False

    @precondition(lambda self: not self.dead)
    @rule(pick=PICK)
    def call_out_of_place(self, pick: int) -> None:
        stream = pick % (len(self.turns) + 2)
        turn = self.turns.get(stream, Turn())
        before = self.ends.responder.open_streams
        if not (turn.answering and not turn.cancel_received and not turn.blocked):
            with pytest.raises(LocalProtocolError):
                self.ends.responder.send(stream, b"out of place")
        if not turn.answering:
            with pytest.raises(LocalProtocolError):
                self.ends.responder.end(stream)
            with pytest.raises(LocalProtocolError):
                self.ends.responder.fail(stream, Code.APP_ERROR, "out of place")
        assert self.ends.responder.open_streams == before

    # Actions of the wire.

    @precondition(lambda self: not self.dead)
    @rule(size=PIECES)
    def carry_to_responder(self, size: int) -> None:
        self.ends.flush_requester()
        for turn in self.turns.values():
            turn.written = True
        self._arrive(size)

    @precondition(lambda self: not self.dead)
    @rule(size=PIECES)
    def carry_to_requester(self, size: int) -> None:
        self.ends.flush_responder()
        self._receive(size)

    @precondition(lambda self: not self.dead)
    @rule(taken=st.booleans(), delivered=st.booleans())
    def die(self, taken: bool, delivered: bool) -> None:
        """The peer dies; its last output is delivered or lost."""
        assume(self.turns)
        if taken:
            self.ends.flush_requester()
            for turn in self.turns.values():
                turn.written = True
        if delivered:
            self.ends.flush_responder()
            self._receive(ALL)
        self.dead = True
        for end in self.ends.requester.close("gone"):
            assert end.message == "gone"
            self.turns[end.stream].terminals.append(end)
        answering = {stream for stream, turn in self.turns.items() if turn.answering}
        assert {cancel.stream for cancel in self.ends.responder.close("gone")} == answering
        for turn in self.turns.values():
            turn.answering = False
            unsent = [fail for fail in turn.terminals if isinstance(fail, Fail) and fail.code is Code.UNSENT]
            assert bool(unsent) is not turn.written

    @precondition(lambda self: self.dead)
    @rule()
    def a_closed_connection_yields_nothing(self) -> None:
        requester, responder = self.ends.requester, self.ends.responder
        assert requester.close("again") == responder.close("again") == []
        assert receive(requester, b"garbage" * 10) == receive(responder, b"garbage" * 10) == []
        requester.notice("shutdown")
        responder.notice("ready")
        for stream in self.turns:
            requester.cancel(stream, CancelReason.TIMEOUT)
            requester.consumed(stream, 1)
            assert not responder.can_send(stream)
        assert requester.take_output() == responder.take_output() == []
        with pytest.raises(LocalProtocolError):
            requester.open("s", "r", b"")

    # Invariants.

    @invariant()
    def credit_and_blocking_agree(self) -> None:
        for stream, turn in self.turns.items():
            may = turn.answering and not turn.cancel_received and not turn.blocked
            assert self.ends.responder.can_send(stream) is may, "a Writable event was lost, or was spurious"

    @invariant()
    def each_turn_has_at_most_one_terminal(self) -> None:
        assert all(len(turn.terminals) <= 1 for turn in self.turns.values())
        if hasattr(self, "ends"):
            open_streams = sum(not turn.terminals for turn in self.turns.values())
            assert self.ends.requester.open_streams == open_streams
            answering = sum(turn.answering for turn in self.turns.values())
            assert self.ends.responder.open_streams == answering

    def teardown(self) -> None:
        """Finish all open work; then each turn has exactly one terminal event."""
        if not hasattr(self, "ends"):
            return
        if not self.dead:
            self._settle()
            for stream, turn in self.turns.items():
                if not turn.cancelled:
                    for _ in range(
                        3
                    ):  # credit is never lost: after the client consumed everything, there is more
                        assert turn.finished or self.ends.responder.can_send(stream)
                        if not turn.finished:
                            turn.events.append(bytes(INITIAL_CREDIT))
                            turn.blocked = not self.ends.responder.send(stream, bytes(INITIAL_CREDIT))
                            assert turn.blocked
                        self._settle()
                if turn.answering:
                    turn.answering, turn.finished = False, End(stream)
                    self.ends.responder.end(stream)
            self._settle()
            assert not self.asked
            assert all(turn.cancelled or not turn.events for turn in self.turns.values()), "data was lost"
        assert all(len(turn.terminals) == 1 for turn in self.turns.values())

    def _settle(self) -> None:
        for _ in range(3):
            self.carry_to_responder(ALL)
            self.carry_to_requester(ALL)
            for stream, turn in self.turns.items():
                self.ends.requester.consumed(stream, turn.held)
                turn.held = 0
        self.carry_to_responder(ALL)

    def _sendable(self) -> dict[int, Turn]:
        return {
            s: t for s, t in self.turns.items() if t.answering and not t.cancel_received and not t.blocked
        }

    @staticmethod
    def _any(turns: dict[int, Turn], pick: int) -> tuple[int, Turn]:
        return list(turns.items())[pick % len(turns)]

    def _arrive(self, size: int) -> None:
        for event in self.ends.deliver_to_responder(size):
            match event:
                case Open(stream, _, session_id):
                    assert session_id == f"s{stream}"
                    self.turns[stream].answering = True
                case Cancel(stream):
                    assert self.turns[stream].cancelled
                    assert not self.turns[stream].cancel_received
                    self.turns[stream].cancel_received = True
                case Writable(stream):
                    assert self.turns[stream].blocked
                    self.turns[stream].blocked = False
                case Notice("ask", detail):
                    self.ends.responder.notice("answer", detail)
                case Hello():
                    assert not self.greeted, "a second Hello"
                    self.greeted = True
                case _:
                    raise AssertionError(f"{event} at the responder")

    def _receive(self, size: int) -> None:
        for event in self.ends.deliver_to_requester(size):
            match event:
                case Data(stream, count, payload):
                    turn = self.turns[stream]
                    assert not turn.cancelled, "data after a cancel"
                    assert not turn.terminals, "data after the end"
                    assert turn.held < INITIAL_CREDIT, "more bytes held than the credit plus one frame"
                    assert payload == b"".join(turn.events.popleft() for _ in range(count))
                    turn.held += len(payload)
                case End(stream) | Fail(stream):
                    turn = self.turns[stream]
                    assert event == turn.finished
                    assert turn.cancelled or not turn.events, "the end arrived before data"
                    turn.terminals.append(event)
                case Notice("answer", detail):
                    assert detail == self.asked.popleft()
                case Hello():
                    pass
                case _:
                    raise AssertionError(f"{event} at the requester")


LinkMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=40)
TestLink = LinkMachine.TestCase


# -- greeting --------------------------------------------------------------------------------


def test_both_ends_send_one_hello_first() -> None:
    ends = Ends.greeted()
    assert ends.requester.take_output() == ends.responder.take_output() == []


@pytest.mark.parametrize("end", [Requester, Responder])
@pytest.mark.parametrize("version", [0, PROTOCOL_VERSION + 1])
@pytest.mark.fault("F54")
def test_another_protocol_version_is_rejected(end: Any, version: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"version {version}, expected {PROTOCOL_VERSION}"):
        receive(end({}), encode(Hello(version, {"new": 1})))


@pytest.mark.parametrize("end", [Requester, Responder])
def test_a_frame_before_hello_is_rejected(end: Any) -> None:
    with pytest.raises(RemoteProtocolError, match="Notice before Hello"):
        receive(end({}), encode(Notice("ready", "")))


@pytest.mark.parametrize("end", [Requester, Responder])
def test_a_second_hello_is_rejected(end: Any) -> None:
    with pytest.raises(RemoteProtocolError, match="Hello from the wrong end or at the wrong time"):
        receive(end({}), GREETING * 2)


def test_turns_can_be_sent_before_the_worker_has_greeted() -> None:
    ends = Ends()
    stream = ends.requester.open("s", "r", b"{}")
    hello, opened = ends.to_worker()
    assert isinstance(hello, Hello)
    assert opened == Open(stream, StreamKind.EVENTS, "s", "r", b"{}")


# -- direction of frames -----------------------------------------------------------------------

ONLY_REQUESTER: Final[list[Frame]] = [Open(2, 0, "s", "r", b""), Cancel(1, 1), Credit(1, 1)]
ONLY_RESPONDER: Final[list[Frame]] = [
    Data(1, 1, b"x"),
    End(1),
    Fail(1, Code.APP_ERROR, ""),
    Will(1, b"", b"", b""),
    Usage(1, b""),
]


@pytest.mark.parametrize("frame", ONLY_REQUESTER, ids=lambda frame: type(frame).__name__)
def test_a_requester_rejects_frames_that_only_requesters_send(frame: Frame) -> None:
    ends = Ends.greeted()
    ends.open()
    with pytest.raises(RemoteProtocolError, match=f"{type(frame).__name__} from the wrong end"):
        receive(ends.requester, encode(frame))


@pytest.mark.parametrize("frame", ONLY_RESPONDER, ids=lambda frame: type(frame).__name__)
def test_a_responder_rejects_frames_that_only_responders_send(frame: Frame) -> None:
    ends = Ends.greeted()
    ends.open()
    with pytest.raises(RemoteProtocolError, match=f"{type(frame).__name__} from the wrong end"):
        receive(ends.responder, encode(frame))


def test_notices_go_both_ways() -> None:
    ends = Ends.greeted()
    ends.requester.notice("shutdown", "30")
    assert ends.to_worker() == [Notice("shutdown", "30")]
    ends.open()
    ends.responder.notice("ready")
    assert ends.to_supervisor() == [Notice("ready", "")]


def test_the_usage_of_a_turn_comes_before_its_end_also_if_it_is_cancelled() -> None:
    ends = Ends.greeted()
    stream, other = ends.open(), ends.open()
    ends.requester.cancel(other, CancelReason.TIMEOUT)
    ends.to_worker()
    for each in (stream, other):
        ends.responder.usage(each, b"{}")
    ends.responder.end(stream)
    ends.responder.fail(other, Code.CANCELLED, "")
    assert ends.to_supervisor() == [
        Usage(stream, b"{}"),
        Usage(other, b"{}"),
        End(stream),
        Fail(other, Code.CANCELLED, ""),
    ]
    with pytest.raises(LocalProtocolError, match="not open"):
        ends.responder.usage(stream, b"{}")
    with pytest.raises(RemoteProtocolError, match="which is not open"):
        receive(ends.requester, encode(Usage(stream, b"{}")))


@pytest.mark.parametrize("kind", TURN_KINDS)
@pytest.mark.parametrize("dialect", [0, 1, MAX_NUMBER >> 8])
def test_a_turn_arrives_with_its_kind_and_its_dialect(kind: StreamKind, dialect: int) -> None:
    ends = Ends.greeted()
    stream = ends.requester.open("s", "r", b"{}", kind, {"traceparent": "t"}, dialect)
    assert ends.to_worker() == [Open(stream, kind, "s", "r", b"{}", {"traceparent": "t"}, dialect)]


# -- streams ---------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", [Data(1, 1, b""), End(1), Fail(1, Code.APP_ERROR, "")])
@pytest.mark.fault("F56")
def test_a_response_on_a_closed_stream_is_rejected(frame: Frame) -> None:
    ends = Ends.greeted()
    stream = ends.open()
    ends.responder.end(stream)
    assert ends.to_supervisor() == [End(stream)]
    with pytest.raises(RemoteProtocolError, match="not open"):
        receive(ends.requester, encode(frame))


@pytest.mark.parametrize("again", [0, 1])
def test_a_stream_id_that_does_not_increase_is_rejected(again: int) -> None:
    ends = Ends.greeted()
    assert ends.open() == 1
    ends.responder.end(1)
    with pytest.raises(RemoteProtocolError, match=f"stream {again} opened after stream 1"):
        receive(ends.responder, encode(Open(again, 0, "s", "r", b"")))


def test_stream_ids_may_have_gaps() -> None:
    ends = Ends.greeted()
    ends.open()
    skipped = Open(1000, StreamKind.WHOLE, "s", "r", b"")
    assert receive(ends.responder, encode(skipped)) == [skipped]
    assert ends.responder.can_send(1000)


@pytest.mark.parametrize("frame", [Cancel(2, 1), Credit(2, 1)], ids=["cancel", "credit"])
@pytest.mark.fault("F55")
def test_a_frame_for_a_stream_never_opened_is_rejected(frame: Frame) -> None:
    ends = Ends.greeted()
    ends.open()
    with pytest.raises(RemoteProtocolError, match="never opened"):
        receive(ends.responder, encode(frame))


def test_cancel_and_credit_that_cross_the_end_are_ignored() -> None:
    ends = Ends.greeted()
    stream = ends.open()
    ends.responder.send(stream, bytes(INITIAL_CREDIT))
    (data,) = ends.to_supervisor()
    assert isinstance(data, Data)
    ends.requester.consumed(stream, INITIAL_CREDIT)
    ends.requester.cancel(stream, CancelReason.CLIENT_GONE)
    ends.responder.end(stream)
    assert ends.to_worker() == []
    assert ends.to_supervisor() == [End(stream)]


def test_a_second_cancel_from_the_peer_is_rejected() -> None:
    ends = Ends.greeted()
    stream = ends.open()
    assert receive(ends.responder, encode(Cancel(stream, 1))) == [Cancel(stream, 1)]
    with pytest.raises(RemoteProtocolError, match="RECV_CANCEL in CANCELLING"):
        receive(ends.responder, encode(Cancel(stream, 1)))


def test_cancel_is_sent_once_with_the_first_reason() -> None:
    ends = Ends.greeted()
    stream = ends.open()
    ends.requester.cancel(stream, CancelReason.TIMEOUT)
    ends.requester.cancel(stream, CancelReason.CLIENT_GONE)
    assert ends.to_worker() == [Cancel(stream, CancelReason.TIMEOUT)]


def test_a_cancelled_stream_accepts_only_its_terminal_frame() -> None:
    ends = Ends.greeted()
    stream = ends.open()
    ends.responder.send(stream, b"before")
    ends.requester.cancel(stream, CancelReason.TIMEOUT)
    assert ends.to_worker() == [Cancel(stream, CancelReason.TIMEOUT)]
    assert not ends.responder.can_send(stream)
    with pytest.raises(LocalProtocolError, match="SEND_DATA in CANCELLING"):
        ends.responder.send(stream, b"after")
    ends.responder.fail(stream, Code.CANCELLED, "stopped")
    assert ends.to_supervisor() == [Fail(stream, Code.CANCELLED, "stopped")]


def test_a_will_arrives_before_the_events_that_were_sent_with_it() -> None:
    ends = Ends.greeted()
    stream = ends.open()
    ends.responder.will(stream, b"end", b"result", b"")
    ends.responder.send(stream, b"event")
    assert ends.to_supervisor() == [Will(stream, b"end", b"result", b""), Data(stream, 1, b"event")]
    ends.responder.end(stream)
    with pytest.raises(LocalProtocolError, match="is not open"):
        ends.responder.will(stream, b"", b"", b"")


def test_a_will_that_crosses_a_cancel_is_ignored() -> None:
    ends = Ends.greeted()
    stream = ends.open()
    ends.responder.will(stream, b"end", b"result", b"")
    ends.requester.cancel(stream, CancelReason.CLIENT_GONE)
    assert ends.to_supervisor() == []
    ends.to_worker()
    with pytest.raises(LocalProtocolError, match="SEND_DATA in CANCELLING"):
        ends.responder.will(stream, b"", b"", b"")


def test_data_that_crosses_a_cancel_returns_its_credit() -> None:
    """No client consumes that data, and the App may still be sending when the Cancel arrives."""
    ends = Ends.greeted()
    stream = ends.open()
    ends.responder.send(stream, bytes(INITIAL_CREDIT))
    ends.requester.cancel(stream, CancelReason.CLIENT_GONE)
    assert ends.to_supervisor() == []
    assert b"".join(ends.requester.take_output()) == encode(Cancel(stream, 1)) + encode(
        Credit(stream, INITIAL_CREDIT)
    )


def test_the_end_carries_a_complete_response() -> None:
    ends = Ends.greeted()
    stream = ends.requester.open("s", "r", b"{}", StreamKind.WHOLE, {"traceparent": "00-1-2-03"})
    assert ends.to_worker() == [Open(stream, StreamKind.WHOLE, "s", "r", b"{}", {"traceparent": "00-1-2-03"})]
    ends.responder.end(stream, b"[1]")
    assert ends.to_supervisor() == [End(stream, b"[1]")]


# -- combining events -------------------------------------------------------------------------------


def test_events_sent_between_two_writes_leave_in_one_frame_per_stream() -> None:
    ends = Ends.greeted()
    first, second = ends.open(), ends.open()
    for _ in range(3):
        ends.responder.send(first, b"a")
        ends.responder.send(second, b"bb")
    assert ends.to_supervisor() == [Data(first, 3, b"aaa"), Data(second, 3, b"bbbbbb")]
    ends.responder.send(first, b"c")
    assert ends.to_supervisor() == [Data(first, 1, b"c")]
    assert ends.responder.take_output() == []


def test_outgoing_events_are_not_copied() -> None:
    ends = Ends.greeted()
    stream = ends.open()
    event = b"a long event"
    ends.responder.send(stream, event)
    assert ends.responder.take_output()[1] is event


def test_the_end_follows_the_events_sent_before_it() -> None:
    ends = Ends.greeted()
    first, second = ends.open(), ends.open()
    ends.responder.send(second, b"x")
    ends.responder.send(first, b"a")
    ends.responder.send(first, b"b")
    ends.responder.fail(first, Code.APP_ERROR, "broke")
    assert ends.to_supervisor() == [
        Data(first, 2, b"ab"),
        Fail(first, Code.APP_ERROR, "broke"),
        Data(second, 1, b"x"),
    ]


def test_the_largest_combined_frame_is_accepted() -> None:
    ends = Ends.greeted()
    stream = ends.open()
    assert ends.responder.send(stream, bytes(INITIAL_CREDIT - 1))
    assert not ends.responder.send(stream, bytes(MAX_ANSWER))
    (data,) = ends.to_supervisor()
    assert isinstance(data, Data)
    assert (data.count, len(data.payload)) == (2, INITIAL_CREDIT - 1 + MAX_ANSWER)


# -- credit ----------------------------------------------------------------------------------


def test_a_stream_is_writable_again_once_its_overdraft_is_granted() -> None:
    ends = Ends.greeted()
    stream = ends.open()
    ends.responder.send(stream, bytes(3 * INITIAL_CREDIT))
    ends.to_supervisor()
    for size, events in [(2, []), (1, [Writable(stream)])]:
        ends.requester.consumed(stream, size * INITIAL_CREDIT)
        assert ends.to_worker() == events
        assert ends.responder.can_send(stream) is bool(events)


def test_credit_for_an_unblocked_stream_yields_no_event() -> None:
    ends = Ends.greeted()
    stream = ends.open()
    assert ends.responder.send(stream, bytes(INITIAL_CREDIT - 1))
    ends.to_supervisor()
    ends.requester.consumed(stream, INITIAL_CREDIT - 1)
    assert ends.to_worker() == []
    assert not ends.responder.send(stream, bytes(INITIAL_CREDIT)), "the credit is not exactly INITIAL_CREDIT"


def test_small_amounts_of_consumed_data_are_granted_together() -> None:
    ends = Ends.greeted()
    stream = ends.open()
    ends.responder.send(stream, bytes(INITIAL_CREDIT))
    ends.to_supervisor()
    for _ in range(3):
        ends.requester.consumed(stream, INITIAL_CREDIT // 8)
    assert ends.requester.take_output() == []
    ends.requester.consumed(stream, INITIAL_CREDIT // 8)
    assert ends.requester.take_output() == [encode(Credit(stream, INITIAL_CREDIT // 2))]


# -- illegal calls change nothing -------------------------------------------------------


def test_send_without_credit_raises() -> None:
    ends = Ends.greeted()
    stream = ends.open()
    assert not ends.responder.send(stream, bytes(INITIAL_CREDIT))
    with pytest.raises(LocalProtocolError, match="out of credit"):
        ends.responder.send(stream, b"x")
    (data,) = ends.to_supervisor()
    assert isinstance(data, Data)
    assert data.count == 1


def test_an_event_over_the_limit_is_not_sent() -> None:
    ends = Ends.greeted()
    stream = ends.open()
    with pytest.raises(LocalProtocolError, match="exceeds"):
        ends.responder.send(stream, bytes(MAX_ANSWER + 1))
    assert ends.responder.take_output() == []
    assert ends.responder.send(stream, b"x"), "the rejected event must not use credit"


def test_a_response_over_the_limit_leaves_the_stream_open_for_a_fail() -> None:
    ends = Ends.greeted()
    stream = ends.open()
    ends.responder.send(stream, b"x")
    with pytest.raises(LocalProtocolError, match="exceeds"):
        ends.responder.end(stream, bytes(MAX_ANSWER + 1))
    ends.responder.fail(stream, Code.APP_ERROR, "answer too large")
    assert ends.to_supervisor() == [Data(stream, 1, b"x"), Fail(stream, Code.APP_ERROR, "answer too large")]


def test_a_turn_that_cannot_be_encoded_uses_no_stream_id() -> None:
    ends = Ends.greeted()
    with pytest.raises(LocalProtocolError):
        ends.requester.open("\ud800", "r", b"{}")
    with pytest.raises(LocalProtocolError):
        ends.requester.open("s", "r", bytes(MAX_BODY + MAX_WORDS))
    assert ends.requester.open_streams == 0
    assert ends.open() == 1


@pytest.mark.as_python
def test_open_fails_when_stream_ids_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requester, "MAX_STREAM", 1)
    ends = Ends.greeted()
    ends.open()
    with pytest.raises(LocalProtocolError, match="exhausted"):
        ends.requester.open("s", "r", b"{}")
    assert ends.requester.open_streams == 1


def test_a_notice_that_does_not_fit_raises_local_protocol_error() -> None:
    ends = Ends.greeted()
    with pytest.raises(LocalProtocolError):
        ends.requester.notice("shutdown", "x" * MAX_WORDS)
    assert ends.requester.take_output() == []


# -- loss of the link -----------------------------------------------------------------------------------


def test_a_turn_never_written_fails_as_unsent_and_others_as_link_lost() -> None:
    ends = Ends.greeted()
    written = ends.open()
    unsent = ends.requester.open("s", "r", b"{}")
    assert ends.requester.unwritten == 1
    assert ends.requester.close("worker died") == [
        Fail(written, Code.LINK_LOST, "worker died"),
        Fail(unsent, Code.UNSENT, "worker died"),
    ]
    assert ends.requester.take_output() == [], "the unsent turn must not be sent"
    assert ends.requester.close("worker died") == []


def test_a_turn_cancelled_before_it_was_written_fails_as_unsent() -> None:
    ends = Ends.greeted()
    stream = ends.requester.open("s", "r", b"{}")
    ends.requester.cancel(stream, CancelReason.TIMEOUT)
    assert ends.requester.close("gone") == [Fail(stream, Code.UNSENT, "gone")]


def test_a_responder_cancels_each_turn_when_its_peer_is_gone() -> None:
    ends = Ends.greeted()
    first, second, third = ends.open(), ends.open(), ends.open()
    ends.responder.send(first, b"lost")
    ends.responder.end(second)
    assert ends.responder.close("gone") == [Cancel(s, CancelReason.CLIENT_GONE) for s in (first, third)]
    assert ends.responder.take_output() == []
    assert ends.responder.open_streams == 0
    with pytest.raises(LocalProtocolError, match="not open"):
        ends.responder.end(first)


# -- hostile and newer peers -----------------------------------------------------------------


@given(hostile_bytes(st.integers(0, 4)), st.lists(st.integers(0, 500), max_size=3), st.booleans())
def test_received_bytes_raise_only_remote_protocol_error(
    data: bytes, places: list[int], greeted: bool
) -> None:
    ends = Ends.greeted() if greeted else Ends()
    if greeted:
        ends.open()
        ends.requester.cancel(ends.open(), CancelReason.TIMEOUT)
        ends.responder.send(1, bytes(INITIAL_CREDIT))
    for end in (ends.requester, ends.responder):
        try:
            for piece in cut(data, places):
                receive(end, piece)
        except RemoteProtocolError:
            pass
        end.take_output()
        end.close("gone")


@settings(phases=[Phase.generate])
@given(hostile_bytes(st.integers(1, 3)), st.lists(st.integers(0, 500), max_size=3))
def test_each_stream_has_one_terminal_event_for_any_input(data: bytes, places: list[int]) -> None:
    ends = Ends.greeted()
    streams = [ends.requester.open("s", "r", b"") for _ in range(3)]
    ends.requester.take_output()
    terminals: list[Event] = []
    try:
        for piece in cut(data, places):
            for event in ends.requester.receive(piece):
                if isinstance(event, End | Fail):
                    terminals.append(event)
    except RemoteProtocolError:
        pass
    terminals += ends.requester.close("gone")
    assert Counter(event.stream for event in terminals) == Counter(streams)


def test_an_end_read_together_with_an_illegal_frame_is_delivered() -> None:
    ends = Ends.greeted()
    stream = ends.open()
    terminals: list[Event] = []
    with pytest.raises(RemoteProtocolError, match="not open"):
        terminals.extend(ends.requester.receive(encode(End(stream)) + encode(End(99))))
    terminals += ends.requester.close("protocol error")
    assert len(terminals) == 1


@pytest.mark.parametrize("code", [Code.UNSENT, Code.LINK_LOST])
def test_a_peer_cannot_send_codes_reserved_for_the_requester(code: Code) -> None:
    """If UNSENT were accepted, another worker would repeat a turn that has already run."""
    ends = Ends.greeted()
    stream = ends.open()
    try:
        events = receive(ends.requester, encode(Fail(stream, code, "a lie")))
    except RemoteProtocolError:
        events = list(ends.requester.close("protocol error"))
        assert events == [Fail(stream, Code.LINK_LOST, "protocol error")]
    else:
        assert events == [Fail(stream, Code.APP_ERROR, "a lie")]


def test_credit_does_not_make_a_cancelled_stream_writable() -> None:
    ends = Ends.greeted()
    stream = ends.open()
    ends.responder.send(stream, bytes(INITIAL_CREDIT))
    ends.to_supervisor()
    ends.requester.cancel(stream, CancelReason.TIMEOUT)
    ends.requester.consumed(stream, INITIAL_CREDIT)
    assert ends.to_worker() == [Cancel(stream, CancelReason.TIMEOUT)]


def test_data_without_credit_is_rejected() -> None:
    ends = Ends.greeted()
    stream = ends.open()
    receive(ends.requester, encode(Data(stream, 1, bytes(INITIAL_CREDIT))))
    with pytest.raises(RemoteProtocolError, match="without credit"):
        receive(ends.requester, encode(Data(stream, 1, b"x")))


@pytest.mark.parametrize("amount", [0, 1])
def test_credit_that_was_not_spent_is_rejected(amount: int) -> None:
    ends = Ends.greeted()
    stream = ends.open()
    with pytest.raises(RemoteProtocolError, match="credit"):
        receive(ends.responder, encode(Credit(stream, amount)))


def test_unknown_frames_of_a_newer_peer_are_ignored_even_before_hello() -> None:
    unknown = header(77, 1, 2, 3) + b"new"
    ends = Ends()
    (hello,) = receive(ends.requester, unknown + GREETING + unknown)
    assert isinstance(hello, Hello)
    (hello,) = receive(ends.responder, unknown + GREETING + unknown)
    stream = ends.requester.open("s", "r", b"")
    receive(ends.responder, b"".join(ends.requester.take_output()[1:]))
    ends.responder.end(stream)
    assert receive(ends.requester, unknown + b"".join(ends.responder.take_output()[1:])) == [End(stream)]


@pytest.mark.fault("F54")
def test_fields_appended_by_a_newer_peer_are_ignored() -> None:
    ends = Ends()
    hello = encode(Hello(PROTOCOL_VERSION, {"new": 1}))
    payload = b"\x92" + hello[22:] + b"\xc0"
    appended = header(Tag.HELLO, 0, PROTOCOL_VERSION, len(payload)) + payload
    assert receive(ends.requester, appended) == [Hello(PROTOCOL_VERSION, {"new": 1})]


def test_a_partial_frame_is_reported_until_it_is_complete() -> None:
    ends = Ends.greeted()
    frame = encode(Notice("word", "detail"))
    assert ends.requester.partial_frame is None
    assert receive(ends.requester, frame + frame[:7]) == [Notice("word", "detail")]
    first = ends.requester.partial_frame
    assert first is not None
    assert first[0] == 7
    receive(ends.requester, frame[7:] + frame[:7])
    assert ends.requester.partial_frame is not None
    assert ends.requester.partial_frame != first, "another partial frame of the same length"
    receive(ends.requester, frame[7:])
    assert ends.requester.partial_frame is None
