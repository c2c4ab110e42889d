"""The seam to AgentScope: what differs between 1.x and 2.x, and which of the two is installed.

`AgentScope` names every function that the two majors need done differently; `agentscope1` and
`agentscope2` are modules that fulfil it, and the rest of the package is the same for both. This
module must not import agentscope before it has checked the installed versions, since several wrong
combinations fail inside third-party imports with errors that name no remedy.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from agentscope_worker.runtime.boot_error import BootError, pip_install

if TYPE_CHECKING:
    from agentscope_protocol.settings import ModelSettings


class AgentScope(Protocol):
    """What a module for one major of AgentScope provides."""

    MAJOR: int

    def message_class(self) -> Any:
        """The class `agentscope.message.Msg`."""

    def block_classes(self) -> Mapping[str, Any]:
        """Content block `type` -> its class or TypedDict, for all that a client may send."""

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

    def adapt(self, permission_mode: str) -> None:
        """Give AgentScope's classes what the documented API has and they lack.

        Patches once per process; `permission_mode` is taken over at each call.
        """


@dataclass(frozen=True, slots=True)
class _Need:
    """A package that AgentScope 1.x imports without declaring it, or breaks on when it is newer."""

    package: str
    below: int | float | None = None  # first version that does not work, as major.minor
    provider: str | None = None  # needed only if a slot uses this provider

    @property
    def requirement(self) -> str:
        return self.package if self.below is None else f"{self.package}<{self.below}"


_V1_NEEDS = (
    _Need("mcp", 2),  # 2.0 dropped a name that agentscope.mcp imports
    _Need("greenlet"),  # sqlalchemy.ext.asyncio, imported by agentscope.memory
    _Need("tqdm"),  # imported by agentscope.evaluate
    _Need("openai", 3.25, "openai"),  # streams fail from there on: TypeError on delta.audio
    _Need("anthropic", 1, "anthropic"),  # 1.0 removed the sampling arguments
)
_OLDEST = {1: (1, 0, 21), 2: (2, 0, 8)}  # the releases before do not install or import today


def check_installation(providers: frozenset[str] = frozenset()) -> int:
    """The installed major of AgentScope, 1 or 2, found without importing it.

    Raises: BootError with the pip line that mends the environment.
    """
    version = _version("agentscope")
    major = version[0] if version else None
    if version is None or major not in _OLDEST or version < _OLDEST[major]:
        found = "is not installed" if version is None else f"{_dotted(version)} is not supported"
        raise BootError(
            f"AgentScope {found} in this environment; it takes 1.0.21 or later, or 2.0.8 or later."
            f" To install it: {pip_install('agentscope>=2.0.8,<3')}",
            permanent=True,
        )
    if major == 1:
        missing = [need for need in _V1_NEEDS if not _met(need, providers)]
        if missing:
            raise BootError(
                f"AgentScope {_dotted(version)} does not work with what is installed beside it: "
                + ", ".join(f"it needs {need.requirement}" for need in missing)
                + f". To mend it: {pip_install(*(need.requirement for need in missing))}",
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
            from agentscope_worker.runtime import agentscope1

            return agentscope1
        from agentscope_worker.runtime import agentscope2

        return agentscope2
    except ImportError as error:
        raise BootError(
            f"AgentScope {major}.x is installed but cannot be imported: {error}. "
            f"To mend it: {pip_install(f'agentscope-supervisor[v{major}]')}",
            permanent=True,
        ) from error


def _met(need: _Need, providers: frozenset[str]) -> bool:
    if need.provider is not None and need.provider not in providers:
        return True
    version = _version(need.package)
    if version is None:
        return False
    limit = _numbers(str(need.below)) if need.below is not None else None
    return limit is None or version < limit


def _version(package: str) -> tuple[int, ...] | None:
    try:
        return _numbers(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (3, 24, 0) of "3.24.0rc1"."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else (0,)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
