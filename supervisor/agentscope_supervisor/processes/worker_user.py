"""The user that workers run as: `supervisor.user`. It is another one only if the supervisor runs as root.

The kernel then keeps the App away from the supervisor: from its memory, its sockets, its control socket and
its files. This module looks the user up and gives it what a worker needs: the folder of its sessions and its
end of a pipe. It must never change the owner of something that exists: a user who can replace a file by a
link would get the file that the link points to. `spawn` starts the processes.
"""

import os
import pwd
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentscope_protocol.config.settings import Settings

MAX_UID: Final = 2**32 - 2  # the highest id of Linux; the one above means "unchanged" in system calls


class UserError(Exception):
    """Workers cannot run as `supervisor.user`. The message contains the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class WorkerUser:
    """A user. `variables`: those of its environment that name it or its home."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    variables: Mapping[str, str]

    @property
    def options(self) -> dict[str, Any]:
        """The options of `subprocess` that start a process as this user."""
        return {"user": self.uid, "group": self.gid, "extra_groups": self.groups}

    def owns(self, descriptor: int) -> None:
        """Make the user the owner of a pipe or a folder that this process has created.

        Without it, a worker cannot open its own /dev/stdout. Raises: OSError.
        """
        os.fchown(descriptor, self.uid, self.gid)

    def may_write(self, folder: os.stat_result) -> bool:
        """Whether the user may create files in a folder with this status."""
        if folder.st_uid == self.uid:
            needed = stat.S_IWUSR | stat.S_IXUSR
        elif folder.st_gid in (self.gid, *self.groups):
            needed = stat.S_IWGRP | stat.S_IXGRP
        else:
            needed = stat.S_IWOTH | stat.S_IXOTH
        return folder.st_mode & needed == needed


def of(settings: Settings) -> WorkerUser | None:
    """Return the user of the workers; None: that of the supervisor. Raises: UserError."""
    name = settings.supervisor.user
    if name is None:
        return None
    user = _look_up(name)
    if user.uid == os.geteuid():
        if user.uid == 0:
            raise UserError(f"supervisor.user: {name} is root; name a user without privileges")
        return None
    if os.geteuid() != 0:
        raise UserError(
            f"supervisor.user: only root can start workers as {name}; start the supervisor as root, or remove"
            " the key"
        )
    return user


def _look_up(name: str) -> WorkerUser:
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        if not name.isdecimal() or int(name) > MAX_UID:
            raise UserError(f"supervisor.user: this system has no user {name!r}") from None
        # An image needs no entry for a numeric user.
        return WorkerUser(int(name), int(name), (), {"HOME": "/", "USER": name, "LOGNAME": name})
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    variables = {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}
    return WorkerUser(entry.pw_uid, entry.pw_gid, groups, variables)


def prepare_sessions(settings: Settings, project: Path, user: WorkerUser) -> None:
    """Create the folder of the sessions, if the project uses one and it does not exist yet.

    Raises: UserError if it cannot be created, or if the user may not write to it.
    """
    if settings.session.backend != "json":
        return
    folder = project / settings.session.save_dir
    try:
        missing = [each for each in (folder, *folder.parents) if not each.exists()]
        for each in reversed(missing):
            each.mkdir(mode=0o700)
            created = os.open(each, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(created).st_uid != os.geteuid():
                    raise UserError(f"session.save_dir: another process has replaced {each}")
                user.owns(created)
            finally:
                os.close(created)
        found = folder.stat()
    except OSError as error:
        raise UserError(f"session.save_dir: cannot create {folder}: {error.strerror}") from None
    if not user.may_write(found):
        raise UserError(
            f"session.save_dir: supervisor.user may not write to {folder}; to fix it: "
            f"chown -R {user.uid}:{user.gid} {folder}"
        )
