"""Builds the compiled wheel: what every turn and event pass, as C that mypyc makes of the same source.

Runs only where it is asked for, AGENTSCOPE_SUPERVISOR_COMPILE=1 (`make compiled`, `make dist`): it takes a C
compiler and Python's headers. Everything else, editable installs above all, is the plain Python. Which
modules, and why just those, is said in pyproject.toml beside their list. Nothing is written into the source
tree: a library left there would be imported in place of the module that somebody has just changed.
(hatch-mypyc does that, and knows one source folder where there are three.)
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ASKED_BY = "AGENTSCOPE_SUPERVISOR_COMPILE"
GROUP = "agentscope_supervisor"
"""Of the one library that holds all modules, so that they call each other as C does."""

ROOTS = ("protocol", "supervisor", "worker")

MYPY = """
[mypy]
mypy_path = {path}
# What is wrong with the types says `make check`. Here only our own and the standard library's are read, so
# that what is built does not depend on which libraries the environment has.
ignore_missing_imports = True
follow_imports = skip
[mypy-agentscope_protocol.*,agentscope_supervisor.*,agentscope_worker.*]
follow_imports = silent
"""


class CompileHook(BuildHookInterface[Any]):
    """`[tool.hatch.build.targets.wheel.hooks.custom]` in pyproject.toml.

    `modules` and `except` are globs below the project's folder. A glob may name alternatives in braces:
    `{invoke,auth}.py`.
    """

    _folder: str | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "standard" or os.environ.get(ASKED_BY) != "1":
            return
        self._folder = tempfile.mkdtemp(prefix="agentscope-supervisor-")
        modules = chosen(Path(self.root), self.config["modules"], self.config["except"])
        built = _compiled(Path(self.root), modules, Path(self._folder))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        for library in built.rglob("*.so"):
            build_data["force_include"][str(library)] = str(library.relative_to(built))

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder)


def chosen(root: Path, modules: list[str], exceptions: list[str]) -> list[str]:
    """The files that the globs name, without `__init__.py`. Raises: ValueError, if a glob names no file."""
    return sorted(_named(root, modules) - _named(root, exceptions))


def _named(root: Path, globs: list[str]) -> set[str]:
    named: set[str] = set()
    for glob in globs:
        before, brace, rest = glob.partition("{")
        words, _, after = rest.partition("}")
        for pattern in [f"{before}{word}{after}" for word in words.split(",")] if brace else [glob]:
            found = {str(path.relative_to(root)) for path in root.glob(pattern) if path.name != "__init__.py"}
            if not found:
                raise ValueError(f"pyproject.toml: no file matches {pattern!r}, of the modules to compile")
            named |= found
    return named


def _compiled(root: Path, modules: list[str], folder: Path) -> Path:
    """Compile modules; returns the folder in which their libraries lie, as they do in the wheel."""
    # Only here: they are no part of a build that compiles nothing.
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    ini = folder / "mypy.ini"
    ini.write_text(MYPY.format(path=":".join(str(root / each) for each in ROOTS)), "utf-8")
    extensions = mypycify(
        [f"--config-file={ini}", f"--cache-dir={folder / 'cache'}", *(str(root / each) for each in modules)],
        opt_level="2",  # with 3 it is a tenth larger, all of which is mapped, and no quicker
        debug_level="0",
        group_name=GROUP,
        target_dir=str(folder / "c"),
    )
    for extension in extensions:
        # Nobody looks up by name what is in the library: Python finds its one entry, which is marked, and the
        # modules in capsules. Hidden, its functions call each other directly, and the table of their names, a
        # tenth of the library, is not mapped.
        extension.extra_compile_args.append("-fvisibility=hidden")
    command = build_ext(Distribution({"name": GROUP, "ext_modules": extensions}))
    command.build_lib, command.build_temp = str(folder / "lib"), str(folder / "temp")
    command.ensure_finalized()
    command.run()
    return folder / "lib"
