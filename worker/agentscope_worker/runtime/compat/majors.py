"""The seam to AgentScope: what differs between 1.x and 2.x, and which of the two is installed.

`AgentScope` names every function that the two majors need done differently; `agentscope1` and
`agentscope2` are modules that fulfil it, and the rest of the package is the same for both. This
module must not import agentscope before it has checked the installed versions, since several wrong
combinations fail inside third-party imports with errors that name no remedy.
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
    """What a module for one major of AgentScope provides."""

    MAJOR: int

    def message_class(self) -> Any:
        """The class `agentscope.message.Msg`."""

    def block_classes(self) -> Mapping[str, Any]:
        """Content block `type` -> its class or TypedDict, for all that a client may send."""

    def plain_fields(self, msg: Any) -> dict[str, Any] | None:
        """The fields of `msg` but `metadata`, in a new dict, if orjson writes them as `encode` does where it
        writes them at all; else None."""

    def encode(self, msg: Any) -> bytes:
        """The JSON object of `msg` as AgentScope serialises it, without its `metadata`."""

    def make_model(self, settings: ModelSettings) -> Any:
        """The AgentScope model of one slot; imports the provider's client library.

        Raises: ImportError for a missing client library, ValueError for settings that the
        provider cannot take.
        """

    async def prompt(self, model: Any, messages: Any) -> Any:
        """What `model` takes as messages, of one Msg, a list of them, or its own format."""

    def text_of(self, response: Any) -> str:
        """The text of all text blocks of a ChatResponse."""

    def new_text(self, response: Any, seen: str) -> str:
        """The text of `response` beyond `seen`, the text of this stream so far."""

    def holds_more_than_text(self, response: Any) -> bool:
        """Whether a ChatResponse has blocks beside text and thinking, such as tool calls."""

    def new_toolkit(self) -> Any:
        """An empty Toolkit whose agents each work on a clone of it."""

    def trace(self, on: bool) -> None:
        """Let AgentScope make spans of its agents, models and tools in all tasks, or none."""

    def traces_model_call(self) -> bool:
        """Whether AgentScope itself makes the span of a model call that is made here and now."""

    def publish(self, toolkit: Any, offers: Sequence[Offer]) -> None:
        """Make `offers` the MCP tools of a Toolkit that `new_toolkit` made, and of all its clones.

        A tool of another origin that has one of their names keeps it, whichever came first.
        """

    def adapt(self, permission_mode: str) -> None:
        """Give AgentScope's classes what the documented API has and they lack.

        Patches once per process; `permission_mode` is taken over at each call.
        """


@dataclass(frozen=True, slots=True)
class _Need:
    """A package that AgentScope imports without declaring it, or breaks on when it is newer."""

    requirement: str
    provider: str | None = None  # needed only if a slot uses this provider


_RELEASES = {1: "agentscope>=1.0.21,<2", 2: "agentscope>=2.0.8,<3"}
"""What is supported: the releases before do not install or import today."""

_NEEDS = {
    1: (
        _Need("mcp>=1.13,<2"),  # 2.0 dropped a name that agentscope.mcp imports
        _Need("greenlet"),  # sqlalchemy.ext.asyncio, imported by agentscope.memory
        _Need("tqdm"),  # imported by agentscope.evaluate
        _Need("openai<3.25", "openai"),  # streams fail from there on: TypeError on delta.audio
        _Need("anthropic<1", "anthropic"),  # 1.0 removed the sampling arguments
    ),
    # It declares these itself; what was installed after it may have replaced them.
    2: (_Need("mcp>=1.13,<2"),),
}
_MCP_2_SINCE = "2.0.11"  # this release of AgentScope and later ones want mcp 2, and declare it
_NEEDS_WITH_MCP_2 = (_Need("mcp>=2"),)


def check_installation(providers: frozenset[str] = frozenset()) -> int:
    """The installed major of AgentScope, 1 or 2, found without importing it.

    Raises: BootError with the pip line that mends the environment.
    """
    version = _version("agentscope")
    major = version.major if version else None
    if version is None or major not in _RELEASES or not _fits(_RELEASES[major], version):
        found = "is not installed" if version is None else f"{version} is not supported"
        # Who has an old 1.x has an App for 1.x.
        extra = f"agentscope-supervisor[v{1 if major == 1 else 2}]"
        wanted = _RELEASES[1 if major == 1 else 2]
        raise BootError(
            f"AgentScope {found} in this environment; it takes 1.0.21 or later, or 2.0.8 or later."
            f" To mend it: {pip_install(extra, wanted)}",
            permanent=True,
        )
    needs = _NEEDS_WITH_MCP_2 if version >= Version(_MCP_2_SINCE) else _NEEDS[major]
    unmet = [need.requirement for need in needs if need.provider in (None, *providers)]
    unmet = [requirement for requirement in unmet if not _is_met(requirement)]
    if unmet:
        raise BootError(
            f"AgentScope {version} does not work with what is installed beside it: "
            + ", ".join(f"it needs {requirement}" for requirement in unmet)
            + f". To mend it: {pip_install(*unmet)}",
            permanent=True,
        )
    return major


@functools.cache
def seam() -> AgentScope:
    """The module for the installed major; the first call imports agentscope.

    Raises: BootError when AgentScope is missing, unsupported or cannot be imported.
    """
    major = check_installation()
    try:
        if major == 1:
            from agentscope_worker.runtime.compat import agentscope1

            return agentscope1
        from agentscope_worker.runtime.compat import agentscope2

        return agentscope2
    except Exception as error:  # a package that does not fit may fail in any way
        raise BootError(
            f"AgentScope {major}.x is installed but cannot be imported: {type(error).__name__}: {error}. "
            f"To mend it: {pip_install(f'agentscope-supervisor[v{major}]')}",
            permanent=True,
        ) from error


def _is_met(requirement: str) -> bool:
    version = _version(Requirement(requirement).name)
    return version is not None and _fits(requirement, version)


def _fits(requirement: str, version: Version) -> bool:
    return Requirement(requirement).specifier.contains(version, prereleases=True)


@functools.cache  # reading takes 3 ms, and a forked worker has imported what its zygote has read of
def _version(package: str) -> Version | None:
    try:
        return Version(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return None
