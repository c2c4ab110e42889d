"""OpenAI's client, and its requests for the scripted App."""

import json
from collections.abc import Iterable
from typing import Any

from openai import AsyncOpenAI


def client_of(port: int) -> AsyncOpenAI:
    """A client of an instance. It does not retry, so that a test sees each error."""
    return AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=20)


def user(script: object) -> Any:
    """The messages of a chat in which the user sends these steps."""
    return [{"role": "user", "content": json.dumps(script)}]


def text_of(chunks: Iterable[Any]) -> str:
    """The text that the chunks of a completion hold."""
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
