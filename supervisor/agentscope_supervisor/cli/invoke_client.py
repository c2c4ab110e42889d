"""A minimal client of a running instance, for the command `invoke`.

Sends one message and yields the texts of the answer as they arrive. It shows text only: use curl for the
full events.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from agentscope_supervisor.system.instance_dir import UNIX


class InvokeError(Exception):
    """The instance answered with an error. The text is meant for the user."""


async def invoke(base_url: str, session_id: str, text: str, token: str | None) -> AsyncIterator[str]:
    """Yield the text of each message of the answer as it arrives. `base_url`: http, or `UNIX` and a path.

    Raises: InvokeError if the instance refuses the message or the answer ends with an error;
    aiohttp.ClientError if the connection fails.
    """
    # Without a token, the instance serves no other name, such as the address of a network that it listens on.
    headers = {"Host": "localhost"} if token is None else {"Authorization": f"Bearer {token}"}
    body = {"session_id": session_id, "message": {"role": "user", "content": text}}
    # The instance limits the duration of a turn; only the time to connect is limited here.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    connector = None
    if base_url.startswith(UNIX):
        connector = aiohttp.UnixConnector(base_url.removeprefix(UNIX))
        base_url = "http://localhost"
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as client,
        client.post(
            f"{base_url}/invoke", json=body, headers=headers, read_bufsize=2**24, allow_redirects=False
        ) as response,
    ):
        if response.status != 200:
            error = (await response.json())["error"]
            raise InvokeError(f"{error['code']}: {error['message']}")
        async for line in response.content:
            if line.startswith(b"data: "):
                event = json.loads(line[len(b"data: ") :])
                if "error" in event and "role" not in event:
                    raise InvokeError(f"{event['error']['code']}: {event['error']['message']}")
                yield _text(event.get("content"))


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "".join(block.get("text", "") for block in blocks if block.get("type") == "text")
