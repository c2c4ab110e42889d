"""The structure of the code: which modules are pure, and the import contract for them.

A module is pure when the first paragraph of its docstring, or of its package's, contains the sentence
"Pure.". `.importlinter` (`PureContract`) and `tools/purity.py` (the coverage gate) both read this mark.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from grimp import ImportGraph
from importlinter import fields
from importlinter.contracts.forbidden import ForbiddenContract
from importlinter.domain.contract import ContractCheck

ROOT: Final = Path(__file__).parents[1]
PACKAGES: Final = {
    "agentscope_protocol": ROOT / "protocol" / "agentscope_protocol",
    "agentscope_supervisor": ROOT / "supervisor" / "agentscope_supervisor",
    "agentscope_worker": ROOT / "worker" / "agentscope_worker",
}
MARK: Final = "Pure."


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the three packages: dotted name and file."""
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            relative = path.relative_to(folder).with_suffix("")
            parts = relative.parts[:-1] if relative.name == "__init__" else relative.parts
            yield ".".join((package, *parts)), path


def opening(path: Path) -> str:
    """The first paragraph of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return docstring.split("\n\n")[0]


def pure_modules() -> list[str]:
    """Dotted names of the modules marked as pure, by themselves or by their package."""
    marked = {name: MARK in opening(path) for name, path in modules()}
    return [name for name in marked if marked[name] or marked.get(name.rpartition(".")[0], False)]


class PureContract(ForbiddenContract):
    """A `forbidden` contract whose sources are the modules marked as pure. Lists only `forbidden_modules`."""

    source_modules: Any = fields.SetField(subfield=fields.ModuleExpressionField(), required=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        expression = fields.ModuleExpressionField()
        self.source_modules = {expression.parse(name) for name in pure_modules()}
        return super().check(graph, verbose)
