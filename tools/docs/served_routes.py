"""The routes that the supervisor serves, read from its own table.

This is the only module of `tools` that knows how `agentscope_supervisor.web` holds its routes.
"""

import asyncio
from typing import Any, cast

from agentscope_protocol.config.settings import ServerSettings
from agentscope_supervisor.telemetry.metrics import Metrics
from agentscope_supervisor.web.app import FrontDoor, Route

PATTERNS = {
    "/sessions/{session_id}": "/sessions/s",
    "/runs/{run_id}": "/runs/r",
    "/runs/{run_id}/events": "/runs/r/events",
}
"""Routes with a parameter: how they are documented, and a path that each matches."""


class _Unused:
    """Stands for a part of the instance that no route asks while the table is built."""

    def __getattr__(self, name: str) -> Any:
        return self


def served() -> dict[str, Route]:
    """Every route outside the console, by its path."""
    return asyncio.run(_served())


async def _served() -> dict[str, Route]:
    unused = cast(Any, _Unused())
    metrics = Metrics(unused, unused, (), ())
    door = FrontDoor(ServerSettings(), unused, unused, metrics=metrics)
    metrics.close()
    routes = dict(door._routes)
    for pattern, path in PATTERNS.items():
        route = door._route_below(path)
        if route is not None:
            routes[pattern] = route
    return routes
