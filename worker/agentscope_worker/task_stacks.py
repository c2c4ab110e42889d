"""Prints where the tasks of this process wait: the chain of coroutines and async generators of each.

A stack of a thread shows only that its event loop waits. `watchdog` calls `write` when the supervisor asks
for stacks; the lines have the format of faulthandler.
"""

import asyncio
import gc
import inspect
import os
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any, Final

TASKS: Final = 20  # the supervisor keeps 200 lines of a dump, and threads come first
FRAMES: Final = 10  # the innermost frames of a task
STDERR: Final = 2


def write() -> None:
    """Write the stacks of the tasks of the running loop to stderr. May be called from a signal handler."""
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:  # no loop runs
        return
    lines = [line for task in list(tasks)[:TASKS] for line in stack_of(task)]
    # Not through sys.stderr: the signal may have interrupted a write to it.
    os.write(STDERR, "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))


def stack_of(task: asyncio.Task[Any]) -> list[str]:
    """The lines of one task: a heading, and its innermost frame first."""
    frames = list(_inward(task.get_coro()))[: -FRAMES - 1 : -1]
    lines = [f'  File "{code.co_filename}", line {line} in {code.co_qualname}' for code, line in frames]
    return [f"Task {task.get_name()} (most recent call first):", *(lines or ["  <no Python frame>"])]


def _inward(awaited: Any) -> Iterator[tuple[CodeType, int | None]]:
    """Code and line of each coroutine, generator and async generator that waits for the next one."""
    while awaited is not None:
        frame: FrameType | None = None
        for kind, inner in (("cr", "cr_await"), ("ag", "ag_await"), ("gi", "gi_yieldfrom")):
            if (frame := getattr(awaited, f"{kind}_frame", None)) is not None:
                yield frame.f_code, frame.f_lineno
                awaited = getattr(awaited, inner)
                break
        if frame is None:
            # The awaitable of `anext(generator)` has no attributes; it refers to its generator.
            referred = gc.get_referents(awaited) if type(awaited).__name__.startswith("async_gen") else ()
            awaited = next(filter(inspect.isasyncgen, referred), None)
