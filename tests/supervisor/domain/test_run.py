"""One run: each reader sees each kept event once and in order, and the worker's credit returns once."""

from typing import Final

import pytest

from agentscope_protocol.wire.frames import Place, StreamKind, Will
from agentscope_supervisor.domain.errors import ErrorCode, Failure, refusal
from agentscope_supervisor.domain.idempotency import Key
from agentscope_supervisor.domain.run import (
    LOST,
    PIECE_COST,
    READ_SIZE,
    EndWatch,
    Keeper,
    Reader,
    Run,
    RunState,
)
from agentscope_supervisor.domain.usage import ModelUsage, Usage
from agentscope_supervisor.domain.wire_format import NO_EVENTS
from agentscope_supervisor.web.dialects import native
from agentscope_supervisor.web.dialects.chat import CHAT
from agentscope_supervisor.web.dialects.native import NATIVE

pytestmark = pytest.mark.as_python

APP_ERROR: Final = Failure(ErrorCode.APP_ERROR, "no")
BUSY: Final = refusal(ErrorCode.OVERLOADED, "full")


class Everything(Keeper):
    """Keeps all that a run sends, and counts it."""

    def __init__(self) -> None:
        self.size = 0

    def grew(self, run: Run, size: int) -> None:
        self.size += size


class Recorder(Reader):
    """Remembers what it was fed. `takes`: whether its client takes the bytes at once."""

    def __init__(self, takes: bool = True) -> None:
        self.takes = takes
        self.fed_with: list[tuple[int, int, bytes]] = []
        self.ends = 0

    def fed(self, number: int, count: int, payload: bytes, now: float) -> bool:
        self.fed_with.append((number, count, payload))
        return self.takes

    def ended(self) -> None:
        self.ends += 1


def events(first: int, count: int = 1, size: int = 2) -> bytes:
    return b"".join(native.event("r", number, b"x" * size) for number in range(first, first + count))


def new(kind: StreamKind = StreamKind.EVENTS, key: Key | None = None) -> Run:
    run = Run("r", "session", kind, NATIVE, 10.0, key)
    run.keeper = Everything()
    return run


def taken(kind: StreamKind = StreamKind.EVENTS) -> tuple[Run, list[int]]:
    """A run that a worker has taken, and the credit that the worker gets back."""
    run, granted = new(kind), list[int]()
    run.take("0.1", granted.append, 11.0)
    return run, granted


def say(run: Run, *counts: int, size: int = 2) -> None:
    for count in counts:
        run.data(count, events(run.next, count, size), 12.0)


def read_all(run: Run, number: int = 0, limit: int = READ_SIZE) -> bytes:
    got = b""
    while number < run.next:
        piece = run.read(number, limit)
        assert piece is not None
        data, number = piece
        assert data
        got += data
    return got


# -- the life of a run ----------------------------------------------------------------------------


def test_the_life_of_a_run() -> None:
    run = new()
    assert (run.state, run.worker, run.taken_at) == (RunState.QUEUED, None, None)
    run.take("0.1", lambda _: None, 11.0)
    assert (run.state, run.worker, run.taken_at) == (RunState.RUNNING, "0.1", 11.0)
    run.end(None, 13.0)
    assert (run.state, run.ended_at, run.failure) == (RunState.ENDED, 13.0, None)
    assert (run.next, run.is_error, run.frees_key) == (1, False, False)


def test_a_run_that_never_reached_its_worker_is_queued_again() -> None:
    run, granted = taken()
    run.give_back()
    assert (run.state, run.worker, run.taken_at) == (RunState.QUEUED, None, None)
    run.take("1.7", granted.append, 12.0)
    assert (run.state, run.worker, run.taken_at) == (RunState.RUNNING, "1.7", 12.0)


def test_events_and_bytes_of_the_worker_are_counted() -> None:
    run, _ = taken()
    assert (run.events, run.bytes, run.first_at) == (0, 0, None)
    run.data(2, events(0, 2), 12.0)
    run.data(1, events(2), 14.0)
    run.end(None, 15.0)
    assert (run.events, run.bytes, run.first_at) == (3, len(events(0, 3)), 12.0), (
        "the end is the supervisor's"
    )
    assert run.next == 4


def test_an_end_watch_is_called_at_the_end_and_holds_no_credit_back() -> None:
    run, granted = taken()
    ends: list[str] = []
    EndWatch(run, lambda: ends.append(run.state))
    assert run.data(1, events(0), 1.0) is True
    assert (ends, granted) == ([], [])
    run.end(None, 2.0)
    assert ends == [RunState.ENDED]


def test_a_run_ends_once() -> None:
    run = new()
    run.end(None, 11.0)
    with pytest.raises(AssertionError):
        run.end(None, 12.0)


@pytest.mark.parametrize("failure", [None, APP_ERROR])
def test_a_run_ends_with_the_events_of_its_wire_format(failure: Failure | None) -> None:
    run, _ = taken()
    say(run, 1)
    run.end(failure, 13.0)
    tail, count = NATIVE.tail("r", 1, failure)
    assert read_all(run) == events(0) + tail
    assert (run.next, run.tail_length) == (1 + count, count)


def test_a_run_that_failed_reports_in_its_done_event_what_its_models_used() -> None:
    run = new()
    run.usage = Usage((ModelUsage("m", 1, 2, 3, 4),))
    say(run, 1)
    run.end(APP_ERROR, 2.0)
    expected = native.error(run.run_id, 1, APP_ERROR) + native.done(run.run_id, 2, run.usage.metadata)
    assert read_all(run).endswith(expected)


def test_a_failure_before_any_event_is_kept_as_events_too() -> None:
    run = new()
    run.end(BUSY, 11.0)
    assert run.is_error
    assert read_all(run) == native.error("r", 0, BUSY) + native.done("r", 1)


@pytest.mark.parametrize("failure", [None, APP_ERROR])
def test_a_run_that_is_not_streamed_has_no_events(failure: Failure | None) -> None:
    run, _ = taken(StreamKind.WHOLE)
    assert run.json_body == b"[]"
    run.end(failure, 11.0)
    assert (run.next, run.size) == (0, 0)
    assert run.is_error is (failure is APP_ERROR)


def test_a_turn_that_no_client_reads_has_no_events() -> None:
    run = Run("r", "session", StreamKind.FORGET, NO_EVENTS, 0.0)
    run.end(APP_ERROR, 1.0)
    assert (run.next, run.tail_length, run.state) == (0, 0, RunState.ENDED)


def test_events_that_come_after_the_end_are_dropped() -> None:
    """The App ignored its cancellation, and its client was sent the end in the meantime."""
    run, granted = taken()
    reader = Recorder()
    run.readers.append(reader)
    run.end(APP_ERROR, 11.0)
    sent = read_all(run)
    assert run.data(1, events(0), 12.0) is True
    assert read_all(run) == sent == native.error("r", 0, APP_ERROR) + native.done("r", 1)
    assert (reader.fed_with, reader.ends) == ([(0, 2, sent)], 1)
    assert (run.events, granted) == (0, [])


@pytest.mark.parametrize(
    ("said", "worker", "failure", "is_error", "frees"),
    [
        (0, None, BUSY, True, True),
        (0, None, APP_ERROR, True, True),  # never dispatched, whatever is reported
        (0, "0.1", APP_ERROR, True, False),
        (0, "0.1", Failure(ErrorCode.WORKER_LOST, "", retryable=True), True, True),
        (0, "0.1", Failure(ErrorCode.INVALID_REQUEST, "no"), True, True),  # the worker refused the message
        (1, "0.1", APP_ERROR, False, False),
        (1, "0.1", None, False, False),
        (0, "0.1", None, False, False),
        (0, None, LOST, True, False),  # nobody knows what the App did
    ],
)
def test_a_run_knows_whether_its_end_is_a_status_and_whether_its_key_is_free(
    said: int, worker: str | None, failure: Failure | None, is_error: bool, frees: bool
) -> None:
    run = new()
    run.worker = worker
    say(run, *[1] * said)
    run.end(failure, 13.0)
    assert (run.is_error, run.frees_key) == (is_error, frees)


# -- readers and credit ---------------------------------------------------------------------------


def test_a_run_without_a_reader_acknowledges_everything_at_once() -> None:
    run, granted = taken()
    assert run.data(1, events(0), 12.0) is True
    run.end(None, 13.0)
    assert read_all(run) == events(0) + native.done("r", 1)
    assert granted == []


def test_readers_are_fed_the_same_events_in_order() -> None:
    run, _ = taken()
    first, second = Recorder(), Recorder()
    run.readers += [first, second]
    say(run, 2, 1)
    run.end(None, 13.0)
    expected = [(0, 2, events(0, 2)), (2, 1, events(2)), (3, 1, native.done("r", 3))]
    assert first.fed_with == second.fed_with == expected
    assert (first.ends, second.ends) == (1, 1)


def test_one_reader_that_does_not_take_the_bytes_holds_back_the_credit() -> None:
    run, granted = taken()
    slow, quick = Recorder(takes=False), Recorder()
    run.readers += [slow, quick]
    assert run.data(1, events(0), 12.0) is False
    assert run.data(2, events(1, 2), 12.0) is False
    assert granted == []
    run.ack()
    run.ack()
    assert granted == [len(events(0, 3))], "all of it, once"
    slow.takes = True
    assert run.data(1, events(3), 12.0) is True


def test_a_worker_whose_run_has_ended_gets_no_credit() -> None:
    run, granted = taken()
    run.readers.append(Recorder(takes=False))
    say(run, 1)
    run.end(None, 13.0)
    run.ack()
    assert granted == []


def test_credit_may_be_due_before_a_worker_has_taken_the_turn() -> None:
    run = new()
    run.ack()
    run.leave(Recorder())
    assert run.readers == []


def test_a_reader_that_has_left_is_fed_no_more() -> None:
    run, _ = taken()
    reader = Recorder()
    run.readers.append(reader)
    say(run, 1)
    run.leave(reader)
    run.leave(reader)
    say(run, 1)
    run.end(None, 13.0)
    assert (reader.fed_with, reader.ends) == ([(0, 1, events(0))], 0)


# -- reading what is kept -------------------------------------------------------------------------


def test_bytes_are_read_as_they_came() -> None:
    run = new()
    say(run, 3, 1, 2)
    assert read_all(run) == events(0, 6)
    assert run.read(6) == (b"", 6)
    for number in range(7):
        assert read_all(run, number) == events(number, 6 - number), "also from within a piece"


def test_a_reader_gets_whole_pieces_of_about_the_limit() -> None:
    run = new()
    say(run, 1, 1, 1)
    one = len(events(0))
    assert run.read(0, limit=1) == (events(0), 1)
    assert run.read(0, limit=2 * one) == (events(0, 2), 2)
    assert run.read(1, limit=100 * one) == (events(1, 2), 3)


def test_a_run_that_has_sent_nothing_has_nothing_to_read() -> None:
    run = new()
    assert run.read(0) == (b"", 0)
    assert run.resume(-1) == 0, "a reader waits for the first event"


@pytest.mark.parametrize(
    ("after", "expected"),
    [(-1, 0), (0, 1), (3, 4), (4, 5), (5, ErrorCode.INVALID_REQUEST), (99, ErrorCode.INVALID_REQUEST)],
)
def test_where_a_reader_of_a_running_run_goes_on(after: int, expected: object) -> None:
    run = new()
    say(run, 2, 3)
    found = run.resume(after)
    assert (found.code if isinstance(found, Failure) else found) == expected


@pytest.mark.parametrize(("after", "expected"), [(-1, 0), (4, 5), (5, None), (6, ErrorCode.INVALID_REQUEST)])
def test_where_a_reader_of_an_ended_run_goes_on(after: int, expected: object) -> None:
    run = new()
    say(run, 5)
    run.end(None, 13.0)
    found = run.resume(after)
    assert (found.code if isinstance(found, Failure) else found) == expected


def test_a_reader_whose_next_event_was_dropped_gets_gone() -> None:
    run = new()
    say(run, 2, 2)
    assert run.drop(1) == len(events(0, 2)) + PIECE_COST
    assert (run.first, run.size) == (2, len(events(2, 2)) + PIECE_COST)
    assert run.read(1) is None
    assert run.read(2) == (events(2, 2), 4)
    assert run.read(3) == (events(3), 4)
    gone = run.resume(0)
    assert isinstance(gone, Failure)
    assert (gone.code, gone.status) == (ErrorCode.GONE, 410)
    assert "before 2 " in gone.message


def test_no_more_is_dropped_than_there_is() -> None:
    run = new()
    assert run.drop(100) == 0
    say(run, 1)
    assert run.drop(0) == 0
    assert run.drop(1 << 20) == len(events(0)) + PIECE_COST
    assert (run.first, run.next, run.size) == (1, 1, 0)


def test_a_run_without_a_keeper_keeps_nothing() -> None:
    run, reader = Run("r", "session", StreamKind.EVENTS, NATIVE, 0.0), Recorder()
    run.readers.append(reader)
    say(run, 2, 1)
    assert (run.first, run.next, run.size) == (3, 3, 0)
    assert [fed[0] for fed in reader.fed_with] == [0, 2], "its readers get the events all the same"


def test_the_keeper_learns_what_a_run_has_grown_by() -> None:
    run = new()
    say(run, 2, 1)
    run.end(None, 13.0)
    assert isinstance(run.keeper, Everything)
    assert run.keeper.size == run.size == len(read_all(run)) + 3 * PIECE_COST


def test_events_that_do_not_lead_to_the_next_are_forgotten() -> None:
    run = new()
    say(run, 2)
    run.restart(7)
    run.append(events(7), 8)
    assert (run.first, run.next, run.size) == (7, 8, len(events(7)) + PIECE_COST)
    assert read_all(run, 7) == events(7)
    assert run.read(1) is None


def test_a_reader_and_a_keeper_have_no_default() -> None:
    with pytest.raises(NotImplementedError):
        Reader().fed(0, 1, b"", 0.0)
    with pytest.raises(NotImplementedError):
        Reader().ended()
    with pytest.raises(NotImplementedError):
        Keeper().grew(new(), 1)


# -- a run that a worker may leave without an end ------------------------------------------------------


def translated(kind: StreamKind = StreamKind.EVENTS) -> Run:
    return Run("r", "s", kind, CHAT.wire, 0.0)


WILL: Final = Will(1, b"the end %b\n\n" % Place.NUMBER, b"result %b" % Place.CODE, b"asked")


def test_a_failed_run_ends_with_the_will_of_its_worker() -> None:
    run, keeper, reader = translated(), Everything(), Recorder()
    run.keeper = keeper
    run.readers.append(reader)
    run.inherit(WILL)
    assert run.size == keeper.size == len(WILL.end + WILL.result + WILL.request)
    run.data(2, b"one\n\ntwo\n\n", 0.0)
    run.end(APP_ERROR, 1.0)
    assert reader.fed_with[-1] == (2, 1, b"the end 2\n\n")
    assert (run.json_body, run.next, run.tail_length) == (b'result "APP_ERROR"', 3, 1)
    assert not run.is_error


def test_only_the_first_will_counts_and_none_after_the_end() -> None:
    run = translated(StreamKind.WHOLE)
    run.inherit(WILL)
    run.inherit(Will(1, b"", b"", b""))
    assert run.will is WILL
    run.end(APP_ERROR, 1.0)
    assert run.is_error
    late = translated()
    late.end(None, 1.0)
    late.inherit(WILL)
    assert late.will is None


def test_a_complete_run_keeps_the_result_that_its_worker_sent() -> None:
    run = translated()
    run.keeper = Everything()
    run.inherit(WILL)
    run.data(1, b"one\n\n", 0.0)
    run.json_body = b"{}"
    run.end(None, 1.0)
    assert (run.json_body, run.next, run.tail_length) == (b"{}", 1, 0)
    assert run.read(0) == (b"one\n\n", 1)
    assert run.read(1) == (b"", 1)
    assert run.resume(0) is None
