"""Which processes should exist. Pure.

What happened comes in, commands come out; `lifecycle` owns each life.

A slot is a stable place to which sessions are hashed. It has at most one `current` process, which gets the
turns, and in a rollout an `incoming` one, which replaces it once it has been ready for the soak time.
Processes on their way out are in `leaving` and belong to no slot. At most one is incoming in the whole
fleet, so that a rollout needs room for one extra process.

A rollout goes from slot to slot. The first of its processes is watched for longer than the others, and the
unexpected end of any of them before the rollout is over takes it back: what was replaced goes back to the
last revision that is known to be good. A slot that has no process when its turn comes tries the new revision
at once, and counts as done when that is ready.

Slots that are added get their share of the sessions when they can serve it, in the order of their numbers;
slots that are taken away give theirs up first.

At first only slot 0 starts: one clear error instead of one for each slot. Until a process has been ready
for the first time, the fleet gives up on what cannot work; afterwards it never does.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from agentscope_supervisor.processes.backoff import RestartHistory, RestartPolicy

EX_OK: Final = 0
EX_TEMPFAIL: Final = 75  # sysexits.h: worth another try
EX_CONFIG: Final = 78  # sysexits.h: cannot work as configured; nothing to retry

CANARY_SOAKS: Final = 5
"""Soak times that the first process of a rollout must stay ready before the second one is started: ten
seconds by default, which is how long code that starts well and then falls over usually takes."""


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a process. `process` is our id of it and never reused; pids are."""

    process: int
    slot: int
    generation: int  # of the slot, counted from 1
    revision: int  # of the settings


@dataclass(frozen=True, slots=True)
class Retire:
    """Let this process go once its turns have ended."""

    process: int
    reason: str


@dataclass(frozen=True, slots=True)
class Assign:
    """Turns of `slot` go to `process` from now on; None: they wait."""

    slot: int
    process: int | None


@dataclass(frozen=True, slots=True)
class Resize:
    """Sessions are shared out over the slots 0 to `slots` - 1 from now on."""

    slots: int


@dataclass(frozen=True, slots=True)
class RolloutEnded:
    """`failure` is empty if every process is of this revision now. `asked`: by `roll`; else what ended was
    the replacement of single processes, or the way back from a rollout that had failed."""

    revision: int
    failure: str
    asked: bool = True


@dataclass(frozen=True, slots=True)
class Finished:
    """No process is left, and none will be started: exit with this status."""

    status: int


Command = Spawn | Retire | Assign | Resize | RolloutEnded | Finished


@dataclass(slots=True)
class Slot:
    history: RestartHistory
    generation: int = 0
    current: int | None = None
    incoming: int | None = None
    start_at: float | None = None  # when to start `current`; None: it is there, or not yet wanted
    swap_at: float | None = None  # when `incoming` has soaked


@dataclass(slots=True)
class Fleet:
    """Owner of the slots. Call one method for each thing that happened, and carry out what it returns.

    Times are seconds of a monotonic clock. `start_deadline`: how long the first start may be retried.
    """

    size: int  # slots that are wanted
    start_deadline: float
    soak: float
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    revision: int = 1
    slots: list[Slot] = field(init=False)  # never shrinks, so that no generation comes twice
    routed: int = field(init=False)  # slots that the sessions are shared out over
    leaving: set[int] = field(default_factory=set)
    ready_since: dict[int, float] = field(default_factory=dict)
    ever_ready: bool = False
    stopping: bool = False
    _revisions: dict[int, int] = field(default_factory=dict)  # of each process
    _rollout: deque[int] | None = None  # slots still to replace; None: no rollout
    _to_replace: set[int] = field(default_factory=set)  # processes to be replaced although of this revision
    _asked: bool = False  # the rollout is one that `roll` began
    _canary: int | None = None  # the first process of a rollout, until it has been watched enough
    _advance_at: float | None = None  # when it has
    finished: bool = False  # the last command was Finished
    _good_revision: int = 1
    _last_process: int = 0
    _give_up_at: float = 0.0

    def __post_init__(self) -> None:
        self.slots = [Slot(RestartHistory(self.policy)) for _ in range(self.size)]
        self.routed = self.size

    # -- what happened ----------------------------------------------------------------------

    def start(self, now: float) -> list[Command]:
        """Called once, first."""
        self._give_up_at = now + self.start_deadline
        self.slots[0].start_at = now
        return self.tick(now)

    def tick(self, now: float) -> list[Command]:
        """Do what is due. To be called at `next_due`; earlier is harmless."""
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
        """A process said that it takes turns."""
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
        """A process that was ready is on its way out, by whatever cause; `exited` will follow."""
        for slot in self.slots:
            if slot.incoming == process:
                slot.swap_at = None
                del self.ready_since[process]

    def exited(
        self, process: int, status: int, now: float, chance: float, *, blamed: bool = False
    ) -> list[Command]:
        """A process was reaped. `status`: exit code, or minus the signal. `chance`: uniform in [0, 1).

        `blamed`: a turn is known to have killed it, which says nothing of the slot: the next process starts
        at once, and the slot's breaker does not count this death.
        """
        since = self.ready_since.pop(process, None)
        revision = self._revisions.pop(process)
        self.leaving.discard(process)
        self._to_replace.discard(process)
        if process == self._canary and self._rollout is not None:
            self._canary = self._advance_at = None
            self._rollout.appendleft(0)  # the next one there is watched in its place
        commands: list[Command] = []
        for index, slot in enumerate(self.slots):
            if slot.incoming == process:
                slot.incoming = slot.swap_at = None
                if slot.current is None:
                    slot.start_at = now + slot.history.exited(now, 0.0, chance)
                if revision == self.revision:
                    self._roll_back(_ended_with(index, status), now, commands)
                else:  # a newer revision was asked for meanwhile
                    self._advance(now, commands)
            elif slot.current == process:
                slot.current = None
                commands.append(Assign(index, None))
                ready_for = now - since if since is not None else 0.0
                delay = 0.0 if blamed else slot.history.exited(now, ready_for, chance)
                if slot.incoming is not None:  # it is all there is: no time to soak
                    slot.swap_at = now if slot.incoming in self.ready_since else None
                elif not self._gives_up(status, now + delay, revision):
                    slot.start_at = now + delay
                if self._tries(revision) and not blamed:
                    self._roll_back(_ended_with(index, status), now, commands)
                else:
                    self._advance(now, commands)
        if self._is_empty() and not self.finished:
            self.finished = True
            commands.append(Finished(self._status_of_end(status)))
        return commands + self.tick(now)

    def roll(self, revision: int, now: float) -> list[Command]:
        """Replace every process by one of this revision, one at a time.

        A rollout under way goes on with the newer revision, from the first slot.
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
        """Replace one process as in a rollout, or at the end of the one under way; nothing happens if it
        has left its slot, or is about to."""
        commands: list[Command] = []
        for index, slot in enumerate(self.slots):
            if slot.current == process and slot.incoming is None and process not in self._to_replace:
                self._to_replace.add(process)
                self._asked = self._asked and self._rollout is not None
                self._rollout = deque([*(self._rollout or ()), index])
                self._advance(now, commands)
        return commands

    def scale(self, size: int, now: float) -> list[Command]:
        """Have this many slots, at least 1."""
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
                self._retire(process, "fewer slots are wanted", commands)
            slot.current = slot.incoming = None
        if self.ever_ready:
            for slot in self.slots[before:size]:
                slot.start_at = now
        self._advance(now, commands)
        return commands + self.tick(now)

    def reset(self, index: int, now: float) -> list[Command]:
        """Forget the deaths of a slot; if it waits to start, it does so now. `index` is below `size`."""
        slot = self.slots[index]
        slot.history = RestartHistory(self.policy)
        if slot.start_at is not None:
            slot.start_at = now
        return self.tick(now)

    def stop(self, reason: str) -> list[Command]:
        """Retire everything; Finished follows when the last process is exited."""
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

    # -- what is asked ----------------------------------------------------------------------

    @property
    def next_due(self) -> float | None:
        """When `tick` has something to do, or None."""
        times = [at for slot in self.slots for at in (slot.start_at, slot.swap_at)]
        return min((at for at in [*times, self._advance_at] if at is not None), default=None)

    @property
    def rolling(self) -> bool:
        """Whether processes are being replaced."""
        return self._rollout is not None

    @property
    def rolling_out(self) -> bool:
        """Whether they are because `roll` asked for it; RolloutEnded will say how that ended."""
        return self.rolling and self._asked

    def serving(self) -> int:
        """Slots whose turns are served now."""
        return sum(slot.current in self.ready_since for slot in self.slots)

    # -- inside -----------------------------------------------------------------------------

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
        """Slots that were added and can serve get their share of the sessions."""
        before = self.routed
        while self.routed < self.size and self.slots[self.routed].current in self.ready_since:
            self.routed += 1
        if self.routed > before:
            commands.append(Resize(self.routed))

    def _advance(self, now: float, commands: list[Command]) -> None:
        """Do the next step of a rollout, or end it; nothing while the one before is under way."""
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
                    return  # until its process, which is of this revision, is ready or exited
                if index == 0:  # where a rollout begins
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
        """Whether a rollout is under way that brings this revision, not known to be good yet."""
        return self._rollout is not None and revision == self.revision != self._good_revision

    def _roll_back(self, failure: str, now: float, commands: list[Command]) -> None:
        """The rollout ends here; what it has already replaced goes back to the last good revision."""
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
        """Whether the first start has failed for good."""
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
