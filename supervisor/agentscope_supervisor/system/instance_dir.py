"""The place of a running instance in the file system: its directory, its lock, and where it listens.

    <runtime dir>/agentscope-supervisor/<name>/lock            held while the instance runs
                                              /instance.json   how to reach it
                                              /control.sock    where the operator's commands are answered

The lock is the kernel's (flock), so that a crash leaves nothing that must be cleaned up, and no pid is ever
believed. Commands that talk to a running instance find it here.
"""

import fcntl
import json
import os
import re
import socket
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

PROGRAM: Final = "agentscope-supervisor"

UNIX: Final = "unix:"
"""With this the host of an address begins where it is a Unix socket; its path follows, the port is 0."""

CONTROL: Final = "control.sock"
MAX_WAITING: Final = 16  # connections to the control socket that the kernel holds for us
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class InstanceError(Exception):
    """The directory cannot be used, or another instance is there. Worth another try later."""


@dataclass(frozen=True, slots=True)
class Address:
    """How to reach a running instance; the content of instance.json."""

    pid: int
    host: str
    port: int
    name: str
    project: str
    version: str

    @property
    def url(self) -> str:
        """Where to connect to on this machine; a Unix socket as the host is."""
        if self.host.startswith(UNIX):
            return self.host
        if self.host in ("0.0.0.0", "::"):
            return f"http://localhost:{self.port}"
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


def runtime_dir(option: Path | None, env: Mapping[str, str], uid: int) -> Path:
    """The runtime directory: the option, else what the system gives, else a temporary one of the user."""
    if option is not None:
        return option
    for variable in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        if env.get(variable):
            return Path(env[variable].split(":")[0])
    return Path("/run") if uid == 0 else _temporary(uid)


def state_dir(option: Path | None, env: Mapping[str, str], uid: int) -> Path:
    """The directory for what must outlive a reboot: the option, else the system's, else by custom."""
    if option is not None:
        return option
    for variable in ("STATE_DIRECTORY", "XDG_STATE_HOME"):
        if env.get(variable):
            return Path(env[variable].split(":")[0])
    if uid == 0:
        return Path("/var/lib")
    home = env.get("HOME")  # a container may run as a user that the system does not know
    return Path(home) / ".local" / "state" if home else _temporary(uid)


def _temporary(uid: int) -> Path:
    return Path(tempfile.gettempdir()) / f"{PROGRAM}-{uid}"


def make_directory(directory: Path) -> None:
    """Make a directory that only this user can read, and those above it.

    Raises: OSError; InstanceError if it is below a temporary directory that may not be the user's own.
    """
    temporary = _temporary(os.getuid())
    if directory.is_relative_to(temporary):
        temporary.mkdir(mode=0o700, exist_ok=True)
    _check(directory)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def _check(directory: Path) -> None:
    """Everybody can make the temporary directory of a user, and so have what is below it.

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
    writable = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or writable:
        raise InstanceError(
            f"{temporary} is not a directory that belongs to this user (uid {uid}) and that nobody else can"
            " write to; remove it, or choose others with --runtime-dir and --state-dir"
        )


def name_of(option: str | None, project: Path) -> str:
    """The name of an instance. Raises: ValueError if it cannot be a file name everywhere."""
    if option is None:
        return re.sub(r"[^A-Za-z0-9._-]", "-", project.resolve().name).lstrip("._-")[:64] or "app"
    if not _NAME.fullmatch(option):
        raise ValueError(f"{option!r} is no instance name: use letters, digits, '.', '_' and '-', at most 64")
    return option


class Instance:
    """The claim of one running instance on its name. Held until `close`, or until the process ends."""

    def __init__(self, root: Path, name: str) -> None:
        """Raises: InstanceError."""
        self.directory: Final = root / PROGRAM / name
        self.name: Final = name
        try:
            make_directory(self.directory)
            self._lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InstanceError(f"cannot write the runtime directory: {error}") from None
        if not _lock(self._lock):
            os.close(self._lock)
            running = read(self.directory)
            who = f" (pid {running.pid}, port {running.port})" if running is not None else ""
            raise InstanceError(
                f"an instance named {name!r} is already running{who}; choose another --name or --runtime-dir"
            )
        self._file.unlink(missing_ok=True)
        (self.directory / CONTROL).unlink(missing_ok=True)

    def control_socket(self) -> socket.socket:
        """A listening socket for the operator's commands, which only this user may connect to.

        To be called before there are threads: it changes the directory and the mask of the process for a
        moment. Raises: InstanceError.
        """
        sock, mask = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), os.umask(0o177)
        try:
            with _inside(self.directory):
                sock.bind(CONTROL)
            sock.listen(MAX_WAITING)
        except OSError as error:
            sock.close()
            raise InstanceError(f"cannot make the control socket: {error}") from None
        finally:
            os.umask(mask)
        return sock

    @property
    def _file(self) -> Path:
        return self.directory / "instance.json"

    def publish(self, address: Address) -> None:
        """Say where the instance listens. Raises: InstanceError."""
        temporary = self.directory / ".instance.json"
        try:
            temporary.write_text(json.dumps(asdict(address)) + "\n")
            temporary.replace(self._file)
        except OSError as error:
            raise InstanceError(f"cannot write the runtime directory: {error}") from None

    def close(self) -> None:
        """Give the name back."""
        self._file.unlink(missing_ok=True)
        (self.directory / CONTROL).unlink(missing_ok=True)
        os.close(self._lock)


def _lock(fd: int) -> bool:
    """Take the lock, if no instance holds it; a command that looks whether one does has it for a moment."""
    for _ in range(5):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.02)
        else:
            return True
    return False


def read(directory: Path) -> Address | None:
    """Where the instance of this directory says that it listens; None if nothing readable is there."""
    try:
        return Address(**json.loads((directory / "instance.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def connect(root: Path, name: str) -> socket.socket:
    """A connection to the control socket of the instance of this name; for commands, which have one thread.

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
    """Block until the instance of this name has ended; at once if none runs."""
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
    """Work in this directory: the path of a socket may have only 107 bytes, on macOS 103."""
    before = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.chdir(directory)
        yield
    finally:
        os.fchdir(before)
        os.close(before)


def running(root: Path) -> list[Address]:
    """The instances that hold their lock, below this runtime directory. Raises: InstanceError if others can
    write to it."""
    _check(root)
    found = []
    for directory in sorted((root / PROGRAM).glob("*/")):
        address = read(directory)
        if address is not None and _is_locked(directory / "lock"):
            found.append(address)
    return found


def _is_locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
