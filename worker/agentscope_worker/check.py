"""The part of `agentscope-supervisor check` that runs in the project's own interpreter.

Compares requirements.txt with the installed packages, and loads app.py as a worker would. It must not start
anything: `on_startup` is not called and no model is contacted. It reports all problems, not only the first.

Read next: `host`.
"""

import asyncio
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from agentscope_protocol.config import settings as settings_module
from agentscope_worker import host

# Lines of requirements.txt that hold a pip option (-r, --index-url), a URL or a path are left to pip.
_NOT_A_REQUIREMENT = re.compile(r"^(-|[a-z+]+://|\.|/)")


def check(project: Path, snapshot: bytes) -> int:
    """Print each problem on stderr; returns the exit status: 0, or 78 if there are problems."""
    problems = list(requirement_problems(project / "requirements.txt"))
    try:
        asyncio.run(host.boot(settings_module.restore(snapshot), project, hooks=False))
    except host.BootError as error:
        problems.append(error.message)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 78 if problems else 0


def requirement_problems(path: Path) -> Iterator[str]:
    """One message for each requirement that is not installed here, with the pip command that installs it."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return
    for number, line in enumerate(lines, 1):
        text = line.split(" #")[0].strip()
        if not text or text.startswith("#") or _NOT_A_REQUIREMENT.match(text):
            continue
        where = f"{path.name}:{number}"
        try:
            wanted = Requirement(text)
        except InvalidRequirement as error:
            yield f"{where}: {text!r} is not a valid requirement: {error}"
            continue
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        pip = f"{sys.executable} -m pip install {str(wanted)!r}"
        try:
            installed = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            yield f"{where}: {wanted.name} is not installed; install it with: {pip}"
            continue
        if not wanted.specifier.contains(installed, prereleases=True):
            yield f"{where}: {wanted} is required, but {installed} is installed; install it with: {pip}"
