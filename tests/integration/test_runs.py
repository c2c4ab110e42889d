"""Runs that outlive connections: read again, looked on, resumed where a connection broke, byte for byte."""

import asyncio
import random
import signal
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import StartInstance
from tests.harness.client import (
    Connection,
    Response,
    Stream,
    Watch,
    call,
    invoke,
    new_session,
    request,
    stop,
    texts,
)
from tests.harness.events import Event, Parser
from tests.harness.instance import Instance
from tests.harness.projects import journal
from tests.harness.waiting import eventually

PACED: Final = [{"say": "wörd", "times": 60, "every": 0.01}]
BURST: Final = [{"say": "x" * 40, "times": 300}]


@pytest.fixture(scope="module")
def continuing(start_module_instance: StartInstance) -> Instance:
    """An instance whose turns go on without their clients."""
    return start_module_instance(sessions={"on_disconnect": "continue"}, server={"keepalive_interval": 1})


async def state(instance: Instance, run_id: str) -> Any:
    response = await call(instance.port, "GET", f"/runs/{run_id}")
    assert response.status == 200
    return response.json


async def ended(instance: Instance, run_id: str) -> Any:
    """The state of a run, once it has ended."""
    async with Watch(instance.port, run_id) as watch:
        await watch.to_end()
    told = await state(instance, run_id)
    assert told["state"] == "ended"
    return told


async def replayed(instance: Instance, run_id: str, **where: Any) -> bytes:
    async with Watch(instance.port, run_id, **where) as watch:
        return (await watch.to_end()).raw


async def refused(instance: Instance, path: str, **headers: str) -> Response:
    return await call(instance.port, "GET", path, headers=headers)


# -- a run that has ended ---------------------------------------------------------------------------


async def test_a_run_is_read_again_byte_for_byte(shared: Instance) -> None:
    async with Stream(shared.port, new_session(), BURST) as stream:
        await stream.whole()
    assert await replayed(shared, stream.run_id) == stream.raw
    async with Watch(shared.port, stream.run_id) as watch:
        await watch.whole()
        assert watch.run_id == stream.run_id
        assert watch.worker == stream.worker


async def test_a_client_of_http_1_0_reads_the_bare_bytes(shared: Instance) -> None:
    async with Stream(shared.port, new_session(), BURST) as stream:
        await stream.whole()
    async with Connection(shared.port) as connection:
        await connection.send(request("GET", f"/runs/{stream.run_id}/events", version="HTTP/1.0"))
        answer = await connection.answer()
    assert (answer.status, answer.body) == (200, stream.raw)
    assert "transfer-encoding" not in answer.headers


async def test_from_each_cursor_comes_what_follows_it(shared: Instance) -> None:
    async with Stream(shared.port, new_session(), [{"say": "x", "times": 5}]) as stream:
        await stream.whole()
    blocks = [event.raw + b"\n\n" for event in stream.events]
    for after in range(5):
        rest = b"".join(blocks[after + 1 :])
        assert await replayed(shared, stream.run_id, after=after) == rest
        assert await replayed(shared, stream.run_id, last_event_id=stream.events[after].id) == rest
    both = await replayed(shared, stream.run_id, after=0, last_event_id=stream.events[3].id)
    assert both == b"".join(blocks[4:]), "a browser that reconnects asks for its first address again"


async def test_at_its_end_there_is_nothing(shared: Instance) -> None:
    async with Stream(shared.port, new_session(), "x") as stream:
        await stream.whole()
    path = f"/runs/{stream.run_id}/events"
    for response in (
        await refused(shared, f"{path}?after=1"),
        await refused(shared, path, **{"Last-Event-ID": stream.events[-1].id}),
    ):
        assert (response.status, response.body) == (204, b"")


async def test_an_error_is_read_again_too(shared: Instance) -> None:
    async with Stream(shared.port, new_session(), [{"say": "x"}, {"raise": "no"}]) as stream:
        await stream.whole(error="APP_ERROR")
    assert await replayed(shared, stream.run_id) == stream.raw


async def test_a_run_that_was_answered_with_a_status_has_events_all_the_same(shared: Instance) -> None:
    async with Stream(shared.port, new_session(), [{"raise": "no"}]) as stream:
        response = await stream.refused()
    assert (response.status, response.code) == (500, "APP_ERROR")
    async with Watch(shared.port, response.headers["x-run-id"]) as watch:
        assert await watch.whole(error="APP_ERROR") == []


@pytest.mark.parametrize(
    ("path", "last", "status", "code"),
    [
        ("?after=99", None, 400, "INVALID_REQUEST"),
        ("?after=-1", None, 400, "INVALID_REQUEST"),
        ("?after=x", None, 400, "INVALID_REQUEST"),
        ("", "nonsense", 400, "INVALID_REQUEST"),
        ("", "0" * 32 + "-0", 400, "INVALID_REQUEST"),
    ],
)
async def test_a_cursor_that_cannot_be(
    shared: Instance, path: str, last: str | None, status: int, code: str
) -> None:
    async with Stream(shared.port, new_session(), "x") as stream:
        await stream.whole()
    headers = {"Last-Event-ID": last} if last is not None else {}
    response = await refused(shared, f"/runs/{stream.run_id}/events{path}", **headers)
    assert (response.status, response.code) == (status, code)


@pytest.mark.parametrize("tail", ["", "/events"])
async def test_a_run_that_nobody_knows(shared: Instance, tail: str) -> None:
    unknown = await refused(shared, f"/runs/{'0' * 32}{tail}")
    assert (unknown.status, unknown.code) == (410, "GONE")
    impossible = await refused(shared, f"/runs/never{tail}")
    assert (impossible.status, impossible.code) == (404, "NOT_FOUND")
    posted = await call(shared.port, "POST", f"/runs/never{tail}", body=b"{}")
    assert (posted.status, posted.code) == (405, "METHOD_NOT_ALLOWED")


async def test_head_says_what_get_would_and_leaves_the_connection_usable(
    shared: Instance, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    async with Stream(shared.port, new_session(), [{"say": "one"}, {"wait_for": str(gate)}]) as stream:
        await stream.until(events=1)
        async with Connection(shared.port) as connection:
            for tail in ("", "/events", "/events", ""):
                path = f"/runs/{stream.run_id}{tail}"
                await connection.send(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                head = await connection.head()
                assert head.status == 200
                kind = "text/event-stream" if tail else "application/json"
                assert head.headers["content-type"].startswith(kind)
            await connection.send(b"GET /liveness HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await connection.head()).status == 200, "nothing but heads came before"
        gate.touch()
        await stream.whole()


# -- its state ----------------------------------------------------------------------------------------


async def test_the_state_of_a_run(shared: Instance, tmp_path: Path) -> None:
    session, gate = new_session(), tmp_path / "gate"
    script = [{"say": "one"}, {"wait_for": str(gate)}, {"say": "two"}]
    async with Stream(shared.port, session, script) as stream:
        await stream.until(events=1)
        running = await state(shared, stream.run_id)
        assert (running["state"], running["session_id"], running["error"]) == ("running", session, None)
        assert running["events"] == {"first": 0, "next": 1}
        async with Stream(shared.port, session, "x") as second:
            await second.until(comments=1)
            queued = await state(shared, second.run_id)
            assert (queued["state"], queued["worker"], queued["messages"]) == ("queued", None, [])
            gate.touch()
            await second.whole()
        messages = [event.data for event in await stream.whole()]
    told = await state(shared, stream.run_id)
    assert (told["state"], told["worker"], told["events"]) == (
        "ended",
        stream.worker,
        {"first": 0, "next": 3},
    )
    assert told["messages"] == messages


async def test_the_state_of_a_run_that_failed(shared: Instance) -> None:
    async with Stream(shared.port, new_session(), [{"say": "x"}, {"raise": "no"}]) as stream:
        await stream.whole(error="APP_ERROR")
    told = await state(shared, stream.run_id)
    assert told["error"] == {"code": "APP_ERROR", "message": "no", "retryable": False}
    assert len(told["messages"]) == 1


async def test_the_result_of_a_run_in_one_piece(shared: Instance) -> None:
    response = await invoke(shared.port, new_session(), [{"say": "x", "times": 3}])
    told = await state(shared, response.json["run_id"])
    assert (told["state"], told["stream"]) == ("ended", False)
    assert told["messages"] == response.json["messages"]
    events = await refused(shared, f"/runs/{response.json['run_id']}/events")
    assert (events.status, events.code) == (404, "NOT_FOUND")


async def test_runs_need_the_token(start_instance: StartInstance) -> None:
    instance = start_instance(workers=1, server={"auth_token": "t0ken"})
    token = {"Authorization": "Bearer t0ken"}
    async with Stream(instance.port, "s", "x", headers=token) as stream:
        await stream.whole()
    for path in (f"/runs/{stream.run_id}", f"/runs/{stream.run_id}/events", "/runs/never"):
        assert (await refused(instance, path)).status == 401
    assert (await refused(instance, f"/runs/{stream.run_id}", **token)).status == 200
    assert await replayed(instance, stream.run_id, headers=token) == stream.raw


# -- a run that goes on ---------------------------------------------------------------------------------


async def test_two_look_on_and_see_the_same(shared: Instance) -> None:
    async with Stream(shared.port, new_session(), PACED) as stream:
        await stream.until(events=5)
        async with (
            Watch(shared.port, stream.run_id) as first,
            Watch(shared.port, stream.run_id, after=2) as late,
        ):
            await asyncio.gather(stream.to_end(), first.to_end(), late.to_end())
    assert first.raw == stream.raw
    assert late.raw == b"".join(event.raw + b"\n\n" for event in stream.events[3:])


async def test_events_come_to_those_who_look_on_as_they_come(shared: Instance, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = [{"say": "one"}, {"wait_for": str(gate)}, {"say": "two"}]
    async with Stream(shared.port, new_session(), script) as stream:
        await stream.until(events=1)
        async with Watch(shared.port, stream.run_id) as watch:
            await watch.until(events=1, comments=1)
            assert set(watch.comments) == {"keep-alive"}
            gate.touch()
            await watch.whole()
        await stream.whole()


async def test_one_who_looks_on_may_come_before_the_run_has_begun(shared: Instance, tmp_path: Path) -> None:
    session, gate = new_session(), tmp_path / "gate"
    async with Stream(shared.port, session, [{"wait_for": str(gate)}]) as first:
        async with Stream(shared.port, session, "second") as second:
            await second.until(comments=1)
            async with Watch(shared.port, second.run_id) as watch:
                await watch.begun()
                gate.touch()
                assert [event.text for event in await watch.whole()] == ["second"]
            await second.whole()
        await first.whole()


async def test_a_reader_that_stops_reading_slows_nobody(
    start_instance: StartInstance, tmp_path: Path
) -> None:
    """What it does not take is more than is kept: reading on, it is cut, and asking again it is told so."""
    instance = start_instance(workers=1, sessions={"replay_max_mb": 1})
    gates = [tmp_path / f"gate-{number}" for number in range(20)]
    batch = 300  # events of 2000 characters: what is kept is more than one batch, and far less than all
    script = [{"say": "one"}]
    for gate in gates:
        script += [{"wait_for": str(gate)}, {"big": 2000, "times": batch}]
    async with Stream(instance.port, "s", script) as stream:
        run_id = (await stream.until(events=1)).run_id
        async with (
            Watch(instance.port, run_id, receive_buffer=4096) as slow,
            Watch(instance.port, run_id) as quick,
        ):
            await asyncio.gather(slow.begun(), quick.begun())
            for number, gate in enumerate(gates, start=1):
                gate.touch()
                seen = 1 + number * batch
                await asyncio.gather(stream.until(events=seen), quick.until(events=seen))
            await asyncio.gather(stream.to_end(), quick.to_end())
            assert quick.raw == stream.raw
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await slow.to_end(60)
    assert stream.raw.startswith(slow.raw)
    gone = await refused(instance, f"/runs/{run_id}/events?after={len(slow.events) - 1}")
    assert (gone.status, gone.code) == (410, "GONE")
    kept = gone.json["kept"]
    number = int(kept["first"].rpartition("-")[2])
    assert kept["last"] == stream.events[-1].id
    assert number > len(slow.events)
    rest = b"".join(event.raw + b"\n\n" for event in stream.events[number:])
    assert await replayed(instance, run_id, after=number - 1) == rest
    told = await state(instance, run_id)
    assert (told["events"]["first"], told["messages"]) == (number, None)


async def test_what_is_kept_of_all_runs_is_bounded(start_instance: StartInstance) -> None:
    instance = start_instance(workers=1, sessions={"replay_max_mb": 1})
    runs = []
    for number in range(4):
        async with Stream(instance.port, str(number), [{"big": 1000, "times": 300}]) as stream:
            runs.append((await stream.to_end()).run_id)
    found = [(await refused(instance, f"/runs/{run_id}")).status for run_id in runs]
    assert (found[0], found[-1]) == (410, 200)
    assert found == sorted(found, reverse=True), "those that ended first make room"


async def test_runs_are_forgotten_in_time(start_instance: StartInstance) -> None:
    instance = start_instance(workers=1, sessions={"replay_ttl": 1})
    async with Stream(instance.port, "s", "x") as stream:
        await stream.whole()
    assert await replayed(instance, stream.run_id) == stream.raw
    await asyncio.sleep(1.1)  # nothing happens that could be waited for
    await texts(instance.port, "s", "next")
    assert (await refused(instance, f"/runs/{stream.run_id}/events")).status == 410


# -- connections that break ---------------------------------------------------------------------------


class Source:
    """Reads a run as a browser's EventSource does: takes whole events only, and after each break asks for
    what follows the last one."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.events: list[Event] = []
        self.cuts = 0

    async def read(self, stream: Stream, cut_after: int | None) -> bool:
        """Read until so many bytes came, then break the connection; whether it ended before."""
        async with stream:
            await stream.begun()
            while cut_after is None or len(stream.raw) < cut_after:
                if not await stream.read():
                    self.events += stream.events
                    return True
        # As many whole events as were in the bytes before the cut.
        parser = Parser()
        parser.feed(stream.raw[:cut_after], 0.0)
        self.events += parser.events
        self.cuts += 1
        return False

    async def go_on(self, run_id: str, cut_after: int | None) -> bool:
        last = self.events[-1].id if self.events else None
        return await self.read(Watch(self.instance.port, run_id, last_event_id=last), cut_after)

    @property
    def raw(self) -> bytes:
        return b"".join(event.raw + b"\n\n" for event in self.events)


async def cuts_of_one_run(instance: Instance, script: Any, chance: random.Random) -> int:
    """Cut a run at any byte, at first and each time when it is resumed; returns how often. In the end the
    pieces must be the whole."""
    source = Source(instance)
    first = Stream(instance.port, new_session(), script)
    done = await source.read(first, chance.randrange(1, 600))
    while not done:
        # Seldom far: so that a run is cut many times.
        done = await source.go_on(first.run_id, chance.choice([1, 50, 200, 500, 2000, 8000]))
    whole = await replayed(instance, first.run_id)
    assert source.raw == whole
    assert len(source.events) == script[0]["times"] + 1
    assert whole.startswith(first.raw)
    last = {"Last-Event-ID": source.events[-1].id}
    end = await refused(instance, f"/runs/{first.run_id}/events", **last)
    assert end.status == 204, "EventSource stops asking"
    return source.cuts


@pytest.mark.parametrize("script", [PACED, BURST], ids=["paced", "burst"])
async def test_any_cuts_and_resumptions_give_the_bytes_of_the_whole(
    continuing: Instance, script: Any
) -> None:
    chance = random.Random(7)
    cuts = sum([await cuts_of_one_run(continuing, script, chance) for _ in range(4)])
    assert cuts > 40


async def test_a_thousand_cuts(continuing: Instance) -> None:
    chance, cuts = random.Random(11), 0
    while cuts < 1000:
        runs = [cuts_of_one_run(continuing, chance.choice([PACED, BURST]), chance) for _ in range(8)]
        cuts += sum(await asyncio.gather(*runs))


async def test_every_cut_of_a_short_run(shared: Instance) -> None:
    async with Stream(shared.port, new_session(), [{"say": "aé", "times": 3}]) as stream:
        await stream.whole()
    for cut_after in range(1, len(stream.raw), 7):
        source = Source(shared)
        await source.go_on(stream.run_id, cut_after)
        await source.go_on(stream.run_id, None)
        assert source.raw == stream.raw


# -- lists --------------------------------------------------------------------------------------------


async def listed(instance: Instance, path: str) -> Any:
    response = await call(instance.port, "GET", path)
    assert response.status == 200, response.body
    return response.json


async def paged(instance: Instance, path: str) -> list[dict[str, Any]]:
    """All runs of a list, page by page."""
    found, after = [], ""
    while True:
        page = await listed(instance, f"{path}{after}")
        found += page["runs"]
        if page["next"] is None:
            return found
        after = f"&after={page['next']}"


async def test_the_runs_of_a_session_are_listed(shared: Instance) -> None:
    session = new_session()
    for number in range(5):
        await invoke(shared.port, session, f"turn {number}", stream=number % 2 == 0)
    async with (
        Stream(shared.port, session, [{"say": "x"}, {"sleep": 60}]) as running,
        Stream(shared.port, session, "y") as waiting,
    ):
        await running.until(events=1)
        await waiting.until(comments=1)
        path = f"/runs?session_id={session}"
        rows = await paged(shared, f"{path}&limit=2")
        assert [row["state"] for row in rows] == ["queued", "running"] + ["ended"] * 5
        assert [row["stream"] for row in rows] == [True] * 3 + [False, True, False, True]
        assert rows == (await listed(shared, path))["runs"]
        assert rows == sorted(rows, key=lambda row: str(row["started_at"]), reverse=True)
        told = await state(shared, running.run_id)
        assert rows[1].items() <= told.items()
        for name, count in (("queued", 1), ("running", 1), ("ended", 5)):
            assert len(await paged(shared, f"{path}&state={name}&limit=3")) == count
    for query in ("state=no", "after=1", "limit=0", "limit=1001", "session_id=", "session_id=%01"):
        named = query if "session_id" in query else f"session_id={session}&{query}"
        response = await refused(shared, f"/runs?{named}")
        assert (response.status, response.code) == (400, "INVALID_REQUEST"), query


async def test_the_messages_of_a_session(shared: Instance) -> None:
    session = new_session("a/messages")
    path = f"/sessions/{session.replace('/', '%2F')}/messages?limit=2"
    whole = await invoke(shared.port, session, [{"say": "one"}, {"say": "two"}])
    async with Stream(shared.port, session, "three") as stream:
        await stream.whole()
    assert (await invoke(shared.port, session, [{"raise": "no"}])).status == 500
    async with Stream(shared.port, session, [{"say": "four"}, {"sleep": 60}]) as running:
        await running.until(events=1)
        runs = await paged(shared, path)
    assert [run["messages"] for run in runs] == [
        whole.json["messages"],
        [stream.events[0].data],
        [],
        [running.events[0].data],
    ]
    assert [run["state"] for run in runs] == ["ended"] * 3 + ["running"]
    assert runs[2]["error"]["code"] == "APP_ERROR"
    empty = await listed(shared, f"/sessions/{new_session()}/messages")
    assert (empty["runs"], empty["next"]) == ([], None)
    assert (await refused(shared, f"{path}&after=x")).status == 400
    assert (await call(shared.port, "DELETE", path)).status == 405


async def test_a_page_of_messages_ends_at_a_megabyte(shared: Instance) -> None:
    session = new_session()
    for _ in range(3):
        await invoke(shared.port, session, [{"big": 700_000}])
    path = f"/sessions/{session}/messages?limit=100"
    page = await listed(shared, path)
    assert (len(page["runs"]), page["next"] is None) == (1, False)
    assert len(await paged(shared, path)) == 3


# -- on_disconnect --------------------------------------------------------------------------------------


@pytest.mark.parametrize("events", [0, 1], ids=["before", "after its first event"])
async def test_a_run_goes_on_without_its_client(continuing: Instance, tmp_path: Path, events: int) -> None:
    """To its end, and its session is saved; all that it said can be read afterwards."""
    session, path = new_session(), tmp_path / "journal"
    script = [{"say": "x"}] * events + [{"sleep": 0.3}, {"count": 1}, {"big": 1000, "times": 1000}]
    async with Stream(continuing.port, session, script, metadata={"journal": str(path)}) as stream:
        if events:
            await stream.until(events=1)
        else:
            await eventually(lambda: journal(path), 30, "it runs")
    await eventually(lambda: len(journal(path)) == 2, 30, "the App has come to its end")
    assert [line["word"] for line in journal(path)] == ["begin", "end"]
    assert await texts(continuing.port, session, [{"count": 1}]) == ["2"], "its state was saved"
    if events:
        async with Watch(continuing.port, stream.run_id) as watch:
            assert len(await watch.whole()) == 1002


async def test_a_client_that_comes_back_reads_on(continuing: Instance) -> None:
    async with Stream(continuing.port, new_session(), PACED) as stream:
        await stream.until(events=3)
    seen = len(stream.events)
    async with Watch(continuing.port, stream.run_id, after=seen - 1) as watch:
        await watch.to_end()
    numbers = [int(event.id.rpartition("-")[2]) for event in watch.events]
    assert numbers == list(range(seen, 61))
    assert (await ended(continuing, stream.run_id))["error"] is None


async def test_a_run_that_goes_on_can_be_stopped(continuing: Instance) -> None:
    async with Stream(continuing.port, new_session(), [{"say": "x"}, {"sleep": 60}]) as stream:
        await stream.until(events=1)
    assert await stop(continuing.port, run_id=stream.run_id) == 1
    async with Watch(continuing.port, stream.run_id) as watch:
        await watch.whole(error="INTERRUPTED")


async def test_a_run_is_cancelled_when_the_last_reader_has_left(shared: Instance, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    script = [{"say": "x"}, {"sleep": 60}]
    stream = Stream(shared.port, new_session(), script, metadata={"journal": str(path)})
    async with stream:
        await stream.until(events=1)
        watch = Watch(shared.port, stream.run_id)
        await watch.__aenter__()
        await watch.until(events=1)
    await asyncio.sleep(0.3)  # a cancellation would come at once
    assert (await state(shared, stream.run_id))["state"] == "running"
    watch.leave()
    await eventually(lambda: len(journal(path)) == 2, 30, "it is cancelled")
    assert (await ended(shared, stream.run_id))["error"]["code"] == "INTERRUPTED"
    assert [line["word"] for line in journal(path)] == ["begin", "cancelled"]


async def test_a_run_survives_a_restart_of_the_supervisor(
    new_instance: StartInstance, make_project: Any
) -> None:
    """One that had ended as it was; one that ran is told as lost, at the place where its reader is."""
    project = make_project(sessions={"on_disconnect": "continue"})
    with new_instance(project, workers=1) as first:
        first.start()
        async with Stream(first.port, "a", [{"say": "x", "times": 20}]) as whole:
            await whole.whole()
        async with Stream(first.port, "b", [{"say": "x", "times": 5}, {"sleep": 60}]) as cut:
            await cut.until(events=5)
            await asyncio.sleep(0.5)  # what the store is given in batches
            first.signal(signal.SIGKILL)
            first.wait_exit(10)
    with new_instance(project, workers=1) as second:
        second.start()
        assert await replayed(second, whole.run_id) == whole.raw
        assert (await state(second, whole.run_id))["error"] is None
        for after in (-1, 2, 4, 7):
            async with Watch(second.port, cut.run_id, after=after if after >= 0 else None) as watch:
                await watch.to_end()
            numbers = [int(event.id.rpartition("-")[2]) for event in watch.events]
            assert numbers == list(range(after + 1, max(after + 1, 5) + 2))
            error = watch.events[-2].error
            assert error is not None
            assert (error["code"], error["retryable"]) == ("WORKER_LOST", False)
            assert watch.events[-1].is_done
        told = await state(second, cut.run_id)
        assert (told["state"], told["error"]["code"]) == ("ended", "WORKER_LOST")
        (row,) = await paged(second, "/runs?session_id=b")
        assert row.items() <= told.items()
        await invoke(second.port, "a", "later")
        later = await paged(second, "/runs?session_id=a&limit=1")
        assert [row["run_id"] for row in later][1:] == [whole.run_id]
        (old, new) = await paged(second, "/sessions/a/messages?limit=1")
        assert (len(old["messages"]), len(new["messages"])) == (20, 1)


async def test_without_a_state_directory_turns_go_on(
    new_instance: StartInstance, make_project: Any, tmp_path: Path
) -> None:
    """It says so in /health and once in the log, and runs are kept in memory."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "agentscope-supervisor").write_text("a file where a folder should be")
    project = make_project(sessions={"on_disconnect": "continue"})
    with new_instance(project, workers=1, arguments=("--state-dir", str(blocked))) as instance:
        instance.start()
        health = instance.health()
        assert health["status"] == "healthy"
        assert health["store"]["status"] == "degraded"
        assert health["store"]["reason"] == "Not a directory", "whoever has no token learns no path"
        for number in range(5):
            async with Stream(instance.port, str(number), "x", headers={"Idempotency-Key": "k"}) as stream:
                if number == 0:
                    await stream.whole()
                    assert await replayed(instance, stream.run_id) == stream.raw
                else:
                    assert (await stream.refused()).status == 422
        assert instance.log.count("kept in memory only") == 1
        assert str(blocked) in instance.log


async def test_a_healthy_store_says_so(shared: Instance) -> None:
    assert shared.health()["store"] == {"status": "ok", "reason": None}
