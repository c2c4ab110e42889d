"""What an App can reach of the supervisor: nothing of its secrets, and as another user nothing at all.

The instances run as a user without privileges, or as root with `supervisor.user`, in a mount namespace in
which that user can reach the interpreter.
"""

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from tests.harness.client import invoke, texts
from tests.harness.events import text_of
from tests.harness.instance import Instance
from tests.harness.projects import configure, journal, scripted
from tests.harness.waiting import eventually

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0, reason="only root can start processes as another user"
)

UID: Final = 48_211  # of no user
SECRETS: Final = {"API_TOKEN": "hush-api", "PLATFORM_TOKEN": "hush-platform"}
TOKEN: Final = {"Authorization": "Bearer hush-api"}

# Makes the parents of the interpreter passable, in this namespace only: an empty file system takes the place
# of the folder that other users may not enter, and shows the next folder of the path.
PASSABLE: Final = """
set -e
mount --make-rprivate /
closed=$1; shown=$2; spare=$3; shift 3
if [ -n "$closed" ]; then
    mount --bind "$shown" "$spare"
    mount -t tmpfs -o mode=0755 tmpfs "$closed"
    mkdir -p "$shown"
    mount --bind "$spare" "$shown"
fi
exec "$@"
"""

SPY: Final = """
import contextlib, json, os, socket, sys
sup, directory, state = int(sys.argv[1]), sys.argv[2], sys.argv[3]
found = {"environment": {k: v for k, v in os.environ.items() if "hush" in v}}
def tried(name, action):
    try:
        found[name] = action()
    except OSError as error:
        found[name] = type(error).__name__
def opened(path, flags=os.O_RDONLY):
    os.close(os.open(path, flags))
    return "opened"
def connected():
    with socket.socket(socket.AF_UNIX) as sock:
        os.chdir(directory)
        sock.connect("control.sock")
        return "connected"
tried("environ", lambda: opened(f"/proc/{sup}/environ"))
tried("memory", lambda: opened(f"/proc/{sup}/mem"))
tried("descriptors", lambda: len(os.listdir(f"/proc/{sup}/fd")))
tried("folder", lambda: os.readlink(f"/proc/{sup}/cwd"))
tried("signal", lambda: os.kill(sup, 0))
tried("state", lambda: opened(state))
tried("control", connected)
tried("stdout", lambda: opened("/dev/stdout", os.O_WRONLY))
found["ids"] = [os.getresuid(), os.getresgid(), os.getgroups()]
found["home"] = os.environ.get("HOME")
print(json.dumps(found), file=open(sys.argv[4], "w"))
"""


def passable(folder: Path, *command: str) -> list[str]:
    """Return the command in a namespace in which other users can reach the interpreter."""
    prefix = Path(sys.base_prefix).resolve()
    above = [each for each in (prefix, *prefix.parents) if not each.stat().st_mode & 0o001]
    assert len(above) <= 1, f"more than one folder above {prefix} is closed"
    closed = above[0] if above else None
    shown = closed / prefix.relative_to(closed).parts[0] if closed else ""
    spare = folder / "spare"
    spare.mkdir()
    return [
        "unshare",
        "-m",
        "sh",
        "-c",
        PASSABLE,
        "passable",
        str(closed or ""),
        str(shown),
        str(spare),
        *command,
    ]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can enter; those of pytest are closed."""
    path = Path(tempfile.mkdtemp(prefix="boundary-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def project_of(folder: Path, **supervisor: Any) -> Path:
    project = scripted(folder / "project")
    configure(
        project,
        server={"auth_token": "${API_TOKEN}"},
        platform={"endpoint": "http://127.0.0.1:9/api", "instance_id": "i", "token": "${PLATFORM_TOKEN}"},
        supervisor=supervisor,
    )
    (project / "spy.py").write_text(SPY)
    return project


async def spied(instance: Instance, folder: Path) -> dict[str, Any]:
    """Return what an App of this instance can reach of its supervisor."""
    report = folder / "report" / "spied.json"
    runs = folder / "state" / "agentscope-supervisor" / instance.name / "runs.db"
    report.parent.mkdir(exist_ok=True)
    report.parent.chmod(0o777)
    command = f"{sys.executable} spy.py {instance.pid} {instance.directory} {runs} {report}"
    answer = await invoke(instance.port, "spy", [{"shell": command}, {"say": "done"}], headers=TOKEN)
    assert answer.status == 200, answer.body
    assert text_of(answer.json["messages"][0]) == "done"
    found: dict[str, Any] = json.loads(report.read_text())
    return found


DROP_IN: Final = Path(__file__).parents[2] / "configs" / "systemd" / "worker-user.conf"
(_CAPABILITIES,) = re.findall(r"^CapabilityBoundingSet=(.*)$", DROP_IN.read_text("utf-8"), re.MULTILINE)
AS_A_SERVICE: Final = (
    *("setpriv", "--no-new-privs", "--bounding-set"),
    ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in _CAPABILITIES.split())]),
    "--",
)

NOTHING: Final = dict.fromkeys(("environ", "memory", "descriptors", "folder"), "PermissionError")


async def test_an_app_of_the_same_user_gets_no_secret_and_cannot_inspect_the_supervisor(
    folder: Path, new_instance: Callable[..., Instance]
) -> None:
    project = project_of(folder)
    for path in [folder, *project.iterdir(), project]:
        os.chown(path, UID, UID)
    under = passable(folder, "setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups", "--")
    with Instance(project, folder, workers=1, under=under, variables=SECRETS, platform=True) as instance:
        instance.start()
        found = await spied(instance, folder)
        assert found["environment"] == {}
        (snapshot,) = await texts(instance.port, "me", [{"settings": 1}], headers=TOKEN)
        assert "hush" not in snapshot
        assert '"instance_id": "i"' in snapshot.replace('":"', '": "')
        assert {name: found[name] for name in NOTHING} == NOTHING
        assert found["ids"] == [[UID] * 3, [UID] * 3, []]
        # What a process of the same user can always do: see docs/security.md.
        assert (found["signal"], found["control"], found["state"]) == (None, "connected", "opened")
        assert psutil.Process(instance.pid).children(), "the supervisor still knows its workers"
        status = instance.health()
        assert status["status"] == "healthy"


@pytest.mark.parametrize("preload", [False, True])
async def test_an_app_of_another_user_reaches_nothing_of_the_supervisor(folder: Path, preload: bool) -> None:
    project = project_of(folder, user=UID, preload=preload)
    notes = folder / "notes"
    project.chmod(0o777)
    # The zygote is started with the capabilities of the drop-in for systemd only.
    under = passable(folder, *(AS_A_SERVICE if preload else ()))
    with Instance(
        project,
        folder,
        workers=1,
        arguments=["--reload"],
        under=under,
        variables=SECRETS,
        platform=True,
    ) as instance:
        instance.start()
        await eventually(lambda: "watching the project" in instance.log, 60, "the watch has started")
        found = await spied(instance, folder)
        assert found["environment"] == {}
        assert {name: found[name] for name in NOTHING} == NOTHING
        assert (found["signal"], found["control"], found["state"]) == ("PermissionError",) * 3
        assert found["stdout"] == "opened"
        assert found["ids"] == [[UID] * 3, [UID] * 3, []]
        assert found["home"] == "/"
        # `--reload` knows the files that the App writes.
        written = await invoke(instance.port, "me", [{"note": str(project / "own.yaml")}], headers=TOKEN)
        assert written.status == 200, written.body
        ignored = "changes of a file that the app writes are ignored"
        await eventually(lambda: "files=own.yaml" in instance.log or ignored in instance.log, 60, "noticed")
        assert ignored in instance.log
        # Its sessions are its own, and the supervisor still rules it: it is replaced, and stopped in order.
        assert await texts(instance.port, "me", [{"count": 1}], headers=TOKEN) == ["1"]
        assert {path.stat().st_uid for path in (project / "sessions").rglob("*")} == {UID}
        lost = await invoke(instance.port, "me", [{"exit": 1}], headers=TOKEN)
        assert lost.code == "WORKER_LOST"
        assert await texts(instance.port, "me", [{"count": 1}], headers=TOKEN) == ["2"]
        (project / "shutdown.json").write_text(json.dumps([{"note": str(notes)}]))
        notes.touch()
        notes.chmod(0o666)
        (worker,) = instance.ready_workers()
        assert psutil.Process(worker.pid).uids().real == UID
        assert instance.stop() == 0
        assert journal(notes), "on_shutdown has run"


async def test_a_user_that_may_not_write_its_sessions_is_reported_at_the_start(folder: Path) -> None:
    project = project_of(folder, user=UID)
    (project / "sessions").mkdir(mode=0o700)
    with Instance(project, folder, under=passable(folder), variables=SECRETS) as instance:
        assert instance.launch().wait_exit(20) == 78
        assert f"chown -R {UID}:{UID}" in instance.log
