"""What a turn does, the same for every candidate: the text of the message is a JSON object that says it.

Copied beside the candidate's own server file, and run in the candidate's own environment, on AgentScope 1.x
or 2.x. The keys, all optional:

    events   how many messages, 1
    form     "prebuilt": one Msg again and again, so that the path is seen; "real": a new one each time
    size     characters of text in each, 60
    pause    null: as fast as they are taken; 0: each from its own turn of the event loop; else seconds
             between two. With seconds, each message bears the time at which it was due
    cpu      seconds of Python before the first
    block    seconds for which the event loop is blocked, a tenth of a second after the first
    hold     seconds of silence after the last
"""

import asyncio
import functools
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from agentscope.message import Msg, TextBlock


def message(text: str) -> Msg:
    block = TextBlock(type="text", text=text)
    return Msg(name="assistant", content=[block], role="assistant", metadata={"chunk": True})


@functools.cache
def prebuilt(size: int) -> Msg:
    return message("x" * size)


def say(msg: Msg, text: str) -> None:
    """Give a message another text."""
    block: Any = msg.content[0]
    if isinstance(block, dict):  # 1.x
        block["text"] = text
    else:
        block.text = text


async def turn(asked: Msg) -> AsyncIterator[Msg]:
    """The messages of one turn."""
    script = json.loads(asked.get_text_content() or "{}")
    events, size, pause = script.get("events", 1), script.get("size", 60), script.get("pause")
    real = script.get("form") == "real"
    if "cpu" in script:
        until = time.thread_time() + script["cpu"]
        while time.thread_time() < until:
            pass
    if pause:
        async for msg in paced(events, pause, real):
            yield msg
    else:
        for _ in range(events):
            if pause is not None:
                await asyncio.sleep(0)
            yield message("x" * size) if real else prebuilt(size)
    if "block" in script:
        await asyncio.sleep(0.1)  # what there is to send leaves before
        time.sleep(script["block"])  # noqa: ASYNC251 - that is what is measured
    if "hold" in script:
        await asyncio.sleep(script["hold"])


async def paced(events: int, pause: float, real: bool) -> AsyncIterator[Msg]:
    """Messages at fixed times: one that comes late does not delay the next, and its lateness is seen."""
    msg, due = message(""), time.monotonic_ns()
    for _ in range(events):
        due += int(pause * 1e9)
        await asyncio.sleep(max(0.0, (due - time.monotonic_ns()) / 1e9))
        text = f"some words, as from a model, due @{due}."
        if real:
            yield message(text)
        else:
            say(msg, text)
            yield msg
