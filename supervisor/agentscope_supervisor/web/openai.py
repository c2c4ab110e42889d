"""The routes of OpenAI's API beside those that begin a turn."""

from typing import Final

from aiohttp import web

from agentscope_supervisor.http1.responses import json_response

MODEL: Final = "agent"
"""The id of the one model that clients find here: the App. Requests may name any model."""


async def models(_: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
    """GET /v1/models."""
    model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "agentscope"}
    return json_response({"object": "list", "data": [model]}, 200, headers)
