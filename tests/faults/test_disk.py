"""The place of the sessions: full, read-only, gone, damaged. A save or a load that fails says so, in the App;
what was stored before stays, and when the place is well again, so is the App.

The instance has a file system of its own below `sessions`, of 64 KB, in a namespace that ends with it.
"""

import itertools
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.harness.client import Stream, invoke, new_session, texts
from tests.harness.instance import Instance
from tests.harness.projects import scripted

OWN_NAMESPACE: Final = ("unshare", "--user", "--map-root-user", "--mount")
SIZE: Final = 64  # KB


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """One whose sessions lie on a small file system."""
    if shutil.which("unshare") is None or subprocess.run([*OWN_NAMESPACE, "true"], check=False).returncode:
        pytest.skip("needs namespaces: `unshare --user --mount` is not allowed here")
    folder = tmp_path_factory.mktemp("disk")
    project = scripted(folder / "project")
    sessions = project / "sessions"
    sessions.mkdir()
    mount = f'mount -t tmpfs -o size={SIZE}k tmpfs {sessions} && exec "$@"'
    through = [*OWN_NAMESPACE, "sh", "-c", mount, "sh"]
    with Instance(project, folder, workers=1, under=through) as instance:
        yield instance.start()


def place(instance: Instance) -> Path:
    """The folder of its sessions, as it is seen from here."""
    return Path(f"/proc/{instance.pid}/root{instance.project}/sessions")


async def stored(instance: Instance) -> tuple[str, Path]:
    """A new session that was saved once, and its file."""
    session, before = new_session(), set(place(instance).glob("*.json"))
    assert await texts(instance.port, session, [{"count": 1}]) == ["1"]
    (file,) = set(place(instance).glob("*.json")) - before
    return session, file


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Nothing more can be written there."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        file.writelines(itertools.repeat(b"x" * 1024))
    yield
    filler.unlink()


@contextmanager
def read_only(instance: Instance) -> Iterator[None]:
    """Let nothing be written any more to the place of the sessions, as seen from its namespace.

    By a mount on top of it: the kernel does not make one read-only that has files open to be written to.
    """
    into = ["nsenter", "--target", str(instance.pid), "--user", "--mount", "--preserve-credentials"]
    sessions = f"{instance.project}/sessions"
    for command in (["--bind", sessions, sessions], ["-o", "remount,bind,ro", sessions]):
        subprocess.run([*into, "mount", *command], check=True)
    yield
    subprocess.run([*into, "umount", sessions], check=True)


async def assert_cannot_save(instance: Instance, session: str, why: str) -> None:
    """A turn says what it has to say, fails to save, and tells so; what was saved is there to be read."""
    async with Stream(instance.port, session, [{"say": "the answer"}, {"count": 1}]) as stream:
        assert [event.text for event in await stream.whole(error="APP_ERROR")] == ["the answer"]
        error = stream.events[-2].error
        assert error is not None
        assert why in error["message"]
    assert await texts(instance.port, session, [{"recall": 1}]) == ["1"]


@pytest.mark.fault("F73")
async def test_f73_the_disk_of_the_sessions_is_full(instance: Instance) -> None:
    port, before = instance.port, instance.ready_workers()
    session, _ = await stored(instance)
    with full(place(instance)):
        for _ in range(3):
            await assert_cannot_save(instance, session, "No space left on device")
        assert await texts(port, new_session(), "needs no disk") == ["needs no disk"]
    assert await texts(port, session, [{"count": 1}]) == ["2"]
    left = [file.name for file in place(instance).iterdir() if file.name.startswith(".tmp-")]
    assert left == [], "what could not be written whole is not left lying about"
    assert instance.ready_workers() == before


@pytest.mark.fault("F74")
async def test_f74_the_disk_of_the_sessions_is_read_only(instance: Instance) -> None:
    session, _ = await stored(instance)
    with read_only(instance):
        await assert_cannot_save(instance, session, "Read-only file system")
    assert await texts(instance.port, session, [{"count": 1}]) == ["2"]


@pytest.mark.fault("F74")
@pytest.mark.parametrize("content", [b"", b'{"count": ', b"\xff\xfe"], ids=["empty", "cut off", "binary"])
async def test_f74_a_session_file_that_is_damaged(instance: Instance, content: bytes) -> None:
    """The turn that finds it fails, and it is kept; the next one begins anew."""
    port, (session, file) = instance.port, await stored(instance)
    file.write_bytes(content)
    failed = await invoke(port, session, [{"count": 1}])
    assert (failed.status, failed.code) == (500, "APP_ERROR")
    assert "corrupt" in failed.json["error"]["message"], "it says where the damaged file went"
    (aside,) = place(instance).glob(f"{file.stem}.*.corrupt")
    assert aside.read_bytes() == content
    assert await texts(port, session, [{"count": 1}]) == ["1"]


@pytest.mark.fault("F74")
async def test_f74_a_session_file_that_cannot_be_read(instance: Instance) -> None:
    port, (session, file) = instance.port, await stored(instance)
    aside = file.with_name("aside")
    file.rename(aside)
    file.mkdir()
    failed = await invoke(port, session, [{"count": 1}])
    assert (failed.status, failed.code) == (500, "APP_ERROR")
    assert "directory" in failed.json["error"]["message"]
    file.rmdir()
    aside.rename(file)
    assert await texts(port, session, [{"count": 1}]) == ["2"]


@pytest.mark.fault("F74")
async def test_f74_the_folder_of_the_sessions_is_gone(start_instance: Callable[..., Instance]) -> None:
    """It is made again or it is said; what is never done is to answer as if it were saved."""
    instance = start_instance(workers=1)
    port, session = instance.port, new_session()
    assert await texts(port, session, [{"count": 1}]) == ["1"]
    shutil.rmtree(instance.project / "sessions")
    answer = await invoke(port, session, [{"count": 1}])
    if answer.status == 200:
        assert list((instance.project / "sessions").glob("*.json"))
    else:
        assert answer.code == "APP_ERROR"
        assert "sessions" in answer.json["error"]["message"]
        (instance.project / "sessions").mkdir()
    assert (await invoke(port, session, [{"count": 1}])).status == 200
