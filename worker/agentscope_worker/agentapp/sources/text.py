"""Handlers that yield plain strings, each one new text. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agentscope_worker.agentapp.parts import Part, Text


class TextSource:
    def take(self, item: Any) -> Iterator[Part]:
        if item:
            yield Text("text", str(item))
