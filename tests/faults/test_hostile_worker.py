"""A worker that breaks the rules of the link: it is dropped and replaced, and nobody else notices.

The workers here are `tests.fakes.hostile_worker`, each of which does what its turn tells it to. Most tests
share one instance; each has a slot of its own to break, and slot 0 serves the bystanders.
"""

import asyncio
import itertools
import json
import os
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgpack
import psutil
import pytest

from agentscope_protocol.wire.codec import encode, header
from agentscope_protocol.wire.frames import (
    MAX_FEW_WORDS,
    Data,
    End,
    Head,
    Notice,
    Open,
    Tag,
    Taken,
)
from tests.fakes.hostile_worker import ORDERS, program, raw
from tests.harness.bystanders import unharmed
from tests.harness.client import Stream, invoke, new_session, session_in, texts
from tests.harness.instance import Instance, Worker
from tests.harness.projects import configure
from tests.harness.waiting import eventually, wait_until

SLOTS: Final = 31
BACK_WITHIN: Final = 15.0  # seconds; a tenth of one on an idle machine
TRY_LATER: Final = 75


def project_of(folder: Path, **supervisor: Any) -> Path:
    """A project whose workers are hostile."""
    folder.mkdir()
    settings = {"python": program(folder), "preload": False, "soak": 0, **supervisor}
    configure(folder, supervisor=settings)
    (folder / "app.py").write_text("raise RuntimeError('nobody loads this')\n")
    return folder


@pytest.fixture(scope="module")
def _besieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    folder = tmp_path_factory.mktemp("hostile")
    with Instance(project_of(folder / "project"), folder, workers=SLOTS) as instance:
        yield instance.start()


@pytest.fixture
async def besieged(_besieged: Instance) -> Instance:
    """An instance of hostile workers, all of them ready."""
    await eventually(lambda: len(_besieged.ready_workers()) == SLOTS, BACK_WITHIN, "all slots are back")
    return _besieged


_slots = itertools.count(1)


@pytest.fixture
def slot() -> int:
    """A slot that no other test has broken: each death would make the next start wait longer."""
    number = next(_slots)
    assert number < SLOTS, "give the shared instance more slots"
    return number


def in_slot(instance: Instance, slot: int) -> Worker:
    return next(worker for worker in instance.ready_workers() if worker.slot == slot)


async def assert_dropped(instance: Instance, slot: int, *steps: dict[str, Any]) -> Instance:
    """After `steps` the worker is killed: its streams end with WORKER_LOST, its slot comes back, and nobody
    else is harmed."""
    victim = in_slot(instance, slot)
    bystander, victims = (
        await session_in(instance.port, 0),
        [await session_in(instance.port, slot) for _ in "ab"],
    )
    served_by = in_slot(instance, 0)
    async with (
        unharmed(instance.port, bystander),
        Stream(instance.port, victims[0], [{"say": "one"}]) as silent,
    ):
        await silent.until(events=1)
        async with Stream(instance.port, victims[1], [{"say": "two"}, *steps]) as breaking:
            assert [event.text for event in await breaking.whole(error="WORKER_LOST")] == ["two"]
        assert [event.text for event in await silent.whole(error="WORKER_LOST")] == ["one"]
        await eventually(
            lambda: in_slot_or_none(instance, slot) == victim.generation + 1, BACK_WITHIN, "the slot is back"
        )
        assert not psutil.pid_exists(victim.pid)
        assert await texts(instance.port, victims[1], "goes on") == ["goes on"]
    assert in_slot(instance, 0) == served_by
    return instance


def in_slot_or_none(instance: Instance, slot: int) -> int | None:
    """The generation that is ready in a slot."""
    return next((w.generation for w in instance.ready_workers() if w.slot == slot), None)


def resident(instance: Instance) -> int:
    """Bytes of memory that the supervisor has."""
    size: int = psutil.Process(instance.pid).memory_info().rss
    return size


# -- frames that are none ----------


@pytest.mark.fault("F51")
@pytest.mark.parametrize("tag", [Tag.DATA, Tag.NOTICE, 99])
async def test_f51_a_frame_of_four_gigabytes(besieged: Instance, slot: int, tag: int) -> None:
    before = resident(besieged)
    head = struct.pack(">BBBQBIBI", 0x94, tag, 0xCF, 1, 0xCE, 1, 0xC6, 0xFFFF_FFFF)
    await assert_dropped(besieged, slot, raw(head + b"x" * 1000))
    assert f"exceeds the limit of tag {int(tag)}" in besieged.log
    assert resident(besieged) - before < 50 * 2**20, "nothing of it was made room for"


@pytest.mark.fault("F52")
async def test_f52_a_frame_that_ends_in_the_middle(besieged: Instance, slot: int) -> None:
    half = encode(Data(1, 1, b"x" * 1000))[:500]
    await assert_dropped(besieged, slot, raw(half), {"exit": 1})


@pytest.mark.fault("F52")
async def test_f52_a_link_that_is_closed_by_a_worker_that_lives(besieged: Instance, slot: int) -> None:
    half = encode(Data(1, 1, b"x" * 1000))[:500]
    await assert_dropped(besieged, slot, raw(half), {"shut": 1})


DEEP: Final = b"\x91" * (MAX_FEW_WORDS - 1) + b"\xc0"
NOT_MSGPACK: Final = {
    "never used": b"\xc1",
    "deep": DEEP,
    "a million empty maps": b"\xdd\x00\x00\xff\xf0" + b"\x80" * 0xFFF0,
    "integer keys": msgpack.packb([{1: 2}, {3: 4}]),
    "extension": msgpack.packb([msgpack.ExtType(5, b"x"), "detail"]),
    "bad UTF-8": b"\x92\xa2\xff\xfe\xa1x",
    "trailing bytes": msgpack.packb(["word", "detail"]) + b"\x00",
    "cut off": msgpack.packb(["word", "detail"])[:-1],
    "a map for a list": msgpack.packb({"word": "x", "detail": "y"}),
}


@pytest.mark.fault("F53")
async def test_f53_bytes_that_are_no_frame(besieged: Instance, slot: int) -> None:
    await assert_dropped(besieged, slot, raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    assert "protocol error: not a frame" in besieged.log


@pytest.mark.fault("F53")
@pytest.mark.parametrize("name", NOT_MSGPACK)
async def test_f53_a_payload_that_is_no_msgpack(besieged: Instance, slot: int, name: str) -> None:
    payload = NOT_MSGPACK[name]
    await assert_dropped(besieged, slot, raw(header(Tag.NOTICE, 0, 0, len(payload)) + payload))


@pytest.mark.fault("F53")
async def test_f53_a_number_that_is_none(besieged: Instance, slot: int) -> None:
    await assert_dropped(besieged, slot, raw(encode(Notice("ready", '{"forms": [Infinity]}'))))
    assert "protocol error: the notice `ready` has no valid list of stream kinds" in besieged.log


@pytest.mark.fault("F54")
async def test_f54_words_of_a_newer_worker_are_passed_over(besieged: Instance) -> None:
    """A frame and a notice that nobody knows, and a field more than we know of: no reason to drop it."""
    session, before = await session_in(besieged.port, 0), in_slot(besieged, 0)
    more = msgpack.packb(["a word from the future", "detail", "and more"])
    news = header(99, 7, 7, 5) + b"12345" + header(Tag.NOTICE, 0, 0, len(more)) + more
    assert await texts(besieged.port, session, [raw(news), {"say": "still here"}, {"end": 0}]) == [
        "still here"
    ]
    assert in_slot(besieged, 0) == before


# -- frames that should not come ----------


@pytest.mark.fault("F55")
@pytest.mark.parametrize(
    "step",
    [{"say": "for nobody", "on": 1000}, {"say": "too late", "on": -2}, {"end": 1000}, {"end": -2}],
    ids=["never opened", "long over", "end of none", "end again"],
)
async def test_f55_a_frame_for_a_stream_that_is_not_open(
    besieged: Instance, slot: int, step: dict[str, Any]
) -> None:
    await assert_dropped(besieged, slot, step)


@pytest.mark.fault("F56")
@pytest.mark.parametrize(
    "after",
    [{"say": "more"}, {"end": 0}, raw(encode(Notice("progress", "")) + encode(End(1)))],
    ids=["data", "end", "1st"],
)
async def test_f56_an_answer_that_goes_on_after_its_end(
    besieged: Instance, slot: int, after: dict[str, Any]
) -> None:
    """The turn itself has ended well, once; the worker is not believed again."""
    victim, session = in_slot(besieged, slot), await session_in(besieged.port, slot)
    bystander = await session_in(besieged.port, 0)
    async with unharmed(besieged.port, bystander):
        assert await texts(besieged.port, session, [{"say": "x"}, {"end": 0}, after]) == ["x"]
        await eventually(
            lambda: in_slot_or_none(besieged, slot) == victim.generation + 1, BACK_WITHIN, "it is replaced"
        )
        assert await texts(besieged.port, session, "goes on") == ["goes on"]


@pytest.mark.fault("F56")
@pytest.mark.parametrize("frame", [Head(1, 200, ()), Taken(1, 1)], ids=["head", "taken"])
async def test_f56_what_only_an_exchange_has(besieged: Instance, slot: int, frame: Head | Taken) -> None:
    await assert_dropped(besieged, slot, raw(encode(frame)))


@pytest.mark.fault("F55")
@pytest.mark.parametrize("frame", [Open(1, 0, "s", "r", b"{}"), Data(1, 1, b"")], ids=["open", "of another"])
async def test_f55_what_only_a_supervisor_sends(besieged: Instance, slot: int, frame: Open | Data) -> None:
    await assert_dropped(besieged, slot, raw(encode(frame)))


# -- a worker of another version ----------


@pytest.mark.fault("F54")
async def test_f54_another_version_after_an_upgrade(
    new_instance: Callable[..., Instance], tmp_path: Path
) -> None:
    """One slot cannot come back: its environment was upgraded meanwhile. It says why, the others serve."""
    project = project_of(tmp_path / "project")
    instance = new_instance(project, workers=2).start()
    there = await session_in(instance.port, 0)
    (project / ORDERS).write_text(json.dumps({"version": 2}))
    async with unharmed(instance.port, there):
        os.kill(in_slot(instance, 1).pid, signal.SIGKILL)
        said = "the peer uses protocol version 2, expected 1"
        await eventually(lambda: said in instance.log, 15, "it says what is wrong")
        (project / ORDERS).unlink()
        await eventually(lambda: len(instance.ready_workers()) == 2, BACK_WITHIN, "the slot is back")


@pytest.mark.fault("F54")
def test_f54_another_version_at_the_start(new_instance: Callable[..., Instance], tmp_path: Path) -> None:
    project = project_of(tmp_path / "project", start_deadline=1)
    (project / ORDERS).write_text(json.dumps({"version": 2}))
    instance = new_instance(project).launch()
    assert instance.wait_exit(15) == TRY_LATER
    assert "the peer uses protocol version 2, expected 1" in instance.log


# -- a worker that is silent, does not read, or scribbles ----------


@pytest.mark.slow
@pytest.mark.fault("F52")
async def test_f52_half_a_frame_of_a_worker_whose_loop_turns(besieged: Instance, slot: int) -> None:
    half = encode(Data(1, 1, b"x" * 1000))[:500]
    await assert_dropped(besieged, slot, raw(half))
    assert "500 bytes of a frame, and then nothing" in besieged.log


@pytest.mark.fault("F52")
async def test_f52_half_a_frame_and_then_silence(
    new_instance: Callable[..., Instance], tmp_path: Path
) -> None:
    """Its loop turns and its link is silent: the turn's own limits end it, and then the worker."""
    project = project_of(tmp_path / "project")
    configure(
        project,
        supervisor={"python": program(project), "preload": False, "soak": 0},
        server={"request_timeout": 1},
        sessions={"cancel_grace": 1},
    )
    instance = new_instance(project, workers=1).start()
    (old,) = instance.ready_workers()
    half = encode(Data(1, 1, b"x" * 1000))[:500]
    async with Stream(instance.port, new_session(), [{"say": "x"}, raw(half)]) as stream:
        assert [event.text for event in await stream.whole(error="TIMEOUT")] == ["x"]
    await eventually(
        lambda: [w.generation for w in instance.ready_workers()] == [old.generation + 1], 20, "replaced"
    )
    assert await texts(instance.port, new_session(), "goes on") == ["goes on"]


@pytest.mark.fault("F58")
async def test_f58_a_worker_that_does_not_read(new_instance: Callable[..., Instance], tmp_path: Path) -> None:
    """A stopped worker and many turns: some wait, the rest are refused at once; the supervisor is well."""
    project, most, count = project_of(tmp_path / "project", max_inflight=200), 200, 500
    instance = new_instance(project, workers=2).start()
    bystander, sessions = await session_in(instance.port, 0), [await session_in(instance.port, 1)]
    while len(sessions) < 50:
        sessions.append(await session_in(instance.port, 1))
    stopped, before = in_slot(instance, 1), resident(instance)
    async with unharmed(instance.port, bystander):
        os.kill(stopped.pid, signal.SIGSTOP)
        text = "x" * 16_000
        asking = [
            asyncio.create_task(invoke(instance.port, sessions[n % len(sessions)], text, on_busy="queue"))
            for n in range(count)
        ]
        await eventually(
            lambda: sum(task.done() for task in asking) >= count - most, 15, "the rest is refused"
        )
        refused = [task.result() for task in asking if task.done()]
        assert {answer.code for answer in refused} <= {"OVERLOADED", "TOO_MANY_REQUESTS"}
        assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
        assert instance.health()["turns"]["open"] <= most + 2
        assert resident(instance) - before < 100 * 2**20
        os.kill(stopped.pid, signal.SIGCONT)
        answers = await asyncio.gather(*asking)
    assert {answer.status for answer in answers} <= {200, 429, 503}
    assert sum(answer.status == 200 for answer in answers) >= count - len(refused), "who waited is answered"
    assert in_slot(instance, 1) == stopped, "it was not gone for long enough to be replaced"


@pytest.mark.fault("F59")
async def test_f59_garbage_on_the_page_of_life_signs(besieged: Instance, slot: int) -> None:
    """Counters that jump to and fro say that somebody writes them, and that is all: no harm, no death."""
    victim, session = in_slot(besieged, slot), await session_in(besieged.port, slot)
    bystander = await session_in(besieged.port, 0)
    async with unharmed(besieged.port, bystander):
        assert await texts(besieged.port, session, [{"garbage": 1}, {"say": "x"}, {"end": 0}]) == ["x"]
        for _ in range(20):
            assert await texts(besieged.port, session, "goes on") == ["goes on"]
            await asyncio.sleep(0.1)  # the fault itself: two seconds of it, four looks at the page
        assert in_slot(besieged, slot) == victim
        async with Stream(besieged.port, session, [{"say": "x"}]) as stream:
            await stream.until(events=1)
            os.kill(victim.pid, signal.SIGKILL)
            await stream.whole(error="WORKER_LOST")
        wait_until(lambda: in_slot_or_none(besieged, slot) == victim.generation + 1, BACK_WITHIN, "replaced")
