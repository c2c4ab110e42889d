"""The interface to AgentScope: the functions that differ between 1.x and 2.x, and the installed major.

`AgentScope` lists every function that the two majors implement differently; the modules `agentscope1` and
`agentscope2` implement it, and the rest of the package is the same for both. This module must not import
agentscope before it has checked the installed versions, because several wrong combinations fail inside
third-party imports with errors that do not name a fix.

Read next: `agentscope2`.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from packaging.requirements import Requirement
from packaging.version import Version

from agentscope_worker.runtime.boot_error import BootError, pip_install

if TYPE_CHECKING:
    from agentscope_protocol.config.settings import ModelSettings
    from agentscope_worker.runtime.mcp.tools import Offer


class AgentScope(Protocol):
    """The functions that a module for one major of AgentScope implements."""

    MAJOR: int

    def message_class(self) -> Any:
        """The class `agentscope.message.Msg`."""

    def block_classes(self) -> Mapping[str, Any]:
        """Content block `type` -> its class or TypedDict, for all blocks that a client may send."""

    def plain_fields(self, msg: Any) -> dict[str, Any] | None:
        """The fields of `msg` without `metadata`, in a new dict; None if orjson could encode them differently
        than `encode`. orjson may still reject them."""

    def encode(self, msg: Any) -> bytes:
        """The JSON object of `msg` as AgentScope serialises it, without its `metadata`."""

    def make_model(self, settings: ModelSettings) -> Any:
        """The AgentScope model of one slot. Imports the provider's client library.

        Raises: ImportError for a missing client library, ValueError for settings that the provider does not
        accept.
        """

    async def prompt(self, model: Any, messages: Any) -> Any:
        """The messages in the form that `model` accepts, from one Msg, a list of Msg, or its own format."""

    def text_of(self, response: Any) -> str:
        """The text of all text blocks of a ChatResponse."""

    def new_text(self, response: Any, seen: str) -> str:
        """The text of `response` that follows `seen`, the text of this stream so far."""

    def holds_more_than_text(self, response: Any) -> bool:
        """Whether a ChatResponse has blocks other than text and thinking, such as tool calls."""

    def new_toolkit(self) -> Any:
        """An empty Toolkit. Each agent that is given it works on a clone."""

    def trace(self, on: bool) -> None:
        """Turn AgentScope's own spans of agents, models and tools on or off, for all tasks."""

    def traces_model_call(self) -> bool:
        """Whether AgentScope itself creates a span for a model call in the current context."""

    def publish(self, toolkit: Any, offers: Sequence[Offer]) -> None:
        """Make `offers` the MCP tools of a Toolkit from `new_toolkit`, and of all its clones.

        A tool of another origin with the same name keeps the name, whichever was added first.
        """

    def adapt(self, permission_mode: str) -> None:
        """Add the parts of the documented API that AgentScope's classes lack.

        Patches once per process; applies `permission_mode` at each call.
        """


@dataclass(frozen=True, slots=True)
class _Need:
    """A package that AgentScope imports without declaring it, or whose newer releases break AgentScope."""

    requirement: str
    provider: str | None = None  # required only if a slot uses this provider


_RELEASES = {1: "agentscope>=1.0.21,<2", 2: "agentscope>=2.0.8,<3"}
"""Supported releases; earlier ones can no longer be installed or imported."""

_NEEDS = {
    1: (
        _Need("mcp>=1.13,<2"),  # 2.0 removed a name that agentscope.mcp imports
        _Need("greenlet"),  # for sqlalchemy.ext.asyncio, which agentscope.memory imports
        _Need("tqdm"),  # imported by agentscope.evaluate
        _Need("openai<3.25", "openai"),  # streams fail with later releases: TypeError on delta.audio
        _Need("anthropic<1", "anthropic"),  # 1.0 removed the sampling arguments
    ),
    # AgentScope declares this one itself, but a later installation may have replaced it.
    2: (_Need("mcp>=1.13,<2"),),
}
_MCP_2_SINCE = "2.0.11"  # from this release on, AgentScope requires mcp 2, and declares it
_NEEDS_WITH_MCP_2 = (_Need("mcp>=2"),)


def check_installation(providers: frozenset[str] = frozenset()) -> int:
    """The installed major of AgentScope, 1 or 2, determined without importing it.

    Raises: BootError with the pip command that fixes the environment.
    """
    version = _version("agentscope")
    major = version.major if version else None
    if version is None or major not in _RELEASES or not _fits(_RELEASES[major], version):
        found = "is not installed" if version is None else f"{version} is not supported"
        # With an old 1.x installed, the App is written for 1.x.
        extra = f"agentscope-supervisor[v{1 if major == 1 else 2}]"
        wanted = _RELEASES[1 if major == 1 else 2]
        raise BootError(
            f"AgentScope {found} in this environment; supported are 1.0.21 or later, and 2.0.8 or later."
            f" To fix it, run: {pip_install(extra, wanted)}",
            permanent=True,
        )
    needs = _NEEDS_WITH_MCP_2 if version >= Version(_MCP_2_SINCE) else _NEEDS[major]
    unmet = [need.requirement for need in needs if need.provider in (None, *providers)]
    unmet = [requirement for requirement in unmet if not _is_met(requirement)]
    if unmet:
        raise BootError(
            f"AgentScope {version} does not work with the other installed packages: "
            + ", ".join(f"it needs {requirement}" for requirement in unmet)
            + f". To fix it, run: {pip_install(*unmet)}",
            permanent=True,
        )
    return major


@functools.cache
def seam() -> AgentScope:
    """The module for the installed major. The first call imports agentscope.

    Raises: BootError if AgentScope is missing, unsupported, or cannot be imported.
    """
    major = check_installation()
    try:
        if major == 1:
            from agentscope_worker.runtime.compat import agentscope1

            return agentscope1
        from agentscope_worker.runtime.compat import agentscope2

        return agentscope2
    except Exception as error:  # an incompatible package may raise anything
        raise BootError(
            f"AgentScope {major}.x is installed but cannot be imported: {type(error).__name__}: {error}. "
            f"To fix it, run: {pip_install(f'agentscope-supervisor[v{major}]')}",
            permanent=True,
        ) from error


def _is_met(requirement: str) -> bool:
    version = _version(Requirement(requirement).name)
    return version is not None and _fits(requirement, version)


def _fits(requirement: str, version: Version) -> bool:
    return Requirement(requirement).specifier.contains(version, prereleases=True)


@functools.cache  # reading takes 3 ms; the versions cannot change: a forked worker uses its zygote's imports
def _version(package: str) -> Version | None:
    try:
        return Version(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return None
