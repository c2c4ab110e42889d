"""The response to a request that reads a run, on a channel that keeps what it is asked to send."""

import asyncio
from collections.abc import Mapping
from typing import Final

import pytest

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain.errors import ErrorCode, Failure, Refusal
from agentscope_supervisor.domain.request import TurnRequest
from agentscope_supervisor.domain.run import READ_SIZE, Run
from agentscope_supervisor.domain.turn import Turn
from agentscope_supervisor.http1.channel import Channel
from agentscope_supervisor.http1.chunked_writer import ChunkedWriter
from agentscope_supervisor.http1.responses import header_lines
from agentscope_supervisor.runs.client_stream import ClientStream
from agentscope_supervisor.runs.log import RunLog
from agentscope_supervisor.web import respond
from agentscope_supervisor.web.dialects import INVOKE, native
from agentscope_supervisor.web.dialects.dialect import Dialect, Shape
from agentscope_supervisor.web.dialects.native import NATIVE
from agentscope_supervisor.web.respond import QUEUED_AFTER, STALLED_AFTER, OpenResponses, Response
from tests.harness.waiting import eventually

pytestmark = pytest.mark.as_python

RUN: Final = "r1"
APP_ERROR: Final = Failure(ErrorCode.APP_ERROR, "no")
KEEPALIVE: Final = 15.0


def events(first: int, count: int = 1, size: int = 2) -> bytes:
    return b"".join(native.event(RUN, number, b"x" * size) for number in range(first, first + count))


class Socket(asyncio.Transport):
    """Takes everything."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""
        self.writes = 0
        self.is_aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data += data
        self.writes += 1

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True


class Sent(Channel):
    """A channel that remembers what it is asked for; streams have no chunks, and "HEAD " for a head."""

    def __init__(self) -> None:
        super().__init__(asyncio.get_running_loop())
        self.socket = Socket()
        self.body: bytes | None = None  # of a whole response
        self.failure: Failure | None = None
        self.more: Mapping[str, object] | None = None  # beside the failure
        self.refusal: Refusal | None = None
        self.fields: Mapping[str, str] = {}
        self.lines = ""
        self.written: ChunkedWriter | None = None
        self.is_done = 0

    def respond(self, fields: Mapping[str, str], lines: str, body: bytes) -> None:
        assert self.body is self.failure is self.written is None, "one response"
        self.fields, self.lines, self.body = dict(fields), lines, body

    def fail(
        self, failure: Failure, fields: Mapping[str, str], more: Mapping[str, object] | None = None
    ) -> None:
        assert self.body is self.failure is self.written is None, "one response"
        self.fields, self.failure, self.more = dict(fields), failure, more

    def refuse(self, failure: Failure, refusal: Refusal, fields: Mapping[str, str]) -> None:
        self.fields, self.failure, self.refusal = dict(fields), failure, refusal

    def stream(self, fields: Mapping[str, str], lines: str) -> ChunkedWriter:
        assert self.body is self.failure is self.written is None, "one response"
        self.fields, self.lines = dict(fields), lines
        self.written = ChunkedWriter(self.socket, self.writing_paused, chunked=False, head=b"HEAD ")
        return self.written

    def done(self) -> None:
        self.is_done += 1

    def abort(self) -> None:
        self.socket.abort()

    # What the connection of this channel does.

    def pauses(self) -> None:
        self.writing_paused = True
        if self.written is not None:
            self.written.is_blocked = True

    def resumes(self, response: Response) -> None:
        self.writing_paused = False
        if self.written is not None:
            self.written.is_blocked = False
        response.resumed()


class Scene:
    """A run, and the response to the client that asked for it."""

    def __init__(self, kind: StreamKind = StreamKind.EVENTS, max_bytes: int = 1 << 20) -> None:
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time()
        self.log = RunLog(max_bytes, 60.0, 60.0)
        self.run = Run(RUN, "s", kind, NATIVE, self.now)
        self.log.open(self.run)
        self.turn = Turn(1, TurnRequest("s", kind, None, b"{}", "", {}, NATIVE), self.run, 0, self.now)
        self.granted: list[int] = []
        self.over: list[tuple[Response, bool]] = []
        self.sent = b""

    def respond(self) -> tuple[Response, Sent]:
        """The response to the client that asked."""
        return self._response(ClientStream(self.run, 0, self.now, paces=True))

    def join(self, number: int = 0, *, resumes: bool = False) -> tuple[Response, Sent]:
        """The response to a client that asks for the run later."""
        return self._response(ClientStream(self.run, number, self.now), resumes=resumes)

    def _response(self, stream: ClientStream, *, resumes: bool = False) -> tuple[Response, Sent]:
        channel, turn = Sent(), self.turn if self.run.ended_at is None else None
        headers = {"X-Run-Id": RUN}
        over = self._is_over
        return Response(channel, stream, turn, headers, over, resumes=resumes), channel

    def _is_over(self, response: Response, left: bool) -> None:
        self.over.append((response, left))

    def take(self) -> None:
        self.run.take("0.1", self.granted.append, self.now)

    def say(self, count: int = 1, size: int = 2) -> bool:
        payload = events(self.run.next, count, size)
        self.sent += payload
        return self.run.data(count, payload, self.now)

    def end(self, failure: Failure | None = None) -> None:
        self.sent += NATIVE.tail(RUN, self.run.next, failure)[0]
        self.run.end(failure, self.now)
        self.log.end(self.run, self.now)


async def turns(count: int = 3) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


# -- the client that asked -------------------------------------------------------------------------


async def test_an_error_before_any_event_is_a_status() -> None:
    scene = Scene()
    response, channel = scene.respond()
    scene.end(APP_ERROR)
    await turns()
    assert (channel.failure, channel.is_done, scene.over) == (APP_ERROR, 1, [(response, False)])
    assert channel.fields == {"X-Run-Id": RUN}, "no worker had the turn"
    assert scene.run.readers == []


async def test_an_error_may_have_the_form_of_a_dialect() -> None:
    scene, refused = Scene(), []

    def refuse(failure: Failure, body: bytes, result: bytes = b"") -> Refusal:
        refused.append((failure, body, result))
        return Refusal(418, b"tea")

    channel, stream = Sent(), ClientStream(scene.run, 0, scene.now, paces=True)
    shape = Shape(Dialect("/", NATIVE, INVOKE.read, INVOKE.outline, refuse=refuse), b"asked")
    Response(channel, stream, scene.turn, {}, scene._is_over, shape=shape)
    scene.end(APP_ERROR)
    await turns()
    assert (refused, channel.refusal) == ([(APP_ERROR, b"asked", b"[]")], Refusal(418, b"tea"))


@pytest.mark.parametrize("wraps", [True, False])
async def test_a_whole_answer_may_have_the_form_of_a_dialect(wraps: bool) -> None:
    scene = Scene(StreamKind.WHOLE)
    channel, stream = Sent(), ClientStream(scene.run, 0, scene.now, paces=True)
    answer = (lambda result, body: body + result[:1]) if wraps else None
    shape = Shape(Dialect("/", NATIVE, INVOKE.read, INVOKE.outline, answer=answer), b"asked ")
    Response(channel, stream, scene.turn, {}, scene._is_over, shape=shape)
    scene.end()
    await turns()
    assert channel.body is not None
    assert channel.body.startswith(b"asked {" if wraps else b'{"session_id":')


async def test_an_error_that_a_worker_caused_names_the_worker() -> None:
    scene = Scene()
    _, channel = scene.respond()
    scene.take()
    scene.end(APP_ERROR)
    await turns()
    assert channel.fields == {"X-Run-Id": RUN, "X-Agentscope-Worker": "0.1"}


async def test_a_short_turn_is_one_response_with_its_length() -> None:
    scene = Scene()
    response, channel = scene.respond()
    scene.take()
    scene.say()
    scene.say()
    scene.end()
    assert channel.body is None, "what comes with the first event is to leave with it"
    await turns()
    assert (channel.body, channel.written, channel.is_done) == (scene.sent, None, 1)
    assert channel.lines == header_lines(NATIVE.headers)
    assert channel.fields["X-Agentscope-Worker"] == "0.1"
    assert scene.over == [(response, False)]


async def test_a_short_turn_that_fails_after_an_event_is_one_response() -> None:
    scene = Scene()
    _, channel = scene.respond()
    scene.say()
    scene.end(APP_ERROR)
    await turns()
    assert (channel.failure, channel.body) == (None, scene.sent)


async def test_a_long_turn_is_a_stream_that_begins_with_its_first_event() -> None:
    scene = Scene()
    response, channel = scene.respond()
    scene.take()
    await turns()
    assert channel.written is None, "nothing to say yet"
    scene.say()
    await turns()
    assert channel.socket.data == b"HEAD " + events(0)
    assert channel.socket.writes == 1
    assert channel.lines == header_lines(NATIVE.headers)
    assert scene.granted == [len(events(0))]
    scene.say()
    assert channel.socket.data == b"HEAD " + events(0, 2), "at once"
    scene.end()
    assert channel.socket.data == b"HEAD " + scene.sent
    assert (channel.is_done, scene.over) == (0, [])
    await turns()
    assert (channel.is_done, scene.over) == (1, [(response, False)])
    assert scene.run.readers == []
    await turns()
    response.resumed()
    response.lost()
    assert (channel.is_done, len(scene.over)) == (1, 1), "over once"


async def test_a_client_that_reads_slowly_holds_back_its_worker_until_it_has_room() -> None:
    scene = Scene()
    response, channel = scene.respond()
    scene.take()
    scene.say()
    await turns()
    scene.granted.clear()
    channel.pauses()
    assert scene.say() is False
    await turns()
    assert scene.granted == []
    channel.resumes(response)
    assert scene.granted == [len(events(1))]


async def test_the_end_waits_for_a_client_that_reads_slowly() -> None:
    scene = Scene()
    response, channel = scene.respond()
    scene.say()
    await turns()
    channel.pauses()
    scene.say()
    scene.end()
    await turns()
    assert channel.socket.data == b"HEAD " + scene.sent
    assert (channel.is_done, scene.over) == (0, [])
    channel.resumes(response)
    assert (channel.is_done, scene.over) == (1, [(response, False)])


async def test_room_that_an_earlier_response_of_the_connection_needed_begins_nothing() -> None:
    scene = Scene()
    response, channel = scene.respond()
    channel.pauses()
    channel.resumes(response)
    await turns()
    assert (channel.written, channel.is_done) == (None, 0)


async def test_a_response_may_begin_on_a_socket_that_an_earlier_one_filled() -> None:
    scene = Scene()
    response, channel = scene.respond()
    channel.pauses()
    scene.say()
    scene.end()
    await turns()
    assert (channel.body, channel.is_done) == (scene.sent, 0), "done when the client reads on"
    channel.resumes(response)
    assert (channel.is_done, scene.over) == (1, [(response, False)])


async def test_a_client_that_leaves_is_reported_once_and_frees_its_worker() -> None:
    scene = Scene()
    response, channel = scene.respond()
    scene.take()
    scene.say()
    response.lost()
    response.lost()
    assert scene.over == [(response, True)]
    assert (scene.granted, scene.run.readers) == ([len(events(0))], [])
    scene.end()
    await turns()
    assert (channel.is_done, channel.body, channel.written) == (0, None, None)


# -- an answer that is not streamed -----------------------------------------------------------------


async def test_an_answer_that_is_not_streamed_is_one_response_at_the_end() -> None:
    scene = Scene(StreamKind.WHOLE)
    response, channel = scene.respond()
    scene.take()
    await turns()
    scene.run.json_body = b'["x"]'
    scene.end()
    await turns()
    assert channel.body == NATIVE.json_body("s", RUN, b'["x"]')
    assert channel.lines == header_lines({"Content-Type": "application/json"})
    assert (channel.fields["X-Agentscope-Worker"], scene.over) == ("0.1", [(response, False)])


async def test_an_answer_that_is_not_streamed_fails_with_a_status() -> None:
    scene = Scene(StreamKind.WHOLE)
    _, channel = scene.join(resumes=False)
    scene.end(APP_ERROR)
    await turns()
    assert (channel.failure, channel.body, channel.is_done) == (APP_ERROR, None, 1)


async def test_an_answer_that_is_not_streamed_waits_for_its_end_without_a_word() -> None:
    scene = Scene(StreamKind.WHOLE)
    response, channel = scene.join()
    response.sweep(scene.now + 100.0, KEEPALIVE, lambda _: 0)
    scene.run.data(1, b"x", scene.now)
    await turns()
    assert (channel.written, channel.body) == (None, None)
    assert response.probe() is False


# -- clients that join or resume -------------------------------------------------------------------


async def test_a_run_that_has_ended_is_one_response() -> None:
    scene = Scene()
    scene.say(2)
    scene.end()
    response, channel = scene.join(1)
    await turns()
    assert channel.body == events(1) + native.done(RUN, 2)
    assert scene.over == [(response, False)]


async def test_a_run_that_failed_before_any_event_is_the_same_status_again() -> None:
    scene = Scene()
    scene.end(APP_ERROR)
    _, channel = scene.join()
    await turns()
    assert channel.failure == APP_ERROR


async def test_a_client_that_resumes_a_failed_run_gets_its_events() -> None:
    scene = Scene()
    scene.end(APP_ERROR)
    _, channel = scene.join(resumes=True)
    await turns()
    assert (channel.failure, channel.body) == (None, scene.sent)


async def test_a_client_that_resumes_gets_its_head_at_once() -> None:
    scene = Scene()
    scene.take()
    scene.say()
    _, channel = scene.join(1, resumes=True)
    await turns()
    assert channel.socket.data == b"HEAD ", "it learns that the run goes on"
    scene.say()
    assert channel.socket.data == b"HEAD " + events(1)


async def test_a_client_that_joins_a_run_gets_what_is_kept_and_then_what_comes() -> None:
    scene = Scene()
    scene.take()
    scene.say(2)
    response, channel = scene.join()
    await turns()
    assert channel.socket.data == b"HEAD " + events(0, 2)
    scene.say()
    scene.end()
    await turns()
    assert channel.socket.data == b"HEAD " + scene.sent
    assert scene.over == [(response, False)]


async def test_a_client_that_joins_a_run_that_has_sent_nothing_waits_for_its_first_event() -> None:
    scene = Scene()
    _, channel = scene.join()
    await turns()
    assert channel.written is None
    scene.say()
    await turns()
    assert channel.socket.data == b"HEAD " + events(0)


async def test_a_long_run_is_sent_in_pieces_between_which_others_have_their_turn() -> None:
    scene = Scene()
    for _ in range(5):
        scene.say(size=READ_SIZE // 2)
    scene.end()
    response, channel = scene.join()
    await asyncio.sleep(0)
    written = channel.socket.writes
    assert written < 5
    await turns(10)
    assert channel.socket.data == b"HEAD " + scene.sent
    assert (channel.socket.writes > written, scene.over) == (True, [(response, False)])


async def test_a_client_that_is_behind_goes_on_when_its_socket_has_room() -> None:
    scene = Scene()
    scene.say()
    response, channel = scene.join()
    await turns()
    channel.pauses()
    assert scene.say() is True, "only the client that asked holds back the worker"
    scene.end()
    await turns()
    assert channel.socket.data == b"HEAD " + events(0)
    channel.resumes(response)
    assert channel.socket.data == b"HEAD " + scene.sent
    assert scene.over == [(response, False)]


async def test_a_client_whose_next_event_is_gone_is_cut() -> None:
    scene = Scene(max_bytes=1000)
    scene.say()
    response, channel = scene.join()
    await turns()
    channel.pauses()
    for _ in range(5):
        scene.say(size=400)
    channel.resumes(response)
    assert channel.socket.is_aborted
    assert scene.over == [], "until its connection reports the loss"
    response.lost()
    assert scene.over == [(response, True)]


async def test_a_client_that_joins_before_the_first_event_is_dropped_gets_410() -> None:
    scene = Scene(max_bytes=0)
    response, channel = scene.join()
    scene.take()
    scene.say()
    await turns()
    assert channel.failure is not None
    assert (channel.failure.code, channel.more) == (ErrorCode.GONE, {"kept": None})
    assert scene.over == [(response, False)]
    assert channel.is_done == 1
    assert scene.run.readers == []


# -- silence ---------------------------------------------------------------------------------------


def ahead(_: Turn) -> int:
    return 2


async def test_a_client_whose_turn_waits_gets_a_comment_that_begins_its_stream() -> None:
    scene = Scene()
    response, channel = scene.respond()
    response.sweep(scene.now + QUEUED_AFTER - 0.1, KEEPALIVE, ahead)
    assert channel.written is None
    response.sweep(scene.now + QUEUED_AFTER, KEEPALIVE, ahead)
    assert channel.socket.data == b"HEAD : queued 2\n\n"
    response.sweep(scene.now + QUEUED_AFTER + KEEPALIVE - 0.1, KEEPALIVE, ahead)
    assert channel.socket.writes == 1
    response.sweep(scene.now + QUEUED_AFTER + KEEPALIVE, KEEPALIVE, ahead)
    assert channel.socket.data == b"HEAD : queued 2\n\n: queued 2\n\n"
    scene.end(APP_ERROR)
    await turns()
    assert channel.socket.data.endswith(scene.sent), "an error is an event now"
    assert channel.failure is None


async def test_a_keepalive_that_is_shorter_than_the_first_wait_holds_for_both() -> None:
    scene = Scene()
    response, channel = scene.respond()
    response.sweep(scene.now + 0.5, 0.5, ahead)
    assert channel.socket.data == b"HEAD : queued 2\n\n"


async def test_a_client_whose_turn_runs_in_silence_gets_a_comment() -> None:
    scene = Scene()
    response, channel = scene.respond()
    scene.take()
    response.sweep(scene.now + KEEPALIVE - 0.1, KEEPALIVE, ahead)
    assert channel.written is None
    response.sweep(scene.now + KEEPALIVE, KEEPALIVE, ahead)
    assert channel.socket.data == b"HEAD : keep-alive\n\n"
    assert channel.fields["X-Agentscope-Worker"] == "0.1"


async def test_a_client_that_joined_a_run_gets_comments_too() -> None:
    scene = Scene()
    response, channel = scene.join()
    response.sweep(scene.now + QUEUED_AFTER, KEEPALIVE, ahead)
    assert channel.socket.data == b"HEAD : queued 2\n\n"


async def test_a_client_that_joins_a_silent_run_gets_its_head_after_a_second() -> None:
    scene = Scene()
    scene.take()
    response, channel = scene.join()
    response.sweep(scene.now + QUEUED_AFTER, KEEPALIVE, ahead)
    assert channel.socket.data == b"HEAD : keep-alive\n\n"
    await turns()
    assert scene.over == []


async def test_a_whole_response_is_not_cut_however_slowly_it_is_read() -> None:
    scene = Scene(StreamKind.WHOLE)
    response, channel = scene.respond()
    scene.take()
    channel.pauses()
    scene.end()
    await turns()
    assert channel.body is not None
    response.sweep(scene.now + 2 * STALLED_AFTER, KEEPALIVE, ahead)
    assert not channel.socket.is_aborted


async def test_a_stream_that_is_not_silent_gets_no_comment() -> None:
    scene = Scene()
    response, channel = scene.respond()
    scene.take()
    scene.say()
    await turns()
    response.sweep(response.stream.last_write + KEEPALIVE - 0.1, KEEPALIVE, ahead)
    assert channel.socket.data == b"HEAD " + events(0)


async def test_a_client_that_does_not_read_the_end_is_cut() -> None:
    scene = Scene()
    response, channel = scene.respond()
    scene.say()
    await turns()
    channel.pauses()
    scene.say()
    scene.end()
    await turns()
    response.sweep(scene.now + STALLED_AFTER - 0.1, KEEPALIVE, ahead)
    assert not channel.socket.is_aborted
    response.sweep(scene.now + STALLED_AFTER, KEEPALIVE, ahead)
    assert channel.socket.is_aborted


async def test_a_probe_is_a_comment_in_a_stream_that_has_begun() -> None:
    scene = Scene()
    response, channel = scene.respond()
    assert response.probe() is False
    scene.say()
    await turns()
    assert response.probe() is True
    assert channel.socket.data == b"HEAD " + events(0) + b": keep-alive\n\n"


async def test_open_responses_are_swept_while_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(respond, "SWEEP_EVERY", 0.01)
    scene, asked = Scene(), list[Turn]()

    def ahead_of(turn: Turn) -> int:
        asked.append(turn)
        return 7

    (first, channel), (second, _) = scene.respond(), scene.join()
    responses = OpenResponses(0.05, ahead_of)
    responses.add(first)
    responses.add(second)
    await eventually(lambda: b": queued 7\n\n" in channel.socket.data, 30, "a comment comes")
    assert asked[0] is scene.turn
    responses.discard(first)
    responses.discard(second)
    responses.discard(second)
    await eventually(lambda: responses._sweeper._timer is None, 30, "it stops")
    responses.add(first)
    await eventually(lambda: channel.socket.data.count(b": queued 7\n\n") >= 2, 30, "another one comes")
    responses.discard(first)
    await eventually(lambda: responses._sweeper._timer is None, 30, "it stops")
