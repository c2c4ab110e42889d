"""The manifest of an archive: its files, their sizes and hashes, and the versions of the packages. Pure.

Owns the format and the rules for a manifest from an untrusted source: no path leads out of the folder, no
path occurs twice, and every size is limited before it is read. The manifest detects damage and later
changes. It does not prove who made the archive: a person who can write an archive can write its manifest. It
opens no file; `archive_write` writes archives, `archive_read` reads them.
"""

import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Annotated, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

MANIFEST: Final = "agentapp.manifest.json"
"""The name of the manifest in the archive, where it is the first member."""

SCHEMA: Final = 1  # version of the format; other versions are refused
MAX_FILES: Final = 10_000  # a project has dozens; more means that the wrong folder was packed
MAX_BYTES: Final = 1024**3  # of all files together: code and its data, not the weights of a model
MAX_MANIFEST: Final = 8 * 1024**2  # bytes: MAX_FILES with long paths
MAX_PATH: Final = 512  # characters
_NAME: Final = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"  # a valid name of an instance, which it becomes


class ManifestError(Exception):
    """The manifest cannot be used. The text is meant for the user."""


def wrong_with(path: str) -> str | None:
    """Return why this cannot be the path of a file in an archive; None if it can."""
    if len(path) > MAX_PATH:
        return f"is longer than {MAX_PATH} characters"
    if any(part in ("", ".", "..") for part in path.split("/")):
        return "is not a relative path without `.` and `..`"
    if not path.isprintable():
        return "contains characters that cannot be printed"
    return None


def _path(path: str) -> str:
    if (wrong := wrong_with(path)) is not None:
        raise ValueError(f"the path {path[:80]!r} {wrong}")
    return path


class Entry(BaseModel):
    """One file. `path` is relative to the project folder and uses /; `size` is in bytes."""

    model_config = ConfigDict(frozen=True, strict=True)

    path: Annotated[str, AfterValidator(_path)]
    size: int = Field(ge=0, le=MAX_BYTES)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    executable: bool = False


class Manifest(BaseModel):
    """The files of an archive in their order, the name of the project, and the versions in use at packing."""

    model_config = ConfigDict(frozen=True, strict=True)

    schema_version: int = SCHEMA
    name: str = Field(pattern=_NAME)
    versions: Mapping[str, str]
    files: list[Entry] = Field(max_length=MAX_FILES)

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        paths = [entry.path for entry in self.files]
        if paths != sorted(set(paths)):
            raise ValueError("the paths are not sorted and unique")
        if MANIFEST in paths:
            raise ValueError(f"{MANIFEST} must not list itself")
        for above, below in pairwise(sorted(path + "/" for path in paths)):
            if below.startswith(above):
                raise ValueError(f"{above.removesuffix('/')!r} is both a file and a folder")
        if sum(entry.size for entry in self.files) > MAX_BYTES:
            raise ValueError(f"the files have more than {MAX_BYTES >> 20} MB in total")
        return self

    def encode(self) -> bytes:
        """Return readable JSON; the same files and versions give the same bytes."""
        return json.dumps(self.model_dump(), indent=1, sort_keys=True).encode() + b"\n"


def new_manifest(name: str, versions: Mapping[str, str], files: Iterable[Entry]) -> Manifest:
    """Return the manifest of a new archive. Raises: ManifestError if it breaks a rule."""
    try:
        ordered = sorted(files, key=lambda entry: entry.path)
        return Manifest(name=name, versions=dict(versions), files=ordered)
    except ValidationError as error:
        raise ManifestError(_first_problem(error)) from None


def decode(raw: bytes) -> Manifest:
    """Parse the output of `Manifest.encode`. Raises: ManifestError."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise ManifestError("is not JSON") from None
    if not isinstance(value, dict) or not isinstance(value.get("schema_version"), int):
        raise ManifestError("has no schema_version")
    if value["schema_version"] != SCHEMA:
        raise ManifestError(f"has schema_version {value['schema_version']}; this version reads {SCHEMA}")
    try:
        return Manifest.model_validate(value)
    except ValidationError as error:
        raise ManifestError(_first_problem(error)) from None


def _first_problem(error: ValidationError) -> str:
    """Return the first problem as text; further problems usually have the same cause."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return ": ".join(part for part in (place, first["msg"].removeprefix("Value error, ")) if part)
