"""The parts of an answer, whatever the framework of the agent. Pure.

A source (`sources`) turns the stream of a framework into parts, and `events` turns parts into the events of
`POST /process`. Text and thinking come as new text under the id of their block; calls and results of tools
come as snapshots, each with everything so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Origin:
    """The metadata of the message that the parts after this one belong to."""

    metadata: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Text:
    id: str
    delta: str


@dataclass(frozen=True, slots=True)
class Thinking:
    id: str
    delta: str


@dataclass(frozen=True, slots=True)
class BlockEnd:
    """No more text or thinking comes under this id."""

    id: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """`arguments`: JSON, and incomplete until `is_last`. `server`: of an MCP tool, its label or ""."""

    id: str
    name: str
    arguments: str
    is_last: bool
    server: str | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """`output`: JSON."""

    id: str
    name: str | None
    output: str
    is_last: bool


@dataclass(frozen=True, slots=True)
class Media:
    """`url`: also `data:` URLs. `format`: the media type, or the extension of an audio file."""

    kind: Literal["image", "audio", "video", "file"]
    url: str
    format: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one model call."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Failure:
    """The framework reports, as an event of its stream, that the agent has failed."""

    message: str


Part = Origin | Text | Thinking | BlockEnd | ToolCall | ToolResult | Media | Usage | Failure
