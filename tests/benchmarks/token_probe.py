"""Measures the CPU time of one piece of a model's stream in this process, for `token_cost`.

    python -m tests.benchmarks.token_probe PROVIDER LEVEL LIGHT URL TOKENS ROUNDS

LEVEL is `client` (the provider's client alone), `model` (AgentScope's model), `slot`
(`runtime.models.main.stream`) or `agent` (an agent with memory). LIGHT is `auto` or `off`. Prints a JSON
object: `us`, a list of the microseconds of CPU time for each token, one for each round, and `first_ms`, a
list of the milliseconds until the first piece.
"""

import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvloop

from agentscope_protocol.config.settings import ModelSettings
from agentscope_worker.runtime.compat.majors import seam
from agentscope_worker.runtime.models.slots import build_models


def stream_of(level: str, slot: Any, text: str) -> Callable[[], AsyncIterator[Any]]:
    """A function that starts one stream and yields its pieces."""
    from agentscope.message import Msg

    question = Msg(name="user", content=text, role="user")

    async def client() -> AsyncIterator[Any]:
        create = getattr(slot.client, "messages", None) or slot.client.chat.completions
        extra = {"max_tokens": 4096} if hasattr(slot.client, "messages") else {}
        messages: Any = [{"role": "user", "content": text}]
        async for piece in await create.create(model="m", messages=messages, stream=True, **extra):
            yield piece

    async def model() -> AsyncIterator[Any]:
        async for piece in await slot([question]):
            yield piece

    async def agent() -> AsyncIterator[Any]:
        if seam().MAJOR == 2:
            from agentscope.agent import Agent

            replying: Any = Agent(name="agent", system_prompt="You answer.", model=slot)
        else:
            from agentscope.agent import ReActAgent
            from agentscope.formatter import OpenAIChatFormatter

            replying = ReActAgent(
                name="agent", sys_prompt="You answer.", model=slot, formatter=OpenAIChatFormatter()
            )
        async for piece in replying.stream(question):
            yield piece

    levels = {"client": client, "model": model, "slot": lambda: slot.stream([question]), "agent": agent}
    return levels[level]


async def measure(
    provider: str, level: str, light: str, url: str, tokens: int, rounds: int
) -> dict[str, Any]:
    slot_settings = ModelSettings.model_validate(
        {"provider": provider, "model": "m", "api_key": "k", "base_url": url, "light_stream": light}
    )
    seam().adapt("bypass")
    slot = build_models({"main": slot_settings}).main
    stream = stream_of(level, slot, " ".join(["word"] * tokens))
    each_us, first_ms = [], []
    for number in range(rounds + 1):
        began, cpu, first = time.perf_counter(), time.process_time(), 0.0
        async for _ in stream():
            first = first or time.perf_counter() - began
        if number:  # the first stream opens the connection and fills caches
            each_us.append((time.process_time() - cpu) / tokens * 1e6)
            first_ms.append(first * 1e3)
    return {"us": each_us, "first_ms": first_ms}


if __name__ == "__main__":
    provider, level, light, url, tokens, rounds = sys.argv[1:]
    print(json.dumps(uvloop.run(measure(provider, level, light, url, int(tokens), int(rounds)))))
