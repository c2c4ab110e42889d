"""Directories of an instance, and the lock that allows one instance for each name."""

import json
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agentscope_supervisor.system.instance_dir import (
    PROGRAM,
    Address,
    Instance,
    InstanceError,
    connect,
    make_directory,
    name_of,
    read,
    running,
    runtime_dir,
    state_dir,
    wait_end,
)


def address(name: str = "app", port: int = 8080) -> Address:
    return Address(pid=7, host="127.0.0.1", port=port, name=name, project="/p", version="1")


# -- the runtime directory and the name ------------------------------------------------------------


@pytest.mark.parametrize(
    "option, env, uid, expected",
    [
        (Path("here"), {"RUNTIME_DIRECTORY": "/a", "XDG_RUNTIME_DIR": "/b"}, 0, Path("here")),
        (None, {"RUNTIME_DIRECTORY": "/a", "XDG_RUNTIME_DIR": "/b"}, 0, Path("/a")),
        (None, {"RUNTIME_DIRECTORY": "/a:/c"}, 0, Path("/a")),
        (None, {"RUNTIME_DIRECTORY": "", "XDG_RUNTIME_DIR": "/b"}, 0, Path("/b")),
        (None, {}, 0, Path("/run")),
        (None, {}, 1000, Path(tempfile.gettempdir()) / "agentscope-supervisor-1000"),
    ],
)
def test_runtime_dir_prefers_the_option_then_the_environment(
    option: Path | None, env: dict[str, str], uid: int, expected: Path
) -> None:
    assert runtime_dir(option, env, uid) == expected


@pytest.mark.parametrize(
    "option, env, uid, expected",
    [
        (Path("here"), {"STATE_DIRECTORY": "/a", "XDG_STATE_HOME": "/b"}, 0, Path("here")),
        (None, {"STATE_DIRECTORY": "/a:/c", "XDG_STATE_HOME": "/b"}, 0, Path("/a")),
        (None, {"STATE_DIRECTORY": "", "XDG_STATE_HOME": "/b", "HOME": "/h"}, 1000, Path("/b")),
        (None, {"HOME": "/h"}, 0, Path("/var/lib")),
        (None, {"HOME": "/h"}, 1000, Path("/h/.local/state")),
        (None, {}, 1000, Path(tempfile.gettempdir()) / "agentscope-supervisor-1000"),
    ],
)
def test_state_dir_prefers_the_option_then_the_environment(
    option: Path | None, env: dict[str, str], uid: int, expected: Path
) -> None:
    assert state_dir(option, env, uid) == expected


@pytest.mark.parametrize(
    "folder, name",
    [
        ("my_app", "my_app"),
        ("My App (2)", "My-App--2-"),
        ("会话", "app"),
        ("..hidden", "hidden"),
        ("a" * 100, "a" * 64),
    ],
)
def test_an_instance_is_named_after_its_folder(tmp_path: Path, folder: str, name: str) -> None:
    assert name_of(None, tmp_path / folder) == name
    assert name_of(name, tmp_path) == name


def test_a_relative_project_path_gives_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop").mkdir()
    monkeypatch.chdir(tmp_path / "shop")
    assert name_of(None, Path(".")) == "shop"


def test_the_root_folder_gives_a_name() -> None:
    assert name_of(None, Path("/")) == "app"


@pytest.mark.parametrize("name", ["a", "A.b_c-1", "9" * 64])
def test_a_valid_name_option_is_used_unchanged(name: str) -> None:
    assert name_of(name, Path("/p")) == name


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-x", "_x", "a b", "é", "a\n", "9" * 65])
def test_an_invalid_name_option_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match="is not a valid instance name"):
        name_of(name, Path("/p"))


# -- the temporary directory, where other users can write ------------------------------------------


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary directory of this user; it does not exist yet."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"{PROGRAM}-{os.getuid()}"


def test_the_temporary_directory_is_created_private(temporary: Path) -> None:
    before = os.umask(0)
    try:
        for _ in range(2):
            Instance(temporary, "app").close()
    finally:
        os.umask(before)
    assert temporary.stat().st_mode & 0o777 == 0o700
    assert (temporary / PROGRAM / "app").stat().st_mode & 0o777 == 0o700
    assert running(temporary) == []


def writable(path: Path) -> None:
    path.mkdir()
    path.chmod(0o770)


def linked(path: Path) -> None:
    path.with_name("elsewhere").mkdir(mode=0o700)
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("found", [writable, linked])
def test_a_temporary_directory_that_others_can_write_to_is_rejected(
    temporary: Path, found: Callable[[Path], None]
) -> None:
    found(temporary)
    is_rejected(temporary)


def test_a_temporary_directory_of_another_user_is_rejected(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: uid)
    anothers = temporary.with_name(f"{PROGRAM}-{uid}")
    anothers.mkdir(mode=0o700)
    is_rejected(anothers)


def is_rejected(directory: Path) -> None:
    for use in (
        lambda: Instance(directory, "app"),
        lambda: running(directory),
        lambda: make_directory(directory / PROGRAM / "app"),
    ):
        with pytest.raises(InstanceError, match=f"{PROGRAM}-.* is not a directory that belongs to this user"):
            use()
    assert list(directory.iterdir()) == []


# -- a directory that another user has prepared ----------------------------------------------------

NOT_OURS = "is not a directory that belongs to this user"


def test_a_directory_of_another_user_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Instance(tmp_path, "app").close()
    uid = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: uid)
    with pytest.raises(InstanceError, match=NOT_OURS):
        Instance(tmp_path, "app")


@pytest.mark.parametrize("link", [PROGRAM, f"{PROGRAM}/app"])
def test_a_link_in_place_of_a_directory_is_not_followed(tmp_path: Path, link: str) -> None:
    (tmp_path / "run" / PROGRAM).mkdir(parents=True)
    (tmp_path / "elsewhere" / "app").mkdir(parents=True)
    path = tmp_path / "run" / link
    if path.exists():
        path.rmdir()
    path.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    for use in (
        lambda: Instance(tmp_path / "run", "app"),
        lambda: make_directory(tmp_path / "run" / PROGRAM / "app"),
    ):
        with pytest.raises(InstanceError, match=NOT_OURS):
            use()
    assert [each.name for each in (tmp_path / "elsewhere").rglob("*")] == ["app"]


def test_files_of_an_instance_are_never_written_through_a_link(tmp_path: Path) -> None:
    claim = Instance(tmp_path, "app")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (claim.directory / ".instance.json").symlink_to(victim)
    claim.publish(address())
    claim.close()
    assert victim.read_text() == "mine"
    (claim.directory / "lock").unlink()
    (claim.directory / "lock").symlink_to(tmp_path / "made")
    with pytest.raises(InstanceError, match="cannot write the runtime directory: "):
        Instance(tmp_path, "app")
    assert not (tmp_path / "made").exists()


def test_the_permission_of_others_to_write_is_revoked(tmp_path: Path) -> None:
    """Kubernetes gives the files of a volume to a group of the pod at each start."""
    Instance(tmp_path, "app").close()
    for directory in (tmp_path / PROGRAM, tmp_path / PROGRAM / "app"):
        directory.chmod(0o2777)
    Instance(tmp_path, "app").close()
    for directory in (tmp_path / PROGRAM, tmp_path / PROGRAM / "app"):
        assert directory.stat().st_mode & 0o022 == 0


def published(root: Path, name: str) -> Instance:
    instance = Instance(root, name)
    instance.publish(address(name))
    return instance


def test_commands_find_no_instance_that_another_user_may_have_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would send the token to the address in its file."""
    running_here = published(tmp_path, "app")
    elsewhere = published(tmp_path / "elsewhere", "other")
    (tmp_path / PROGRAM / "other").symlink_to(elsewhere.directory)
    assert [found.name for found in running(tmp_path)] == ["app"]
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    if uid == 0:  # what root has created can be trusted
        assert [found.name for found in running(tmp_path)] == ["app"]
    monkeypatch.undo()
    (tmp_path / PROGRAM).chmod(0o777)
    with pytest.raises(InstanceError, match=NOT_OURS):
        running(tmp_path)
    for instance in (running_here, elsewhere):
        instance.close()


# -- the lock ------------------------------------------------------------------------------------


def test_an_instance_directory_is_private_and_publishes_the_address(tmp_path: Path) -> None:
    instance = Instance(tmp_path, "app")
    assert instance.directory == tmp_path / PROGRAM / "app"
    assert instance.directory.stat().st_mode & 0o777 == 0o700
    assert (instance.directory / "lock").stat().st_mode & 0o777 == 0o600
    assert read(instance.directory) is None
    instance.publish(address())
    assert read(instance.directory) == address()
    assert running(tmp_path) == [address()]
    assert sorted(os.listdir(instance.directory)) == ["instance.json", "lock"]
    instance.close()
    assert running(tmp_path) == []
    assert read(instance.directory) is None


def test_a_second_instance_is_rejected_and_the_first_is_unchanged(tmp_path: Path) -> None:
    first = Instance(tmp_path, "app")
    first.publish(address(port=8123))
    with pytest.raises(InstanceError, match=r"'app' is already running \(pid 7, port 8123\); .*--name"):
        Instance(tmp_path, "app")
    assert running(tmp_path) == [address(port=8123)]
    first.close()
    Instance(tmp_path, "app").close()


def test_a_second_instance_is_rejected_while_the_first_is_starting(tmp_path: Path) -> None:
    first = Instance(tmp_path, "app")
    with pytest.raises(InstanceError, match="'app' is already running; "):
        Instance(tmp_path, "app")
    first.close()


def test_a_rejected_instance_leaks_no_descriptor(tmp_path: Path) -> None:
    first = Instance(tmp_path, "app")
    before = os.listdir("/dev/fd")
    for _ in range(3):
        with pytest.raises(InstanceError):
            Instance(tmp_path, "app")
    running(tmp_path)
    assert len(os.listdir("/dev/fd")) == len(before)
    first.close()


def test_instances_with_different_names_run_side_by_side(tmp_path: Path) -> None:
    instances = [Instance(tmp_path, name) for name in ("b", "a")]
    for instance in instances:
        instance.publish(address(instance.name))
    assert [found.name for found in running(tmp_path)] == ["a", "b"]
    for instance in instances:
        instance.close()


def test_files_of_a_crashed_instance_are_ignored_and_replaced(tmp_path: Path) -> None:
    """The recorded pid may belong to another process by now; only the lock counts."""
    crashed = Instance(tmp_path, "app")
    crashed.publish(Address(os.getpid(), "127.0.0.1", 1, "app", "/p", "1"))
    content = (crashed.directory / "instance.json").read_bytes()
    crashed.close()
    (crashed.directory / "instance.json").write_bytes(content)
    (crashed.directory / ".instance.json").write_text("half a fi")
    assert running(tmp_path) == []
    again = Instance(tmp_path, "app")
    assert read(again.directory) is None, "a client must not be sent to an address where nothing listens"
    again.publish(address())
    assert running(tmp_path) == [address()]
    again.close()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[]", b"7", b"{}", json.dumps({"pid": 1, "more": 2}).encode()]
)
def test_an_unreadable_address_file_gives_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "instance.json").write_bytes(content)
    assert read(tmp_path) is None


def test_a_directory_without_a_lock_is_not_running(tmp_path: Path) -> None:
    claim = Instance(tmp_path, "app")
    claim.publish(address())
    (claim.directory / "lock").unlink()
    assert running(tmp_path) == []
    claim.close()


def test_a_missing_runtime_directory_has_no_instances(tmp_path: Path) -> None:
    assert running(tmp_path / "nothing") == []


def test_an_unwritable_runtime_directory_is_reported(tmp_path: Path) -> None:
    (tmp_path / PROGRAM).write_text("a file where a folder should be")
    with pytest.raises(InstanceError, match="cannot write the runtime directory: "):
        Instance(tmp_path, "app")


def test_a_removed_runtime_directory_is_reported(tmp_path: Path) -> None:
    claim = Instance(tmp_path, "app")
    shutil.rmtree(claim.directory)
    with pytest.raises(InstanceError, match="cannot write the runtime directory: "):
        claim.publish(address())
    claim.close()


def test_the_control_socket_works_with_a_long_path(tmp_path: Path) -> None:
    root = tmp_path / ("deep" * 20) / ("deeper" * 20)
    claim = Instance(root, "app")
    here = os.getcwd()
    listening = claim.control_socket()
    mode = (claim.directory / "control.sock").stat().st_mode
    assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
    client = connect(root, "app")
    accepted, _ = listening.accept()
    client.sendall(b"hello")
    assert accepted.recv(5) == b"hello"
    assert os.getcwd() == here
    for sock in (client, accepted, listening):
        sock.close()
    claim.close()
    assert sorted(os.listdir(claim.directory)) == ["lock"]


def test_a_stale_control_socket_is_replaced_only_with_the_lock_held(tmp_path: Path) -> None:
    crashed = Instance(tmp_path, "app")
    crashed.control_socket().close()
    with pytest.raises(InstanceError):
        Instance(tmp_path, "app")
    assert (crashed.directory / "control.sock").exists()
    os.close(crashed._lock)  # as the exit of its process does
    again = Instance(tmp_path, "app")
    assert not (again.directory / "control.sock").exists()
    again.control_socket().close()
    again.close()


def test_a_control_socket_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    claim = Instance(tmp_path, "app")
    (claim.directory / "control.sock").write_text("in the way")
    with pytest.raises(InstanceError, match="cannot create the control socket: "):
        claim.control_socket()
    claim.close()


def test_without_an_instance_connect_fails_and_wait_end_returns(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        connect(tmp_path, "app")
    wait_end(tmp_path, "app")


def test_wait_end_blocks_until_the_instance_ends(tmp_path: Path) -> None:
    claim = Instance(tmp_path, "app")
    waiting = threading.Thread(target=wait_end, args=(tmp_path, "app"))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    claim.close()
    waiting.join(10)
    assert not waiting.is_alive()


@pytest.mark.parametrize(
    "host, url",
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://localhost:80"),
        ("::", "http://localhost:80"),
        ("::1", "http://[::1]:80"),
    ],
)
def test_url_is_one_that_a_client_can_connect_to(host: str, url: str) -> None:
    assert Address(1, host, 80, "app", "/p", "1").url == url
