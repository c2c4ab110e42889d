"""The manifest of an archive: which files it holds, with their sizes and hashes, and what made it. Pure.

Owns its form, and the rules for one that somebody hands in: a path never leads out of the folder, nothing is
there twice, everything is bounded before it is read. It tells damage and later changes, not who made it:
whoever can write the archive can write its manifest. It opens no file; `archive_write` writes archives,
`archive_read` reads them.
"""

import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Annotated, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

MANIFEST: Final = "agentapp.manifest.json"
"""Its name in the archive, of which it is the first member."""

SCHEMA: Final = 1  # of the manifest; another one is refused
MAX_FILES: Final = 10_000  # a project has dozens; a folder that was not meant has more
MAX_BYTES: Final = 1024**3  # of all files together: code and what it reads, not the weights of a model
MAX_MANIFEST: Final = 8 * 1024**2  # bytes: MAX_FILES with long paths
MAX_PATH: Final = 512  # characters
_NAME: Final = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"  # the instance that is started from it is called so


class ManifestError(Exception):
    """It cannot be used; the text is for a person."""


def wrong_with(path: str) -> str | None:
    """Why this cannot be the path of a file in an archive; None: it can."""
    if len(path) > MAX_PATH:
        return f"is longer than {MAX_PATH} characters"
    if any(part in ("", ".", "..") for part in path.split("/")):
        return "is no plain relative path"
    if not path.isprintable():
        return "holds characters that cannot be printed"
    return None


def _path(path: str) -> str:
    if (wrong := wrong_with(path)) is not None:
        raise ValueError(f"the path {path[:80]!r} {wrong}")
    return path


class Entry(BaseModel):
    """One file. `path` is relative to the project folder, with /; `size` in bytes."""

    model_config = ConfigDict(frozen=True, strict=True)

    path: Annotated[str, AfterValidator(_path)]
    size: int = Field(ge=0, le=MAX_BYTES)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    executable: bool = False


class Manifest(BaseModel):
    """The files of an archive, in their order there; the name of the project, and the versions it had."""

    model_config = ConfigDict(frozen=True, strict=True)

    schema_version: int = SCHEMA
    name: str = Field(pattern=_NAME)
    versions: Mapping[str, str]
    files: list[Entry] = Field(max_length=MAX_FILES)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        paths = [entry.path for entry in self.files]
        if paths != sorted(set(paths)):
            raise ValueError("the files are not in order, each once")
        if MANIFEST in paths:
            raise ValueError(f"{MANIFEST} lists itself")
        for above, below in pairwise(sorted(path + "/" for path in paths)):
            if below.startswith(above):
                raise ValueError(f"{above.removesuffix('/')!r} is a file and a folder")
        if sum(entry.size for entry in self.files) > MAX_BYTES:
            raise ValueError(f"the files are larger than {MAX_BYTES >> 20} MB together")
        return self

    def encode(self) -> bytes:
        """The same bytes for the same files and versions; JSON that people can read."""
        return json.dumps(self.model_dump(), indent=1, sort_keys=True).encode() + b"\n"


def made(name: str, versions: Mapping[str, str], files: Iterable[Entry]) -> Manifest:
    """The manifest of a new archive. Raises: ManifestError when it breaks a rule."""
    try:
        ordered = sorted(files, key=lambda entry: entry.path)
        return Manifest(name=name, versions=dict(versions), files=ordered)
    except ValidationError as error:
        raise ManifestError(_told(error)) from None


def decode(raw: bytes) -> Manifest:
    """What `Manifest.encode` made. Raises: ManifestError."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise ManifestError("is not JSON") from None
    if not isinstance(value, dict) or not isinstance(value.get("schema_version"), int):
        raise ManifestError("has no schema_version")
    if value["schema_version"] != SCHEMA:
        raise ManifestError(f"is of schema {value['schema_version']}; this version reads schema {SCHEMA}")
    try:
        return Manifest.model_validate(value)
    except ValidationError as error:
        raise ManifestError(_told(error)) from None


def _told(error: ValidationError) -> str:
    """The first problem; the others are of the same hand."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return ": ".join(part for part in (place, first["msg"].removeprefix("Value error, ")) if part)
