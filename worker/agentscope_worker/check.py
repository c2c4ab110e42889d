"""`agentscope-supervisor check`, the part that needs the project's own interpreter.

Looks at requirements.txt against what is installed, and loads app.py as a worker would, without starting
anything: no on_startup, no model is asked. Reports everything that it finds, not the first only.
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

# A line of requirements.txt that is an option (-r, --index-url) or a link is pip's business, not ours.
_NOT_A_REQUIREMENT = re.compile(r"^(-|[a-z+]+://|\.|/)")


def check(project: Path, snapshot: bytes) -> int:
    """Report on stderr; returns the exit status, 0 or 78."""
    problems = list(requirement_problems(project / "requirements.txt"))
    try:
        asyncio.run(host.boot(settings_module.restore(snapshot), project, hooks=False))
    except host.BootError as error:
        problems.append(error.message)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 78 if problems else 0


def requirement_problems(path: Path) -> Iterator[str]:
    """What requirements.txt asks for and is not installed here, each with the pip line that mends it."""
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
            yield f"{where}: {text!r} is not a requirement: {error}"
            continue
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        mend = f"{sys.executable} -m pip install {str(wanted)!r}"
        try:
            installed = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            yield f"{where}: {wanted.name} is not installed; mend it with: {mend}"
            continue
        if not wanted.specifier.contains(installed, prereleases=True):
            yield f"{where}: {wanted} is wanted, {installed} is installed; mend it with: {mend}"
