"""The routes that the supervisor serves, read from its own table.

This is the only module of `tools` that knows how `agentscope_supervisor.web` holds its routes.
"""

import asyncio
import inspect

from agentscope_protocol.config.auth_settings import AuthSettings
from agentscope_protocol.config.settings import ServerSettings
from agentscope_supervisor.telemetry.metrics import Metrics
from agentscope_supervisor.web.access.tokens import Tokens
from agentscope_supervisor.web.app import FrontDoor
from agentscope_supervisor.web.routes import Route, documented
from tools.docs.nothing import NOTHING


def served() -> dict[str, Route]:
    """Every route outside the console, by its path."""
    return asyncio.run(_served())


async def _served() -> dict[str, Route]:
    metrics = Metrics(NOTHING, NOTHING, (), ())
    metrics.close()
    needed = [
        name
        for name, each in inspect.signature(FrontDoor).parameters.items()
        if each.default is inspect.Parameter.empty and name not in ("settings", "tokens")
    ]
    tokens = Tokens(None, AuthSettings())
    door = FrontDoor(ServerSettings(), tokens, **dict.fromkeys(needed, NOTHING), metrics=metrics)
    return {documented(route): route for route in door.routes}
