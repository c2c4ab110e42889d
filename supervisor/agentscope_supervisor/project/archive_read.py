"""An archive of a project, read: checked whole before a file of it is used, then put where it runs.

An archive may come from anywhere, so nothing in it is believed but what its manifest says and a hash shows:
plain files only, in the order of the manifest, of those sizes, at paths that stay below the folder. No more
is read than that allows, however well it is compressed.

    <state dir>/agentscope-supervisor/<name>/app        the project: files of the archive, and what it writes
                                            /app.new    an archive that is being checked
                                            /app.lock   held while an instance runs from here
"""

import fcntl
import gzip
import hashlib
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from agentscope_supervisor.project.manifest import (
    MANIFEST,
    MAX_MANIFEST,
    Entry,
    Manifest,
    ManifestError,
    decode,
)
from agentscope_supervisor.system.instance_dir import make_directory

_PIECE: Final = 64 * 1024  # bytes of a file in memory at a time
_MAX_REST: Final = 64 * 1024  # bytes after the last file: tar fills its last record of 10 KB with zeros
_MAX_HEADER: Final = 1024 * 1024  # bytes that tarfile reads at once: its headers have no bound of their own


class ArchiveError(Exception):
    """The archive cannot be used; the text names the file that is to blame, and is for a person."""


class InUse(Exception):
    """Another instance runs from the folder. Worth another try later."""


def verify(archive: Path) -> Manifest:
    """Check an archive whole. Raises: ArchiveError, OSError."""
    with _opened(archive) as (tar, manifest):
        _copy(tar, manifest, None)
    return manifest


def manifest_of(archive: Path) -> Manifest:
    """What an archive says that it holds; its files are not looked at. Raises: ArchiveError, OSError."""
    with _opened(archive) as (_, manifest):
        return manifest


def extract(archive: Path, folder: Path) -> Manifest:
    """Check an archive, and put its files and its manifest into a new folder.

    Raises: ArchiveError, OSError; what was written by then is left.
    """
    folder.mkdir(mode=0o700, parents=True)
    with _opened(archive) as (tar, manifest):
        _copy(tar, manifest, folder)
    with _new(folder / MANIFEST) as file:
        file.write(manifest.encode())
    return manifest


def install(archive: Path, root: Path) -> Path:
    """Put the project of an archive into `root`/app, and return that folder.

    The files of the archive that was there before are replaced, and removed where they are gone; what the
    project wrote, such as its sessions, stays. The folder is this process's until it ends. An archive that
    cannot be used changes nothing. Raises: ArchiveError, InUse, OSError.
    """
    make_directory(root)
    _lock(root / "app.lock")
    incoming, folder = root / "app.new", root / "app"
    shutil.rmtree(incoming, ignore_errors=True)
    manifest = extract(archive, incoming)
    folder.mkdir(mode=0o700, exist_ok=True)
    _clear(folder)
    for path in [entry.path for entry in manifest.files] + [MANIFEST]:
        _make_room(folder, path)
        (incoming / path).replace(folder / path)
    shutil.rmtree(incoming)
    return folder


# -- inside ---------------------------------------------------------------------------------


class _Bounded(gzip.GzipFile):
    """Bytes for tarfile, which asks for a whole header at once, whatever length that claims to have."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError("a header is too long")
        return super().read(size)


@contextmanager
def _opened(archive: Path) -> Iterator[tuple[tarfile.TarFile, Manifest]]:
    """The archive after its manifest."""
    try:
        with _Bounded(archive, "rb") as raw, tarfile.open(fileobj=raw, mode="r:") as tar:
            yield tar, _first(tar)
    except ManifestError as error:
        raise ArchiveError(f"{archive}: {MANIFEST}: {error}") from None
    except ArchiveError as error:
        raise ArchiveError(f"{archive}: {error}") from None
    # What tarfile and its parts raise for bytes that are no archive; a chain of headers ends its recursion.
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, RecursionError) as error:
        raise ArchiveError(
            f"{archive}: is damaged, or no archive that `agentscope-supervisor pack` made ({error})"
        ) from None


def _first(tar: tarfile.TarFile) -> Manifest:
    member = tar.next()
    if member is None or member.name != MANIFEST or not _is_plain(member):
        raise ArchiveError(
            f"does not begin with {MANIFEST}; `agentscope-supervisor pack` makes one that does"
        )
    if member.size > MAX_MANIFEST:
        raise ManifestError("is too long")
    return decode(b"".join(_pieces(tar, member)))


def _copy(tar: tarfile.TarFile, manifest: Manifest, folder: Path | None) -> None:
    for entry in manifest.files:
        member = tar.next()
        if member is None:
            raise ArchiveError(f"{entry.path}: is missing")
        if member.name != entry.path:
            raise ArchiveError(f"{entry.path}: is missing, or {member.name[:200]!r} was added before it")
        if not _is_plain(member):
            raise ArchiveError(f"{entry.path}: is a link or a device, not a plain file")
        if member.size != entry.size:
            raise ArchiveError(
                f"{entry.path}: has {member.size} bytes, not the {entry.size} that were packed"
            )
        if folder is None:
            _check(entry, _pieces(tar, member))
            continue
        path = folder / entry.path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _new(path, executable=entry.executable) as file:
            _check(entry, _pieces(tar, member), file)
    if (member := tar.next()) is not None:
        raise ArchiveError(f"{member.name[:200]!r}: was added; the manifest does not know it")
    # To the end, where gzip compares its own sum, in which the manifest is too.
    assert tar.fileobj is not None
    if tar.fileobj.read(_MAX_REST) and tar.fileobj.read(1):
        raise ArchiveError("goes on after its end")


def _new(path: Path, *, executable: bool = False) -> IO[bytes]:
    """A file that is not there yet, for this user alone."""
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700 if executable else 0o600), "wb")


def _check(entry: Entry, pieces: Iterator[bytes], file: IO[bytes] | None = None) -> None:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        if file is not None:
            file.write(piece)
    if digest.hexdigest() != entry.sha256:
        raise ArchiveError(f"{entry.path}: is not what was packed: its sha256 is another")


def _is_plain(member: tarfile.TarInfo) -> bool:
    return member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()


def _pieces(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    file = tar.extractfile(member)
    assert file is not None
    with file:
        while piece := file.read(_PIECE):
            yield piece


def _lock(path: Path) -> None:
    """Take a lock that lasts as long as this process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise InUse(
            f"an instance runs from {path.parent / 'app'} already; choose another --name or --state-dir"
        ) from None


def _clear(folder: Path) -> None:
    """Remove the files of the archive before, and what Python compiled of them."""
    try:
        before = [entry.path for entry in decode((folder / MANIFEST).read_bytes()).files]
    except (OSError, ManifestError):
        before = []
    for path in before:
        if not _leads_out(folder, path) and not (folder / path).is_dir():
            (folder / path).unlink(missing_ok=True)
    for compiled in sorted(folder.rglob("__pycache__")):
        shutil.rmtree(compiled, ignore_errors=True)


def _leads_out(folder: Path, path: str) -> bool:
    """Whether a folder on this path is a link now, or no folder, as only the project can have made it."""
    above = [folder / parent for parent in Path(path).parents[:-1]]
    return any(each.is_symlink() or not each.is_dir() for each in above)


def _make_room(folder: Path, path: str) -> None:
    """Make the folders of a path, and remove what the project has put in its way."""
    for parent in reversed(Path(path).parents[:-1]):
        here = folder / parent
        if here.is_symlink() or not here.is_dir():
            here.unlink(missing_ok=True)
            here.mkdir(mode=0o700)
    file = folder / path
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file)
