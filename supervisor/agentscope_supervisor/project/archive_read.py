"""Reads an archive of a project: checks it completely before any file is used, then installs it.

An archive may come from anywhere. Nothing in it is trusted beyond what the manifest lists and a hash
confirms: regular files only, in the order of the manifest, with the listed sizes, at paths inside the
project folder. No more is read than that allows, however well it is compressed. `archive_write` makes
archives.

    <state dir>/agentscope-supervisor/<name>/app        the project: files of the archive, and what it writes
                                            /app.new    an archive that is being checked
                                            /app.lock   held while an instance runs from this folder
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

_CHUNK: Final = 64 * 1024  # bytes of a file in memory at a time
_MAX_REST: Final = 64 * 1024  # bytes after the last file: tar pads its last record of 10 KB with zeros
_MAX_HEADER: Final = 1024 * 1024  # bytes that tarfile may read at once; it does not limit headers itself


class ArchiveError(Exception):
    """The archive cannot be used. The text names the file at fault and is meant for the user."""


class InUse(Exception):
    """Another instance runs from the folder. A later attempt may succeed."""


def verify(archive: Path) -> Manifest:
    """Check an archive completely. Raises: ArchiveError, OSError."""
    with _opened(archive) as (tar, manifest):
        _copy(tar, manifest, None)
    return manifest


def manifest_of(archive: Path) -> Manifest:
    """Return the manifest of an archive without checking its files. Raises: ArchiveError, OSError."""
    with _opened(archive) as (_, manifest):
        return manifest


def extract(archive: Path, folder: Path) -> Manifest:
    """Check an archive, and write its files and its manifest to a new folder.

    Raises: ArchiveError, OSError; files that have been written by then stay.
    """
    folder.mkdir(mode=0o700, parents=True)
    with _opened(archive) as (tar, manifest):
        _copy(tar, manifest, folder)
    with _new(folder / MANIFEST) as file:
        file.write(manifest.encode())
    return manifest


def install(archive: Path, root: Path) -> Path:
    """Install the project of an archive in `root`/app, and return that folder.

    Files of the previously installed archive are replaced, or removed if the new one does not have them.
    Files that the project wrote, such as sessions, stay. This process holds the folder until it exits. An
    invalid archive changes nothing. Raises: ArchiveError, InUse, OSError.
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


# -- internals ------------------------------------------------------------------------------


class _Bounded(gzip.GzipFile):
    """A gzip stream for tarfile, which reads a header in one call, however long the header claims to be."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header is longer than {_MAX_HEADER} bytes")
        return super().read(size)


@contextmanager
def _opened(archive: Path) -> Iterator[tuple[tarfile.TarFile, Manifest]]:
    """Open an archive and read its manifest."""
    try:
        with _Bounded(archive, "rb") as raw, tarfile.open(fileobj=raw, mode="r:") as tar:
            yield tar, _first(tar)
    except ManifestError as error:
        raise ArchiveError(f"{archive}: {MANIFEST}: {error}") from None
    except ArchiveError as error:
        raise ArchiveError(f"{archive}: {error}") from None
    # tarfile and gzip raise these for bytes that are not an archive; a chain of headers exhausts the stack.
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, RecursionError) as error:
        raise ArchiveError(
            f"{archive}: is damaged, or was not made by `agentscope-supervisor pack` ({error})"
        ) from None


def _first(tar: tarfile.TarFile) -> Manifest:
    member = tar.next()
    if member is None or member.name != MANIFEST or not _is_regular(member):
        raise ArchiveError(
            f"does not start with {MANIFEST}; make the archive with `agentscope-supervisor pack`"
        )
    if member.size > MAX_MANIFEST:
        raise ManifestError(f"is longer than {MAX_MANIFEST >> 20} MB")
    return decode(b"".join(_chunks(tar, member)))


def _copy(tar: tarfile.TarFile, manifest: Manifest, folder: Path | None) -> None:
    for entry in manifest.files:
        member = tar.next()
        if member is None:
            raise ArchiveError(f"{entry.path}: is missing")
        if member.name != entry.path:
            raise ArchiveError(f"{entry.path}: is missing, or {member.name[:200]!r} was added before it")
        if not _is_regular(member):
            raise ArchiveError(f"{entry.path}: is a link or a device, not a regular file")
        if member.size != entry.size:
            raise ArchiveError(f"{entry.path}: has {member.size} bytes; the manifest lists {entry.size}")
        if folder is None:
            _check(entry, _chunks(tar, member))
            continue
        path = folder / entry.path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _new(path, executable=entry.executable) as file:
            _check(entry, _chunks(tar, member), file)
    if (member := tar.next()) is not None:
        raise ArchiveError(f"{member.name[:200]!r}: was added; the manifest does not list it")
    # Read to the end, where gzip compares its checksum, which covers the manifest too.
    assert tar.fileobj is not None
    if tar.fileobj.read(_MAX_REST) and tar.fileobj.read(1):
        raise ArchiveError("has data after its end")


def _new(path: Path, *, executable: bool = False) -> IO[bytes]:
    """Open a file that must not exist yet, readable by this user only."""
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700 if executable else 0o600), "wb")


def _check(entry: Entry, chunks: Iterator[bytes], file: IO[bytes] | None = None) -> None:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
        if file is not None:
            file.write(chunk)
    if digest.hexdigest() != entry.sha256:
        raise ArchiveError(f"{entry.path}: has changed since it was packed: its sha256 is not the manifest's")


def _is_regular(member: tarfile.TarInfo) -> bool:
    return member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()


def _chunks(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    file = tar.extractfile(member)
    assert file is not None
    with file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _lock(path: Path) -> None:
    """Take a lock that this process holds until it exits."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise InUse(
            f"another instance runs from {path.parent / 'app'}; choose another --name or --state-dir"
        ) from None


def _clear(folder: Path) -> None:
    """Remove the files of the previous archive and the bytecode that Python compiled from them."""
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
    """Return whether a parent of this path is now a link or a file. Only the project can have made it one."""
    above = [folder / parent for parent in Path(path).parents[:-1]]
    return any(each.is_symlink() or not each.is_dir() for each in above)


def _make_room(folder: Path, path: str) -> None:
    """Make the parent folders of a path, and remove anything else that the project put in its place."""
    for parent in reversed(Path(path).parents[:-1]):
        here = folder / parent
        if here.is_symlink() or not here.is_dir():
            here.unlink(missing_ok=True)
            here.mkdir(mode=0o700)
    file = folder / path
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file)
