"""Finds the Python interpreter of the workers, and checks whether a worker can run in it.

With `supervisor.python`, workers run in the project's own environment, which may have another version of
AgentScope than the supervisor's environment. The interpreter is checked once, before anything is started,
because a worker that cannot be imported cannot report what is missing. The worker itself checks the version
of AgentScope when it starts.
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
from agentscope_supervisor.processes.worker_user import WorkerUser

OLDEST: Final = (3, 11)

ANSWER_WITHIN: Final = 3.0
"""Seconds within which the interpreter must answer; an idle machine takes 0.1 s.

A slower interpreter is not rejected: the start of the first worker shows whether it works."""

# Modules that a worker imports before it can report an error. They are located, not imported: 50 ms in all.
_NEEDED: Final = (
    *("agentscope_worker", "agentscope_protocol"),
    *("msgpack", "orjson", "packaging", "pydantic", "uvloop", "yaml"),
)

# Runs on any Python 3, so that an old interpreter can report its version.
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
    """No worker can run in `supervisor.python`. The message contains the reason and the remedy."""


def path_of(settings: Settings, project: Path) -> str:
    """Return the path of the interpreter of the workers.

    A path is relative to the project folder. A bare name (`python3.12`) is looked up in PATH. Symbolic links
    are not resolved, because Python finds a virtual environment by the link inside it.
    """
    chosen = settings.supervisor.python
    if chosen is None:
        return sys.executable
    if os.sep in chosen:
        return os.path.normpath(project / chosen)
    return shutil.which(chosen) or chosen


def worker_command(settings: Settings, project: Path) -> list[str]:
    """Return the command of a worker, without the arguments that `spawn` adds."""
    # -P: the project folder must not shadow what the worker itself imports; the worker adds it to the path
    # later.
    return [path_of(settings, project), "-P", "-m", "agentscope_worker"]


def examine(settings: Settings, project: Path, user: WorkerUser | None = None) -> None:
    """Check whether workers can run in `supervisor.python`, as `user` if it is another one. Starts the
    interpreter and waits for it, up to `ANSWER_WITHIN` seconds.

    Raises: InterpreterError.
    """
    if settings.supervisor.python is None and user is None:
        return
    python = path_of(settings, project)
    try:
        probe = subprocess.run(
            [python, "-c", _PROBE, *_NEEDED],
            cwd=project,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ANSWER_WITHIN,
            check=False,
            **(user.options if user is not None else {}),
        )
    except subprocess.TimeoutExpired:
        return
    except OSError as error:
        raise InterpreterError(_unusable(python, error)) from None
    try:
        version, missing, major = json.loads(probe.stdout.splitlines()[-1])
        found_version = tuple(map(int, version[:2]))
    except (ValueError, IndexError, TypeError, OverflowError):
        lines = probe.stderr.strip().splitlines() or ["nothing"]
        output = lines[-1 if lines[0].startswith("Traceback") else 0]
        message = f"{python} does not work: exit status {probe.returncode}, output {output!r}"
        raise InterpreterError(f"supervisor.python: {message}") from None
    if found_version < OLDEST:
        found, oldest = ".".join(map(str, version)), ".".join(map(str, OLDEST))
        message = f"{python} is Python {found}; workers need {oldest} or newer"
        raise InterpreterError(
            f"supervisor.python: {message}. Create an environment with it: python{oldest} -m venv .venv"
        )
    if missing:
        extra = f"[v{major}]" if major in ("1", "2") else ""
        wanted = shlex.quote(f"agentscope-supervisor{extra}")
        what = (
            "does not have this package installed"
            if "agentscope_worker" in missing
            else "lacks dependencies of this package"
        )
        raise InterpreterError(
            f"supervisor.python: {python} {what} (cannot import {', '.join(missing)}). "
            f"To fix it: {shlex.quote(python)} -m pip install {wanted}"
        )


def _unusable(python: str, error: OSError) -> str:
    remedy = "set it to the interpreter of an environment, such as .venv/bin/python, or remove the key"
    if isinstance(error, FileNotFoundError):
        # The same error is raised for a script whose own interpreter is missing.
        why = "does not exist" if not os.path.lexists(python) else "points to a file that does not exist"
    elif isinstance(error, PermissionError):
        why = "is not executable"
    else:
        why = f"cannot be run: {error.strerror}"
    return f"supervisor.python: {python} {why}; {remedy}"
