"""The part of `agentscope-supervisor check` that runs in the project's own interpreter.

Compares requirements.txt with the installed packages, and loads app.py as a worker does: with the command,
the environment, the event loop and the modules of a worker. It must not start anything: `on_startup` is not
called and no model is contacted. It must not write to the project either: `check` may run as root, and the
workers as another user. It reports all problems, not only the first.

Read next: `host`.
"""

import asyncio
import contextlib
import locale
import os
import sys
from collections.abc import Collection, Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

import uvloop
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion

from agentscope_protocol.config import settings as settings_module
from agentscope_worker import host, requirements_file, shadowing, zygote
from agentscope_worker.requirements_file import OtherFile


def check(project: Path, snapshot: bytes, parts: Collection[str]) -> int:
    """Print each problem on stderr; returns the exit status: 0, or 78 if there are problems.

    `parts`: features the settings use, as for `zygote.preload`.
    """
    sys.dont_write_bytecode = True
    problems = list(requirement_problems(project / "requirements.txt"))
    missing: list[str] = []
    with contextlib.suppress(zygote.CannotFork):  # the start reports the reason
        missing = zygote.preload(parts)
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    try:
        runner.run(host.boot(settings_module.restore(snapshot), project, hooks=False))
        problems += missing  # otherwise the start has reported the first of them
    except host.BootError as error:
        problems.append(error.message)
    for clash in shadowing.clashes(project):
        name = clash.path.name
        if clash.hidden and clash.used:
            problems.append(f"{clash.used}: the import returns {clash.other}, not {name}; rename {name}")
        else:
            print(f"warning: {name} replaces {clash.other} for all packages; rename it", file=sys.stderr)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 78 if problems else 0


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
