"""docs/contributing/rooms.md and its pictures: which room imports which, read from the code.

Rooms are the entries of the `layers` contracts in .importlinter, which also give the rows of the pictures.
"""

import configparser
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from grimp import ImportGraph, build_graph

from tools.architecture import PACKAGES, ROOT, opening
from tools.docs.layered import Edge, picture
from tools.docs.markdown import code, page, table

HOUSES: Final = (*PACKAGES, "agentscope_worker.runtime")
"""The packages whose children are rooms."""

INTRODUCTION: Final = """
A room is a package with one responsibility, or a single module beside the packages. Imports go one way: from
a higher layer to a lower one. `.importlinter` lists the layers, and `lint-imports` in `make check` fails when
an import breaks them. This page and its pictures are generated from the imports in the code.

- The supervisor and the worker never import each other. Both import the protocol.
- The supervisor and the protocol never import AgentScope.
- A module whose docstring says "Pure." imports no I/O, no clock and no randomness. Tests cover it completely.
- The first paragraph of a room's `__init__` docstring says what the room owns and which file to read first.
"""

PICTURES: Final[Mapping[str, tuple[str, str]]] = {
    "agentscope_supervisor": ("rooms", "The rooms of the supervisor"),
    "agentscope_worker": ("rooms-worker", "The modules of the worker"),
    "agentscope_worker.runtime": ("rooms-runtime", "The rooms of the runtime, inside the worker"),
    "agentscope_protocol.wire": ("rooms-wire", "The modules of the wire protocol"),
}
"""The package of each layers contract: the file of its picture, and its title."""


@dataclass(frozen=True, slots=True)
class Room:
    """A package or module below one of the houses. `imports`: other rooms, as the page names them."""

    name: str
    owns: str
    imports: Sequence[str]


@functools.cache
def graph() -> ImportGraph:
    """The imports of the three houses."""
    return build_graph(*PACKAGES)


def layers() -> dict[str, list[list[str]]]:
    """The layers of each package that has some, from the top, as .importlinter lists them."""
    contracts = configparser.ConfigParser()
    contracts.read_string((ROOT / ".importlinter").read_text("utf-8"))
    found = {}
    for name in contracts.sections():
        section = contracts[name]
        if section.get("type") == "layers" and "containers" in section:
            rows = section["layers"].strip().splitlines()
            found[section["containers"]] = [[each.strip(" ()") for each in row.split("|")] for row in rows]
    return found


def edges(package: str) -> list[Edge]:
    """The pairs of children of a package of which the first imports the second."""
    names = [f"{package}.{name}" for row in layers()[package] for name in row]
    return [
        (one.rpartition(".")[2], other.rpartition(".")[2])
        for one in names
        for other in names
        if one != other and _imports(one, other)
    ]


def _imports(one: str, other: str) -> bool:
    modules = graph().modules
    if one not in modules or other not in modules:
        return False
    return graph().direct_import_exists(importer=one, imported=other, as_packages=True)


def rooms() -> Iterator[Room]:
    """All rooms, house by house."""
    names = sorted(child for house in HOUSES for child in graph().find_children(house))
    for name in names:
        imported = [
            other
            for other in names
            if not _within(name, other) and not _within(other, name) and _imports(name, other)
        ]
        # a room inside another is shown only to its neighbours
        shown = [each for each in imported if name.startswith(_parent(each)) or _parent(each) not in names]
        yield Room(name, _first_sentence(_file(name)), [_short(each, name) for each in shown])


def _within(name: str, other: str) -> bool:
    return name == other or name.startswith(f"{other}.")


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _short(name: str, seen_from: str) -> str:
    return name.removeprefix(f"{_parent(seen_from)}.")


def _file(name: str) -> Path:
    package, _, rest = name.partition(".")
    path = PACKAGES[package].joinpath(*rest.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _first_sentence(path: Path) -> str:
    sentence, dot, _ = " ".join(opening(path).split()).partition(". ")
    return sentence + "." if dot else sentence


def drawn(package: str) -> str:
    """The picture of a package's layers."""
    return picture(PICTURES[package][1], layers()[package], edges(package))


def pictures() -> dict[str, Callable[[], str]]:
    """The pictures, by path."""
    return {
        f"docs/contributing/{name}.svg": functools.partial(drawn, package)
        for package, (name, _) in PICTURES.items()
    }


def text() -> str:
    """The page."""
    parts = [INTRODUCTION]
    for name, title in PICTURES.values():
        parts += [f"## {title}", f"![{title}: layers and imports]({name}.svg)"]
    parts += ["## All rooms"]
    found = list(rooms())
    for house in HOUSES:
        rows = [
            [code(room.name.rpartition(".")[2]), room.owns, ", ".join(map(code, room.imports))]
            for room in found
            if _parent(room.name) == house
        ]
        parts += [f"### {house}", table(("room", "owns", "imports"), rows)]
    return page("Rooms", *parts)
