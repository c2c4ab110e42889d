"""The operator's commands: what each one reads from the instance, and what it does to it.

Reads the fleet, the worker pool and the open turns, and never changes them directly: a change is an event in
the daemon's queue, or a call of `InstanceActions`, which `daemon` implements. `control.server` serves the
handlers over HTTP; the console in `web` uses some of them too.
"""

import asyncio
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, Protocol

from agentscope_supervisor import __version__
from agentscope_supervisor.domain.errors import ErrorCode, Failure, Refused, invalid
from agentscope_supervisor.processes.launcher import ZYGOTE
from agentscope_supervisor.system.event_queue import Post
from agentscope_supervisor.system.instance_dir import Address
from agentscope_supervisor.system.process_memory import MemoryByPid, ProcessMemory
from agentscope_supervisor.turns.service import TurnService
from agentscope_supervisor.turns.session_table import SessionTable
from agentscope_supervisor.workers import stacks
from agentscope_supervisor.workers.condition import Condition
from agentscope_supervisor.workers.controller import Controller
from agentscope_supervisor.workers.exit_reasons import Cause, ExitReason, ExitRecord
from agentscope_supervisor.workers.process import Process
from agentscope_supervisor.workers.revisions import Outcome, ReloadRefused, Rolling, Unchanged

Query = Callable[[], Any]
"""Returns an answer that can be encoded as JSON, or an awaitable of one."""


class InstanceActions(Protocol):
    """Operations that `daemon` does for the operator, since it must notify the service manager too."""

    def reload(self, *, even_unchanged: bool) -> Rolling | Unchanged | ReloadRefused: ...

    def roll(self) -> Rolling | ReloadRefused: ...

    def stop(self, *, at_once: bool) -> None: ...


class Handlers:
    """One method per command. Methods without `async` return at once; changes go through the queue."""

    def __init__(
        self,
        actions: InstanceActions,
        condition: Condition,
        controller: Controller,
        turns: TurnService,
        table: SessionTable,
        memory: ProcessMemory,
        post: Post,
        address: Address,
    ) -> None:
        self._actions: Final = actions
        self._condition: Final = condition
        self._controller: Final = controller
        self._fleet: Final = controller.fleet
        self._pool: Final = controller.pool
        self._revisions: Final = controller.revisions
        self._ledger: Final = turns.ledger
        self._table: Final = table
        self._memory: Final = memory
        self._post: Final = post
        self._address: Final = address
        self._loop: Final = asyncio.get_running_loop()
        self.queries: Final[Mapping[str, Query]] = {
            "/status": self.status,
            "/deaths": self.deaths,
            "/sessions": self.sessions,
            "/stacks": self.stacks,
        }
        """Commands that only read, by the path of their GET request; they take no arguments."""
        # Commands that need no check of their own.
        self.roll: Final = actions.roll
        self.stop: Final = actions.stop
        self.maintain: Final = turns.maintain
        self.idle: Final = turns.idle
        self.outcome: Final = controller.revisions.outcome

    # -- queries ----------------------------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        """Return everything that is known of the instance, its slots and its workers."""
        held = await self._memory.measure()
        health, unready = self._condition.health(), self._condition.unready()
        outlook = self._condition.outlook()
        deaths = self._pool.exit_records
        last = self._revisions.last
        return {
            "name": self._address.name,
            "status": health["status"],
            "unready": unready.message if unready is not None else None,
            "url": self._address.url,
            "project": self._address.project,
            "pid": os.getpid(),
            "version": __version__,
            "uptime": health["uptime"],
            "memory_mb": _megabytes(os.getpid(), held),
            "turns": health["turns"] | outlook["turns"],
            "sessions": outlook["sessions"],
            "latency": outlook["latency"],
            "platform": outlook["platform"],
            "store": health["store"]["reason"],
            "edition": self._fleet.revision,
            "rolling": self._fleet.rolling,
            "rollout": _rollout(last) if last is not None else None,
            "trouble": outlook["trouble"],
            "slots": [self._slot(index) for index in range(self._fleet.size)],
            "workers": [self._worker(process, held) for process in self._in_order()],
            "zygotes": [
                {"pid": pid, "memory_mb": _megabytes(pid, held)}
                for pid, mark in self._pool.marks().items()
                if mark == ZYGOTE
            ],
            "deaths": {cause.value: count for cause, count in deaths.counts.items() if count},
        }

    def _slot(self, index: int) -> dict[str, Any]:
        slot, now = self._fleet.slots[index], self._loop.time()
        last = self._pool.exit_records.last_of(index)
        return {
            "slot": index,
            "restarts": self._pool.exit_records.failures(index),
            "breaker_open": slot.history.breaker_open,
            "starts_in": round(max(0.0, slot.start_at - now), 1)
            if slot.start_at is not None and slot.start_at != math.inf
            else None,
            "last_death": {"at": _clock(last.at), "cause": last.reason.cause, "detail": last.reason.detail}
            if last is not None
            else None,
        }

    def _worker(self, process: Process, held: MemoryByPid) -> dict[str, Any]:
        pid = process.child.pid if process.child is not None else None
        return {
            "worker": process.label,
            "slot": process.slot,
            "generation": process.generation,
            "pid": pid,
            "state": process.state.name.lower(),
            "seconds": round(self._loop.time() - process.since, 1),
            "turns": self._ledger.on_process(process.number),
            "memory_mb": _megabytes(pid, held),
        }

    def _in_order(self) -> list[Process]:
        return sorted(self._pool, key=lambda process: (process.slot, process.generation))

    def deaths(self) -> list[dict[str, Any]]:
        """Return the exits of workers that are still remembered, oldest first."""
        return [_death(death) for death in self._pool.exit_records]

    def sessions(self) -> list[dict[str, Any]]:
        """Return the sessions with open turns."""
        return self._table.busy(self._loop.time())

    async def stacks(self) -> list[dict[str, Any]]:
        """Return the current stacks of the supervisor and of each worker."""
        workers = await stacks.of_workers(self._in_order())
        return [{"worker": "supervisor", "lines": stacks.own()}, *workers]

    # -- actions ----------------------------------------------------------------------------

    def scale(self, slots: int) -> None:
        """Set the number of slots, at least 1. Raises: Refused while the instance stops."""
        if self._fleet.stopping:
            raise Refused(Failure(ErrorCode.DRAINING, "refused: the instance is stopping"))
        self._post(partial(self._controller.scale, slots))

    def reset(self, slot: int) -> None:
        """Close the circuit breaker of a slot and start its worker at once.

        Raises: Refused if there is no such slot.
        """
        if slot >= self._fleet.size:
            raise invalid(f"no slot {slot}; slots are 0 to {self._fleet.size - 1}")
        self._post(partial(self._controller.reset, slot))

    def reload(self) -> Rolling | ReloadRefused:
        """Read agentapp.yaml again and replace all workers, also when nothing has changed."""
        started = self._actions.reload(even_unchanged=True)
        assert not isinstance(started, Unchanged), "only returned without even_unchanged"
        return started

    def kill(self, worker: str) -> str:
        """Send SIGKILL to the worker "<slot>.<generation>", or to all workers of "<slot>".

        Returns the names of the killed workers. Raises: Refused if no worker has this name.
        """
        processes = [process for process in self._in_order() if worker in _names(process)]
        if not processes:
            known = ", ".join(process.label for process in self._in_order()) or "none"
            raise Refused(
                Failure(ErrorCode.NOT_FOUND, f"no worker {worker[:20]!r}; running workers: {known}")
            )
        for process in processes:
            self._post(partial(self._controller.kill, process, ExitReason(Cause.KILLED, "by an operator")))
        return ", ".join(process.label for process in processes)


def _names(process: Process) -> Iterator[str]:
    yield process.label
    yield str(process.slot)


def _megabytes(pid: int | None, held: MemoryByPid) -> float | None:
    """Return the memory of a process in MB; None until it has been measured."""
    return round(held[pid], 1) if pid is not None and pid in held else None


def _clock(at: float) -> str:
    """Return seconds since 1970 as a UTC timestamp, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def _rollout(outcome: Outcome) -> dict[str, Any]:
    return {"edition": outcome.revision, "failure": outcome.failure, "at": _clock(outcome.at)}


def _death(death: ExitRecord) -> dict[str, Any]:
    return {
        "at": _clock(death.at),
        "worker": death.worker,
        "slot": death.slot,
        "generation": death.generation,
        "pid": death.pid,
        "cause": death.reason.cause,
        "detail": death.reason.detail,
        "ended": death.ended,
        "lived": round(death.lived, 1),
        "ready": round(death.ready, 1) if death.ready is not None else None,
        "turns": death.turns,
        "output": death.output,
        "stacks": death.stacks,
    }
