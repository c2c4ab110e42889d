"""What has been measured: one file of cells, written after each, so that an interrupted run goes on.

A cell is a scenario, a candidate and a round. Cells belong together when they are of the same code, machine,
versions and durations (`identity`); a file of others is put aside, not mixed with new ones.
"""

import hashlib
import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.scenarios import Figures

ROOT: Final = Path(__file__).parent.parent.parent
MEASURED: Final = ("protocol", "supervisor", "worker", "tests/benchmarks")  # what a figure depends on


@dataclass(frozen=True, slots=True)
class Spread:
    """The median over the rounds, the least and the most."""

    median: float
    least: float
    most: float


class Results:
    """The file. `identity`: what all of its cells have in common; `versions`: of what was measured."""

    def __init__(self, path: Path, identity: Mapping[str, Any], *, anew: bool = False) -> None:
        self._path: Final = path
        self.identity: Final = dict(identity)
        self.versions: dict[str, str] = {}
        self._cells: dict[str, Any] = {}
        if path.exists():
            kept = json.loads(path.read_text("utf-8"))
            if kept["identity"] == self.identity and not anew:
                self._cells, self.versions = kept["cells"], kept["versions"]
            else:
                path.replace(path.with_suffix(".before.json"))

    def has(self, scenario: str, candidate: str, number: int) -> bool:
        """Whether this cell need not be measured; one that failed is tried again."""
        return "figures" in self._cells.get(f"{scenario}/{candidate}/{number}", {})

    def put(self, scenario: str, candidate: str, number: int, cell: Figures | str) -> None:
        """Keep a cell: its figures, or why there are none."""
        self._cells[f"{scenario}/{candidate}/{number}"] = (
            {"failed": cell} if isinstance(cell, str) else {"figures": cell}
        )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._path.with_suffix(".new")
        kept = {"identity": self.identity, "versions": self.versions, "cells": self._cells}
        whole.write_text(json.dumps(kept, indent=1), "utf-8")
        whole.replace(self._path)

    def rounds(self, scenario: str, candidate: str, figure: str) -> dict[int, float]:
        """A figure by round, of the rounds that have it."""
        found = {}
        for key, cell in self._cells.items():
            at = key.split("/")
            if at[:2] == [scenario, candidate] and figure in cell.get("figures", {}):
                found[int(at[2])] = cell["figures"][figure]
        return found

    def spread(self, scenario: str, candidate: str, figure: str) -> Spread | None:
        """None: nothing was measured."""
        return spread(self.rounds(scenario, candidate, figure).values())

    def failure(self, scenario: str, candidate: str) -> str | None:
        """Why a candidate has no figures in a scenario; None: it has, or was not measured."""
        cells = [cell for key, cell in self._cells.items() if key.startswith(f"{scenario}/{candidate}/")]
        if not cells or any("figures" in cell for cell in cells):
            return None
        return str(cells[-1]["failed"])

    def candidates(self, scenario: str) -> set[str]:
        """Those of which there is a cell."""
        return {at[1] for at in (key.split("/") for key in self._cells) if at[0] == scenario}

    @property
    def number_of_rounds(self) -> int:
        """How many rounds have cells."""
        return len({key.split("/")[2] for key in self._cells})


def spread(values: Iterable[float]) -> Spread | None:
    ordered = sorted(values)
    return Spread(statistics.median(ordered), ordered[0], ordered[-1]) if ordered else None


def fingerprint() -> str:
    """Of the code on which figures depend."""
    digest = hashlib.sha256()
    for folder in MEASURED:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".c"):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def machine() -> str:
    """In words: processor, cores that we may use, memory, kernel, Python."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{model}, {len(os.sched_getaffinity(0))} cores, {gigabytes:.0f} GB, "
        f"Linux {platform.release()}, Python {platform.python_version()}"
    )
