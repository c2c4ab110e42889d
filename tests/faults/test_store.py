"""The embedded store and what can happen to its process and its disk."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from agentscope_supervisor.runs.database import Database, StoreLimits
from agentscope_supervisor.runs.store import Store as Store  # for the writers below
from agentscope_supervisor.web.dialects import native
from tests.harness.client import Stream
from tests.harness.instance import Instance, environment
from tests.harness.waiting import wait_until

LIMITS: Final = StoreLimits(max_bytes=10**8, replay_ttl=3600.0, idempotency_ttl=3600.0)
KILLS: Final = 8

# Claims keys and writes events as fast as it can; each line that it prints is a key that it was told it has.
WRITER: Final = """
import asyncio, itertools, pathlib, sys, time
from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain.idempotency import Key
from agentscope_supervisor.web.dialects import native
from tests.faults.test_store import LIMITS, Store

async def write(store, run):
    key = Key("me", run, b"print")
    assert await store.ask(lambda db: db.claim(run, "s", StreamKind.EVENTS, key, time.time())) is None
    assert store.failure == "", store.failure
    print(run, flush=True)
    for number in range(3):
        data = native.event(run, number, b"x" * 500)
        store.put(lambda db, n=number, data=data: db.add(run, n, n + 1, data), len(data))
    store.put(lambda db: db.end(run, 3, "0.1", None, b"[]", False, time.time()))

async def lane(store, name):
    for number in itertools.count():
        await write(store, f"{name}-{number}")

async def main():
    store = Store(pathlib.Path(sys.argv[2]), LIMITS)
    store.start()
    await asyncio.gather(*(lane(store, f"{sys.argv[1]}-{name}") for name in range(4)))

asyncio.run(main())
"""


def acknowledged_by_one_that_is_killed(life: int, path: Path, printed: Path) -> list[str]:
    """The keys that a writer was told it has before it was killed, some time later in each life."""
    enough = 20 + 37 * life
    with printed.open("wb") as output:
        command = [sys.executable, "-c", WRITER, str(life), str(path)]
        writer = subprocess.Popen(command, stdout=output, env=environment())
        try:
            wait_until(lambda: printed.read_bytes().count(b"\n") >= enough, 30, "it writes")
        finally:
            writer.kill()
            writer.wait()
    return printed.read_text().split("\n")[:-1]


def test_sigkill_in_the_middle_of_writes_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Each life opens the file that the one before left. Afterwards every key that any of them was told is
    there, and of its run the beginning of what was written."""
    path = tmp_path / "state" / "runs.db"
    lives = [acknowledged_by_one_that_is_killed(life, path, tmp_path / str(life)) for life in range(KILLS)]
    acknowledged = [run for life in lives for run in life]
    complete = 0
    with closing(Database(path, LIMITS, "reader")) as db:
        for run in acknowledged:
            found = db.load(run, 0.0)
            assert found is not None, "its key was acknowledged"
            pieces = [(number, number + 1, native.event(run, number, b"x" * 500)) for number in range(3)]
            assert list(found.pieces) == pieces[: len(found.pieces)]
            if found.next is not None:
                complete += 1
                assert list(found.pieces) == pieces
    print(f"{len(acknowledged)} acknowledged in {KILLS} lives, {complete} of them whole")
    assert complete > len(acknowledged) // 2


FULL: Final = """
import asyncio, logging, pathlib, sys, time
from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain.idempotency import Key
from tests.faults.test_store import LIMITS, Store
from tests.harness.waiting import eventually

async def main():
    logging.basicConfig()
    store = Store(pathlib.Path(sys.argv[1]), LIMITS)
    store.start()

    def claim(run):
        return lambda db: db.claim(run, "s", StreamKind.EVENTS, Key("me", run, b"print"), time.time())

    assert await store.ask(claim("before")) is None
    assert (await store.ask(claim("before"))).run_id == "before"
    for number in range(1000):
        store.put(lambda db: db.add("before", number, number + 1, b"x" * 4000), 4000)
    await eventually(lambda: store.failure, 30, "there is no more room")
    began = time.monotonic()
    for number in range(1000):
        assert await store.ask(claim(str(number))) is None
    print(store.failure)
    assert time.monotonic() - began < 10.0
    await store.close()

asyncio.run(main())
"""


def told_by(*command: str) -> str:
    """What the store said of its failure, in a process that this command starts."""
    ended = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("kept in memory only") == 1
    return ended.stdout


def test_a_full_disk_degrades_and_holds_nobody_up(tmp_path: Path) -> None:
    """A file system of two megabytes, in a name space of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=2m none "{disk}" && exec "$0" "$@"'
    inside = ["unshare", "-rm", "sh", "-c", mount]
    assert "disk is full" in told_by(*inside, sys.executable, "-c", FULL, str(disk / "runs.db"))


async def test_turns_go_on_without_a_disk_for_runs(
    new_instance: Callable[..., Instance], make_project: Callable[..., Path], tmp_path: Path
) -> None:
    """An instance whose state lies on a file system of one megabyte, and more than that to be kept."""
    project = make_project(sessions={"on_disconnect": "continue"})
    state = tmp_path / "instance" / "state"
    state.mkdir(parents=True)
    mount = f'mount -t tmpfs -o size=1m none "{state}" && exec "$0" "$@"'
    instance = new_instance(project, workers=1, under=["unshare", "-rm", "sh", "-c", mount]).start()
    assert instance.health()["store"] == {"status": "ok", "reason": None}
    runs = []
    for number in range(5):
        headers = {"Idempotency-Key": f"{number}"}
        async with Stream(
            instance.port, str(number), [{"big": 5000, "times": 100}], headers=headers
        ) as stream:
            assert len(await stream.whole()) == 100
            runs.append(stream)
    health = instance.health()
    assert (health["status"], health["store"]["status"]) == ("healthy", "degraded")
    assert "disk is full" in health["store"]["reason"]
    assert instance.log.count("kept in memory only") == 1
    for number, stream in enumerate(runs):  # in memory all of them are there
        headers = {"Idempotency-Key": f"{number}"}
        async with Stream(
            instance.port, str(number), [{"big": 5000, "times": 100}], headers=headers
        ) as again:
            assert (await again.to_end()).raw == stream.raw
            assert again.run_id == stream.run_id


def test_a_quota_degrades_and_holds_nobody_up(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2**21, 2**21))\n"
    assert "disk" in told_by(sys.executable, "-c", limit + FULL, str(tmp_path / "runs.db"))
