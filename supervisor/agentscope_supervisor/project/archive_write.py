"""Packs a project folder into one archive: a gzipped tar that starts with its manifest.

The same files and versions give the same bytes, at any time and for any user. The format is tar because it
keeps the executable bit and, unlike zip, can be checked while it is read from the front; it is gzip because
every system can read it. `archive_rules` decides which files are left out; `archive_read` reads archives.
"""

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agentscope_supervisor.project import archive_read
from agentscope_supervisor.project.archive_rules import KEY_WITHIN, is_private_key, is_session, why_not
from agentscope_supervisor.project.manifest import (
    MANIFEST,
    MAX_BYTES,
    Entry,
    Manifest,
    ManifestError,
    new_manifest,
    wrong_with,
)

SUFFIX: Final = ".tar.gz"
_TIME: Final = 315532800  # 1980-01-01, the mtime of every file: tar warns about much older times


class PackError(Exception):
    """The folder contains something that cannot be packed. The text names it."""


@dataclass(slots=True)
class Packed:
    """The archive that was new_manifest.

    `left_out`: reason -> paths in the project; the path of a folder ends with /.
    """

    manifest: Manifest
    sha256: str
    size: int  # bytes
    left_out: dict[str, list[str]] = field(default_factory=dict)


def pack(folder: Path, output: Path, *, name: str, versions: Mapping[str, str], save_dir: str) -> Packed:
    """Make the archive of the project in `folder`. `save_dir`: the project's folder of sessions.

    The archive is read and checked again before it appears at `output`. Raises: PackError, OSError.
    """
    part = output.with_name(f".{output.name}.part")
    walk = _Walk(folder, save_dir)
    own = {output.resolve(), part.resolve()}
    found = [path for path in walk.files() if path.resolve() not in own]
    try:
        manifest = new_manifest(name, versions, (_entry(folder, path) for path in found))
    except ManifestError as error:
        raise PackError(str(error)) from None
    try:
        _write(folder, manifest, part)
        archive_read.verify(part)
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = part.stat().st_size
        part.replace(output)
    except archive_read.ArchiveError as error:
        raise PackError(f"a file changed while it was packed: {error}") from None
    finally:
        part.unlink(missing_ok=True)
    return Packed(manifest, digest, size, walk.left_out)


class _Walk:
    """Walks a project folder, file by file."""

    def __init__(self, project: Path, save_dir: str) -> None:
        self._project: Final = project
        # Not resolved, because the paths of the walk are not resolved either.
        self._sessions: Final = Path(os.path.abspath(project / save_dir))
        self.left_out: Final[dict[str, list[str]]] = {}

    def files(self, below: Path | None = None) -> Iterator[Path]:
        """Yield the files to pack, and record the others in `left_out`. Raises: PackError, OSError."""
        for item in sorted(os.scandir(below or self._project), key=lambda item: item.name):
            path = Path(item.path)
            relative = path.relative_to(self._project).as_posix()
            is_folder = item.is_dir(follow_symlinks=False)
            if (reason := self._why_not(item, path)) is not None:
                self.left_out.setdefault(reason, []).append(relative + "/" * is_folder)
            elif is_folder:
                yield from self.files(path)
            elif (wrong := wrong_with(relative)) is not None:
                raise PackError(f"{relative!r} {wrong}")
            elif relative != MANIFEST:  # left by an extracted archive; the new archive gets its own
                yield path

    def _why_not(self, item: os.DirEntry[str], path: Path) -> str | None:
        if (reason := why_not(item.name, folder=item.is_dir())) is not None:
            return reason
        if path == self._sessions:
            return "sessions"
        if item.is_symlink():
            self._check_link(path)
        elif item.is_dir():
            return "environment" if (path / "pyvenv.cfg").exists() else None
        elif not item.is_file():
            return "not a file"
        with path.open("rb") as file:
            beginning = file.read(KEY_WITHIN)
        if is_private_key(beginning):
            return "secret"
        return "sessions" if is_session(beginning) else None  # also of a `save_dir` that was used before

    def _check_link(self, path: Path) -> None:
        """Accept a link to a file of the project, which is packed as that file; refuse any other link."""
        name, target = path.relative_to(self._project), path.resolve()
        if not target.is_relative_to(self._project.resolve()):
            raise PackError(f"{name}: is a link to {target}, outside the project; copy the file instead")
        if not target.is_file():
            raise PackError(
                f"{name}: is a link to {path.readlink()}, which is not a file; copy the files instead"
            )


def _entry(folder: Path, path: Path) -> Entry:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if status.st_size > MAX_BYTES:
            raise PackError(f"{path.name}: is larger than {MAX_BYTES >> 20} MB")
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Entry(
        path=path.relative_to(folder).as_posix(),
        size=status.st_size,
        sha256=digest,
        executable=bool(status.st_mode & 0o100),
    )


def _write(folder: Path, manifest: Manifest, part: Path) -> None:
    with (
        part.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        text = manifest.encode()
        tar.addfile(_member(MANIFEST, len(text)), io.BytesIO(text))
        for entry in manifest.files:
            with (folder / entry.path).open("rb") as source:
                try:
                    tar.addfile(_member(entry.path, entry.size, executable=entry.executable), source)
                except OSError as error:
                    raise PackError(f"{entry.path}: cannot be read to its end: {error}") from None


def _member(name: str, size: int, *, executable: bool = False) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = size, _TIME, 0o755 if executable else 0o644
    return member
