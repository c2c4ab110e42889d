"""The health routes: how the instance is. They answer from the supervisor's own state and never wait for a
worker."""

from collections.abc import Mapping
from typing import Final

from agentscope_supervisor import __version__
from agentscope_supervisor.domain.errors import Refused
from agentscope_supervisor.http1 import aiohttp_web as web
from agentscope_supervisor.http1.responses import json_response
from agentscope_supervisor.workers.condition import Condition

_WELCOME: Final = {
    "name": "agentscope-supervisor",
    "version": __version__,
    "links": {
        "invoke": "/invoke",
        "stop": "/stop",
        "runs": "/runs/{run_id}",
        "sessions": "/sessions/{session_id}",
        "openapi": "/openapi.json",
        "health": "/health",
        "readiness": "/readiness",
        "liveness": "/liveness",
    },
}


class HealthRoutes:
    """The handlers of /, /health, /readiness and /liveness."""

    def __init__(self, condition: Condition, protocols: Mapping[str, str]) -> None:
        """`protocols`: the paths of the protocols that are on, by name."""
        self._condition: Final = condition
        self._welcome: Final = {**_WELCOME, "protocols": protocols}

    async def welcome(self, _: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        """GET /: name, version and links."""
        return json_response(self._welcome, 200, headers)

    async def health(self, _: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        """GET /health: 200 while turns are served, else 503."""
        health = self._condition.health()
        up = health["status"] in ("healthy", "degraded")
        return json_response(health, 200 if up else 503, headers)

    async def readiness(self, _: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        """GET /readiness: 200 when a turn would be accepted, else 503 with the reason. Raises: Refused."""
        failure = self._condition.unready()
        if failure is not None:
            raise Refused(failure)
        return json_response({"status": "ready"}, 200, headers)

    async def liveness(self, _: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        """GET /liveness: 200 while the supervisor's event loop turns."""
        return json_response({"status": "alive"}, 200, headers)
