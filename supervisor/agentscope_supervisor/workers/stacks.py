"""Collects stacks: of the supervisor's tasks and threads, and of its workers.

A worker prints its stacks from a signal handler in C, so this works while its event loop is blocked. The
stacks arrive as lines of its output. They are for operators; no decision depends on them.
"""

import asyncio
import sys
import threading
import traceback
from collections.abc import Iterable
from typing import Any, Final

from agentscope_supervisor.workers.process import Process

PRINTED_WITHIN: Final = 2.0  # seconds to wait for the output; a stopped process prints nothing
POLL_EVERY: Final = 0.1  # seconds; a dump has no end mark, so it is complete when no further line arrives
FRAMES: Final = 20  # frames of each task and thread of the supervisor


def own() -> list[str]:
    """Return the stacks of this process: its tasks, then its threads except the current one."""
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
    """Return a frame in the format of faulthandler."""
    return f'  File "{file}", line {line} in {function}'


async def of_workers(processes: Iterable[Process]) -> list[dict[str, Any]]:
    """Return the stacks of all workers that have started, as `worker` and `lines`.

    `lines` is empty if a worker does not answer within `PRINTED_WITHIN` seconds.
    """
    asked = []
    for process in processes:
        if process.can_dump_stacks and process.child is not None:
            process.child.dump_stacks()
            asked.append((process, process.child.output.stacks))
    deadline, before = asyncio.get_running_loop().time() + PRINTED_WITHIN, [-1] * len(asked)
    while asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(POLL_EVERY)
        now = [len(lines) for _, lines in asked]
        if all(now) and now == before:
            break
        before = now
    return [{"worker": process.label, "lines": list(lines)} for process, lines in asked]
