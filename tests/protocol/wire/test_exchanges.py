"""Exchanges over a simulated wire: any split, any crossing, loss at any point, and hostile peers."""

import contextlib
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from agentscope_protocol.wire.codec import encode
from agentscope_protocol.wire.endpoint import Event, Writable
from agentscope_protocol.wire.errors import Code, LocalProtocolError, RemoteProtocolError
from agentscope_protocol.wire.frames import (
    INITIAL_CREDIT,
    INPUTS,
    LAST_INPUTS,
    MAX_ANSWER,
    MAX_FEW_WORDS,
    MESSAGE_COST,
    OUTPUTS,
    Cancel,
    CancelReason,
    Credit,
    Data,
    End,
    Fail,
    Frame,
    Head,
    Input,
    MessageKind,
    Open,
    StreamKind,
    Taken,
    Usage,
    Will,
)
from tests.protocol.frame_strategies import cut, hostile_bytes
from tests.protocol.wire.test_connection import ALL, PICK, PIECES, Ends, receive

BODY, LAST, TEXT, BINARY, CLOSE = MessageKind
EXCHANGES: Final = sorted(INPUTS)
SIZES = st.sampled_from([0, 0, 1, 30, 5000, INITIAL_CREDIT // 2, INITIAL_CREDIT + 1])


def opened(kind: int = StreamKind.HTTP) -> tuple[Ends, int]:
    """Two ends that know one exchange."""
    ends = Ends.greeted()
    stream = ends.requester.open_exchange(kind, "s", "r", b"head", {"traceparent": "t"})
    assert ends.to_worker() == [Open(stream, kind, "s", "r", b"head", {"traceparent": "t"})]
    return ends, stream


def answered(kind: int = StreamKind.HTTP) -> tuple[Ends, int]:
    """Two ends with one exchange whose head was received."""
    ends, stream = opened(kind)
    ends.responder.head(stream, 200, [(b"a", b"b")], ["task-1"])
    assert ends.to_supervisor() == [Head(stream, 200, ((b"a", b"b"),), ("task-1",))]
    return ends, stream


@pytest.mark.parametrize("frame", [Will, Usage])
def test_an_exchange_has_no_frames_of_a_turn(frame: type) -> None:
    ends, stream = answered()
    sent = Will(stream, b"", b"", b"") if frame is Will else Usage(stream, b"{}")
    with pytest.raises(RemoteProtocolError, match=f"{frame.__name__} from the wrong end"):
        receive(ends.requester, encode(sent))


# -- the exchanges of a link as a state machine ----------------------------------------------------


@dataclass
class Exchange:
    """The test's model of one exchange."""

    kind: int
    cancelled: bool = False
    is_input_over: bool = False  # at the requester
    known: bool = False  # the responder has received its Open
    cancel_received: bool = False
    has_head: bool = False  # the responder has sent the head
    heads: int = 0  # received by the requester
    over: bool = False  # the responder has sent its terminal frame
    inputs: deque[tuple[int, bytes]] = field(default_factory=deque)  # sent, not received
    outputs: deque[tuple[int, bytes]] = field(default_factory=deque)
    untaken: deque[bytes] = field(default_factory=deque)  # input that the app has not received
    unread: deque[bytes] = field(default_factory=deque)  # output that the client has not consumed
    blocked: bool = False  # output: `message` returned False, and no Writable followed
    input_blocked: bool = False  # likewise for `input`
    terminals: list[End | Fail] = field(default_factory=list)


class ExchangeMachine(RuleBasedStateMachine):
    """Each rule is one action of a client, an app, or the wire."""

    @initialize()
    def start(self) -> None:
        self.ends = Ends.greeted()
        self.exchanges: dict[int, Exchange] = {}
        self.serial = 0

    @precondition(lambda self: len(self.exchanges) < 4)
    @rule(kind=st.sampled_from(EXCHANGES))
    def open(self, kind: int) -> None:
        stream = self.ends.requester.open_exchange(kind, "s", "r", b"head", {})
        self.exchanges[stream] = Exchange(kind)

    @precondition(lambda self: self.exchanges)
    @rule(pick=PICK, size=SIZES, kind=st.sampled_from(MessageKind))
    def input(self, pick: int, size: int, kind: MessageKind) -> None:
        stream, model = self._any(pick)
        requester = self.ends.requester
        takes = not (model.cancelled or model.terminals or model.is_input_over)
        assert requester.can_input(stream) is (takes and not model.input_blocked)
        legal = takes and kind in INPUTS[model.kind] and (kind in LAST_INPUTS or not model.input_blocked)
        payload = self._payload(size)
        if not legal:
            with pytest.raises(LocalProtocolError):
                requester.input(stream, kind, payload)
            return
        model.input_blocked = not requester.input(stream, kind, payload)
        model.is_input_over = kind in LAST_INPUTS
        model.inputs.append((kind, payload))

    @precondition(lambda self: self.exchanges)
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        stream, model = self._any(pick)
        self.ends.requester.cancel(stream, CancelReason.CLIENT_GONE)
        model.cancelled = model.cancelled or not model.terminals

    @precondition(lambda self: self.exchanges)
    @rule(pick=PICK)
    def read(self, pick: int) -> None:
        stream, model = self._any(pick)
        while model.unread:
            self.ends.requester.consumed(stream, len(model.unread.popleft()))

    @precondition(lambda self: self.exchanges)
    @rule(pick=PICK, status=st.sampled_from([101, 200, 403]))
    def head(self, pick: int, status: int) -> None:
        stream, model = self._any(pick)
        if model.known and not (model.has_head or model.over or model.cancel_received):
            self.ends.responder.head(stream, status, [(b"n", b"v")])
            model.has_head = True
        else:
            with pytest.raises(LocalProtocolError):
                self.ends.responder.head(stream, status, [])

    @precondition(lambda self: self.exchanges)
    @rule(pick=PICK, size=SIZES, kind=st.sampled_from(MessageKind))
    def message(self, pick: int, size: int, kind: MessageKind) -> None:
        stream, model = self._any(pick)
        responder = self.ends.responder
        may = model.has_head and not (model.over or model.cancel_received or model.blocked)
        assert responder.can_send(stream) is may
        payload = self._payload(size)
        if not (may and kind in OUTPUTS[model.kind]):
            with pytest.raises(LocalProtocolError):
                responder.message(stream, kind, payload)
            return
        model.blocked = not responder.message(stream, kind, payload)
        model.outputs.append((kind, payload))

    @precondition(lambda self: self.exchanges)
    @rule(pick=PICK)
    def take(self, pick: int) -> None:
        stream, model = self._any(pick)
        while model.untaken:
            self.ends.responder.taken(stream, len(model.untaken.popleft()))

    @precondition(lambda self: self.exchanges)
    @rule(pick=PICK, fails=st.booleans())
    def finish(self, pick: int, fails: bool) -> None:
        stream, model = self._any(pick)
        if not model.known or model.over or not (fails or model.has_head):
            with pytest.raises(LocalProtocolError):
                self.ends.responder.end(stream)
            return
        if fails:
            self.ends.responder.fail(stream, Code.APP_ERROR, "no")
        else:
            self.ends.responder.end(stream)
        model.over = True

    @rule(size=PIECES)
    def carry_to_responder(self, size: int) -> None:
        self.ends.flush_requester()
        for event in self.ends.deliver_to_responder(size):
            assert not isinstance(event, Fail | End | Data)
            match event:
                case Open(stream):
                    self.exchanges[stream].known = True
                case Input(stream, kind, payload):
                    model = self.exchanges[stream]
                    assert model.inputs.popleft() == (kind, payload)
                    if kind not in LAST_INPUTS:
                        model.untaken.append(payload)
                        assert sum(map(len, model.untaken)) < 2 * INITIAL_CREDIT + 2
                case Cancel(stream):
                    self.exchanges[stream].cancel_received = True
                case Writable(stream):
                    assert self.exchanges[stream].blocked
                    self.exchanges[stream].blocked = False

    @rule(size=PIECES)
    def carry_to_requester(self, size: int) -> None:
        self.ends.flush_responder()
        for event in self.ends.deliver_to_requester(size):
            match event:
                case Head(stream):
                    assert not self.exchanges[stream].cancelled
                    self.exchanges[stream].heads += 1
                case Data(stream, kind, payload):
                    model = self.exchanges[stream]
                    assert (model.heads, model.cancelled) == (1, False)
                    assert model.outputs.popleft() == (kind, payload)
                    model.unread.append(payload)
                case End(stream) | Fail(stream):
                    self.exchanges[stream].terminals.append(event)
                case Writable(stream):
                    assert self.exchanges[stream].input_blocked
                    self.exchanges[stream].input_blocked = False

    def teardown(self) -> None:
        for _ in range(2):
            self.carry_to_responder(ALL)
            self.carry_to_requester(ALL)
        for stream, model in self.exchanges.items():
            if model.over:
                assert len(model.terminals) == 1
                assert model.cancelled or not model.outputs, "output was lost"
                continue
            while model.untaken:
                self.ends.responder.taken(stream, len(model.untaken.popleft()))
            while model.unread:
                self.ends.requester.consumed(stream, len(model.unread.popleft()))
        self.carry_to_responder(ALL)
        self.carry_to_requester(ALL)
        for stream, model in self.exchanges.items():
            if not (model.over or model.cancelled):
                assert not model.blocked, "credit was lost"
                assert model.is_input_over or self.ends.requester.can_input(stream)
        lost = {fail.stream for fail in self.ends.requester.close("gone")}
        assert lost == {stream for stream, model in self.exchanges.items() if not model.terminals}
        assert {cancel.stream for cancel in self.ends.responder.close("gone")} == {
            stream for stream, model in self.exchanges.items() if model.known and not model.over
        }

    def _payload(self, size: int) -> bytes:
        self.serial += 1
        return (b"%d" % self.serial).ljust(size, b".")[:size]

    def _any(self, pick: int) -> tuple[int, Exchange]:
        return list(self.exchanges.items())[pick % len(self.exchanges)]


ExchangeMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50)
TestExchanges = ExchangeMachine.TestCase


# -- what the ends send ------------------------------------------------------------------------


def test_a_request_and_its_response_cross_the_link() -> None:
    ends, stream = opened()
    assert ends.requester.input(stream, BODY, b"ab")
    assert not ends.requester.input(stream, LAST, b"c")
    assert ends.to_worker() == [Input(stream, BODY, b"ab"), Input(stream, LAST, b"c")]
    ends.responder.head(stream, 404, [(b"x", b"1"), (b"x", b"2")])
    ends.responder.message(stream, BODY, b"no")
    ends.responder.message(stream, BODY, b"thing")
    ends.responder.end(stream)
    assert ends.to_supervisor() == [
        Head(stream, 404, ((b"x", b"1"), (b"x", b"2"))),
        Data(stream, BODY, b"no"),
        Data(stream, BODY, b"thing"),
        End(stream),
    ]
    assert ends.requester.open_streams == ends.responder.open_streams == 0


def test_messages_of_a_websocket_keep_their_kinds_in_both_directions() -> None:
    ends, stream = opened(StreamKind.WEBSOCKET)
    ends.responder.head(stream, 101, [])
    for kind in (TEXT, BINARY, CLOSE):
        ends.responder.message(stream, kind, b"x")
        ends.requester.input(stream, kind, b"y")
    assert ends.to_supervisor()[1:] == [Data(stream, kind, b"x") for kind in (TEXT, BINARY, CLOSE)]
    assert ends.to_worker() == [Input(stream, kind, b"y") for kind in (TEXT, BINARY, CLOSE)]


def test_a_rejected_websocket_may_have_a_body() -> None:
    ends, stream = opened(StreamKind.WEBSOCKET)
    ends.responder.head(stream, 403, [])
    ends.responder.message(stream, BODY, b"denied")
    ends.responder.end(stream)
    assert ends.to_supervisor()[1:] == [Data(stream, BODY, b"denied"), End(stream)]


def test_payloads_are_not_copied() -> None:
    ends, stream = answered()
    payload = b"a long payload"
    ends.responder.message(stream, BODY, payload)
    ends.requester.input(stream, BODY, payload)
    assert ends.responder.take_output()[-1] is payload
    assert ends.requester.take_output()[-1] is payload


# -- credit ----------------------------------------------------------------------------------


def test_input_waits_for_the_app_and_goes_on_when_it_has_read() -> None:
    ends, stream = opened()
    assert not ends.requester.input(stream, BODY, bytes(INITIAL_CREDIT))
    assert not ends.requester.can_input(stream)
    with pytest.raises(LocalProtocolError, match="out of credit"):
        ends.requester.input(stream, BODY, b"x")
    ends.to_worker()
    ends.responder.taken(stream, INITIAL_CREDIT)
    assert ends.to_supervisor() == [Writable(stream)]
    assert ends.requester.can_input(stream)


def test_the_end_of_the_input_needs_no_credit() -> None:
    ends, stream = opened()
    ends.requester.input(stream, BODY, bytes(INITIAL_CREDIT))
    ends.requester.input(stream, LAST, bytes(INITIAL_CREDIT))
    assert len(ends.to_worker()) == 2
    ends.responder.taken(stream, INITIAL_CREDIT)
    assert ends.responder.take_output() == [], "no input can follow"


def test_credit_that_crosses_the_end_or_the_cancel_of_the_input_is_accepted() -> None:
    for last in (True, False):
        ends, stream = opened()
        ends.requester.input(stream, BODY, bytes(INITIAL_CREDIT))
        ends.to_worker()
        ends.responder.taken(stream, INITIAL_CREDIT)
        if last:
            ends.requester.input(stream, LAST, b"")
        else:
            ends.requester.cancel(stream, CancelReason.TIMEOUT)
        assert ends.to_supervisor() == []


def test_small_amounts_of_input_are_granted_together() -> None:
    ends, stream = opened()
    for _ in range(4):
        ends.requester.input(stream, BODY, bytes(INITIAL_CREDIT // 8))
    ends.to_worker()
    for _ in range(3):
        ends.responder.taken(stream, INITIAL_CREDIT // 8)
    assert ends.responder.take_output() == []
    ends.responder.taken(stream, INITIAL_CREDIT // 8)
    assert ends.responder.take_output() == [encode(Taken(stream, INITIAL_CREDIT // 2 + 4 * MESSAGE_COST))]


def test_output_waits_for_the_client_and_goes_on_when_it_has_read() -> None:
    ends, stream = answered()
    assert not ends.responder.message(stream, BODY, bytes(INITIAL_CREDIT))
    with pytest.raises(LocalProtocolError, match="out of credit"):
        ends.responder.message(stream, BODY, b"x")
    ends.to_supervisor()
    ends.requester.consumed(stream, INITIAL_CREDIT)
    assert ends.to_worker() == [Writable(stream)]
    assert ends.responder.can_send(stream)


# -- illegal calls change nothing -------------------------------------------------------------


def test_calls_that_the_stream_does_not_allow_raise() -> None:
    ends, stream = opened()
    turn = ends.open()
    responder, requester = ends.responder, ends.requester
    for call in (
        lambda: responder.message(stream, BODY, b"before the head"),
        lambda: responder.end(stream),
        lambda: responder.send(stream, b"event"),
        lambda: responder.head(turn, 200, []),
        lambda: responder.message(turn, BODY, b""),
        lambda: responder.head(99, 200, []),
        lambda: responder.head(stream, 200, [(b"n", bytes(MAX_FEW_WORDS))]),
        lambda: requester.input(turn, BODY, b""),
        lambda: requester.input(99, BODY, b""),
        lambda: requester.input(stream, TEXT, b""),
        lambda: requester.input(stream, BODY, bytes(MAX_ANSWER + 1)),
    ):
        with pytest.raises(LocalProtocolError):
            call()
    assert not requester.can_input(turn)
    assert requester.take_output() == responder.take_output() == []
    responder.taken(turn, 1)
    responder.head(stream, 200, [])
    for call in (
        lambda: responder.head(stream, 200, []),
        lambda: responder.send(stream, b"event"),
        lambda: responder.message(stream, LAST, b""),
        lambda: responder.message(stream, TEXT, b""),
        lambda: responder.message(stream, BODY, bytes(MAX_ANSWER + 1)),
    ):
        with pytest.raises(LocalProtocolError):
            call()
    assert ends.to_supervisor() == [Head(stream, 200, ())]
    assert responder.message(stream, BODY, b"x"), "the rejected messages must not use credit"


# -- cancel and crossings ----------------------------------------------------------------------


def test_a_head_and_data_that_cross_a_cancel_are_dropped() -> None:
    ends, stream = opened()
    ends.responder.head(stream, 200, [])
    ends.responder.message(stream, BODY, bytes(INITIAL_CREDIT))
    ends.requester.cancel(stream, CancelReason.CLIENT_GONE)
    assert ends.to_supervisor() == []
    assert ends.to_worker() == [Cancel(stream, CancelReason.CLIENT_GONE)], "with the credit of the data"
    ends.responder.fail(stream, Code.CANCELLED, "gone")
    assert ends.to_supervisor() == [Fail(stream, Code.CANCELLED, "gone")]


def test_a_cancelled_exchange_accepts_only_its_terminal_frame() -> None:
    ends, stream = opened()
    ends.requester.cancel(stream, CancelReason.CLIENT_GONE)
    assert ends.to_worker() == [Cancel(stream, CancelReason.CLIENT_GONE)]
    with pytest.raises(LocalProtocolError, match="SEND_HEAD in WITHDRAWN"):
        ends.responder.head(stream, 200, [])
    with pytest.raises(LocalProtocolError, match="SEND_INPUT in WITHDRAWN"):
        ends.requester.input(stream, BODY, b"")


def test_input_that_crosses_the_end_is_ignored() -> None:
    ends, stream = answered()
    ends.responder.end(stream)
    ends.requester.input(stream, BODY, b"late")
    assert ends.to_worker() == []


def test_a_lost_link_ends_an_exchange_once() -> None:
    ends, written = opened()
    unsent = ends.requester.open_exchange(StreamKind.HTTP, "s", "r", b"", {})
    assert ends.requester.close("gone") == [
        Fail(written, Code.LINK_LOST, "gone"),
        Fail(unsent, Code.UNSENT, "gone"),
    ]
    assert ends.responder.close("gone") == [Cancel(written, CancelReason.CLIENT_GONE)]


# -- hostile peers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frames,message",
    [
        ([Data(1, BODY, b"x")], "RECV_DATA in REQUESTING"),
        ([End(1)], "RECV_END in REQUESTING"),
        ([Head(1, 200, ()), Head(1, 200, ())], "RECV_HEAD in DUPLEX"),
        ([Head(1, 200, ()), Data(1, TEXT, b"x")], "message of kind 3"),
        ([Head(1, 200, ()), Data(1, LAST, b"x")], "message of kind 2"),
        ([Head(1, 200, ()), Data(1, BODY, bytes(INITIAL_CREDIT)), Data(1, BODY, b"")], "without credit"),
        ([Taken(1, 1)], "credit of 1"),
        ([Taken(2, 1)], "not an open exchange"),
        ([Head(2, 200, ())], "not open"),
        ([Head(1, 200, ()), End(1), Taken(1, 1)], "not an open exchange"),
        ([Input(1, BODY, b"x")], "Input from the wrong end"),
    ],
    ids=lambda value: "+".join(type(frame).__name__ for frame in value) if type(value) is list else "",
)
@pytest.mark.fault("F56")
def test_an_illegal_frame_of_a_worker_is_rejected(frames: list[Frame], message: str) -> None:
    ends, _stream = opened()
    with pytest.raises(RemoteProtocolError, match=message):
        receive(ends.requester, b"".join(map(encode, frames)))


@pytest.mark.parametrize(
    "frames,message",
    [
        ([Input(1, BODY, bytes(INITIAL_CREDIT)), Input(1, BODY, b"")], "without credit"),
        ([Input(1, LAST, b""), Input(1, BODY, b"")], "RECV_INPUT in REQUESTED"),
        ([Input(1, LAST, b""), Input(1, LAST, b"")], "RECV_LAST in REQUESTED"),
        ([Input(1, TEXT, b"")], "input of kind 3"),
        ([Input(2, BODY, b"")], "never opened"),
        ([Open(2, 0, "s", "r", b""), Input(2, BODY, b"")], "input of kind 1 on stream 2"),
        ([Cancel(1, 1), Input(1, BODY, b"")], "RECV_INPUT in WITHDRAWN"),
        ([Cancel(1, 1), Cancel(1, 1)], "RECV_CANCEL in WITHDRAWN"),
        ([Credit(1, 1)], "credit of 1"),
        ([Head(1, 200, ())], "Head from the wrong end"),
        ([Taken(1, 1)], "Taken from the wrong end"),
    ],
    ids=lambda value: "+".join(type(frame).__name__ for frame in value) if type(value) is list else "",
)
def test_an_illegal_frame_of_a_supervisor_is_rejected(frames: list[Frame], message: str) -> None:
    ends, _stream = opened()
    with pytest.raises(RemoteProtocolError, match=message):
        receive(ends.responder, b"".join(map(encode, frames)))


@pytest.mark.parametrize("frame", [Head(1, 200, ()), Taken(1, 1)], ids=["head", "taken"])
def test_a_turn_has_no_head_and_no_input(frame: Frame) -> None:
    ends = Ends.greeted()
    ends.open()
    with pytest.raises(RemoteProtocolError):
        receive(ends.requester, encode(frame))


@settings(max_examples=50)
@given(hostile_bytes(st.integers(0, 3)), st.lists(st.integers(0, 500), max_size=3))
def test_each_exchange_has_one_terminal_event_for_any_input(data: bytes, places: list[int]) -> None:
    ends, first = opened()
    streams = [first, *(ends.requester.open_exchange(kind, "s", "r", b"", {}) for kind in EXCHANGES)]
    ends.requester.take_output()
    ends.requester.cancel(streams[-1], CancelReason.TIMEOUT)
    terminals: list[Event] = []
    with contextlib.suppress(RemoteProtocolError):
        for piece in cut(data, places):
            for event in ends.requester.receive(piece):
                if isinstance(event, End | Fail):
                    terminals.append(event)
    terminals += ends.requester.close("gone")
    assert Counter(event.stream for event in terminals) == Counter(streams)


@settings(max_examples=50)
@given(hostile_bytes(st.integers(0, 2)))
def test_a_responder_raises_only_remote_protocol_error_for_any_input(data: bytes) -> None:
    ends, _stream = opened()
    with contextlib.suppress(RemoteProtocolError):
        receive(ends.responder, data)
