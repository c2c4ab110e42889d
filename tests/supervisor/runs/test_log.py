"""What is kept of runs: each reader sees each kept event once, in order, or is told that it is gone."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentscope_protocol.wire.frames import Place, StreamKind
from agentscope_supervisor.domain.errors import ErrorCode, Failure, refusal
from agentscope_supervisor.domain.idempotency import Key
from agentscope_supervisor.domain.run import LOST, READ_SIZE, Run, RunState
from agentscope_supervisor.domain.usage import ModelUsage, Usage
from agentscope_supervisor.runs.log import MAX_RESULT, RUN_COST, RunLog, Stored, messages, restored
from agentscope_supervisor.web.dialects import FORMATS, native
from agentscope_supervisor.web.dialects.native import NATIVE
from agentscope_supervisor.web.dialects.translated import format_of

NOW = 0.0
APP_ERROR = Failure(ErrorCode.APP_ERROR, "no")
BUSY = refusal(ErrorCode.OVERLOADED, "full")


def events(run: str, first: int, count: int, size: int = 2) -> bytes:
    return b"".join(native.event(run, number, b"x" * size) for number in range(first, first + count))


def opened(
    runs: RunLog, name: str = "r", key: Key | None = None, kind: StreamKind = StreamKind.EVENTS
) -> Run:
    run = Run(name, "session", kind, NATIVE, 0.0, key)
    runs.open(run)
    return run


def say(run: Run, *counts: int, size: int = 2) -> None:
    for count in counts:
        run.data(count, events(run.run_id, run.next, count, size), 0.0)


def finish(runs: RunLog, run: Run, failure: Failure | None = None, now: float = 0.0) -> None:
    run.end(failure, now)
    runs.end(run, now)


def read_all(run: Run, number: int = 0, limit: int = READ_SIZE) -> bytes:
    got = b""
    while number < run.next:
        piece = run.read(number, limit)
        assert piece is not None
        data, number = piece
        assert data
        got += data
    return got


def keeper(max_bytes: int = 1 << 20, ttl: float = 60.0, key_ttl: float = 60.0) -> RunLog:
    return RunLog(max_bytes, ttl, key_ttl)


def key(value: str = "k", scope: str = "me") -> Key:
    return Key(scope, value, b"print")


def test_the_runs_of_a_session_are_forgotten_when_they_have_ended() -> None:
    runs = keeper()
    mine, other, going = (
        opened(runs, "mine", key()),
        Run("other", "another", StreamKind.EVENTS, NATIVE, 0.0),
        opened(runs, "going"),
    )
    runs.open(other)
    before = runs.size
    finish(runs, other)
    after = runs.size
    say(mine, 3)
    finish(runs, mine)
    assert runs.forget("nobody's") == 0
    assert runs.forget("session") == 1
    assert runs.get("mine", NOW) is None
    assert runs.keyed(key(), NOW) is None
    assert runs.get("other", NOW) is other
    assert runs.get("going", NOW) is going
    assert runs.size == after > before
    finish(runs, going)
    assert runs.forget("session") == 1
    assert runs.forget("another") == 1
    assert (len(runs), runs.size) == (0, 0)


# -- keys, and the messages of a run ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "worker", "failure", "frees"),
    [
        (0, None, BUSY, True),
        (0, None, APP_ERROR, True),  # never dispatched, whatever is reported
        (0, "0.1", APP_ERROR, False),
        (0, "0.1", Failure(ErrorCode.WORKER_LOST, "", retryable=True), True),
        (1, "0.1", APP_ERROR, False),
        (1, "0.1", None, False),
        (0, "0.1", None, False),
        (0, None, LOST, False),  # nobody knows what the App did
    ],
)
def test_what_a_second_request_with_the_key_finds(
    said: int, worker: str | None, failure: Failure | None, frees: bool
) -> None:
    runs = keeper()
    run = opened(runs, key=key())
    run.worker = worker
    say(run, *[1] * said)
    finish(runs, run, failure)
    assert runs.keyed(key(), NOW) is (None if frees else run)


def test_what_the_app_said_is_given_as_one_array() -> None:
    runs = keeper()
    run = opened(runs)
    assert messages(run) == b"[]"
    for number, word in enumerate((b'{"a":1}', b'{"b":2}')):
        run.data(1, native.event("r", number, word), 0.0)
    assert messages(run) == b'[{"a":1},{"b":2}]'
    finish(runs, run)
    assert messages(run) == b'[{"a":1},{"b":2}]', "the done event is ours"


def test_the_array_of_a_run_that_failed_is_what_came_before() -> None:
    runs = keeper()
    run = opened(runs)
    run.data(1, native.event("r", 0, b"{}"), 0.0)
    finish(runs, run, APP_ERROR)
    assert messages(run) == b"[{}]"


@pytest.mark.parametrize("size", [MAX_RESULT, 700_000])
def test_there_is_no_array_of_what_is_much_or_not_all_there(size: int) -> None:
    runs = keeper(1 << 20)
    run = opened(runs)
    say(run, 1, 1, size=size)
    assert messages(run) is None


def test_the_array_of_a_run_that_is_not_streamed_is_there_with_its_end() -> None:
    runs = keeper()
    run = opened(runs, kind=StreamKind.WHOLE)
    assert messages(run) is None
    run.json_body = b'["x"]'
    finish(runs, run)
    assert messages(run) == b'["x"]'


# -- all together ---------------------------------------------------------------------------------


def test_runs_are_found_by_id_and_by_key() -> None:
    runs = keeper()
    run, other = opened(runs, "a", key("k")), opened(runs, "b")
    assert (runs.get("a", NOW), runs.get("b", NOW), runs.get("c", NOW)) == (run, other, None)
    assert (runs.keyed(key("k"), NOW), runs.keyed(key("k", "you"), NOW)) == (run, None)
    assert len(runs) == 2


def test_a_key_that_is_free_again_belongs_to_its_next_run() -> None:
    runs = keeper(ttl=10.0)
    first = opened(runs, "a", key())
    finish(runs, first, BUSY)
    second = opened(runs, "b", key())
    runs.expire(99.0)
    assert runs.get("a", NOW) is None
    assert runs.keyed(key(), NOW) is second


def test_a_key_that_another_run_has_taken_meanwhile_stays_its_own() -> None:
    runs = keeper()
    first = opened(runs, "a", key())
    second = opened(runs, "b", key())
    finish(runs, first, BUSY)
    assert runs.keyed(key(), NOW) is second


def test_a_key_is_forgotten_before_its_run_if_its_time_is_shorter() -> None:
    runs = keeper(ttl=60.0, key_ttl=10.0)
    run = opened(runs, "a", key())
    assert runs.keyed(key(), 1000.0) is run, "its time begins with the end of the run"
    finish(runs, run, now=0.0)
    assert (runs.keyed(key(), 9.9), runs.keyed(key(), 10.0)) == (run, None)
    assert (runs.get("a", 59.9), runs.get("a", 60.0)) == (run, None)
    again = opened(runs, "b", key())
    assert runs.keyed(key(), 10.0) is again


def test_runs_are_forgotten_after_their_time() -> None:
    runs = keeper(ttl=10.0)
    early, late, running = opened(runs, "a", key()), opened(runs, "b"), opened(runs, "c")
    finish(runs, early, now=0.0)
    finish(runs, late, now=5.0)
    runs.expire(9.9)
    assert len(runs) == 3
    runs.expire(10.0)
    assert (runs.get("a", NOW), runs.keyed(key(), NOW), runs.get("b", NOW), runs.get("c", NOW)) == (
        None,
        None,
        late,
        running,
    )
    finish(runs, running, now=15.0)
    assert runs.get("b", NOW) is None, "the end of one looks for others"
    runs.expire(99.0)
    assert (len(runs), runs.size) == (0, 0)


def test_the_run_that_ended_first_makes_room() -> None:
    runs = keeper(3 * (RUN_COST + 400))
    ended = [opened(runs, name) for name in "abc"]
    for run in ended:
        say(run, 2)
        finish(runs, run)
    assert len(runs) == 3
    say(opened(runs, "d"), 1, size=600)
    assert [runs.get(name, NOW) is not None for name in "abcd"] == [False, True, True, True]
    assert read_all(ended[0])[: len(events("a", 0, 2))] == events("a", 0, 2), "who has it reads on"


def test_running_runs_lose_their_oldest_events_and_the_biggest_loses_most() -> None:
    runs = keeper(20_000)
    small, big = opened(runs, "s"), opened(runs, "b")
    say(small, 1, size=1000)
    for _ in range(18):
        say(big, 1, size=1000)
    assert runs.size <= 20_000
    assert (small.first, read_all(small)) == (0, events("s", 0, 1, 1000))
    assert big.first > 0
    assert read_all(big, big.first) == events("b", big.first, big.next - big.first, 1000)
    assert big.read(big.first - 1) is None
    gone = big.resume(0)
    assert isinstance(gone, Failure)
    assert (gone.code, gone.status) == (ErrorCode.GONE, 410)


def test_equal_runs_are_cut_alike() -> None:
    runs = keeper(100_000)
    same = [opened(runs, str(number)) for number in range(4)]
    for _ in range(40):
        for run in same:
            say(run, 1, size=1000)
    sizes = [run.size for run in same]
    assert max(sizes) - min(sizes) < 5000
    assert all(run.first > 0 for run in same)


def test_an_event_bigger_than_the_room_is_gone_at_once() -> None:
    runs = keeper(1000)
    run = opened(runs)
    say(run, 1, size=2000)
    assert (run.first, run.next, runs.size) == (1, 1, 0)


def test_nothing_is_kept_where_nothing_may_be() -> None:
    runs = keeper(0)
    run, other = opened(runs), opened(runs, "o")
    say(run, 3, 2)
    assert (run.first, run.next, run.size, runs.size) == (5, 5, 0, 0)
    finish(runs, run)
    assert runs.get("r", NOW) is None
    assert runs.get("o", NOW) is other


def test_one_run_can_be_forgotten() -> None:
    runs = keeper()
    run, other = opened(runs), opened(runs, "o")
    finish(runs, run)
    finish(runs, other)
    runs.forget_run(run)
    assert (runs.get("r", NOW), runs.get("o", NOW), runs.size) == (None, other, other.size)
    runs.forget_run(run)
    assert len(runs) == 1


# -- from the store -------------------------------------------------------------------------------


def stored(
    *pieces: tuple[int, int],
    end: int | None,
    failure: Failure | None = None,
    kind: StreamKind = StreamKind.EVENTS,
) -> Stored:
    kept = [(first, after, events("r", first, after - first)) for first, after in pieces]
    return Stored("r", "session", kind, NATIVE.number, key(), "0.1", failure, b'["x"]', end, kept)


def test_a_run_that_ended_comes_back_as_it_was() -> None:
    run = restored(stored((0, 2), (2, 5), end=5, failure=APP_ERROR), FORMATS, -1, 7.0)
    assert (run.state, run.failure, run.first, run.next) == (RunState.ENDED, APP_ERROR, 0, 5)
    assert (run.session_id, run.worker, run.json_body, run.key) == ("session", "0.1", b'["x"]', key())
    assert read_all(run) == events("r", 0, 5)
    assert run.resume(4) is None
    assert run.usage is None
    used = Usage((ModelUsage("m", 1, 2, 3, 4),))
    kept = replace(stored((0, 2), end=2), started=9_000_000, usage=orjson.dumps(used.fields))
    again = restored(kept, FORMATS, -1, 7.0, epoch=4.0)
    assert (again.usage, again.started_at) == (used, 5.0)


@pytest.mark.parametrize(
    ("pieces", "first"),
    [([(3, 5)], 3), ([(0, 2), (3, 5)], 3), ([(0, 2), (2, 4)], 5), ([], 5)],
    ids=["head", "middle", "tail", "all"],
)
def test_of_events_with_a_gap_those_that_lead_to_the_end_are_there(
    pieces: Sequence[tuple[int, int]], first: int
) -> None:
    run = restored(stored(*pieces, end=5), FORMATS, -1, 0.0)
    assert (run.first, run.next) == (first, 5)
    assert read_all(run, first) == events("r", first, 5 - first)
    gone = run.resume(-1)
    assert isinstance(gone, Failure)
    assert gone.code is ErrorCode.GONE


@pytest.mark.parametrize("after", [-1, 0, 2])
def test_a_run_without_an_end_was_lost(after: int) -> None:
    run = restored(stored((0, 2), (2, 3), end=None), FORMATS, after, 0.0)
    assert (run.failure, run.frees_key) == (LOST, False)
    expected = events("r", 0, 3) + native.error("r", 3, LOST) + native.done("r", 4)
    assert read_all(run) == expected
    assert run.resume(after) == after + 1


def test_a_lost_run_of_a_dialect_with_results_has_the_result_of_a_failed_run() -> None:
    wire = format_of(99, "other", b"end %b\n\n" % Place.NUMBER, result=Place.CODE)
    run = restored(replace(stored((0, 2), end=None), dialect=99), {99: wire}, -1, 0.0)
    assert (run.json_body, read_all(run)) == (b'"WORKER_LOST"', events("r", 0, 2) + b"end 2\n\n")
    assert messages(run) is None, "it has a result instead"


def test_a_reader_that_has_seen_more_than_the_store_is_told_the_end_next() -> None:
    run = restored(stored((0, 2), end=None), FORMATS, 7, 0.0)
    assert run.resume(7) == 8
    assert read_all(run, 8) == native.error("r", 8, LOST) + native.done("r", 9)


def test_a_run_is_put_back_once() -> None:
    runs = keeper()
    run = restored(stored((0, 2), end=2), FORMATS, -1, 0.0)
    assert runs.put_back(run, 5.0) is run
    assert runs.put_back(restored(stored((0, 2), end=2), FORMATS, -1, 0.0), 6.0) is run
    assert (runs.get("r", NOW), runs.keyed(key(), NOW)) == (run, run)
    assert runs.size == run.size
    runs.expire(65.0)
    assert (len(runs), runs.size) == (0, 0)


# -- any order of everything ------------------------------------------------------------------------


@dataclass
class Reader:
    run: Run
    number: int
    got: bytes = b""
    gone: bool = False
    began: int = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.number


class AnyOrder(RuleBasedStateMachine):
    """RunLog open, talk and end; readers come at any event and read when they like; time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = RunLog(6000, 30.0, 30.0)
        self.now = 0.0
        self.opened: list[Run] = []
        self.said: dict[str, bytes] = {}
        self.readers: list[Reader] = []

    @property
    def running(self) -> list[Run]:
        return [run for run in self.opened if run.state is not RunState.ENDED]

    @rule(keyed=st.booleans())
    def open(self, keyed: bool) -> None:
        name = f"r{len(self.opened)}"
        self.opened.append(opened(self.runs, name, key(name) if keyed else None))
        self.said[name] = b""

    @precondition(lambda self: self.running)
    @rule(data=st.data(), count=st.integers(1, 4), size=st.sampled_from([1, 200, 1500, 7000]))
    def talk(self, data: st.DataObject, count: int, size: int) -> None:
        run = data.draw(st.sampled_from(self.running))
        payload = events(run.run_id, run.next, count, size)
        self.said[run.run_id] += payload
        run.data(count, payload, self.now)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), failure=st.sampled_from([None, APP_ERROR, BUSY]))
    def end(self, data: st.DataObject, failure: Failure | None) -> None:
        run = data.draw(st.sampled_from(self.running))
        number, tail = run.next, b""
        if failure is not None:
            tail, number = native.error(run.run_id, number, failure), number + 1
        self.said[run.run_id] += tail + native.done(run.run_id, number)
        finish(self.runs, run, failure, self.now)

    @precondition(lambda self: self.opened)
    @rule(data=st.data(), after=st.integers(-1, 12))
    def come(self, data: st.DataObject, after: int) -> None:
        run = data.draw(st.sampled_from(self.opened))
        if self.runs.get(run.run_id, self.now) is None:
            return
        match run.resume(after):
            case None:
                assert run.state is RunState.ENDED
                assert after + 1 == run.next
            case Failure(ErrorCode.GONE):
                assert after + 1 < run.first
            case Failure(code):
                assert (code, after >= run.next) == (ErrorCode.INVALID_REQUEST, True)
            case number:
                self.readers.append(Reader(run, number))

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), limit=st.sampled_from([1, 300, 10_000]))
    def read(self, data: st.DataObject, limit: int) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        piece = reader.run.read(reader.number, limit)
        if piece is None:
            assert reader.number < reader.run.first
            reader.gone = True
        else:
            assert not reader.gone, "what is gone does not come back"
            reader.got += piece[0]
            assert (reader.number == piece[1]) is (piece[0] == b"")
            reader.number = piece[1]

    @rule(seconds=st.sampled_from([1.0, 20.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.runs.expire(self.now)

    @invariant()
    def readers_have_seen_each_event_once_and_in_order(self) -> None:
        for reader in self.readers:
            numbers = [part.split(b"\n")[0] for part in reader.got.split(b"\n\n")[:-1]]
            name = reader.run.run_id
            expected = [f"id: {name}-{n}".encode() for n in range(reader.began, reader.number)]
            assert numbers == expected
            assert reader.got in self.said[name]

    @invariant()
    def what_is_kept_is_bounded_and_counted(self) -> None:
        kept = [run for run in self.opened if self.runs.get(run.run_id, self.now) is run]
        assert self.runs.size == sum(run.size for run in kept) <= 6000
        assert len(self.runs) == len(kept)
        assert all(run in kept for run in self.running)
        for run in kept:
            if run.state is RunState.ENDED:
                assert run.ended_at is not None
                assert self.now - run.ended_at < 30.0
                assert self.runs.keyed(key(run.run_id), self.now) is (
                    run if run.key and not run.frees_key else None
                )
            assert self.said[run.run_id].endswith(read_all(run, run.first))


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.data())
def test_any_cut_of_a_stored_run_is_read_on_byte_for_byte(counts: list[int], data: st.DataObject) -> None:
    numbers = [0]
    for count in counts:
        numbers.append(numbers[-1] + count)
    pieces = list(pairwise(numbers))
    run = restored(stored(*pieces, end=numbers[-1]), FORMATS, -1, 0.0)
    after = data.draw(st.integers(-1, numbers[-1] - 2))
    number = run.resume(after)
    assert isinstance(number, int)
    assert events("r", 0, after + 1) + read_all(run, number) == events("r", 0, numbers[-1])
