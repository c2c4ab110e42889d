"""Selects the AgentScope that workers import: the installed package, or the stand-in in tests/fakes/standin.

A test that is marked `agentscope` or `agentscope2` runs on the installed package. Every other test runs on
the stand-in, which imports in a tenth of the time. The stand-in has the API of 2.x, so an environment with
1.x always uses the installed package. `tests/conftest.py` calls `choose` before each test.
"""

import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pytest

STANDIN: Final = str(Path(__file__).parents[1] / "fakes" / "standin")

_MARKS: Final = ("agentscope", "agentscope2")
_usable: Final = version("agentscope").startswith("2.")
_chosen = False  # benchmarks and the soak test never call `choose`, and use the installed package


def choose(item: pytest.Item) -> None:
    """Select the AgentScope of every process that starts from now on."""
    global _chosen
    _chosen = _usable and not any(item.get_closest_marker(mark) for mark in _MARKS)


def is_chosen() -> bool:
    """Whether processes that start now import the stand-in."""
    return _chosen


def variables(others: Mapping[str, str]) -> dict[str, str]:
    """`others` and the PYTHONPATH that selects AgentScope; a PYTHONPATH in `others` keeps precedence."""
    if not _chosen:
        return dict(others)
    path = [others["PYTHONPATH"]] if "PYTHONPATH" in others else []
    return {**others, "PYTHONPATH": os.pathsep.join([*path, STANDIN])}
