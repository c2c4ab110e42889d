"""Compares the requirements of a project with the packages that are installed in this environment.

Used by `check`, which refuses a project whose requirements are not met, and by the first worker of an
instance, which logs them. `requirements_file` owns the format of the file.
"""

import locale
import os
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion

from agentscope_worker import requirements_file
from agentscope_worker.requirements_file import OtherFile


def requirement_problems(path: Path) -> Iterator[str]:
    """One message for each requirement that is not installed here, with the pip command that installs it.

    A constraint applies to the packages that the file requires. `path` need not exist.
    """
    found = _Requirements(path.parent)
    if path.exists():
        found.read(path)
    yield from found.problems
    required = {canonicalize_name(wanted.name) for _, wanted in found.wanted}
    relevant = (each for each in found.constraints if canonicalize_name(each[1].name) in required)
    for where, wanted in [*found.wanted, *relevant]:
        if wanted.marker is None or wanted.marker.evaluate():
            yield from _unmet(where, wanted)


class _Requirements:
    """The requirements of a file and of all files that it names; `where` is the file and line of each."""

    def __init__(self, project: Path) -> None:
        self._project: Final = project
        self._seen: Final[set[Path]] = set()
        self.wanted: Final[list[tuple[str, Requirement]]] = []
        self.constraints: Final[list[tuple[str, Requirement]]] = []
        self.problems: Final[list[str]] = []

    def read(self, path: Path, *, constrains: bool = False, named_by: str = "") -> None:
        if path in self._seen:
            return
        self._seen.add(path)
        shown = os.path.relpath(path, self._project)
        try:
            text = requirements_file.decode(path.read_bytes(), locale.getencoding())
        except OSError as error:
            self.problems.append(f"{named_by or shown}: cannot read {shown}: {error.strerror}")
            return
        except (UnicodeDecodeError, LookupError) as error:
            self.problems.append(f"{shown}: cannot be decoded ({error}); save the file as UTF-8")
            return
        for number, line in requirements_file.lines(text, os.environ):
            where = f"{shown}:{number}"
            try:
                found = requirements_file.parse(line)
            except InvalidRequirement as error:
                problem = f"{where}: {line!r} is not a valid requirement: {error}"
                self.problems.append(requirements_file.without_secrets(problem))
                continue
            if isinstance(found, OtherFile):
                other = Path(os.path.normpath(path.parent / found.path))
                self.read(other, constrains=constrains or found.constrains, named_by=where)
            elif found is not None:
                (self.constraints if constrains else self.wanted).append((where, found))


def _unmet(where: str, wanted: Requirement) -> Iterator[str]:
    # The URL of a requirement may contain a password.
    what = repr(str(wanted)) if wanted.url is None else "-r requirements.txt"
    pip = f"{sys.executable} -m pip install {what}"
    try:
        installed = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        yield f"{where}: {wanted.name} is not installed; install it with: {pip}"
        return
    try:
        is_met = not wanted.specifier or wanted.specifier.contains(installed, prereleases=True)
    except InvalidVersion:  # of a package that was not installed by pip
        is_met = False
    if not is_met:
        yield f"{where}: {wanted} is required, but {installed} is installed; install it with: {pip}"
