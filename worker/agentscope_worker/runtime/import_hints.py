"""Advice to the author after a failed import of app.py.

Owns the advice only; `loading` reports the error itself. It must not import agentscope.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Final

from agentscope_worker.runtime.boot_error import pip_install

_NO_NAME: Final = re.compile(r"cannot import name '(\w+)' from '([\w.]+)'")

_SUCCESSORS: Final = {"ReActAgent": "Agent"}
"""Classes of AgentScope 1.x, and what takes their place in 2.x."""


def hint(error: BaseException, project: Path) -> str:
    """A line of advice on this error, or ""."""
    if not isinstance(error, ImportError):
        return ""
    missing = _missing_name(error)
    if missing.partition(".")[0] == "agentscope":
        return _other_major(missing, metadata.version("agentscope"))
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if not _is_local(package, project):
            return (
                f"The project has no module {package}, and no package of this environment has it. To install "
                f"a package, name it in requirements.txt, and run: {pip_install('-r')} "
                f"{project / 'requirements.txt'}"
            )
    return ""


def _missing_name(error: ImportError) -> str:
    """The dotted name that could not be imported, or ""."""
    if isinstance(error, ModuleNotFoundError):
        return error.name or ""
    found = _NO_NAME.match(str(error))
    return f"{found[2]}.{found[1]}" if found else ""


def _other_major(missing: str, version: str) -> str:
    has, other = ("1", "2") if version.startswith("1.") else ("2", "1")
    module, _, name = missing.rpartition(".")
    old = {new: old for old, new in _SUCCESSORS.items()}
    successor = (_SUCCESSORS if has == "2" else old).get(name)
    instead = f"; its class is {module}.{successor}" if successor else ""
    return (
        f"AgentScope {version} has no {missing}{instead}. An App that is written for {other}.x needs: "
        f"{pip_install(f'agentscope-supervisor[v{other}]')}"
    )


def _is_local(package: str, project: Path) -> bool:
    """Whether the module exists in the project: then a part of it is missing, which pip cannot install."""
    return package in sys.stdlib_module_names or any(
        (project / name).exists() for name in (package, f"{package}.py")
    )
