"""One client's place in a run: each event once, in order, whether the client reads fast, slowly or late."""

from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain.errors import ErrorCode, Failure
from agentscope_supervisor.domain.run import READ_SIZE, Run
from agentscope_supervisor.runs.client_stream import ClientStream, Writer
from agentscope_supervisor.runs.log import RunLog
from agentscope_supervisor.web.dialects import native
from agentscope_supervisor.web.dialects.native import NATIVE

pytestmark = pytest.mark.as_python

RUN: Final = "r1"
LOST: Final = Failure(ErrorCode.WORKER_LOST, "the worker died under the turn")
ALL: Final = 1 << 30


def events(first: int, count: int = 1, size: int = 2) -> bytes:
    return b"".join(native.event(RUN, number, b"x" * size) for number in range(first, first + count))


class Client(Writer):
    """A client and its socket, which takes `room` bytes until the client reads them."""

    def __init__(self, room: int = ALL) -> None:
        self.room = room
        self.got = b""
        self.writes = 0
        self.has_end = self.is_cut = False
        self._waiting = 0

    def write(self, data: bytes) -> None:
        assert not self.has_end, "nothing follows the end"
        self.got += data
        self.writes += 1
        self._waiting += len(data)

    def write_last(self, data: bytes) -> None:
        self.write(data)
        self.has_end = True

    def is_full(self) -> bool:
        return self._waiting >= self.room

    def cut(self) -> None:
        self.is_cut = True

    def reads(self) -> None:
        """The client reads all that waits."""
        self._waiting = 0


class Scene:
    """A run that a worker has taken, the credit that the worker gets back, and the streams of clients."""

    def __init__(self, max_bytes: int = 1 << 20, kind: StreamKind = StreamKind.EVENTS) -> None:
        self.log = RunLog(max_bytes, 60.0, 60.0)
        self.run = Run(RUN, "session", kind, NATIVE, 100.0)
        self.log.open(self.run)
        self.granted: list[int] = []
        self.run.take("0.1", self.granted.append, 100.0)
        self.sent = b""
        self.changes = 0

    def stream(self, number: int = 0, *, paces: bool = False) -> ClientStream:
        stream = ClientStream(self.run, number, 100.0, paces=paces)
        stream.on_change = self._changed
        return stream

    def _changed(self) -> None:
        self.changes += 1

    def say(self, count: int = 1, size: int = 2, now: float = 101.0) -> bool:
        payload = events(self.run.next, count, size)
        self.sent += payload
        return self.run.data(count, payload, now)

    def end(self, failure: Failure | None = None, now: float = 110.0) -> None:
        self.sent += NATIVE.tail(RUN, self.run.next, failure)[0]
        self.run.end(failure, now)
        self.log.end(self.run, now)


def begun(
    scene: Scene, *, paces: bool = True, room: int = ALL, number: int = 0
) -> tuple[ClientStream, Client]:
    stream, client = scene.stream(number, paces=paces), Client(room)
    stream.begin(client, 101.0)
    return stream, client


# -- the client that asked: before its response begins ---------------------------------------------


def test_what_comes_before_the_response_begins_waits_and_its_credit_is_held_back() -> None:
    scene = Scene()
    stream = scene.stream(paces=True)
    assert scene.say() is False
    assert scene.say(2) is False
    assert not stream.is_streaming
    assert (scene.granted, scene.changes) == ([], 2)
    assert stream.whole() == events(0, 3)


def test_what_waited_leaves_in_one_write_and_its_credit_returns_once() -> None:
    scene = Scene()
    stream = scene.stream(paces=True)
    scene.say()
    scene.say()
    client = Client()
    stream.begin(client, 103.0)
    assert stream.is_streaming
    assert (client.got, client.writes, stream.last_write) == (events(0, 2), 1, 103.0)
    assert scene.granted == []
    stream.ack()
    stream.ack()
    assert scene.granted == [len(events(0, 2))]


def test_a_response_that_begins_before_any_event_writes_nothing() -> None:
    scene = Scene()
    stream, client = begun(scene)
    assert (client.writes, stream.last_write) == (0, 100.0)


def test_what_waits_for_the_response_is_not_lost_when_the_run_drops_it() -> None:
    scene = Scene(max_bytes=0)
    stream = scene.stream(paces=True)
    scene.say(2)
    scene.end()
    assert scene.run.first == scene.run.next
    assert stream.whole() == scene.sent
    client = Client()
    stream.begin(client, 111.0)
    assert (client.got, client.has_end, client.is_cut) == (scene.sent, True, False)


# -- the client that asked: while its response goes on ----------------------------------------------


def test_events_are_written_as_they_come() -> None:
    scene = Scene()
    stream, client = begun(scene)
    assert scene.say(now=102.0) is True
    assert client.got == events(0)
    assert (scene.granted, scene.changes) == ([], 0), "its owner has nothing to do"
    assert stream.last_write == 102.0


def test_a_client_that_reads_slowly_holds_back_the_credit_of_its_worker() -> None:
    scene = Scene()
    stream, client = begun(scene, room=1)
    assert scene.say() is False
    assert scene.say() is False
    assert client.got == events(0, 2), "what the worker had credit for is not held here"
    assert scene.changes == 2
    client.reads()
    stream.ack()
    assert scene.granted == [len(events(0, 2))]
    client.room = ALL
    assert scene.say() is True


def test_a_worker_whose_run_has_ended_gets_no_credit() -> None:
    scene = Scene()
    stream = scene.stream(paces=True)
    scene.say()
    scene.end()
    stream.ack()
    assert scene.granted == []


def test_a_client_that_leaves_frees_the_credit_and_holds_back_no_more() -> None:
    scene = Scene()
    stream, client = begun(scene, room=1)
    scene.say()
    stream.leave()
    assert scene.granted == [len(events(0))]
    assert scene.run.readers == []
    assert scene.say() is True
    scene.end()
    stream.leave()
    assert client.got == events(0)
    assert scene.granted == [len(events(0))]
    assert scene.run.read(0) == (scene.sent, 3), "the run goes on"


def test_a_client_that_leaves_before_its_response_begins_holds_nothing() -> None:
    scene = Scene()
    stream = scene.stream(paces=True)
    scene.say()
    stream.leave()
    assert scene.granted == [len(events(0))]
    scene.end(LOST)
    assert scene.changes == 1, "its owner hears no more of the run"
    assert not stream.is_streaming


def test_a_client_may_leave_before_a_worker_has_taken_the_turn() -> None:
    run = Run(RUN, "session", StreamKind.EVENTS, NATIVE, 100.0)
    stream = ClientStream(run, 0, 100.0, paces=True)
    stream.leave()
    assert run.readers == []


def test_another_reader_that_leaves_frees_no_credit_of_the_client_that_asked() -> None:
    scene = Scene()
    _, slow = begun(scene, room=1)
    other, _ = begun(scene, paces=False)
    scene.say()
    other.leave()
    assert scene.granted == [], "the socket of the first client still holds the bytes"
    assert slow.is_full()


# -- the end ---------------------------------------------------------------------------------------


def test_the_end_of_a_stream_is_the_done_event_with_the_next_number() -> None:
    scene = Scene()
    stream, client = begun(scene)
    scene.say(2)
    scene.end(now=103.0)
    assert client.got == events(0, 2) + native.done(RUN, 2)
    assert (client.has_end, stream.is_over, stream.last_write) == (True, True, 103.0)
    assert scene.changes > 0


def test_a_failure_in_a_stream_is_an_event_before_the_done_event() -> None:
    scene = Scene()
    _, client = begun(scene)
    scene.say()
    scene.end(LOST)
    assert client.got == events(0) + native.error(RUN, 1, LOST) + native.done(RUN, 2)
    assert not scene.run.is_error


def test_a_failure_in_a_stream_without_events_is_an_event() -> None:
    scene = Scene()
    _, client = begun(scene)
    scene.end(LOST)
    assert client.got == native.error(RUN, 0, LOST) + native.done(RUN, 1)


def test_the_end_reaches_a_client_whose_socket_is_full() -> None:
    scene = Scene()
    stream, client = begun(scene, room=1)
    scene.say()
    scene.end()
    assert (client.got, client.has_end, stream.is_over) == (scene.sent, True, True)


@pytest.mark.parametrize("failure", [None, LOST])
def test_a_short_answer_is_whole_before_its_response_begins(failure: Failure | None) -> None:
    scene = Scene()
    stream = scene.stream(paces=True)
    scene.say()
    scene.end(failure)
    assert stream.whole() == scene.sent
    assert not scene.run.is_error


def test_an_app_that_yields_nothing_still_has_its_done_event() -> None:
    scene = Scene()
    stream = scene.stream(paces=True)
    scene.end()
    assert stream.whole() == native.done(RUN, 0)
    assert not scene.run.is_error


def test_a_run_that_is_not_streamed_feeds_no_events() -> None:
    scene = Scene(kind=StreamKind.WHOLE)
    stream = scene.stream(paces=True)
    scene.run.end(None, 110.0)
    assert stream.whole() == b""
    assert (scene.changes, stream.last_write) == (1, 110.0)


def test_the_time_to_read_the_end_begins_with_the_end() -> None:
    scene = Scene()
    stream = scene.stream()
    scene.say(now=102.0)
    scene.end(now=109.0)
    assert stream.last_write == 109.0


# -- clients that join or resume -------------------------------------------------------------------


def test_what_is_kept_comes_first_and_then_what_comes() -> None:
    scene = Scene()
    scene.say(3)
    _, client = begun(scene, paces=False, number=1)
    assert client.got == events(1, 2)
    scene.say(2)
    assert client.got == events(1, 4), "at once: its owner is not asked"
    scene.end()
    assert client.got == events(1, 4) + native.done(RUN, 5)
    assert (client.has_end, client.is_cut) == (True, False)


def test_what_comes_before_a_later_response_begins_is_read_from_the_run() -> None:
    scene = Scene()
    stream = scene.stream()
    assert scene.say(2) is True, "only the client that asked holds back its worker"
    assert scene.changes == 1
    client = Client()
    stream.begin(client, 103.0)
    assert (client.got, stream.last_write) == (events(0, 2), 103.0)


def test_a_run_that_has_ended_is_read_to_its_end() -> None:
    scene = Scene()
    scene.say(2)
    scene.end()
    stream = scene.stream(1)
    assert stream.whole() == events(1) + native.done(RUN, 2)
    client = Client()
    stream.begin(client, 111.0)
    assert (client.got, client.has_end, stream.is_over) == (events(1) + native.done(RUN, 2), True, True)
    assert stream.pump(112.0) is False


def test_a_client_that_has_seen_the_end_gets_an_empty_one() -> None:
    scene = Scene()
    scene.end()
    stream, client = scene.stream(1), Client()
    stream.begin(client, 111.0)
    assert (client.got, client.has_end, stream.last_write) == (b"", True, 100.0)


def test_a_long_run_is_read_in_pieces() -> None:
    scene = Scene()
    for _ in range(4):
        scene.say(size=READ_SIZE // 2)
    scene.end()
    stream = scene.stream()
    assert stream.whole() is None, "it is more than one piece"
    client = Client()
    stream.begin(client, 111.0)
    pieces = 1
    while stream.pump(112.0):
        pieces += 1
    assert (client.got, client.has_end) == (scene.sent, True)
    assert pieces > 1


def test_a_client_that_is_behind_reads_on_when_its_socket_has_room() -> None:
    scene = Scene()
    slow_stream, slow = begun(scene, paces=False, room=50)
    _, quick = begun(scene, paces=False)
    for _ in range(6):
        assert scene.say() is True
    assert len(slow.got) < 100
    assert quick.got == scene.sent
    scene.end()
    while not slow_stream.is_over:
        slow.reads()
        slow_stream.pump(111.0)
    assert slow.got == quick.got == scene.sent


def test_a_client_whose_next_event_was_dropped_is_cut() -> None:
    scene = Scene(max_bytes=2000)
    stream, slow = begun(scene, paces=False, room=50)
    for _ in range(20):
        scene.say(size=400)
    slow.reads()
    assert stream.pump(105.0) is False
    assert (slow.is_cut, stream.is_over, slow.has_end) == (True, True, False)
    assert scene.sent.startswith(slow.got)
    assert Scene(max_bytes=2000).stream().whole() == b""


def test_a_run_that_has_dropped_what_a_reader_wants_is_not_whole() -> None:
    scene = Scene(max_bytes=1000)
    stream = scene.stream()
    for _ in range(5):
        scene.say(size=400)
    assert stream.whole() is None


def test_a_client_that_keeps_up_is_not_cut_by_what_is_dropped() -> None:
    scene = Scene(max_bytes=500)
    _, client = begun(scene, paces=False)
    for _ in range(20):
        scene.say(size=400)
    scene.end()
    assert (client.got, client.has_end, client.is_cut) == (scene.sent, True, False)


# -- comments, and a client that does not read -------------------------------------------------------


def test_a_comment_has_no_number_and_is_not_kept() -> None:
    scene = Scene()
    stream, client = begun(scene)
    scene.say()
    stream.comment("keep-alive", 115.0)
    assert stream.last_write == 115.0
    scene.say()
    scene.end()
    assert client.got == events(0) + b": keep-alive\n\n" + events(1) + native.done(RUN, 2)
    assert scene.run.read(0) == (client.got.replace(b": keep-alive\n\n", b""), 3)


def test_after_a_first_comment_a_failure_is_an_event() -> None:
    scene = Scene()
    stream, client = begun(scene)
    stream.comment("queued 2", 101.0)
    scene.end(LOST)
    assert client.got == b": queued 2\n\n" + native.error(RUN, 0, LOST) + native.done(RUN, 1)


@pytest.mark.parametrize("paces", [True, False])
def test_a_client_whose_socket_is_full_gets_no_comment(paces: bool) -> None:
    scene = Scene()
    stream, client = begun(scene, paces=paces, room=0)
    stream.comment("keep-alive", 115.0)
    assert (client.got, stream.last_write) == (b"", 100.0)


def test_a_client_that_is_behind_gets_no_comment() -> None:
    scene = Scene()
    stream, client = begun(scene, paces=False, room=1)
    scene.say(2)
    scene.say()
    client.reads()
    stream.comment("keep-alive", 115.0)
    assert client.got == events(0, 2), "the event before the comment is still to come"
    while stream.pump(116.0):
        client.reads()
    client.reads()
    stream.comment("keep-alive", 117.0)
    assert client.got == events(0, 3) + b": keep-alive\n\n"


def test_a_response_that_has_not_begun_gets_no_comment() -> None:
    scene = Scene()
    stream = scene.stream()
    stream.comment("keep-alive", 115.0)
    assert stream.pump(115.0) is False
    assert stream.last_write == 100.0


# -- reports to the owner ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what",
    [
        lambda scene: scene.say(),
        lambda scene: scene.end(),
        lambda scene: scene.end(LOST),
    ],
    ids=["data", "end", "failure"],
)
@pytest.mark.parametrize("paces", [True, False])
def test_what_comes_before_the_response_is_reported_to_its_owner(
    what: Callable[[Scene], object], paces: bool
) -> None:
    scene = Scene()
    scene.stream(paces=paces)
    what(scene)
    assert scene.changes > 0


@pytest.mark.parametrize("paces", [True, False])
def test_what_the_socket_takes_at_once_is_not_reported(paces: bool) -> None:
    scene = Scene()
    _, client = begun(scene, paces=paces)
    scene.say()
    assert scene.changes == 0
    client.room = 0
    scene.say()
    assert scene.changes == 1


def test_a_stream_without_an_owner_reports_nothing() -> None:
    scene = Scene()
    stream = ClientStream(scene.run, 0, 100.0)
    scene.say()
    scene.end()
    assert stream.on_change is None


@pytest.mark.parametrize("method", ["write", "write_last", "flush", "is_full", "cut"])
def test_a_writer_has_no_default(method: str) -> None:
    arguments = (b"",) if method.startswith("write") else ()
    with pytest.raises(NotImplementedError):
        getattr(Writer(), method)(*arguments)


# -- any order of everything -------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(["say", "big", "read", "pump", "comment", "join", "begin", "leave"]), max_size=50
    ),
    st.sampled_from([30, 200, 10_000]),
    st.sampled_from([0, 1500, 1 << 20]),
)
def test_any_order_of_events_and_reading(steps: list[str], room: int, max_bytes: int) -> None:
    """Each reader has a beginning of what followed its first event, and all of it unless it was cut. The
    client that asked is never cut, and its worker gets each byte of its credit once."""
    scene = Scene(max_bytes)
    first, first_client = scene.stream(paces=True), Client(room)
    joined: list[tuple[int, ClientStream, Client]] = []
    acknowledged = has_begun = 0
    for step in steps:
        match step:
            case "say" | "big":
                size = 300 if step == "big" else 2
                before = len(scene.sent)
                if scene.say(1 if step == "big" else 2, size):
                    acknowledged += len(scene.sent) - before
            case "read":
                for _, stream, client in [(0, first, first_client), *joined]:
                    client.reads()
                    stream.ack()
            case "pump":
                for _, stream, _ in joined:
                    stream.pump(102.0)
            case "comment":
                for _, stream, _ in joined:
                    stream.comment("x", 102.0)
            case "begin" if not has_begun:
                has_begun = 1
                first.begin(first_client, 102.0)
            case "join":
                skipped = len(scene.sent) - kept_size(scene)
                joined.append((skipped, *begun(scene, paces=False, room=room, number=scene.run.first)))
            case "leave" if joined:
                joined.pop()[1].leave()
    first.ack()
    assert acknowledged + sum(scene.granted) == scene.run.bytes
    scene.end()
    if not has_begun:
        first.begin(first_client, 111.0)
    for _, stream, client in [(0, first, first_client), *joined]:
        while not stream.is_over:
            client.reads()
            stream.pump(112.0)
    assert (first_client.got, first_client.has_end, first_client.is_cut) == (scene.sent, True, False)
    for skipped, _, client in joined:
        got = client.got.replace(b": x\n\n", b"")
        assert scene.sent[skipped:].startswith(got)
        assert client.has_end is (got == scene.sent[skipped:])
        assert client.is_cut is not client.has_end


def kept_size(scene: Scene) -> int:
    piece = scene.run.read(scene.run.first, ALL)
    assert piece is not None
    return len(piece[0])
