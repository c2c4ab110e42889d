"""The user of the workers: its name in the settings, and the folder of its sessions."""

import os
import pwd
import stat
from pathlib import Path

import pytest

from agentscope_protocol.config.settings import Settings, load
from agentscope_supervisor.processes import worker_user
from agentscope_supervisor.processes.worker_user import UserError, WorkerUser

FREE_UID = 48_211  # of no user
SOMEBODY = WorkerUser(FREE_UID, FREE_UID + 1, (FREE_UID + 2,), {})


def settings(user: object, **session: str) -> Settings:
    text = f"supervisor: {{user: {user}}}\nsession: {session}"
    return load(text, source="agentapp.yaml", env={})


def test_without_the_key_workers_run_as_the_supervisor() -> None:
    assert worker_user.of(settings("null")) is None


def test_a_name_and_a_number_mean_the_same_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    entry = next(entry for entry in pwd.getpwall() if entry.pw_uid != 0)
    by_name, by_number = worker_user.of(settings(entry.pw_name)), worker_user.of(settings(entry.pw_uid))
    assert by_name is not None
    assert by_name == by_number
    assert (by_name.uid, by_name.gid) == (entry.pw_uid, entry.pw_gid)
    assert by_name.variables == {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}


def test_a_number_needs_no_entry_and_gets_no_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    user = worker_user.of(settings(FREE_UID))
    assert user is not None
    assert user.options == {"user": FREE_UID, "group": FREE_UID, "extra_groups": ()}
    assert user.variables["HOME"] == "/"


@pytest.mark.parametrize("name", ["no-such-user", 2**32 - 1, 2**70])
def test_a_user_that_cannot_exist_is_an_error(name: object) -> None:
    with pytest.raises(UserError, match=f"supervisor.user: this system has no user '{name}'"):
        worker_user.of(settings(name))


def test_the_user_of_the_supervisor_is_no_other_user_unless_it_is_root(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: FREE_UID)
    assert worker_user.of(settings(FREE_UID)) is None
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(UserError, match="root is root; name a user without privileges"):
        worker_user.of(settings("root"))


def test_only_root_can_start_workers_as_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: FREE_UID)
    with pytest.raises(UserError, match="only root can start workers as root; start the supervisor as root"):
        worker_user.of(settings("root"))


@pytest.mark.parametrize(
    "mode, uid, gid, may",
    [
        (0o700, FREE_UID, 0, True),
        (0o500, FREE_UID, 0, False),
        (0o070, 0, FREE_UID + 1, True),
        (0o770, 0, FREE_UID + 2, True),
        (0o750, 0, FREE_UID + 1, False),
        (0o707, 0, FREE_UID + 1, False),
        (0o777, 0, 0, True),
        (0o770, 0, 0, False),
    ],
)
def test_who_may_write_to_a_folder(mode: int, uid: int, gid: int, may: bool) -> None:
    status = os.stat_result((stat.S_IFDIR | mode, 0, 0, 0, uid, gid, 0, 0, 0, 0))
    assert SOMEBODY.may_write(status) is may


# -- the folder of the sessions ------------------------------------------------------------------------


@pytest.fixture
def owned(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """The new owners by file name, without the privilege to change them."""
    given: dict[str, tuple[int, int]] = {}

    def fchown(descriptor: int, uid: int, gid: int) -> None:
        given[Path(os.readlink(f"/proc/self/fd/{descriptor}")).name] = uid, gid

    monkeypatch.setattr(os, "fchown", fchown)
    monkeypatch.setattr(WorkerUser, "may_write", lambda self, folder: True)
    return given


def test_a_missing_folder_of_sessions_is_created_for_the_user(
    tmp_path: Path, owned: dict[str, tuple[int, int]]
) -> None:
    worker_user.prepare_sessions(settings("null", save_dir="data/sessions"), tmp_path, SOMEBODY)
    assert (tmp_path / "data" / "sessions").stat().st_mode & 0o777 == 0o700
    assert owned == dict.fromkeys(("data", "sessions"), (FREE_UID, FREE_UID + 1))


def test_an_existing_folder_of_sessions_is_never_given_away(
    tmp_path: Path, owned: dict[str, tuple[int, int]]
) -> None:
    (tmp_path / "sessions").symlink_to("/etc")
    worker_user.prepare_sessions(settings("null"), tmp_path, SOMEBODY)
    assert owned == {}


def test_a_folder_that_the_user_may_not_write_to_is_reported_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "sessions").mkdir(mode=0o700)
    remedy = f"to fix it: chown -R {FREE_UID}:{FREE_UID + 1} .*/sessions"
    with pytest.raises(UserError, match=remedy):
        worker_user.prepare_sessions(settings("null"), tmp_path, SOMEBODY)


def test_a_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"session\.save_dir: cannot create .*: Not a directory"):
        worker_user.prepare_sessions(settings("null", save_dir="file/sessions"), tmp_path, SOMEBODY)


def test_sessions_in_redis_need_no_folder(tmp_path: Path) -> None:
    redis = settings("null", backend="redis", redis_url="redis://h")
    worker_user.prepare_sessions(redis, tmp_path, SOMEBODY)
    assert list(tmp_path.iterdir()) == []
