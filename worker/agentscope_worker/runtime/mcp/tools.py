"""The MCP servers of a project: started together, their tools named and passed to the Toolkit.

Owns the order of the startup and the rule for names. It must not send requests to a server: `links` owns the
connections, and `agentscope1` and `agentscope2` add the tools to a Toolkit.

The rule: a tool has its plain name, unless another server of agentapp.yaml has offered a tool of that name or
the project has a tool of its own with it. In that case the name is `server__tool`, for all servers with such
a tool. A name that was assigned in this process is never removed or assigned to another server. So a server
that connects late renames nothing: a tool that already has its plain name keeps it, and gets `server__tool`
in addition. `server__tool` means the same tool in every process, in whatever order the servers connected. The
order of agentapp.yaml only determines the order in which tools are listed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agentscope_worker.runtime.mcp.links import ServerLink

if TYPE_CHECKING:
    from agentscope_protocol.config.settings import McpServerSettings

log = logging.getLogger(__name__)

FIRST_TRY: Final = 3.0  # seconds that a startup waits for servers that are not required
WAIT_LOG_INTERVAL: Final = 10.0  # seconds between two log lines while a startup waits for required servers
MAX_NAME: Final = 64  # characters of a tool's name; OpenAI's limit

_INVALID = re.compile(r"[^a-zA-Z0-9_-]")  # characters that most providers reject in a tool's name


@dataclass(frozen=True, slots=True)
class Offer:
    """One tool of a server, as `runtime.tools` offers it.

    `names`: the names by which the model may call it. `full_name`: `server__tool`, for a Toolkit in which one
    of them is taken. `tool` is the server's description, `link` calls it.
    """

    tool: Any
    link: ServerLink
    names: tuple[str, ...]
    full_name: str

    def names_beside(self, taken: Collection[str]) -> list[str]:
        """The names in a Toolkit in which tools of another origin already use the names in `taken`."""
        free = (name if name not in taken else self.full_name for name in self.names)
        return [name for name in dict.fromkeys(free) if name not in taken]


class McpServers:
    """The links to all servers of `mcp_servers`."""

    def __init__(
        self, settings: Mapping[str, McpServerSettings], publish: Callable[[Sequence[Offer]], None]
    ) -> None:
        """`publish` is called with all tools after each change."""
        self._links: Final = [ServerLink(name, each, self._on_change) for name, each in settings.items()]
        self._publish: Final = publish
        self._names: Final = Names()
        self._is_open = False

    async def open(self) -> None:
        """Connect. Returns once all required servers are connected, and all others had FIRST_TRY to
        connect."""
        for link in self._links:
            link.start()
        tries = [asyncio.ensure_future(link.tried.wait()) for link in self._links]
        try:
            if tries:
                await asyncio.wait(tries, timeout=FIRST_TRY)
            while missing := [each for each in self._links if each.settings.required and not _is_up(each)]:
                log.warning("waiting for required MCP servers: %s", "; ".join(map(_state, missing)))
                await _any_connects(missing, WAIT_LOG_INTERVAL)
        finally:
            for each in tries:
                each.cancel()
        self._is_open = True
        self._on_change()

    async def close(self) -> None:
        """Disconnect. The tools stay in their Toolkits, and calls fail."""
        await asyncio.gather(*(link.stop() for link in self._links))

    def _on_change(self) -> None:
        # Before the first attempts have ended, conflicts of names would depend on timing.
        if self._is_open:
            given = self._names.assign({link.name: [t.name for t in link.tools] for link in self._links})
            self._publish(
                [
                    Offer(tool, link, given[link.name, tool.name], full_name(link.name, tool.name))
                    for link in self._links
                    for tool in link.tools
                ]
            )


class Names:
    """The names of tools; see the rule in the module docstring."""

    def __init__(self) -> None:
        self._offered: dict[str, set[str]] = {}  # plain name -> all servers that have ever offered it
        self._plain: dict[str, str] = {}  # plain name -> the server it is assigned to

    def assign(self, tools: Mapping[str, Iterable[str]]) -> dict[tuple[str, str], tuple[str, ...]]:
        """(server, tool) -> names, for the current offers of all servers."""
        for server, offered in tools.items():
            for tool in offered:
                self._offered.setdefault(valid_name(tool), set()).add(server)
        given = {}
        for server, offered in tools.items():
            for tool in offered:
                plain = valid_name(tool)
                alone = self._offered[plain] == {server}
                if alone:
                    self._plain[plain] = server
                holds = self._plain.get(plain) == server
                given[server, tool] = (plain,) * holds + (full_name(server, tool),) * (not alone)
        return given


def full_name(server: str, tool: str) -> str:
    """`server__tool`, a name that is unique among all servers."""
    return valid_name(f"{server}__{tool}")


def valid_name(name: str) -> str:
    """`name` if providers accept it, otherwise a unique name that they accept."""
    clean = _INVALID.sub("_", name)
    if clean == name and len(name) <= MAX_NAME:
        return name
    return f"{clean[: MAX_NAME - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _is_up(link: ServerLink) -> bool:
    return link.connected.is_set()


def _state(link: ServerLink) -> str:
    return f"{link.name} ({link.failure})"


async def _any_connects(links: Iterable[ServerLink], within: float) -> None:
    waits = [asyncio.ensure_future(link.connected.wait()) for link in links]
    try:
        await asyncio.wait(waits, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
