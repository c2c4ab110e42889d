"""Idempotency-Key: however often a request is sent, the App runs once, and each gets the one answer."""

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import StartInstance
from tests.harness.client import JSON, Response, Stream, Watch, call, invoke, new_session, stop, turn_body
from tests.harness.instance import Instance
from tests.harness.projects import journal
from tests.harness.waiting import eventually

PACED: Final = [{"say": "x", "times": 30, "every": 0.01}]
RETRIES: Final = 100


def keyed(value: str) -> dict[str, str]:
    return {"Idempotency-Key": value}


def noted(path: Path) -> dict[str, Any]:
    return {"metadata": {"journal": str(path)}}


def times_run(path: Path) -> int:
    return [line["word"] for line in journal(path)].count("begin")


async def streamed(port: int, session: str, script: object, value: str, **fields: Any) -> Stream:
    """A whole stream with a key."""
    async with Stream(port, session, script, headers=keyed(value), **fields) as stream:
        return await stream.to_end()


# -- one run ------------------------------------------------------------------------------------------


async def test_many_at_once_run_the_app_once_and_get_the_same_bytes(shared: Instance, tmp_path: Path) -> None:
    session, path = new_session(), tmp_path / "journal"
    streams = await asyncio.gather(
        *(streamed(shared.port, session, PACED, session, **noted(path)) for _ in range(RETRIES))
    )
    assert times_run(path) == 1
    events = [[event.raw for event in stream.events] for stream in streams]
    assert events == [events[0]] * RETRIES
    assert len(events[0]) == 31
    assert len({stream.run_id for stream in streams}) == 1
    replays = [stream.head.headers.get("idempotent-replayed") for stream in streams]
    assert sorted(replays, key=str) == sorted([None] + ["true"] * (RETRIES - 1), key=str)


async def test_many_in_one_piece(shared: Instance, tmp_path: Path) -> None:
    session, path = new_session(), tmp_path / "journal"
    script = [{"sleep": 0.2}, {"say": "x"}]
    responses = await asyncio.gather(
        *(invoke(shared.port, session, script, headers=keyed(session), **noted(path)) for _ in range(RETRIES))
    )
    assert times_run(path) == 1
    assert {(response.status, response.body) for response in responses} == {(200, responses[0].body)}
    assert [r.headers.get("idempotent-replayed") for r in responses].count("true") == RETRIES - 1


async def test_a_retry_after_the_end_is_the_answer_again(shared: Instance, tmp_path: Path) -> None:
    session, path = new_session(), tmp_path / "journal"
    first = await streamed(shared.port, session, PACED, session, **noted(path))
    again = await streamed(shared.port, session, PACED, session, **noted(path))
    assert again.raw == first.raw
    assert (again.run_id, again.worker) == (first.run_id, first.worker)
    assert times_run(path) == 1


async def test_a_retry_while_it_waits_gets_no_second_place(shared: Instance, tmp_path: Path) -> None:
    session, gate = new_session(), tmp_path / "gate"
    async with Stream(shared.port, session, [{"say": "x"}, {"wait_for": str(gate)}]) as running:
        await running.until(events=1)
        tasks = [asyncio.create_task(streamed(shared.port, session, "once", session)) for _ in range(RETRIES)]
        await eventually(lambda: shared.health()["turns"]["open"] == 2, 30, "one of them waits")
        async with Stream(shared.port, session, "once", headers=keyed(session)) as late:
            await late.begun()
            await late.until(comments=1)
            assert late.comments[0] == "queued 1"
            gate.touch()
            assert [event.text for event in await late.whole()] == ["once"]
        for stream in await asyncio.gather(*tasks):
            assert stream.run_id == late.run_id
        await running.whole()


async def test_it_does_not_matter_how_the_body_is_written(shared: Instance) -> None:
    session = new_session()
    body = turn_body(session, "x", stream=False)
    spaced = body.replace(b", ", b" ,\n ")
    assert body != spaced
    headers = {**JSON, **keyed(session)}
    first = await call(shared.port, "POST", "/invoke", body=body, headers=headers)
    again = await call(shared.port, "POST", "/invoke", body=spaced, headers=headers)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.body == first.body


async def test_without_a_session_a_retry_gets_the_session_of_the_first(shared: Instance) -> None:
    headers = {**JSON, **keyed(new_session())}
    body = b'{"message": "hello", "stream": false}'
    first = await call(shared.port, "POST", "/invoke", body=body, headers=headers)
    again = await call(shared.port, "POST", "/invoke", body=body, headers=headers)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["x-session-id"] == first.headers["x-session-id"] == first.json["session_id"]
    assert again.body == first.body
    body = b'{"message": "hello"}'
    stream = await call(shared.port, "POST", "/invoke", body=body, headers=JSON)
    seen = {"Last-Event-ID": f"{stream.headers['x-run-id']}-0"}
    resumed = await call(shared.port, "POST", "/invoke", body=body, headers=JSON | seen)
    assert stream.body.endswith(resumed.body)
    assert resumed.headers["x-session-id"] == stream.headers["x-session-id"]
    named = json.dumps({"message": "hello", "stream": False, "session_id": first.json["session_id"]})
    other = await call(shared.port, "POST", "/invoke", body=named.encode(), headers=headers)
    assert (other.status, other.code) == (422, "IDEMPOTENCY_MISMATCH")


@pytest.mark.parametrize("state", ["ended", "running", "waiting"])
async def test_another_body_is_refused(shared: Instance, tmp_path: Path, state: str) -> None:
    session, gate = new_session(), tmp_path / "gate"
    async with Stream(shared.port, session, [{"say": "x"}, {"wait_for": str(gate)}]) as other:
        await other.until(events=1)
        run_in = session if state == "waiting" else new_session()
        script = [{"say": "x"}, {"wait_for": str(gate)}] if state == "running" else "x"
        async with Stream(shared.port, run_in, script, headers=keyed(session)) as stream:
            if state == "waiting":
                await stream.until(comments=1)
            elif state == "running":
                await stream.until(events=1)
            else:
                await stream.whole()
            for changed in (
                await invoke(shared.port, run_in, "other", headers=keyed(session), stream=True),
                await invoke(shared.port, run_in, script, headers=keyed(session)),
            ):
                assert (changed.status, changed.code) == (422, "IDEMPOTENCY_MISMATCH")
            gate.touch()
            await stream.to_end()
        await other.whole()


async def test_a_failure_of_the_app_is_its_answer(shared: Instance, tmp_path: Path) -> None:
    session, path = new_session(), tmp_path / "journal"
    for _ in range(3):
        response = await invoke(
            shared.port, session, [{"raise": "no"}], headers=keyed(session), **noted(path)
        )
        assert (response.status, response.code) == (500, "APP_ERROR")
    async with Stream(
        shared.port, session, [{"raise": "no"}], headers=keyed(f"{session}s"), **noted(path)
    ) as s:
        await s.refused()
    async with Stream(
        shared.port, session, [{"raise": "no"}], headers=keyed(f"{session}s"), **noted(path)
    ) as s:
        response = await s.refused()
        assert (response.status, response.headers["idempotent-replayed"]) == (500, "true")
    assert times_run(path) == 2


async def test_a_request_that_was_refused_may_be_tried_again(shared: Instance, tmp_path: Path) -> None:
    session, gate = new_session(), tmp_path / "gate"
    async with Stream(shared.port, session, [{"say": "x"}, {"wait_for": str(gate)}]) as running:
        await running.until(events=1)

        async def attempt() -> Response:
            return await invoke(shared.port, session, "x", headers=keyed(session), on_busy="reject")

        for _ in range(2):
            assert (await attempt()).code == "SESSION_BUSY"
        assert {r.code for r in await asyncio.gather(*(attempt() for _ in range(5)))} == {"SESSION_BUSY"}
        gate.touch()
        await running.whole()
    assert (await attempt()).status == 200


async def test_a_turn_that_never_reached_the_app_may_be_tried_again(shared: Instance, tmp_path: Path) -> None:
    session, gate, path = new_session(), tmp_path / "gate", tmp_path / "journal"
    async with Stream(shared.port, session, [{"say": "x"}, {"wait_for": str(gate)}]) as running:
        await running.until(events=1)
        async with Stream(shared.port, session, "x", headers=keyed(session), **noted(path)) as waiting:
            await waiting.until(comments=1)
            run_id = waiting.run_id
            assert await stop(shared.port, run_id=run_id) == 1
            await waiting.whole(error="INTERRUPTED")
        gate.touch()
        await running.whole()
    again = await streamed(shared.port, session, "x", session, **noted(path))
    assert again.run_id != run_id
    assert times_run(path) == 1


@pytest.mark.parametrize("value", ["", "x" * 256, "a\tb"])
async def test_what_cannot_be_a_key(shared: Instance, value: str) -> None:
    response = await invoke(shared.port, new_session(), "x", headers=keyed(value))
    assert (response.status, response.code) == (400, "INVALID_REQUEST")


async def test_keys_are_their_callers_own(start_instance: StartInstance, tmp_path: Path) -> None:
    instance, path = start_instance(workers=1, server={"principal": "metadata.user"}), tmp_path / "journal"
    bodies = [{"metadata": {"journal": str(path), "user": user}} for user in ("a", "b")]
    runs = [
        (await invoke(instance.port, "s", "x", headers=keyed("k"), **body)).json["run_id"] for body in bodies
    ]
    assert len(set(runs)) == 2
    same = await invoke(instance.port, "s", "x", headers=keyed("k"), **bodies[1])
    assert same.json["run_id"] == runs[1]
    # Without a token nobody has checked this header, so that it makes no other caller.
    unchecked = {**keyed("k"), "Authorization": "Bearer b"}
    again = await invoke(instance.port, "s", "x", headers=unchecked, **bodies[0])
    assert again.json["run_id"] == runs[0]
    assert times_run(path) == 2


# -- connections and restarts -----------------------------------------------------------------------------


async def test_a_client_whose_connection_broke_finds_its_run(shared: Instance, tmp_path: Path) -> None:
    """Its turn is not cancelled at once, as it said by its key that it may ask again."""
    session, path = new_session(), tmp_path / "journal"
    script = [{"say": "x", "times": 100, "every": 0.01}]
    for _ in range(5):
        async with Stream(shared.port, session, script, headers=keyed(session), **noted(path)) as stream:
            await stream.until(events=3)
    last = await streamed(shared.port, session, script, session, **noted(path))
    assert len(last.events) == 101
    assert times_run(path) == 1
    assert [line["word"] for line in journal(path)] == ["begin", "end"]


async def test_one_that_does_not_come_back_has_left(start_instance: StartInstance, tmp_path: Path) -> None:
    instance, path = start_instance(workers=1), tmp_path / "journal"
    async with Stream(
        instance.port, "s", [{"say": "x"}, {"sleep": 60}], headers=keyed("k"), **noted(path)
    ) as s:
        await s.until(events=1)
    await eventually(lambda: len(journal(path)) == 2, 20, "it is cancelled")
    assert [line["word"] for line in journal(path)] == ["begin", "cancelled"]
    again = await streamed(instance.port, "s", [{"say": "x"}, {"sleep": 60}], "k", **noted(path))
    assert again.events[-2].error is not None
    assert again.events[-2].error["code"] == "INTERRUPTED"


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
async def test_a_key_outlives_the_supervisor(
    new_instance: StartInstance, make_project: Callable[..., Path], tmp_path: Path, end: signal.Signals
) -> None:
    project, path = make_project(), tmp_path / "journal"
    with new_instance(project, workers=1) as first:
        first.start()
        stream = await streamed(first.port, "s", PACED, "stream", **noted(path))
        whole = await invoke(first.port, "s", "x", headers=keyed("whole"), **noted(path))
        failed = await invoke(first.port, "s", [{"raise": "no"}], headers=keyed("failed"), **noted(path))
        await asyncio.sleep(0.3)  # the end of a run is not waited for by its client
        first.signal(end)
        first.wait_exit(20)
    with new_instance(project, workers=1) as second:
        second.start()
        for _ in range(2):
            again = await streamed(second.port, "s", PACED, "stream", **noted(path))
            assert (again.raw, again.run_id) == (stream.raw, stream.run_id)
            assert again.head.headers["idempotent-replayed"] == "true"
            assert again.worker == stream.worker
        assert (await invoke(second.port, "s", "x", headers=keyed("whole"), **noted(path))).body == whole.body
        told = await invoke(second.port, "s", [{"raise": "no"}], headers=keyed("failed"), **noted(path))
        assert (told.status, told.json) == (failed.status, failed.json)
        other = await invoke(second.port, "s", "other", headers=keyed("whole"))
        assert (other.status, other.code) == (422, "IDEMPOTENCY_MISMATCH")
        many = await asyncio.gather(
            *(invoke(second.port, "s", "x", headers=keyed("whole"), **noted(path)) for _ in range(RETRIES))
        )
        assert {response.body for response in many} == {whole.body}
    assert times_run(path) == 3


async def test_a_run_that_its_supervisor_was_killed_with_is_not_run_again(
    new_instance: StartInstance, make_project: Callable[..., Path], tmp_path: Path
) -> None:
    project, path = make_project(), tmp_path / "journal"
    script = [{"say": "x"}, {"sleep": 60}]
    with new_instance(project, workers=1) as first:
        first.start()
        async with Stream(first.port, "s", script, headers=keyed("k"), **noted(path)) as stream:
            await stream.until(events=1)
            first.signal(signal.SIGKILL)
            first.wait_exit(10)
    with new_instance(project, workers=1) as second:
        second.start()
        body = turn_body("s", script, **noted(path))
        lost = await call(second.port, "POST", "/invoke", body=body, headers={**JSON, **keyed("k")})
        assert b"WORKER_LOST" in lost.body
        assert lost.headers["idempotent-replayed"] == "true"
        async with Watch(second.port, stream.run_id, after=0) as watch:
            await watch.to_end()
            assert watch.events[-1].is_done
    assert times_run(path) == 1


async def test_a_key_is_forgotten_in_time(start_instance: StartInstance, tmp_path: Path) -> None:
    instance = start_instance(workers=1, sessions={"idempotency_ttl": 1, "replay_ttl": 1})
    path = tmp_path / "journal"
    first = await invoke(instance.port, "s", "x", headers=keyed("k"), **noted(path))
    await asyncio.sleep(1.2)  # nothing happens that could be waited for
    second = await invoke(instance.port, "s", "x", headers=keyed("k"), **noted(path))
    assert first.json["run_id"] != second.json["run_id"]
    assert times_run(path) == 2
