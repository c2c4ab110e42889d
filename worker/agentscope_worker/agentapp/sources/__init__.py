"""From the streams of frameworks to parts: one module for each framework, imported when it is used.

A source is made for one answer. Its `take` turns one item of the handler's stream into parts. No source
imports its framework: the attributes of an item say what it is.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, Final, Protocol

from agentscope_worker.agentapp.parts import Part


class Source(Protocol):
    def take(self, item: Any) -> Iterator[Part]:
        """The parts that follow from an item. Raises: TypeError for an item of another framework."""


_SOURCES: Final = {
    "agentscope": "agentscope.AgentScopeSource",
    "autogen": "autogen.AutogenSource",
    "agno": "agno.AgnoSource",
    "langgraph": "langgraph.LangGraphSource",
    "text": "text.TextSource",
}


def source_of(framework: str) -> Source:
    """A new source for the streams of this framework."""
    module, _, name = _SOURCES[framework].partition(".")
    found: Source = getattr(importlib.import_module(f"{__name__}.{module}"), name)()
    return found


def unexpected(item: object, framework: str, expected: str) -> TypeError:
    return TypeError(
        f"a handler of framework {framework!r} yielded a {type(item).__name__}; expected {expected}"
    )
