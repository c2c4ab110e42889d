"""The files for production: the systemd units, checked by systemd's own tool, and the image.

No test starts systemd or docker. The image's command runs as docker would run it: as PID 1 in its own
namespaces, not as root, on a read-only root file system.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from tests.harness.instance import COMMAND, READY_WITHIN, STOP_WITHIN, environment, free_port, run
from tests.harness.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="systemd and containers need Linux"),
]

ROOT: Final = Path(__file__).parents[2]
UNITS: Final = ROOT / "configs" / "systemd"
CONTAINERFILE: Final = ROOT / "configs" / "Containerfile"
SHIPPED_PATH: Final = "/usr/bin/agentscope-supervisor"
EXPOSURE: Final = 20  # tenths of a point; a unit without restrictions has 100


# -- systemd -------------------------------------------------------------------------------------------


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A copy of the units, with the path of the program that is installed here."""
    if shutil.which("systemd-analyze") is None:
        pytest.fail("systemd-analyze is missing: `make systemd` installs it")
    folder = tmp_path / "units"
    shutil.copytree(UNITS, folder)
    service = folder / "agentscope-supervisor@.service"
    text = service.read_text("utf-8")
    assert text.count(f"={SHIPPED_PATH} ") == 2, "in ExecStart and in ExecReload"
    service.write_text(text.replace(SHIPPED_PATH, str(COMMAND)), "utf-8")
    return folder


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def verify(folder: Path, unit: str) -> list[str]:
    """Return systemd's complaints about a unit of this folder."""
    checked = analyze("verify", "--man=no", folder / unit)
    about_ours = [line for line in checked.stderr.splitlines() if "agentscope" in line or str(folder) in line]
    assert checked.returncode == 0 or about_ours, checked.stderr
    return about_ours


@pytest.mark.parametrize("kind", ["service", "socket"])
def test_systemd_accepts_the_units(units: Path, kind: str) -> None:
    assert verify(units, f"agentscope-supervisor@my_app.{kind}") == []


def test_the_checker_finds_a_mistake_in_a_unit(units: Path) -> None:
    service = units / "agentscope-supervisor@.service"
    service.write_text(service.read_text("utf-8").replace("WatchdogSec=", "WatchDogSecs="), "utf-8")
    (complaint,) = verify(units, "agentscope-supervisor@my_app.service")
    assert "WatchDogSecs" in complaint


def test_systemd_accepts_the_drop_in_for_notify_reload(units: Path) -> None:
    folder = units / "agentscope-supervisor@.service.d"
    folder.mkdir()
    shutil.move(units / "notify-reload.conf", folder)
    version = re.match(r"systemd (\d+)", analyze("--version").stdout)
    assert version is not None
    complaints = verify(units, "agentscope-supervisor@my_app.service")
    if int(version[1]) >= 253:
        assert complaints == []
    else:  # an older systemd does not know this type
        assert {complaint.split(": ", 1)[1] for complaint in complaints} == {
            "Failed to parse service type, ignoring: notify-reload"
        }


def test_systemd_accepts_the_drop_in_for_a_user_of_the_workers(units: Path) -> None:
    folder = units / "agentscope-supervisor@.service.d"
    folder.mkdir()
    shutil.move(units / "worker-user.conf", folder)
    assert verify(units, "agentscope-supervisor@my_app.service") == []


def test_the_service_is_restricted(units: Path) -> None:
    unit = units / "agentscope-supervisor@.service"
    judged = analyze("security", "--offline=true", f"--threshold={EXPOSURE}", unit)
    print(judged.stdout.splitlines()[-1])
    assert judged.returncode == 0, judged.stdout


def test_the_service_uses_options_that_the_program_has() -> None:
    text = (UNITS / "agentscope-supervisor@.service").read_text("utf-8")
    (line,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    _, command, _, *options = shlex.split(line)
    text = subprocess.run([COMMAND, command, "--help"], capture_output=True, text=True, check=True).stdout
    assert [word for word in options if word.startswith("--") and word not in text] == []


# -- the image -------------------------------------------------------------------------------------------


def instructions() -> Iterator[tuple[str, str]]:
    """Yield the instructions of the Containerfile with their arguments on one line."""
    text = re.sub(r"^#.*\n", "", CONTAINERFILE.read_text("utf-8"), flags=re.MULTILINE)
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line:
            word, arguments = line.split(maxsplit=1)
            yield word, arguments


def the(word: str) -> str:
    """Return the arguments of the last instruction with this word, which is the one that takes effect."""
    return [arguments for each, arguments in instructions() if each == word][-1]


def words(arguments: str) -> list[str]:
    """Parse the exec form. The shell form would make a shell PID 1, which does not pass signals on."""
    parsed: list[str] = json.loads(arguments)
    return parsed


def test_the_image_copies_files_that_exist() -> None:
    (project,) = [line[8:] for word, line in instructions() if word == "ARG" and line.startswith("PROJECT=")]
    copied = [arguments.split() for word, arguments in instructions() if word == "COPY"]
    sources = [each for line in copied if not line[0].startswith("--from") for each in line[:-1]]
    missing = [each for each in sources if not (ROOT / each.replace("${PROJECT}", project)).exists()]
    assert (missing, len(sources) > 5) == ([], True)
    # The folders that the wheel is built from.
    made_of = re.findall(
        r'"((?:supervisor|worker|protocol|configs)\b[^"]*)"', (ROOT / "pyproject.toml").read_text()
    )
    assert {each.split("/")[0] for each in made_of} <= set(sources)


def test_the_image_takes_a_project_outside_of_the_repository() -> None:
    """`--build-context project=PATH` replaces the stage of that name, so no other stage may read PROJECT."""
    stages = " ".join(f"{word} {arguments}\n" for word, arguments in instructions()).split("FROM ")
    (project,) = [stage for stage in stages if stage.startswith("scratch AS project\n")]
    assert [stage for stage in stages if "PROJECT" in stage] == [project]
    assert [line for word, line in instructions() if word == "COPY" and "--from=project" in line] == [
        "--from=project / /app"
    ]


def test_the_image_does_not_run_as_root() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", the("USER"))


def test_the_image_contains_no_sessions_and_secrets_of_its_builder(tmp_path: Path) -> None:
    for name in ("sessions", ".git", ".venv", ".venv-v1"):
        (tmp_path / name / "inner").mkdir(parents=True)
    for name in (".env", ".env.local", "app.py"):
        (tmp_path / name).touch()
    cleaning = [line for word, line in instructions() if word == "RUN" and line.startswith("rm ")]
    subprocess.run(["sh", "-ec", cleaning[0].replace("/app", str(tmp_path))], check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["app.py"]
    ignored = CONTAINERFILE.with_name("Containerfile.dockerignore").read_text("utf-8").splitlines()
    assert {"**/sessions", "**/.git", "**/.env", "**/.env.*", "**/.venv*"} <= set(ignored)
    # The project is copied into the final image only from the cleaned folder.
    copies = [line.split() for word, line in instructions() if word == "COPY"]
    assert [line for line in copies if line[-1] == "/srv/app"] == [["--from=build", "/app", "/srv/app"]]


AS_IN_A_CONTAINER: Final = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mount --bind "$2" "$2"
mount --bind "$3" "$3"
mount -o remount,bind,ro /
if touch "$0" 2>/dev/null; then exit 99; fi
shift 3
exec unshare -U --map-user=10001 --map-group=10001 "$@"
"""


def test_the_image_serves_as_pid_1_without_root_on_a_read_only_root(tmp_path: Path) -> None:
    project, scratch, port = tmp_path / "project", tmp_path / "tmp", str(free_port())
    shutil.copytree(
        ROOT / "examples" / "echo", project, ignore=shutil.ignore_patterns("__pycache__", "sessions")
    )
    (project / "sessions").mkdir()
    state = tmp_path / "state"
    scratch.mkdir()
    state.mkdir()
    here = {
        "/srv/app": str(project),
        "/srv/state": str(state),
        "8080": port,
        "0.0.0.0": "127.0.0.1",
        "agentscope-supervisor": str(COMMAND),
    }
    command = [here.get(word, word) for word in words(the("ENTRYPOINT")) + words(the("CMD"))]
    assert {str(project), str(state), port} <= set(command)
    assert words(the("VOLUME")) == ["/srv/app/sessions", "/srv/state"]
    variables = dict(pair.split("=") for pair in the("ENV").replace("/tmp", str(scratch)).split())
    inside = ["unshare", "-Urpfm", "--mount-proc", "--kill-child", "sh", "-c", AS_IN_A_CONTAINER]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*inside, str(project), str(scratch), str(project / "sessions"), str(state), *command],
            stdout=output,
            stderr=output,
            cwd=project,
            env=environment(**{"PYTHONDONTWRITEBYTECODE": ""} | variables, TMPDIR=str(scratch)),
        )
    health = words(the("HEALTHCHECK").partition(" CMD ")[2])
    assert health[0] == "python"
    check = [sys.executable, *(word.replace("8080", port) for word in health[1:])]
    try:
        wait_until(
            lambda: process.poll() is None and is_ready(port), READY_WITHIN, f"the instance is ready; {log}"
        )
        assert subprocess.run(check, timeout=20, check=False).returncode == 0
        assert [say(port) for _ in range(2)] == ["Turn 1: hello", "Turn 2: hello"], "the session is kept"
        assert not list(project.rglob("__pycache__"))
        assert [path.name for path in state.rglob("runs.db")] == ["runs.db"]
        (inner,) = psutil.Process(process.pid).children()
        os.kill(inner.pid, signal.SIGTERM)
        assert process.wait(STOP_WITHIN) == 0
        assert subprocess.run(check, timeout=20, check=False, stderr=subprocess.DEVNULL).returncode != 0
    finally:
        process.kill()
        process.wait()
        print(log.read_text("utf-8"))


def test_the_unit_and_the_image_require_a_token(tmp_path: Path) -> None:
    text = (UNITS / "agentscope-supervisor@.service").read_text("utf-8")
    (line,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    for command in (shlex.split(line), words(the("ENTRYPOINT")) + words(the("CMD"))):
        options = command[command.index("--host") :][:2]
        assert options == ["--host", "0.0.0.0"]
        where = ["--runtime-dir", str(tmp_path), "--state-dir", str(tmp_path)]
        refused = run(COMMAND, "start", ROOT / "examples" / "echo", "--port", "0", *options, *where)
        assert (refused.returncode, "server.auth_token is not set" in refused.stderr) == (78, True)
    assert "RestartPreventExitStatus=78" in text


def is_ready(port: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def say(port: str) -> Any:
    """Return the answer of the echo project to "hello"."""
    body = {"session_id": "me", "message": {"content": "hello"}, "stream": False}
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/invoke", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=30) as response:
        (message,) = json.load(response)["messages"]
    content = message["content"]
    return content if isinstance(content, str) else "".join(block["text"] for block in content)
