"""The command `pack`, and instances that run from its archive and keep their sessions."""

import re
import shutil
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from agentscope_supervisor.project.archive_write import pack
from tests.harness.client import texts
from tests.harness.instance import COMMAND, Instance, run
from tests.harness.projects import configure, written

REFUSED: Final = 78
TEMPORARY: Final = 75


def packed(project: Path) -> Path:
    """Return an archive beside the project, made without the command, which would check the project first."""
    output = project.with_suffix(".tar.gz")
    pack(project, output, name=project.name, versions={}, save_dir="./sessions")
    return output


def test_pack_prints_the_archive_and_the_files_that_it_left_out(
    make_project: Callable[..., Path], tmp_path: Path
) -> None:
    project = make_project("shop")
    (project / ".env").write_text("KEY=1")
    (project / "sessions").mkdir()
    made = run(COMMAND, "pack", project, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    left_out = [line for line in made.stdout.splitlines() if line.startswith("left out")]
    cache = {"left out (cache): __pycache__/"}  # made by the check, if Python writes bytecode
    assert set(left_out) - cache == {"left out (secret): .env", "left out (sessions): sessions/"}
    assert re.search(
        r"^created shop\.tar\.gz: 2 files, \d+ bytes, sha256 [0-9a-f]{64}$", made.stdout, re.MULTILINE
    )
    with tarfile.open(tmp_path / "shop.tar.gz") as tar:
        assert tar.getnames() == ["agentapp.manifest.json", "agentapp.yaml", "app.py"]
    checked = run(COMMAND, "check", tmp_path / "shop.tar.gz")
    assert (checked.returncode, checked.stdout.splitlines()[-1]) == (0, "shop: OK")


def test_a_project_that_check_refuses_is_not_packed(tmp_path: Path) -> None:
    project = written(tmp_path / "shop", "import nothing_of_this_name\n")
    refused = run(COMMAND, "pack", project, cwd=tmp_path)
    assert refused.returncode == REFUSED
    assert "nothing_of_this_name" in refused.stdout + refused.stderr
    assert sorted(tmp_path.iterdir()) == [project]


def test_a_secret_in_plain_text_is_not_packed(make_project: Callable[..., Path], tmp_path: Path) -> None:
    project = make_project("shop", server={"auth_token": "hunter2-hunter2"})
    refused = run(COMMAND, "pack", project, cwd=tmp_path)
    assert refused.returncode == REFUSED
    assert re.search(r"agentapp\.yaml:\d+: server\.auth_token: is a secret in plain text", refused.stderr)
    assert "hunter2" not in refused.stdout + refused.stderr
    assert sorted(tmp_path.iterdir()) == [project]


def test_an_archive_that_cannot_be_written_is_reported(
    make_project: Callable[..., Path], tmp_path: Path
) -> None:
    refused = run(COMMAND, "pack", make_project(), "-o", tmp_path / "gone" / "a.tar.gz")
    assert refused.returncode == 1
    assert "no archive was made" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.timeout(300)
async def test_an_instance_runs_from_an_archive_and_the_next_one_finds_its_sessions(
    make_project: Callable[..., Path], new_instance: Callable[..., Instance], tmp_path: Path
) -> None:
    project = make_project("shop")
    (project / "version").write_text("first")
    archive = packed(project)
    first = new_instance(archive, workers=1).start()
    folder = tmp_path / "instance" / "state" / "agentscope-supervisor" / first.name / "app"
    assert first.address["project"] == str(folder)
    assert await texts(first.port, "me", [{"version": 1}, {"count": 1}]) == ["first", "1"]
    again = run(
        *(COMMAND, "start", archive, "--port", "0", "--name", first.name),
        *("--runtime-dir", tmp_path / "elsewhere", "--state-dir", tmp_path / "instance" / "state"),
    )
    assert again.returncode == TEMPORARY
    assert "another instance runs from" in again.stderr
    assert first.stop() == 0

    (project / "version").write_text("second")
    assert packed(project) == archive
    shutil.rmtree(project)
    second = new_instance(archive, workers=1).start()
    assert await texts(second.port, "me", [{"version": 1}, {"count": 1}]) == ["second", "2"]
    assert f"archive extracted archive={archive} folder={folder}" in second.log


def test_the_instance_is_named_after_the_packed_project_and_finds_it_below_a_relative_state_directory(
    make_project: Callable[..., Path], tmp_path: Path
) -> None:
    archive = packed(make_project("shop")).rename(tmp_path / "upload-4711")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = run(
            *(COMMAND, "start", archive, "--port", str(taken.getsockname()[1])),
            *("--runtime-dir", tmp_path / "run", "--state-dir", "state"),
            cwd=tmp_path,
        )
    assert (ended.returncode, "cannot listen" in ended.stderr) == (TEMPORARY, True), ended.stderr
    folder = tmp_path / "state" / "agentscope-supervisor" / "shop" / "app"
    assert (folder / "app.py").exists()
    # Workers have another working directory, so that a relative path would name nothing there.
    assert f"archive extracted archive={archive} folder={folder}\n" in ended.stdout + ended.stderr


def test_a_modified_archive_does_not_start(make_project: Callable[..., Path], tmp_path: Path) -> None:
    archive, room = packed(make_project("shop")), tmp_path / "room"
    run("tar", "-xzf", archive, "--one-top-level=" + str(room))  # Python 3.11.2 has no `extractall(filter=)`
    configure(room, server={"port": 1})
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("agentapp.manifest.json", "agentapp.yaml", "app.py"):
            tar.add(room / name, name)
    for command in (
        ["start", archive, "--runtime-dir", tmp_path / "run", "--state-dir", tmp_path / "state"],
        ["check", archive],
    ):
        refused = run(COMMAND, *command)
        assert refused.returncode == REFUSED
        assert f"{archive}: agentapp.yaml: has " in refused.stderr
        assert "Traceback" not in refused.stderr
    assert not (tmp_path / "state" / "agentscope-supervisor" / "shop" / "app").exists()
