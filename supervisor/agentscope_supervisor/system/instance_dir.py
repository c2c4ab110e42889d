"""The directory of a running instance: its lock, its address and its control socket.

    <runtime dir>/agentscope-supervisor/<name>/lock            held while the instance runs
                                              /instance.json   its address
                                              /control.sock    accepts the operator's commands

The lock is an flock(2) of the kernel. A crash releases it, so nothing has to be cleaned up, and no decision
depends on a recorded pid. The commands of the CLI use this module to find a running instance.
"""

import errno
import fcntl
import json
import os
import re
import socket
import stat
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

PROGRAM: Final = "agentscope-supervisor"

UNIX: Final = "unix:"
"""Prefix of the host of an address that is a Unix socket. The path of the socket follows; the port is 0."""

CONTROL: Final = "control.sock"
BACKLOG: Final = 16  # connections to the control socket that wait in the kernel
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class InstanceError(Exception):
    """The directory cannot be used, or another instance uses it. A later attempt may succeed."""


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a running instance; the content of instance.json."""

    pid: int
    host: str
    port: int
    name: str
    project: str
    version: str

    @property
    def url(self) -> str:
        """URL to connect to from this machine. For a Unix socket, the host as it is."""
        if self.host.startswith(UNIX):
            return self.host
        if self.host in ("0.0.0.0", "::"):
            return f"http://localhost:{self.port}"
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


def runtime_dir(option: Path | None, env: Mapping[str, str], uid: int) -> Path:
    """Return the runtime directory: the option, else that of the environment, else a temporary directory."""
    if option is not None:
        return option
    for variable in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        if env.get(variable):
            return Path(env[variable].split(":")[0])
    return Path("/run") if uid == 0 else _temporary(uid)


def state_dir(option: Path | None, env: Mapping[str, str], uid: int) -> Path:
    """Return the directory for data that survives a reboot.

    The option comes first, then the environment, then the usual place of the system.
    """
    if option is not None:
        return option
    for variable in ("STATE_DIRECTORY", "XDG_STATE_HOME"):
        if env.get(variable):
            return Path(env[variable].split(":")[0])
    if uid == 0:
        return Path("/var/lib")
    home = env.get("HOME")  # not set if a container runs as a user that has no passwd entry
    return Path(home) / ".local" / "state" if home else _temporary(uid)


def _temporary(uid: int) -> Path:
    return Path(tempfile.gettempdir()) / f"{PROGRAM}-{uid}"


def make_directory(directory: Path) -> None:
    """Create the directory of an instance, which only this user can read, and its parents.

    An existing one must belong to this user, and its parent to this user or root: another user could have
    prepared them. Raises: OSError; InstanceError.
    """
    uid = os.getuid()
    temporary = _temporary(uid)
    if directory.is_relative_to(temporary):
        temporary.mkdir(mode=0o700, exist_ok=True)
    _check(directory)
    try:
        directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _take(directory.parent, {uid, 0})
        directory.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError as error:  # a file is where the directory should be
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename) from None
    _take(directory, {uid})


def _take(directory: Path, owners: Collection[int]) -> None:
    """Check who can write to an existing directory. Other users lose the permission if this user can revoke
    it: Kubernetes grants it to the group of a volume, and a umask of 002 to that of the user.

    Raises: OSError; InstanceError if it is a link, belongs to none of `owners`, or others can write to it.
    """
    try:
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise _not_ours(directory) from None
        raise
    try:
        found = os.fstat(opened)
        if found.st_uid == os.getuid() and found.st_mode & _OTHERS_WRITE:
            os.fchmod(opened, stat.S_IMODE(found.st_mode) & ~_OTHERS_WRITE)
            found = os.fstat(opened)
    finally:
        os.close(opened)
    if found.st_uid not in owners or found.st_mode & _OTHERS_WRITE:
        raise _not_ours(directory)


def _not_ours(directory: Path) -> InstanceError:
    return InstanceError(
        f"{directory} is not a directory that belongs to this user (uid {os.getuid()}) and that only this"
        " user can write to; remove it, or choose other directories with --runtime-dir and --state-dir"
    )


def _check(directory: Path) -> None:
    """Check that no other user controls the temporary directory: any user could have created it first.

    Raises: InstanceError.
    """
    uid = os.getuid()
    temporary = _temporary(uid)
    if not directory.is_relative_to(temporary):
        return
    try:
        found = temporary.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & _OTHERS_WRITE:
        raise _not_ours(temporary)


def name_of(option: str | None, project: Path) -> str:
    """Return the name of an instance: the option, else the name of the project folder.

    Raises: ValueError if the option is not a portable file name.
    """
    if option is None:
        return re.sub(r"[^A-Za-z0-9._-]", "-", project.resolve().name).lstrip("._-")[:64] or "app"
    if not _NAME.fullmatch(option):
        raise ValueError(
            f"{option!r} is not a valid instance name: use at most 64 letters, digits, '.', '_' and '-'"
        )
    return option


class Instance:
    """Holds the name of a running instance, until `close` or until the process exits."""

    def __init__(self, root: Path, name: str) -> None:
        """Raises: InstanceError."""
        self.directory: Final = root / PROGRAM / name
        self.name: Final = name
        try:
            make_directory(self.directory)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._lock = os.open(self.directory / "lock", flags, 0o600)
        except OSError as error:
            raise InstanceError(f"cannot write the runtime directory: {error}") from None
        if not _lock(self._lock):
            os.close(self._lock)
            running = read(self.directory)
            note = f" (pid {running.pid}, port {running.port})" if running is not None else ""
            raise InstanceError(
                f"an instance named {name!r} is already running{note}; choose another --name or --runtime-dir"
            )
        self._file.unlink(missing_ok=True)
        (self.directory / CONTROL).unlink(missing_ok=True)

    def control_socket(self) -> socket.socket:
        """Return a listening socket for the operator's commands; only this user can connect to it.

        Call it before any thread is started: it briefly changes the working directory and the umask of the
        process.

        Raises: InstanceError.
        """
        sock, mask = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), os.umask(0o177)
        try:
            with _inside(self.directory):
                sock.bind(CONTROL)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise InstanceError(f"cannot create the control socket: {error}") from None
        finally:
            os.umask(mask)
        return sock

    @property
    def _file(self) -> Path:
        return self.directory / "instance.json"

    def publish(self, address: Address) -> None:
        """Write the address of the instance to instance.json. Raises: InstanceError."""
        temporary = self.directory / ".instance.json"
        try:
            temporary.unlink(missing_ok=True)
            with temporary.open("x") as file:  # a new file, not one that a link points to
                file.write(json.dumps(asdict(address)) + "\n")
            temporary.replace(self._file)
        except OSError as error:
            raise InstanceError(f"cannot write the runtime directory: {error}") from None

    def close(self) -> None:
        """Release the name."""
        self._file.unlink(missing_ok=True)
        (self.directory / CONTROL).unlink(missing_ok=True)
        os.close(self._lock)


def _lock(fd: int) -> bool:
    """Take the lock; returns False if an instance holds it. Retries, because a command that checks for a
    running instance holds the lock briefly."""
    for _ in range(5):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.02)
        else:
            return True
    return False


def read(directory: Path) -> Address | None:
    """Return the address in instance.json of this directory, or None if it cannot be read."""
    try:
        return Address(**json.loads((directory / "instance.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def connect(root: Path, name: str) -> socket.socket:
    """Connect to the control socket of the instance `name`. For use in a process with one thread.

    Raises: OSError.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _inside(root / PROGRAM / name):
            sock.connect(CONTROL)
    except OSError:
        sock.close()
        raise
    return sock


def wait_end(root: Path, name: str) -> None:
    """Block until the instance `name` has ended. Returns at once if it is not running."""
    try:
        fd = os.open(root / PROGRAM / name / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


@contextmanager
def _inside(directory: Path) -> Iterator[None]:
    """Change the working directory: the path of a socket is limited to 107 bytes, on macOS to 103."""
    before = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.chdir(directory)
        yield
    finally:
        os.fchdir(before)
        os.close(before)


def running(root: Path) -> list[Address]:
    """Return the addresses of the running instances below this runtime directory.

    Raises: InstanceError if other users can write to the directory. A client would send its token to the
    address that they have written there.
    """
    _check(root)
    program = root / PROGRAM
    if not os.path.lexists(program):
        return []
    _check_owner(program)
    found = []
    for directory in sorted(program.glob("*/")):
        address = read(directory) if _is_readable(directory) else None
        if address is not None and _is_locked(directory / "lock"):
            found.append(address)
    return found


def _check_owner(program: Path) -> None:
    """Check that only this user and root can create directories of instances. Raises: InstanceError.

    Root also finds the instances of other users, in the directories that root has created for them.
    """
    found = program.lstat()
    is_of_root = found.st_uid == 0
    writable = found.st_mode & (_OTHERS_WRITE if is_of_root else stat.S_IWOTH)
    if not stat.S_ISDIR(found.st_mode) or writable or not (is_of_root or found.st_uid == os.getuid()):
        raise _not_ours(program)


def _is_readable(directory: Path) -> bool:
    found = directory.lstat()
    return stat.S_ISDIR(found.st_mode) and (os.getuid() == 0 or found.st_uid in (os.getuid(), 0))


def _is_locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
