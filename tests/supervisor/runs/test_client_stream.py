"""One answer between a worker and a client: nothing lost, credit given back once, one end."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain import sse
from agentscope_supervisor.domain.errors import ErrorCode, Failure
from agentscope_supervisor.runs.client_stream import Answer
from agentscope_supervisor.runs.log import Run, RunLog, RunState

RUN = "r1"
LOST = Failure(ErrorCode.WORKER_LOST, "the worker died under the turn")


def event(number: int) -> bytes:
    return sse.event(RUN, number, b"{}")


class Client:
    """The client's side of a stream: takes all that is written, and is full when told so."""

    def __init__(self) -> None:
        self.got = b""
        self.ended = False
        self.full = False

    def write(self, data: bytes) -> None:
        assert not self.ended
        self.got += data

    def write_last(self, data: bytes) -> None:
        self.write(data)
        self.ended = True

    def is_full(self) -> bool:
        return self.full


class Turn:
    """An answer that a worker has taken, and the credit that went back to it."""

    def __init__(self, form: StreamKind = StreamKind.EVENTS) -> None:
        self.granted: list[int] = []
        self.answer = Answer(RUN, form, now=100.0)
        self.answer.take("0.1", self.granted.append, 0.0)

    def kept(self) -> Run:
        runs, run = RunLog(1 << 20, 60.0, 60.0), Run(RUN, "session", self.answer.form)
        runs.open(run)
        self.answer.keep(runs, run)
        return run

    def begin(self) -> Client:
        client = Client()
        self.answer.begin(client, 101.0)
        return client


# -- data ----------------------------------------------------------------------------------------


def test_what_comes_before_the_status_is_out_is_kept_and_owed() -> None:
    turn = Turn()
    assert turn.answer.data(1, event(0), 100.5) is False
    assert turn.answer.data(2, event(1) + event(2), 100.6) is False
    assert turn.answer.buffered() == event(0) + event(1) + event(2)
    assert (turn.answer.events, turn.answer.owes, turn.granted) == (3, True, [])


def test_what_was_kept_goes_out_first_and_its_credit_back_once() -> None:
    turn = Turn()
    turn.answer.data(1, event(0), 100.5)
    client = turn.begin()
    assert client.got == event(0)
    assert turn.answer.buffered() == b""
    assert turn.granted == []
    turn.answer.repay()
    turn.answer.repay()
    assert (turn.granted, turn.answer.owes) == ([len(event(0))], False)


def test_an_outlet_that_meets_nothing_is_sent_nothing() -> None:
    turn = Turn()
    assert turn.begin().got == b""
    assert turn.answer.last_write == 100.0


def test_after_the_status_events_go_straight_to_the_client() -> None:
    turn = Turn()
    client = turn.begin()
    assert turn.answer.data(1, event(0), 102.0) is True
    assert client.got == event(0)
    assert (turn.answer.owes, turn.granted) == (False, [])
    assert turn.answer.last_write == 102.0


def test_a_client_that_does_not_take_it_all_holds_its_worker_back() -> None:
    turn = Turn()
    client = turn.begin()
    client.full = True
    assert turn.answer.data(1, event(0), 102.0) is False
    assert turn.answer.data(1, event(1), 102.0) is False
    assert client.got == event(0) + event(1), "what the worker had credit for is not held here"
    client.full = False
    turn.answer.repay()
    assert turn.granted == [len(event(0) + event(1))]
    assert turn.answer.data(1, event(2), 103.0) is True


def test_nothing_is_owed_to_a_worker_that_has_ended() -> None:
    turn = Turn()
    turn.answer.data(1, event(0), 100.5)
    turn.answer.settle(None, 101.0)
    turn.answer.repay()
    assert (turn.granted, turn.answer.owes) == ([], False)


def test_an_answer_knows_the_worker_that_has_taken_it() -> None:
    assert Answer(RUN, StreamKind.EVENTS, 0.0).worker is None
    assert Turn().answer.worker == "0.1"


# -- a client that has left ----------------------------------------------------------------------


def test_when_the_client_leaves_its_worker_gets_the_credit_and_is_not_held_back_again() -> None:
    turn = Turn()
    client = turn.begin()
    client.full = True
    turn.answer.data(1, event(0), 102.0)
    turn.answer.abandon()
    assert turn.granted == [len(event(0))]
    assert turn.answer.data(1, event(1), 103.0) is True
    turn.answer.settle(None, 104.0)
    assert client.got == event(0)
    assert turn.granted == [len(event(0))]


def test_when_the_client_leaves_before_the_status_nothing_is_kept_for_it() -> None:
    turn = Turn()
    turn.answer.data(1, event(0), 100.5)
    turn.answer.abandon()
    assert turn.granted == [len(event(0))]
    turn.answer.settle(LOST, 101.0)
    assert turn.answer.buffered() == b""


def test_a_client_may_leave_before_any_worker_has_taken_the_turn() -> None:
    answer = Answer(RUN, StreamKind.EVENTS, 0.0)
    answer.abandon()
    assert not answer.owes


# -- the end -------------------------------------------------------------------------------------


def test_the_end_of_a_stream_is_the_done_event_with_the_next_number() -> None:
    turn = Turn()
    client = turn.begin()
    turn.answer.data(2, event(0) + event(1), 102.0)
    turn.answer.settle(None, 103.0)
    assert client.got == event(0) + event(1) + sse.done(RUN, 2)


def test_a_failure_in_a_stream_is_an_event_before_the_done_event() -> None:
    turn = Turn()
    client = turn.begin()
    turn.answer.data(1, event(0), 102.0)
    turn.answer.settle(LOST, 103.0)
    assert client.got == event(0) + sse.error(RUN, 1, LOST) + sse.done(RUN, 2)
    assert not turn.answer.is_error


def test_a_short_answer_is_whole_before_its_status_is_out() -> None:
    turn = Turn()
    turn.answer.data(1, event(0), 100.5)
    turn.answer.settle(None, 101.0)
    assert turn.answer.buffered() == event(0) + sse.done(RUN, 1)


def test_an_app_that_yields_nothing_still_has_its_done_event() -> None:
    turn = Turn()
    turn.answer.settle(None, 101.0)
    assert turn.answer.buffered() == sse.done(RUN, 0)
    assert not turn.answer.is_error


def test_a_failure_before_there_was_anything_is_a_status() -> None:
    turn = Turn()
    turn.answer.settle(LOST, 101.0)
    assert turn.answer.is_error
    assert turn.answer.failure is LOST
    assert turn.answer.buffered() == b""


def test_a_failure_after_events_that_have_not_left_yet_is_an_event() -> None:
    turn = Turn()
    turn.answer.data(1, event(0), 100.5)
    turn.answer.settle(LOST, 101.0)
    assert not turn.answer.is_error
    assert turn.answer.buffered() == event(0) + sse.error(RUN, 1, LOST) + sse.done(RUN, 2)


def test_a_failure_after_a_status_without_events_is_an_event() -> None:
    turn = Turn()
    client = turn.begin()
    turn.answer.settle(LOST, 102.0)
    assert client.got == sse.error(RUN, 0, LOST) + sse.done(RUN, 1)


@pytest.mark.parametrize("failure", [None, LOST])
def test_an_answer_in_one_piece_has_no_events(failure: Failure | None) -> None:
    turn = Turn(StreamKind.WHOLE)
    assert turn.answer.whole == b"[]"
    turn.answer.settle(failure, 101.0)
    assert turn.answer.buffered() == b""
    assert turn.answer.is_error is (failure is LOST)


def test_a_turn_is_settled_once() -> None:
    turn = Turn()
    turn.answer.settle(None, 101.0)
    with pytest.raises(AssertionError):
        turn.answer.settle(None, 102.0)


def test_what_comes_after_the_end_is_dropped() -> None:
    """The App ignored its cancellation, and its client was told the end in the meantime."""
    turn = Turn()
    client = turn.begin()
    run = turn.kept()
    turn.answer.settle(LOST, 101.0)
    told = client.got
    assert turn.answer.data(1, event(0), 102.0) is True
    assert client.got == told == sse.error(RUN, 0, LOST) + sse.done(RUN, 1)
    assert run.read(0) == (told, 2)


# -- the run that it is kept in, and its followers -------------------------------------------------


def test_what_is_sent_is_kept_as_it_is() -> None:
    turn = Turn()
    run = turn.kept()
    turn.answer.data(2, event(0) + event(1), 100.5)
    client = turn.begin()
    turn.answer.say(sse.comment("keep-alive"), 101.0)
    turn.answer.data(1, event(2), 102.0)
    turn.answer.settle(LOST, 103.0)
    assert run.read(0) == (client.got.replace(b": keep-alive\n\n", b""), 5)


def test_an_error_that_was_a_status_is_kept_as_events() -> None:
    turn = Turn()
    run = turn.kept()
    turn.answer.settle(LOST, 101.0)
    assert turn.answer.is_error
    assert run.read(0) == (sse.error(RUN, 0, LOST) + sse.done(RUN, 1), 2)


def test_the_run_knows_the_worker() -> None:
    turn = Turn()
    run = turn.kept()
    assert run.state is RunState.QUEUED
    turn.answer.take("1.7", turn.granted.append, 0.0)
    assert (run.worker, run.state) == ("1.7", RunState.RUNNING)


def test_what_nobody_reads_is_kept_at_full_speed() -> None:
    turn = Turn()
    run = turn.kept()
    turn.answer.abandon()
    assert turn.answer.data(1, event(0), 101.0) is True
    turn.answer.settle(None, 102.0)
    assert run.read(0) == (event(0) + sse.done(RUN, 1), 2)


class Follower:
    """Takes what it is fed."""

    def __init__(self) -> None:
        self.fed_with: list[tuple[int, int, bytes]] = []

    def fed(self, number: int, count: int, payload: bytes, now: float) -> None:
        self.fed_with.append((number, count, payload))

    def wake(self) -> None:
        pass


def test_followers_are_fed_what_the_client_gets_whether_it_reads_or_not() -> None:
    turn = Turn()
    turn.kept()
    first, second = Follower(), Follower()
    turn.answer.followers += [first, second]
    client = turn.begin()
    client.full = True
    turn.answer.data(2, event(0) + event(1), 102.0)
    turn.answer.abandon()
    turn.answer.data(1, event(2), 103.0)
    turn.answer.settle(None, 104.0)
    expected = [(0, 2, event(0) + event(1)), (2, 1, event(2)), (3, 1, sse.done(RUN, 3))]
    assert first.fed_with == second.fed_with == expected


def test_an_answer_is_heard_while_anybody_reads_it() -> None:
    answer = Turn().answer
    assert answer.is_heard
    answer.followers.append(Follower())
    answer.abandon()
    assert answer.is_heard
    answer.followers.clear()
    assert not answer.is_heard


# -- comments ------------------------------------------------------------------------------------


def test_a_comment_has_no_number() -> None:
    turn = Turn()
    client = turn.begin()
    turn.answer.say(sse.comment("keep-alive"), 115.0)
    turn.answer.data(1, event(0), 116.0)
    turn.answer.settle(None, 117.0)
    assert client.got == b": keep-alive\n\n" + event(0) + sse.done(RUN, 1)


def test_a_client_that_is_behind_is_spared_comments() -> None:
    turn = Turn()
    client = turn.begin()
    client.full = True
    turn.answer.say(sse.comment("keep-alive"), 115.0)
    assert client.got == b""
    assert turn.answer.last_write == 100.0


def test_after_a_first_comment_a_failure_is_an_event() -> None:
    turn = Turn()
    turn.answer.say(sse.comment("queued 2"), 101.0)
    turn.answer.settle(LOST, 102.0)
    assert not turn.answer.is_error
    assert turn.answer.buffered() == b": queued 2\n\n" + sse.error(RUN, 0, LOST) + sse.done(RUN, 1)


# -- waiting -------------------------------------------------------------------------------------


async def waits(answer: Answer) -> asyncio.Task[None]:
    """A task that waits for a change, and has begun to."""
    task = asyncio.create_task(answer.changed())
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def soon(task: Awaitable[None]) -> None:
    async with asyncio.timeout(5):
        await task


@pytest.mark.parametrize(
    "what",
    [
        lambda answer: answer.data(1, event(0), 1.0),
        lambda answer: answer.say(b": x\n\n", 1.0),
        lambda answer: answer.settle(None, 1.0),
        lambda answer: answer.settle(LOST, 1.0),
    ],
    ids=["data", "comment", "end", "failure"],
)
async def test_what_happens_wakes_who_waits_for_it(what: Callable[[Answer], Any]) -> None:
    answer = Turn().answer
    task = await waits(answer)
    what(answer)
    await soon(task)


async def test_a_settled_answer_is_not_waited_for() -> None:
    answer = Turn().answer
    answer.settle(None, 101.0)
    await soon(answer.changed())


async def test_what_the_client_takes_at_once_wakes_nobody() -> None:
    turn = Turn()
    client = turn.begin()
    task = await waits(turn.answer)
    turn.answer.data(1, event(0), 102.0)
    await asyncio.sleep(0)
    assert not task.done()
    client.full = True
    turn.answer.data(1, event(1), 102.0)
    turn.answer.data(1, event(2), 102.0)
    await soon(task)


async def test_a_wait_can_be_given_up_and_begun_again() -> None:
    answer = Turn().answer
    task = await waits(answer)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    answer.data(1, event(0), 100.5)
    task = await waits(answer)
    answer.settle(None, 101.0)
    await soon(task)
