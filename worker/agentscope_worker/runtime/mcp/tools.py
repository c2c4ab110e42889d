"""The MCP servers of a project: started together, their tools named and handed to the Toolkit.

It owns the order of a start and the rule for names; a connection's life is in `links`, how a
Toolkit holds the tools in `agentscope1` and `agentscope2`. It must not ask a server for anything.

The rule: a tool goes by its plain name unless another server of agentapp.yaml has offered a tool of
that name, or the project has a tool of its own that has it; then it is `server__tool`, for all the
servers that have it. A name that was given in this process is never taken away or given to another
server. So a server that comes late renames nothing: a tool that has its plain name by then keeps
it, and goes by `server__tool` besides. That name means the same tool in every process, whatever
came first. The order of agentapp.yaml decides only the order in which the tools are listed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agentscope_worker.runtime.mcp.links import Link

if TYPE_CHECKING:
    from agentscope_protocol.config.settings import McpServerSettings

log = logging.getLogger(__name__)

FIRST_TRY: Final = 3.0  # seconds that a start waits for servers that nothing requires
TELL_EVERY: Final = 10.0  # seconds between two lines on what a start waits for
MAX_NAME: Final = 64  # characters of a tool's name that OpenAI takes

_UNLAWFUL = re.compile(r"[^a-zA-Z0-9_-]")  # in a tool's name, for most providers


@dataclass(frozen=True, slots=True)
class Offer:
    """One tool of a server, as `runtime.tools` is to have it.

    `names`: by which the model may call it; `full_name`: `server__tool`, for a Toolkit where one of
    them is taken. `tool` is the server's description, `link` calls it.
    """

    tool: Any
    link: Link
    names: tuple[str, ...]
    full_name: str

    def names_beside(self, taken: Collection[str]) -> list[str]:
        """The names in a Toolkit where tools of another origin have `taken`."""
        free = (name if name not in taken else self.full_name for name in self.names)
        return [name for name in dict.fromkeys(free) if name not in taken]


class McpServers:
    """The links to all servers of `mcp_servers`."""

    def __init__(
        self, settings: Mapping[str, McpServerSettings], publish: Callable[[Sequence[Offer]], None]
    ) -> None:
        """`publish` is given all tools, each time that they have changed."""
        self._links: Final = [Link(name, each, self._on_change) for name, each in settings.items()]
        self._publish: Final = publish
        self._names: Final = Names()
        self._is_open = False

    async def open(self) -> None:
        """Connect; returns when all required servers are there, and each other was given its chance."""
        for link in self._links:
            link.start()
        tries = [asyncio.ensure_future(link.tried.wait()) for link in self._links]
        try:
            if tries:
                await asyncio.wait(tries, timeout=FIRST_TRY)
            while missing := [each for each in self._links if each.settings.required and not _is_up(each)]:
                log.warning("the worker waits for required MCP servers: %s", "; ".join(map(_state, missing)))
                await _any_connects(missing, TELL_EVERY)
        finally:
            for each in tries:
                each.cancel()
        self._is_open = True
        self._on_change()

    async def close(self) -> None:
        """Disconnect; the tools stay where they are, and fail."""
        await asyncio.gather(*(link.stop() for link in self._links))

    def _on_change(self) -> None:
        # Until each server was given its chance, it would depend on speed which names clash.
        if self._is_open:
            given = self._names.give({link.name: [t.name for t in link.tools] for link in self._links})
            self._publish(
                [
                    Offer(tool, link, given[link.name, tool.name], full_name(link.name, tool.name))
                    for link in self._links
                    for tool in link.tools
                ]
            )


class Names:
    """The names that tools go by; see the rule at the top."""

    def __init__(self) -> None:
        self._offered: dict[str, set[str]] = {}  # plain name -> the servers that have ever offered it
        self._plain: dict[str, str] = {}  # plain name -> the server that it was given to

    def give(self, tools: Mapping[str, Iterable[str]]) -> dict[tuple[str, str], tuple[str, ...]]:
        """(server, tool) -> names, for what all servers offer now."""
        for server, offered in tools.items():
            for tool in offered:
                self._offered.setdefault(lawful(tool), set()).add(server)
        given = {}
        for server, offered in tools.items():
            for tool in offered:
                plain = lawful(tool)
                alone = self._offered[plain] == {server}
                if alone:
                    self._plain[plain] = server
                holds = self._plain.get(plain) == server
                given[server, tool] = (plain,) * holds + (full_name(server, tool),) * (not alone)
        return given


def full_name(server: str, tool: str) -> str:
    """`server__tool`, the name that no other server's tool has."""
    return lawful(f"{server}__{tool}")


def lawful(name: str) -> str:
    """`name` if the providers take it, else one that they take and no other name becomes."""
    clean = _UNLAWFUL.sub("_", name)
    if clean == name and len(name) <= MAX_NAME:
        return name
    return f"{clean[: MAX_NAME - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _is_up(link: Link) -> bool:
    return link.connected.is_set()


def _state(link: Link) -> str:
    return f"{link.name} ({link.failure})"


async def _any_connects(links: Iterable[Link], within: float) -> None:
    waits = [asyncio.ensure_future(link.connected.wait()) for link in links]
    try:
        await asyncio.wait(waits, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
