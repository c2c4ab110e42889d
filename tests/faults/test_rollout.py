"""Rollouts at bad moments: under load, one upon another, with files that are wrong, and a stop in between.

Whatever comes, no turn is cut, none is refused, and those of a session stay in order.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.harness.bystanders import unharmed
from tests.harness.client import (
    JSON,
    Connection,
    Stream,
    call,
    invoke,
    new_session,
    request,
    texts,
    turn_body,
)
from tests.harness.instance import Instance, free_port
from tests.harness.projects import configure, hooks, journal
from tests.harness.waiting import eventually, wait_until

ROLLED_WITHIN: Final = 60.0  # seconds for one rollout of two workers; five on an idle machine
SOAK: Final[dict[str, Any]] = {"soak": 0.1, "drain_timeout": 5, "stop_timeout": 2}


async def is_rolled(instance: Instance, *expected: int) -> None:
    await eventually(lambda: instance.generations() == list(expected), ROLLED_WITHIN, f"rolled to {expected}")


# -- under load ----------


@dataclass(slots=True)
class Load:
    """What clients of three kinds have got: new connections, kept ones, streams."""

    turns: int = 0
    kept: int = 0
    streams: int = 0
    workers: set[str] = field(default_factory=set)


@asynccontextmanager
async def load(port: int, clients: int = 4) -> AsyncIterator[Load]:
    """Each turn of each session must be answered, in order, and its count must go up by one."""
    seen, over = Load(), asyncio.Event()

    async def new_connections() -> None:
        session, count = new_session("load"), 0
        while not over.is_set():
            answer = await invoke(port, session, [{"count": 1}])
            count += 1
            assert answer.status == 200, f"turn {count}: {answer.status} {answer.body!r}"
            assert f'"{count}"' in answer.body.decode(), f"turn {count} is lost, or was run twice"
            seen.turns += 1
            await asyncio.sleep(0.02)

    async def kept_connection() -> None:
        session, count = new_session("kept"), 0
        async with Connection(port) as connection:
            while not over.is_set():
                body = turn_body(session, [{"count": 1}], stream=False)
                await connection.send(request("POST", "/invoke", body, JSON))
                answer = await connection.answer()
                count += 1
                assert answer.status == 200, f"turn {count}: {answer.status} {answer.body!r}"
                assert f'"{count}"' in answer.body.decode(), f"turn {count} is lost, or was run twice"
                seen.kept += 1
                await asyncio.sleep(0.02)

    async def streams() -> None:
        session = new_session("stream")
        while not over.is_set():
            script = [{"count": 1}, {"say": "tick", "times": 50, "every": 0.02}, {"pid": 1}, {"pid": 1}]
            async with Stream(port, session, script) as stream:
                events = [event.text for event in await stream.whole()]
                seen.workers.add(stream.worker)
            seen.streams += 1
            assert events[0] == str(seen.streams), "no turn is lost or run twice"
            assert events[1:51] == ["tick"] * 50
            assert events[51] == events[52], "a stream never changes its worker"

    kinds = [new_connections] * clients + [kept_connection] * clients + [streams]
    asking = [asyncio.create_task(kind()) for kind in kinds]
    try:
        yield seen
    finally:
        over.set()
        results = await asyncio.gather(*asking, return_exceptions=True)
    for failure in results:
        if failure is not None:
            raise AssertionError(f"a client was failed: {failure!r}") from failure


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.fault("F40")
async def test_f40_one_rollout_after_another_under_load(start_instance: Callable[..., Instance]) -> None:
    instance = start_instance(supervisor=SOAK)
    most_starting = 0
    async with load(instance.port) as seen:
        for expected in (2, 3, 4):
            instance.signal(signal.SIGHUP)
            while instance.generations() != [expected, expected]:
                workers = instance.workers()
                most_starting = max(most_starting, sum(w.state == "starting" for w in workers))
                await asyncio.sleep(0.05)
        await eventually(lambda: seen.streams >= 3, 30, "streams have run through it")
    assert most_starting == 1, "one extra process at a time"
    assert min(seen.turns, seen.kept) > 50
    assert len(seen.workers) > 1
    await eventually(lambda: len(instance.workers()) == 2, 30, "the old ones have ended")
    print(f"3 rollouts: {seen.turns} turns on new, {seen.kept} on kept connections, {seen.streams} streams")


@pytest.mark.fault("F49")
async def test_f49_a_long_turn_runs_through_a_rollout(
    start_instance: Callable[..., Instance], tmp_path: Path
) -> None:
    """It ends where it began; the next turns of its session wait for it, in order, and run in the new worker;
    other sessions go there at once."""
    instance = start_instance(workers=1, supervisor=SOAK)
    port, session, gate = instance.port, new_session(), tmp_path / "gate"
    script = [{"pid": 1}, {"wait_for": str(gate)}, {"count": 1}, {"pid": 1}]
    async with Stream(port, session, script) as long:
        await long.until(events=1)
        instance.signal(signal.SIGHUP)
        await is_rolled(instance, 2)
        new = str(instance.ready_workers()[0].pid)
        assert await texts(port, new_session(), [{"pid": 1}]) == [new]
        async with (
            Stream(port, session, [{"count": 1}, {"pid": 1}]) as second,
            Stream(port, session, [{"count": 1}, {"pid": 1}]) as third,
        ):
            await second.until(comments=1)
            await third.until(comments=1)
            gate.touch()
            first = [event.text for event in await long.whole()]
            assert first == [first[0], "1", first[0]], "to its end on the old worker"
            assert [event.text for event in await second.whole()] == ["2", new]
            assert [event.text for event in await third.whole()] == ["3", new]
            assert second.events[-1].at < third.events[0].at
    await eventually(lambda: len(instance.workers()) == 1, 30, "the old one has ended")


# -- one upon another ----------


@pytest.mark.slow
@pytest.mark.fault("F43")
async def test_f43_twenty_hups_in_two_seconds(start_instance: Callable[..., Instance]) -> None:
    """They are one or two rollouts, not twenty; the last word counts."""
    instance = start_instance(workers=1, supervisor={"soak": 2})  # the default
    (instance.project / "version").write_text("old")
    async with unharmed(instance.port, new_session()):
        for number in range(20):
            (instance.project / "version").write_text(str(number))
            instance.signal(signal.SIGHUP)
            await asyncio.sleep(0.1)  # the fault itself
        await eventually(lambda: instance.log.count("rollout done") == 1, ROLLED_WITHIN, "it is over")
    assert await texts(instance.port, new_session(), [{"version": 1}]) == ["19"]
    assert instance.generations()[0] <= 3, "of twenty, two were worth a process"
    await eventually(lambda: len(instance.workers()) == 1, 30, "the old ones have ended")


@pytest.mark.slow
@pytest.mark.fault("F45")
async def test_f45_a_hup_during_a_rollout(start_instance: Callable[..., Instance]) -> None:
    """Slot 0 has the first version already when the second comes: in the end all have the second."""
    instance = start_instance(supervisor=SOAK)
    version = instance.project / "version"
    async with unharmed(instance.port, new_session()):
        version.write_text("first")
        instance.signal(signal.SIGHUP)
        await eventually(lambda: instance.generations()[:1] == [2], ROLLED_WITHIN, "slot 0 is replaced")
        version.write_text("second")
        instance.signal(signal.SIGHUP)
        await eventually(lambda: "rollout done" in instance.log, ROLLED_WITHIN, "it is over")
    for worker in instance.ready_workers():
        assert await versions_in(instance, worker.slot) == ["second"]


async def versions_in(instance: Instance, slot: int) -> list[str]:
    while True:
        async with Stream(instance.port, new_session(), [{"version": 1}]) as stream:
            events = [event.text for event in await stream.whole()]
            if stream.worker.split(".")[0] == str(slot):
                return events


@pytest.mark.fault("F45")
@pytest.mark.parametrize("moment", ["starting", "soaking", "draining"])
async def test_f45_a_term_during_a_rollout(
    start_instance: Callable[..., Instance],
    make_project: Callable[..., Path],
    tmp_path: Path,
    moment: str,
) -> None:
    """It ends in order and in time, whatever the processes of the rollout are doing."""
    soak = 60 if moment == "soaking" else 0
    project, ended = make_project(supervisor={**SOAK, "soak": soak}), tmp_path / "ended"
    hooks(project, shutdown=[{"note": str(ended)}])
    instance = start_instance(project, workers=1)
    gate = tmp_path / "gate"
    async with Stream(instance.port, new_session(), [{"say": "x"}, {"wait_for": str(gate)}]) as running:
        await running.until(events=1)
        instance.signal(signal.SIGHUP)
        states = {"starting": {"starting", "ready"}, "soaking": {"ready"}, "draining": {"ready", "draining"}}
        await eventually(
            lambda: len(w := instance.workers()) == 2 and {each.state for each in w} == states[moment],
            ROLLED_WITHIN,
            f"the rollout is there: {moment}",
        )
        instance.signal(signal.SIGTERM)
        await eventually(lambda: instance.health()["status"] == "draining", 30, "it stops")
        gate.touch()
        assert [event.text for event in await running.whole()] == ["x"], "and its turn may finish"
    assert await asyncio.to_thread(instance.wait_exit, 10) == 0
    assert len(journal(ended)) == (1 if moment == "starting" else 2), "on_shutdown of each that was ready"
    wait_until(lambda: not instance.processes(), 2, "no worker is left")


# -- with files that are wrong ----------

WRONG: Final = {
    "bad YAML": ("server: {port: [", "agentapp.yaml"),
    "an unknown key": ("server:\n  prot: 1\n", "agentapp.yaml:2"),
    "a variable that is not set": ("server:\n  auth_token: ${NOT_SET_ANYWHERE}\n", "NOT_SET_ANYWHERE"),
    "a negative number": ("supervisor:\n  stop_timeout: -1\n", "supervisor.stop_timeout"),
    "a key twice": ("supervisor:\n  workers: 1\n  workers: 2\n", "workers"),
    "two errors": ("server:\n  port: many\nsession:\n  backend: tape\n", "session.backend"),
    "no file": ("", "agentapp.yaml"),
    "a folder": (None, "agentapp.yaml"),
}


@pytest.mark.fault("F46")
async def test_f46_configurations_that_are_not_valid(start_instance: Callable[..., Instance]) -> None:
    """Each is refused with its place, one after another; nothing changes; a good one is taken afterwards."""
    instance = start_instance(workers=1, supervisor=SOAK)
    before, file = instance.ready_workers(), instance.project / "agentapp.yaml"
    async with unharmed(instance.port, new_session()):
        for text, told in WRONG.values():
            file.unlink(missing_ok=True)
            if text is None:
                file.mkdir()
            elif text:
                file.write_text(text)
            logged = len(instance.log)
            instance.signal(signal.SIGHUP)
            await eventually(lambda at=logged: "reload refused" in instance.log[at:], 30, "it is refused")
            assert told in instance.log[logged:]
            assert "Traceback" not in instance.log[logged:]
            assert instance.workers() == before
        file.rmdir()
        configure(instance.project, supervisor=SOAK)
        instance.signal(signal.SIGHUP)
        await is_rolled(instance, 2)


@pytest.mark.fault("F47")
async def test_f47_another_listen_address(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path]
) -> None:
    """It needs a restart, and that is said; it stays where it is, and the rest of the file is taken."""
    port, other = free_port(), free_port()
    project = make_project(supervisor=SOAK, server={"port": port})
    instance = new_instance(project, workers=1, port=None).start()
    configure(project, supervisor=SOAK, server={"port": other, "auth_token": "secret-token"})
    (project / "version").write_text("new")
    async with unharmed(port, new_session()):
        instance.signal(signal.SIGHUP)
        await is_rolled(instance, 2)
    assert "these changes need a restart of the instance keys=server.port, server.auth_token" in instance.log
    assert "secret-token" not in instance.log
    assert instance.port == port
    assert await texts(port, new_session(), [{"version": 1}]) == ["new"]
    with pytest.raises(ConnectionRefusedError):
        await call(other, "GET", "/health")


@pytest.mark.slow
@pytest.mark.fault("F41")
@pytest.mark.parametrize("how", ["hangs", "dies"])
async def test_f41_a_new_app_that_hangs_or_dies_at_its_start(
    start_instance: Callable[..., Instance], how: str
) -> None:
    instance = start_instance(supervisor={**SOAK, "start_timeout": 6})
    before = instance.ready_workers()
    hooks(instance.project, startup=[{"sleep": 600} if how == "hangs" else {"exit": 7}])
    async with unharmed(instance.port, new_session()):
        instance.signal(signal.SIGHUP)
        await eventually(lambda: "rollout failed" in instance.log, 30, "the refusal is logged")
        await eventually(lambda: instance.workers() == before, 30, "the old ones serve on, alone")
    os.unlink(instance.project / "startup.json")
