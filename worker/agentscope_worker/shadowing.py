"""Finds files of a project that have the name of another module.

A worker puts the project folder first on `sys.path`, but only after it has imported its own modules. An
import of `calendar` in a project with a `calendar.py` then returns the module of the standard library, and a
module that a library imports later comes from the project. `check` reports both, after it has loaded the App
as a worker does.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

BUILT_IN: Final = "a built-in module"


@dataclass(frozen=True, slots=True)
class Clash:
    """A file or package of the project, and the other module of its name.

    `used`: the place of an import in the project, or "". `hidden`: whether that import returns the other.
    """

    path: Path
    other: str
    used: str
    hidden: bool


def clashes(project: Path) -> Iterator[Clash]:
    """Yield each clash that matters, after the App has been loaded, or as far as it could be loaded."""
    project = project.resolve()  # as `loading` does
    imports = _imports(project)
    for path in sorted(project.iterdir()):
        name = path.stem if path.suffix == ".py" else path.name
        if name == "app" or not name.isidentifier() or not _is_module(path):
            continue
        other = _other(name, project)
        used = imports.get(name, "")
        # Any package may import a module of the standard library later.
        if other and (used or (name in sys.stdlib_module_names and name not in sys.modules)):
            yield Clash(path, other, used, hidden=_is_hidden(name, project))


def _is_module(path: Path) -> bool:
    # A folder without __init__.py never replaces another module, and its author may know that.
    return path.suffix == ".py" if path.is_file() else (path / "__init__.py").exists()


def _is_hidden(name: str, project: Path) -> bool:
    if name in sys.modules:
        return not _is_own(str(getattr(sys.modules[name], "__file__", None) or ""), project)
    return name in sys.builtin_module_names


def _other(name: str, project: Path) -> str:
    """The file of the other module of this name, BUILT_IN, or "" if there is none."""
    if name in sys.builtin_module_names:
        return BUILT_IN
    spec = PathFinder.find_spec(name, [each for each in sys.path if Path(each or ".").resolve() != project])
    return (spec.origin or "") if spec is not None else ""


def _imports(project: Path) -> dict[str, str]:
    """The top-level modules that the loaded files of the project import, each with its first place."""
    loaded = {str(getattr(module, "__file__", None) or "") for module in list(sys.modules.values())}
    found: dict[str, str] = {}
    for file in [str(project / "app.py"), *sorted(loaded)]:
        if not _is_own(file, project):
            continue
        try:
            nodes = list(ast.walk(ast.parse(Path(file).read_bytes())))
        except (OSError, SyntaxError):  # loading app.py reports it
            continue
        for node in nodes:
            match node:
                case ast.Import():
                    names = [each.name for each in node.names]
                case ast.ImportFrom(module=str(module), level=0):
                    names = [module]
                case _:
                    continue
            for name in names:
                where = f"{Path(file).relative_to(project)}, line {node.lineno}"
                found.setdefault(name.partition(".")[0], where)
    return found


def _is_own(file: str, project: Path) -> bool:
    return file.startswith(f"{project}/") and file.endswith(".py") and "/site-packages/" not in file
