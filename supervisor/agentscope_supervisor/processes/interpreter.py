"""The interpreter of the workers: which one it is, and whether a worker can run in it.

`supervisor.python` lets workers run in the project's own environment, on another AgentScope than is installed
here. It is looked at once, before anything is started, because a worker that cannot even be imported has no
way to say what is missing. AgentScope itself is the worker's business: it checks its versions as it starts.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from agentscope_protocol.config.settings import Settings

OLDEST: Final = (3, 11)

ANSWER_WITHIN: Final = 3.0
"""Seconds for an interpreter to tell about itself; an idle machine takes a tenth of one. What has not
answered by then is not judged: whether it works is seen when the first worker starts."""

# What a worker imports before it can tell anybody what is wrong. Each is found, not imported: 50 ms in all.
_NEEDED: Final = (
    *("agentscope_worker", "agentscope_protocol"),
    *("msgpack", "orjson", "packaging", "pydantic", "uvloop", "yaml"),
)

# Runs on any Python 3, so that an old one can say that it is old.
_PROBE: Final = """
import json, sys
sys.path.pop(0)
missing = major = None
if sys.version_info >= (3, 8):
    from importlib import metadata, util
    missing = [name for name in sys.argv[1:] if util.find_spec(name) is None]
    try:
        major = metadata.version("agentscope").split(".")[0]
    except metadata.PackageNotFoundError:
        pass
print(json.dumps([list(sys.version_info[:3]), missing, major]))
"""


class InterpreterError(Exception):
    """No worker can run in `supervisor.python`; the text says why, and what mends it."""


def path_of(settings: Settings, project: Path) -> str:
    """The interpreter of the workers.

    A path is relative to the project folder; a bare name (`python3.12`) is looked up in PATH. Links are not
    followed: that of a virtual environment is what makes it one.
    """
    chosen = settings.supervisor.python
    if chosen is None:
        return sys.executable
    if os.sep in chosen:
        return os.path.normpath(project / chosen)
    return shutil.which(chosen) or chosen


def examine(settings: Settings, project: Path) -> None:
    """Find out whether workers can run in `supervisor.python`; takes as long as that needs to start.

    Raises: InterpreterError.
    """
    if settings.supervisor.python is None:
        return
    python = path_of(settings, project)
    try:
        told = subprocess.run(
            [python, "-c", _PROBE, *_NEEDED],
            cwd=project,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ANSWER_WITHIN,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return
    except OSError as error:
        raise InterpreterError(_unusable(python, error)) from None
    try:
        version, missing, major = json.loads(told.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        lines = told.stderr.strip().splitlines() or ["nothing"]
        said = lines[-1 if lines[0].startswith("Traceback") else 0]
        message = f"{python} is no Python that works: status {told.returncode}, it said {said!r}"
        raise InterpreterError(f"supervisor.python: {message}") from None
    if tuple(version[:2]) < OLDEST:
        found, oldest = ".".join(map(str, version)), ".".join(map(str, OLDEST))
        message = f"{python} is Python {found}; workers need {oldest} or newer"
        raise InterpreterError(
            f"supervisor.python: {message}. Make an environment with one: python{oldest} -m venv .venv"
        )
    if missing:
        extra = f"[v{major}]" if major in ("1", "2") else ""
        wanted = shlex.quote(f"agentscope-supervisor{extra}")
        what = "has not this package" if "agentscope_worker" in missing else "lacks parts of this package"
        raise InterpreterError(
            f"supervisor.python: {python} {what} (cannot import {', '.join(missing)}). "
            f"To mend it: {shlex.quote(python)} -m pip install {wanted}"
        )


def _unusable(python: str, error: OSError) -> str:
    mend = "name the interpreter of an environment, such as .venv/bin/python, or leave the key out"
    if isinstance(error, FileNotFoundError):
        # The same error tells of a script whose own interpreter is missing.
        why = "does not exist" if not os.path.lexists(python) else "points to what does not exist"
    elif isinstance(error, PermissionError):
        why = "is not executable"
    else:
        why = f"cannot be run: {error.strerror}"
    return f"supervisor.python: {python} {why}; {mend}"
