"""What the operator sees of an instance, and does to it: the words of `server`, put to the decisions.

Reads `fleet`, `workers.pool` and the open turns and changes none of them; what is to be done goes through
`Actions`, which `daemon` provides.
"""

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Any, Final, Protocol

from agentscope_supervisor import __version__
from agentscope_supervisor.domain.errors import ErrorCode, Failure
from agentscope_supervisor.domain.request import Refused, invalid
from agentscope_supervisor.processes.launcher import ZYGOTE
from agentscope_supervisor.system.instance_dir import Address
from agentscope_supervisor.system.process_memory import Held, ProcessMemory
from agentscope_supervisor.turns.ledger import Ledger
from agentscope_supervisor.turns.session_table import SessionTable
from agentscope_supervisor.workers import stacks
from agentscope_supervisor.workers.exit_reasons import Cause, ExitReason, ExitRecord
from agentscope_supervisor.workers.fleet import Fleet
from agentscope_supervisor.workers.pool import Pool, Process
from agentscope_supervisor.workers.revisions import Outcome, ReloadRefused, Revisions, Rolling, Unchanged


class Actions(Protocol):
    """What the daemon does for the operator, in its queue."""

    def health(self) -> dict[str, Any]:
        """As /health shows it."""

    def outlook(self) -> dict[str, Any]:
        """What only the operator is shown of turns, platform and the last reload."""

    def unready(self) -> Failure | None:
        """Why a turn would not be accepted now; None: it would."""

    def reload(self, *, even_unchanged: bool) -> Rolling | Unchanged | ReloadRefused: ...

    def roll(self) -> Rolling | ReloadRefused: ...

    def scale(self, slots: int) -> None: ...

    def reset(self, slot: int) -> None: ...

    def kill(self, process: Process, verdict: ExitReason) -> None: ...

    def stop(self, *, at_once: bool) -> None: ...

    def maintain(self, on: bool) -> None: ...

    async def idle(self) -> None: ...


class Handlers:
    """The desk of `server`."""

    def __init__(
        self,
        actions: Actions,
        fleet: Fleet,
        ledger: Ledger,
        workforce: Pool,
        memory: ProcessMemory,
        rollouts: Revisions,
        table: SessionTable,
        address: Address,
    ) -> None:
        self._fleet: Final = fleet
        self._ledger: Final = ledger
        self._workforce: Final = workforce
        self._memory: Final = memory
        self._rollouts: Final = rollouts
        self._table: Final = table
        self._address: Final = address
        self._actions: Final = actions
        self._loop: Final = asyncio.get_running_loop()
        self.roll: Final = actions.roll
        self.stop: Final = actions.stop
        self.maintain: Final = actions.maintain
        self.idle: Final = actions.idle
        self.outcome: Final = rollouts.outcome

    # -- what is seen -----------------------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        held = await self._memory.look()
        health, unready = self._actions.health(), self._actions.unready()
        outlook = self._actions.outlook()
        deaths = self._workforce.deaths
        last = self._rollouts.last
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
            "edition": self._fleet.edition,
            "rolling": self._fleet.rolling,
            "rollout": _rollout(last) if last is not None else None,
            "trouble": outlook["trouble"],
            "slots": [self._slot(index) for index in range(self._fleet.size)],
            "workers": [self._worker(process, held) for process in self._in_order()],
            "zygotes": [
                {"pid": pid, "memory_mb": _megabytes(pid, held)}
                for pid, mark in self._workforce.marks().items()
                if mark == ZYGOTE
            ],
            "deaths": {cause.value: count for cause, count in deaths.counts.items() if count},
        }

    def _slot(self, index: int) -> dict[str, Any]:
        slot, now = self._fleet.slots[index], self._loop.time()
        last = self._workforce.deaths.last_of(index)
        return {
            "slot": index,
            "restarts": self._workforce.deaths.failures(index),
            "breaker_open": slot.history.breaker_open,
            "starts_in": round(max(0.0, slot.start_at - now), 1) if slot.start_at is not None else None,
            "last_death": {"at": _clock(last.at), "cause": last.verdict.cause, "detail": last.verdict.detail}
            if last is not None
            else None,
        }

    def _worker(self, process: Process, held: Held) -> dict[str, Any]:
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
        return sorted(self._workforce, key=lambda process: (process.slot, process.generation))

    def deaths(self) -> list[dict[str, Any]]:
        return [_death(death) for death in self._workforce.deaths]

    def sessions(self) -> list[dict[str, Any]]:
        return self._table.busy(self._loop.time())

    async def stacks(self) -> list[dict[str, Any]]:
        workers = await stacks.of_workers(self._in_order())
        return [{"worker": "supervisor", "lines": stacks.own()}, *workers]

    # -- what is done -----------------------------------------------------------------------

    def scale(self, slots: int) -> None:
        if self._fleet.stopping:
            raise Refused(Failure(ErrorCode.DRAINING, "refused: the instance is stopping"))
        self._actions.scale(slots)

    def reset(self, slot: int) -> None:
        if slot >= self._fleet.size:
            raise invalid(f"there is no slot {slot}; slots are 0 to {self._fleet.size - 1}")
        self._actions.reset(slot)

    def reload(self) -> Rolling | ReloadRefused:
        begun = self._actions.reload(even_unchanged=True)
        assert not isinstance(begun, Unchanged), "not asked for"
        return begun

    def kill(self, worker: str) -> str:
        processes = [process for process in self._in_order() if worker in _names(process)]
        if not processes:
            there = ", ".join(process.label for process in self._in_order()) or "none"
            raise Refused(
                Failure(ErrorCode.NOT_FOUND, f"there is no worker {worker[:20]!r}; there are: {there}")
            )
        for process in processes:
            self._actions.kill(process, ExitReason(Cause.KILLED, "by an operator"))
        return ", ".join(process.label for process in processes)


def _names(process: Process) -> Iterator[str]:
    yield process.label
    yield str(process.slot)


def _megabytes(pid: int | None, held: Held) -> float | None:
    """None: not known yet."""
    return round(held[pid], 1) if pid is not None and pid in held else None


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def _rollout(outcome: Outcome) -> dict[str, Any]:
    return {"edition": outcome.edition, "failure": outcome.failure, "at": _clock(outcome.at)}


def _death(death: ExitRecord) -> dict[str, Any]:
    return {
        "at": _clock(death.at),
        "worker": death.worker,
        "slot": death.slot,
        "generation": death.generation,
        "pid": death.pid,
        "cause": death.verdict.cause,
        "detail": death.verdict.detail,
        "ended": death.ended,
        "lived": round(death.lived, 1),
        "ready": round(death.ready, 1) if death.ready is not None else None,
        "turns": death.turns,
        "output": death.output,
        "stacks": death.stacks,
    }
