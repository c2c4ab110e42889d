"""Where everything is: the stacks of the supervisor's tasks and threads, and those that workers print.

A worker prints its stacks in C, on a signal, so that it tells them while its loop is blocked; what comes
back is lines of its output. For people; nothing is decided by it.
"""

import asyncio
import sys
import threading
import traceback
from collections.abc import Iterable
from typing import Any, Final

from agentscope_supervisor.workers.lifecycle import ProcessState
from agentscope_supervisor.workers.pool import Process

PRINTED_WITHIN: Final = 2.0  # seconds; a stopped process prints nothing
LOOK_EVERY: Final = 0.1  # seconds; a dump has no end mark: it is over when nothing more comes
FRAMES: Final = 20  # of each of our tasks and threads


def own() -> list[str]:
    """Of this process: its tasks, then its threads but for the one that asks."""
    lines = []
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            awaited: Any = task.get_coro()
            lines.append(f"Task {task.get_name()}, {awaited.__qualname__}:")
            chain = []
            while (frame := getattr(awaited, "cr_frame", None)) is not None:
                chain.append(_line(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
                awaited = awaited.cr_await
            lines += chain[: -FRAMES - 1 : -1]
    current = sys._current_frames()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.ident in current:
            lines.append(f"Thread {thread.name}:")
            summary = traceback.extract_stack(current[thread.ident], limit=FRAMES)
            lines += [_line(entry.filename, entry.lineno, entry.name) for entry in reversed(summary)]
    return lines


def _line(file: str, line: int | None, function: str) -> str:
    """As faulthandler writes it."""
    return f'  File "{file}", line {line} in {function}'


async def of_workers(processes: Iterable[Process]) -> list[dict[str, Any]]:
    """Of each worker that can be asked; empty lines of one that does not answer."""
    asked = []
    for process in processes:
        # While the interpreter starts, the signal would end it.
        if process.child is not None and process.state is not ProcessState.STARTING:
            process.child.dump_stacks()
            asked.append((process, process.child.output.stacks))
    deadline, before = asyncio.get_running_loop().time() + PRINTED_WITHIN, [-1] * len(asked)
    while asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(LOOK_EVERY)
        now = [len(lines) for _, lines in asked]
        if all(now) and now == before:
            break
        before = now
    return [{"worker": process.label, "lines": list(lines)} for process, lines in asked]
