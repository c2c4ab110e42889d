"""Decides which processes should exist. Pure.

Events come in, commands go out (`fleet_commands`); `controller` carries them out. `lifecycle` owns the life
cycle of each process.

A slot is a stable place to which sessions are hashed. It has at most one `current` process, which gets the
turns. In a rollout it may also have an `incoming` process, which replaces the current one when it has been
ready for the soak time. Processes on their way out are in `leaving` and belong to no slot. The fleet has at
most one incoming process, so a rollout needs room for one extra process.

The exit of a process means, by its place:

    leaving                                      nothing
    current, no rollout of its revision          its slot starts a new process after the back-off
    current, the rollout of its revision runs    the same, and the rollout fails and rolls back
    incoming, of the requested revision          the rollout fails and rolls back
    incoming, of an older revision               the rollout continues with the newer revision

A rollout replaces one slot after the other. Its first process, the canary, is watched for longer than the
others. If any new process exits unexpectedly before the rollout is over, the rollout fails: replaced slots go
back to the last revision that is known to be good. A slot without a process tries the new revision at once
when its turn comes, and is done when that process is ready.

Added slots get sessions when they can serve them, in the order of their numbers. Removed slots give up their
sessions first.

At first only slot 0 starts, so that a broken App reports one error instead of one for each slot. Until a
process has been ready for the first time, the fleet gives up if the App cannot work; afterwards it never
does.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from agentscope_supervisor.processes.backoff import RestartHistory, RestartPolicy
from agentscope_supervisor.workers.fleet_commands import (
    Assign,
    Command,
    Finished,
    Resize,
    Retire,
    RolloutEnded,
    Spawn,
)

EX_OK: Final = 0
EX_TEMPFAIL: Final = 75  # sysexits.h: a later attempt may succeed
EX_CONFIG: Final = 78  # sysexits.h: the configuration cannot work; do not retry

CANARY_SOAKS: Final = 5
"""Number of soak times that the first process of a rollout must be ready before the second one starts.

That is 10 s by default: code that starts well and then fails usually fails within this time."""


@dataclass(slots=True)
class Slot:
    """One slot: its processes, and when the next one is due."""

    history: RestartHistory
    generation: int = 0
    current: int | None = None
    incoming: int | None = None
    start_at: float | None = None  # when to start `current`; None: it exists; inf: after an edit
    swap_at: float | None = None  # when `incoming` has soaked and replaces `current`


@dataclass(slots=True)
class Fleet:
    """Owner of the slots. Call one method for each event, and carry out the commands that it returns.

    Times are seconds of a monotonic clock. The first start is retried for `start_deadline` seconds.
    """

    size: int  # requested number of slots
    start_deadline: float
    soak: float
    waits: bool = False  # a first start that fails waits for `roll` or `reset`, instead of giving up
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    revision: int = 1
    slots: list[Slot] = field(init=False)  # never shrinks, so that no generation is used twice
    routed: int = field(init=False)  # number of slots over which the sessions are distributed
    leaving: set[int] = field(default_factory=set)
    ready_since: dict[int, float] = field(default_factory=dict)
    ever_ready: bool = False
    stopping: bool = False
    _revisions: dict[int, int] = field(default_factory=dict)  # of each process
    _rollout: deque[int] | None = None  # slots to replace; None: no rollout
    _to_replace: set[int] = field(
        default_factory=set
    )  # processes to replace although they are of this revision
    _asked: bool = False  # `roll` began the rollout
    _canary: int | None = None  # the first process of a rollout, while it is watched
    _advance_at: float | None = None  # when the watch of the canary ends
    finished: bool = False  # Finished was returned
    _good_revision: int = 1
    _last_process: int = 0
    _give_up_at: float = 0.0

    def __post_init__(self) -> None:
        self.slots = [Slot(RestartHistory(self.policy)) for _ in range(self.size)]
        self.routed = self.size

    # -- events -----------------------------------------------------------------------------

    def start(self, now: float) -> list[Command]:
        """Start slot 0. Call it once, before any other method."""
        self._give_up_at = now + self.start_deadline
        self.slots[0].start_at = now
        return self.tick(now)

    def tick(self, now: float) -> list[Command]:
        """Do what is due. Call it at `next_due`; an earlier call does nothing."""
        commands: list[Command] = []
        while self.next_due is not None and self.next_due <= now:
            for index, slot in enumerate(self.slots):
                if slot.start_at is not None and slot.start_at <= now:
                    slot.start_at = None
                    slot.current = self._spawn(index, commands)
                if slot.swap_at is not None and slot.swap_at <= now:
                    self._swap(index, commands)
                    self._advance(now, commands)
            if self._advance_at is not None and self._advance_at <= now:
                self._canary = self._advance_at = None
                self._advance(now, commands)
        return commands

    def ready(self, process: int, now: float) -> list[Command]:
        """A process accepts turns."""
        self.ready_since[process] = now
        commands: list[Command] = []
        for index, slot in enumerate(self.slots):
            if slot.current == process:
                commands.append(Assign(index, process))
                self._join(commands)
                self._advance(now, commands)
            elif slot.incoming == process:
                slot.swap_at = now if slot.current is None else now + self.soak
        if not self.ever_ready and not self.stopping:
            self.ever_ready = True
            for slot in self.slots[1 : self.size]:
                slot.start_at = now
        return commands + self.tick(now)

    def unready(self, process: int) -> None:
        """A process that was ready is exiting, for any reason; `exited` will follow."""
        for slot in self.slots:
            if slot.incoming == process:
                slot.swap_at = None
                del self.ready_since[process]

    def exited(
        self, process: int, status: int, now: float, chance: float, *, blamed: bool = False
    ) -> list[Command]:
        """A process has exited. `status` is the exit code, or minus the signal number.

        `chance` is a random number in [0, 1). `blamed`: a turn is known to have killed the process, which
        says nothing about the slot: the next process starts at once, and the breaker does not count this
        exit.
        """
        since = self.ready_since.pop(process, None)
        revision = self._revisions.pop(process)
        self.leaving.discard(process)
        self._to_replace.discard(process)
        if process == self._canary and self._rollout is not None:
            self._canary = self._advance_at = None
            self._rollout.appendleft(0)  # the next process of slot 0 becomes the canary
        commands: list[Command] = []
        for index, slot in enumerate(self.slots):
            if slot.incoming == process:
                slot.incoming = slot.swap_at = None
                if slot.current is None:
                    slot.start_at = now + slot.history.exited(now, 0.0, chance)
                if revision == self.revision:
                    self._roll_back(_ended_with(index, status), now, commands)
                else:  # a newer revision was requested meanwhile
                    self._advance(now, commands)
            elif slot.current == process:
                slot.current = None
                commands.append(Assign(index, None))
                ready_for = now - since if since is not None else 0.0
                delay = 0.0 if blamed else slot.history.exited(now, ready_for, chance)
                if slot.incoming is not None:  # the slot has no other process: it does not soak
                    slot.swap_at = now if slot.incoming in self.ready_since else None
                elif not self._gives_up(status, now + delay, revision):
                    slot.start_at = now + delay
                elif self.waits:
                    slot.start_at = math.inf
                if self._tries(revision) and not blamed:
                    self._roll_back(_ended_with(index, status), now, commands)
                else:
                    self._advance(now, commands)
        if self._is_empty() and not self.finished:
            self.finished = True
            commands.append(Finished(self._status_of_end(status)))
        return commands + self.tick(now)

    def roll(self, revision: int, now: float) -> list[Command]:
        """Replace all processes by processes of this revision, one slot after the other.

        A running rollout continues with the newer revision, from slot 0.
        """
        if self.stopping:
            return []
        self.revision = revision
        self._rollout, self._asked = deque(range(self.size)), True
        self._canary = self._advance_at = None
        commands: list[Command] = []
        self._advance(now, commands)
        return commands + self.tick(now)

    def replace(self, process: int, now: float) -> list[Command]:
        """Replace one process as in a rollout, after the slots of a running rollout.

        Does nothing if the process has left its slot, or is being replaced already.
        """
        commands: list[Command] = []
        for index, slot in enumerate(self.slots):
            if slot.current == process and slot.incoming is None and process not in self._to_replace:
                self._to_replace.add(process)
                self._asked = self._asked and self._rollout is not None
                self._rollout = deque([*(self._rollout or ()), index])
                self._advance(now, commands)
        return commands

    def scale(self, size: int, now: float) -> list[Command]:
        """Set the number of slots, at least 1."""
        if self.stopping:
            return []
        commands: list[Command] = []
        before, self.size = self.size, size
        self.slots += [Slot(RestartHistory(self.policy)) for _ in range(len(self.slots), size)]
        if self.routed > size:
            self.routed = size
            commands.append(Resize(size))
        for index in range(size, before):
            slot = self.slots[index]
            slot.start_at = slot.swap_at = None
            if slot.current is not None:
                commands.append(Assign(index, None))
            for process in (slot.current, slot.incoming):
                self._retire(process, "its slot was removed", commands)
            slot.current = slot.incoming = None
        if self.ever_ready:
            for slot in self.slots[before:size]:
                slot.start_at = now
        self._advance(now, commands)
        return commands + self.tick(now)

    def reset(self, index: int, now: float) -> list[Command]:
        """Forget the exits of a slot, and start its process now if it is waiting. `index` is below `size`."""
        slot = self.slots[index]
        slot.history = RestartHistory(self.policy)
        if slot.start_at is not None:
            slot.start_at = now
        return self.tick(now)

    def stop(self, reason: str) -> list[Command]:
        """Retire all processes. Finished follows when the last one has exited."""
        if self.stopping:
            return []
        self.stopping = True
        self._rollout = self._canary = self._advance_at = None
        commands: list[Command] = []
        for slot in self.slots:
            slot.start_at = slot.swap_at = None
            for process in (slot.current, slot.incoming):
                self._retire(process, reason, commands)
            slot.current = slot.incoming = None
        if self._is_empty() and not self.finished:
            self.finished = True
            commands.append(Finished(EX_OK))
        return commands

    # -- queries ----------------------------------------------------------------------------

    @property
    def next_due(self) -> float | None:
        """Time at which `tick` has something to do, or None."""
        times = [at for slot in self.slots for at in (slot.start_at, slot.swap_at)]
        return min((at for at in [*times, self._advance_at] if at not in (None, math.inf)), default=None)

    @property
    def rolling(self) -> bool:
        """Whether processes are being replaced."""
        return self._rollout is not None

    @property
    def rolling_out(self) -> bool:
        """Whether a rollout that `roll` began is running; RolloutEnded will report its result."""
        return self.rolling and self._asked

    def serving(self) -> int:
        """Return the number of slots with a ready process."""
        return sum(slot.current in self.ready_since for slot in self.slots)

    # -- internals --------------------------------------------------------------------------

    def _spawn(self, index: int, commands: list[Command]) -> int:
        slot = self.slots[index]
        slot.generation += 1
        self._last_process += 1
        self._revisions[self._last_process] = self.revision
        commands.append(Spawn(self._last_process, index, slot.generation, self.revision))
        return self._last_process

    def _retire(self, process: int | None, reason: str, commands: list[Command]) -> None:
        if process is not None:
            self.leaving.add(process)
            commands.append(Retire(process, reason))

    def _swap(self, index: int, commands: list[Command]) -> None:
        slot = self.slots[index]
        assert slot.incoming is not None
        old, slot.current = slot.current, slot.incoming
        slot.incoming = slot.swap_at = slot.start_at = None
        commands.append(Assign(index, slot.current))
        self._join(commands)
        self._retire(old, "replaced", commands)

    def _join(self, commands: list[Command]) -> None:
        """Distribute sessions to added slots that have a ready process."""
        before = self.routed
        while self.routed < self.size and self.slots[self.routed].current in self.ready_since:
            self.routed += 1
        if self.routed > before:
            commands.append(Resize(self.routed))

    def _advance(self, now: float, commands: list[Command]) -> None:
        """Take the next step of a rollout, or end it. Does nothing while a step is in progress."""
        if self._rollout is None or any(slot.incoming is not None for slot in self.slots):
            return
        while self._rollout and self._canary is None:
            index = self._rollout[0]
            slot = self.slots[index]
            if self._is_old(slot.current):
                slot.incoming = self._spawn(index, commands)
                return
            if index < self.size and self._tries(self.revision):
                if slot.current not in self.ready_since:
                    if slot.start_at is not None:
                        slot.start_at = now
                    return  # wait until its process, which is of this revision, is ready or exits
                if index == 0:  # the first slot of a rollout
                    self._canary = slot.current
            self._rollout.popleft()
        if self._canary is not None:
            self._advance_at = self.ready_since[self._canary] + self.soak * CANARY_SOAKS
            return
        self._rollout, self._good_revision = None, self.revision
        commands.append(RolloutEnded(self.revision, "", self._asked))

    def _is_old(self, process: int | None) -> bool:
        return process is not None and (
            self._revisions[process] != self.revision or process in self._to_replace
        )

    def _tries(self, revision: int) -> bool:
        """Whether a rollout to this revision is running, and the revision is not known to be good yet."""
        return self._rollout is not None and revision == self.revision != self._good_revision

    def _roll_back(self, failure: str, now: float, commands: list[Command]) -> None:
        """End the rollout, and roll replaced processes back to the last good revision."""
        commands.append(RolloutEnded(self.revision, failure, self._asked))
        self._asked = False
        self._rollout = self._canary = self._advance_at = None
        self._to_replace.clear()
        if self.revision == self._good_revision:
            return
        self.revision = self._good_revision
        for slot in self.slots:
            if slot.incoming is not None:
                self._retire(slot.incoming, "rolled back", commands)
                slot.incoming = slot.swap_at = None
                if slot.current is None:
                    slot.start_at = now
        replaced = [index for index, slot in enumerate(self.slots) if self._is_old(slot.current)]
        if replaced:
            self._rollout = deque(replaced)
            self._advance(now, commands)

    def _gives_up(self, status: int, next_start: float, revision: int) -> bool:
        """Whether the first start has failed permanently."""
        if self.ever_ready or revision != self.revision:
            return False
        return status == EX_CONFIG or next_start >= self._give_up_at

    def _is_empty(self) -> bool:
        idle = all(s.current is s.incoming is s.start_at is None for s in self.slots)
        return idle and not self.leaving

    def _status_of_end(self, status: int) -> int:
        if self.stopping:
            return EX_OK
        return EX_CONFIG if status == EX_CONFIG else EX_TEMPFAIL


def _ended_with(index: int, status: int) -> str:
    return f"the new process of slot {index} ended with status {status}"
