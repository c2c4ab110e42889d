"""Builds the compiled wheel: the modules on the path of every turn and event, compiled to C by mypyc.

Runs only with AGENTSCOPE_SUPERVISOR_COMPILE=1 (`make compiled`, `make dist`), because it needs a C compiler
and Python's headers. All other builds, editable installs included, are plain Python. pyproject.toml lists the
modules and says why they were chosen. Nothing is written into the source tree: a library there would be
imported in place of a module that has just been changed. (hatch-mypyc writes there, and supports one source
folder; this project has three.)
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VARIABLE = "AGENTSCOPE_SUPERVISOR_COMPILE"
GROUP = "agentscope_supervisor"
"""The name of the one library with all modules. Within one library they call each other as C functions."""

ROOTS = ("protocol", "supervisor", "worker")

MYPY = """
[mypy]
mypy_path = {path}
# `make check` reports type errors. This build reads only the types of this project and of the standard
# library, so that its result does not depend on the packages in the environment.
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
        if version != "standard" or os.environ.get(VARIABLE) != "1":
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
    """Return the files that match the globs, without `__init__.py`.

    Raises: ValueError if a glob matches no file.
    """
    return sorted(_named(root, modules) - _named(root, exceptions))


def _named(root: Path, globs: list[str]) -> set[str]:
    named: set[str] = set()
    for glob in globs:
        before, brace, rest = glob.partition("{")
        words, _, after = rest.partition("}")
        for pattern in [f"{before}{word}{after}" for word in words.split(",")] if brace else [glob]:
            found = {str(path.relative_to(root)) for path in root.glob(pattern) if path.name != "__init__.py"}
            if not found:
                raise ValueError(f"pyproject.toml: modules to compile: no file matches {pattern!r}")
            named |= found
    return named


def _compiled(root: Path, modules: list[str], folder: Path) -> Path:
    """Compile modules; return the folder with their libraries, in the layout of the wheel."""
    # Imported here because a build without compilation does not have them.
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    ini = folder / "mypy.ini"
    ini.write_text(MYPY.format(path=":".join(str(root / each) for each in ROOTS)), "utf-8")
    extensions = mypycify(
        [f"--config-file={ini}", f"--cache-dir={folder / 'cache'}", *(str(root / each) for each in modules)],
        opt_level="2",  # level 3 makes the library 10 % larger, all of it mapped, and not faster
        debug_level="0",
        group_name=GROUP,
        target_dir=str(folder / "c"),
    )
    for extension in extensions:
        # Nothing looks up the library's functions by name: Python needs only the exported entry point and
        # finds the modules in capsules. With hidden symbols the functions call each other directly, and the
        # symbol table, 10 % of the library, is not mapped.
        extension.extra_compile_args.append("-fvisibility=hidden")
    command = build_ext(Distribution({"name": GROUP, "ext_modules": extensions}))
    command.build_lib, command.build_temp = str(folder / "lib"), str(folder / "temp")
    command.ensure_finalized()
    command.run()
    return folder / "lib"
