"""Background tasks of `@app.task`: submitted by POST, polled by GET.

Tasks run in this process, and their records are kept in it. A task is submitted, running, and then finished
or failed; it runs at most once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from typing import Any, Final

from pydantic import BaseModel

from agentscope_worker.agentapp.runner import is_generator, items_of, result_of

log = logging.getLogger(__name__)

TTL: Final = 3600.0
"""Seconds for which the result of a task can be polled."""

MAX_RECORDS: Final = 10_000
"""Records that are kept: ended tasks go first, the oldest before the others."""

_MAX_DEPTH: Final = 20  # of a result

Record = dict[str, Any]


class TaskRecords(dict[str, Record]):
    """The records of tasks by id, as `AgentApp.active_tasks`; ended ones expire."""

    def add(self, record: Record) -> None:
        now = time.time()
        for id in [id for id, each in self.items() if each.get("ended_at", now) < now - TTL]:
            del self[id]
        if len(self) >= MAX_RECORDS:
            del self[next((id for id, each in self.items() if "ended_at" in each), next(iter(self)))]
        self[record["task_id"]] = record


class Tasks:
    """The tasks of one app. `close` ends those that run."""

    def __init__(self) -> None:
        self.records: Final = TaskRecords()
        self._running: Final[dict[str, asyncio.Task[None]]] = {}

    def submit(self, work: Callable[[], Any], queue: str, timeout: float | None = None) -> Record:
        """Start a task; `work` may be any kind of function, and gives a list if it yields.

        `timeout`: seconds. Returns the record.
        """
        record: Record = {
            "task_id": str(uuid.uuid4()),
            "status": "submitted",
            "queue": queue,
            "submitted_at": time.time(),
        }
        id = record["task_id"]
        self.records.add(record)
        self._running[id] = task = asyncio.create_task(self._work(record, work, timeout))
        task.add_done_callback(lambda _: self._running.pop(id, None))
        return record

    def status(self, task_id: str) -> Record | None:
        """The state of a task for a client; None for an unknown id."""
        record = self.records.get(task_id)
        if record is None:
            return None
        fields = ("task_id", "status", "started_at", "result", "error", "error_type")
        return {"result": None} | {name: record[name] for name in fields if name in record}

    async def close(self) -> None:
        for task in self._running.values():
            task.cancel()
        if self._running:
            await asyncio.wait(self._running.values())

    async def _work(self, record: Record, work: Callable[[], Any], limit: float | None) -> None:
        record.update(status="running", started_at=time.time())
        bound = asyncio.timeout(limit)
        try:
            async with bound:
                result = await _collected(work)
        except asyncio.CancelledError:
            _fail(record, "the worker has stopped", "CancelledError")
            raise
        except Exception as error:
            if bound.expired():
                _fail(record, f"Task exceeded timeout of {limit}s", "TimeoutError")
                return
            log.exception("a task raised")
            _fail(record, str(error), type(error).__name__)
        else:
            record.update(status="finished", result=plain(result), ended_at=time.time())


async def _collected(work: Callable[[], Any]) -> Any:
    """The result of a function; the list of its items if it is a generator."""
    result = await result_of(work, {})
    return [item async for item in items_of(result)] if is_generator(result) else result


def _fail(record: Record, error: str, error_type: str) -> None:
    record.update(status="failed", error=error, error_type=error_type, ended_at=time.time())


def plain(value: Any, depth: int = 0) -> Any:
    """A copy of `value` that JSON can represent."""
    if depth > _MAX_DEPTH:
        return f"<too-deep-level-{depth}-{value}>"
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value), depth + 1)
    if isinstance(value, dict):
        return {str(key): plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(each, depth + 1) for each in value]
    for name in ("to_map", "to_dict"):
        if callable(method := getattr(value, name, None)):
            return plain(method(), depth + 1)
    return str(value)


def server_sent(value: Any) -> str:
    """One event of a stream."""
    return f"data: {json.dumps(plain(value), ensure_ascii=False)}\n\n"
