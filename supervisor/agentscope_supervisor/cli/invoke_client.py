"""A small client of a running instance, for the command `invoke`.

One message out, the texts of the answer as they come. It shows nothing but text; for more there is curl.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from agentscope_supervisor.system.instance_dir import UNIX


class Answered(Exception):
    """The instance answered with an error; the text is for a person."""


async def invoke(base_url: str, session_id: str, text: str, token: str | None) -> AsyncIterator[str]:
    """The text of each message of the answer, as it comes. `base_url`: http, or `UNIX` and a path.

    Raises: Answered if the instance refuses the message or ends it with an error; aiohttp.ClientError.
    """
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    body = {"session_id": session_id, "message": {"role": "user", "content": text}}
    # The whole turn is bounded by the instance; only a connection that cannot be made is bounded here.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    connector = None
    if base_url.startswith(UNIX):
        connector = aiohttp.UnixConnector(base_url.removeprefix(UNIX))
        base_url = "http://localhost"
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as client,
        client.post(f"{base_url}/invoke", json=body, headers=headers, read_bufsize=2**24) as response,
    ):
        if response.status != 200:
            error = (await response.json())["error"]
            raise Answered(f"{error['code']}: {error['message']}")
        async for line in response.content:
            if line.startswith(b"data: "):
                event = json.loads(line[len(b"data: ") :])
                if "error" in event and "role" not in event:
                    raise Answered(f"{event['error']['code']}: {event['error']['message']}")
                yield _text(event.get("content"))


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "".join(block.get("text", "") for block in blocks if block.get("type") == "text")
