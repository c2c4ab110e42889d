"""Makes the module names of agentscope-runtime importable: `names` has the table of what answers to them.

`install` adds a finder in front of `sys.meta_path`. It answers only to `agentscope_runtime` and its
submodules. If the real package is installed and can work, the finder leaves these names to it. The
environment variable AGENTSCOPE_RUNTIME decides otherwise: `light` for the modules of this room, `package` for
the real one.

This module is imported at the start of every interpreter of an environment (`agentscope_supervisor.pth`), so
that `python app.py` works too. It must import nothing but what Python has loaded by then.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import Final

ROOT: Final = "agentscope_runtime"
VARIABLE: Final = "AGENTSCOPE_RUNTIME"
"""`light`, `package`, or `auto` (the default)."""

_ROOM: Final = "agentscope_worker.agentapp"


def names() -> dict[str, dict[str, str]]:
    """The table, which only a project with an AgentApp needs."""
    from agentscope_worker.agentapp.names import NAMES

    return NAMES


class _Finder:
    """Finds and loads the modules of agentscope-runtime, if those of this room answer."""

    def __init__(self) -> None:
        self._is_light: bool | None = None

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != ROOT and not name.startswith(f"{ROOT}."):
            return None
        if self._is_light is None or name == ROOT:
            self._is_light = is_light()
        if not self._is_light:
            return None
        if name not in names():
            raise ModuleNotFoundError(
                f"{name} is not part of the AgentApp of agentscope-supervisor. If the project needs it, "
                f"install agentscope-runtime with AgentScope 1.x and set {VARIABLE}=package",
                name=name,
            )
        return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """None: an ordinary module."""

    def exec_module(self, module: ModuleType) -> None:
        table = names()[module.__name__]
        places = {name: home for home, names in table.items() for name in names.split()}
        # Names are looked up when they are used, so that the import of one costs nothing for the others.

        def look_up(name: str) -> object:
            if name not in places:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            home = places[name] if places[name].startswith(ROOT) else f"{_ROOM}.{places[name]}"
            value = getattr(importlib.import_module(home), name)
            setattr(module, name, value)
            return value

        module.__all__ = list(places)  # type: ignore[attr-defined]
        module.__getattr__ = look_up  # type: ignore[method-assign]


def is_light() -> bool:
    """Whether the modules of this room answer, and not those of the real package."""
    choice = os.environ.get(VARIABLE, "auto")
    if choice not in ("auto", "light", "package"):
        raise ImportError(f"{VARIABLE} must be auto, light or package, not {choice!r}")
    if choice != "auto":
        return choice == "light"
    if importlib.machinery.PathFinder.find_spec(ROOT) is None:
        return True
    from importlib import metadata

    try:
        return not metadata.version("agentscope").startswith("1.")  # the real package cannot work on 2.x
    except metadata.PackageNotFoundError:
        return False


_FINDER: Final = _Finder()


def install() -> None:
    """Make the names importable, once for a process."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
