"""The fleet with processes that start, exit and fail in any order, in virtual time."""

from collections.abc import Iterable
from itertools import count
from typing import Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentscope_supervisor.processes.backoff import RestartPolicy
from agentscope_supervisor.workers.fleet import (
    CANARY_SOAKS,
    EX_CONFIG,
    EX_OK,
    EX_TEMPFAIL,
    Fleet,
)
from agentscope_supervisor.workers.fleet_commands import (
    Assign,
    Command,
    Finished,
    Resize,
    Retire,
    RolloutEnded,
    Spawn,
)

SOAK: Final = 2.0
CANARY: Final = SOAK * CANARY_SOAKS
DEADLINE: Final = 60.0  # seconds for the first start
STATUSES: Final = st.sampled_from([0, 1, -9, EX_CONFIG])
CHANCES: Final = st.sampled_from([0.0, 0.5, 1 - 2**-53])


class World(RuleBasedStateMachine):
    """Carries out the commands of the fleet, and records which processes live, are ready and get turns."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.spawned: dict[int, Spawn] = {}  # all processes so far
        self.alive: set[int] = set()
        self.ready: dict[int, float] = {}  # alive and ready, since this time
        self.retired: set[int] = set()  # alive and retired
        self.assigned: list[int | None] = []
        self.generations: list[int] = []
        self.revisions = count(2)
        self.good = 1  # the last revision whose rollout succeeded
        self.mixed = False  # a rollback failed: the processes may be of several revisions
        self.ever_ready = False
        self.rolling = False
        self.stopped = False
        self.finished: int | None = None
        self.leaves: range = range(0)  # slots that are being removed
        self.excused = False  # a turn was blamed for an exit in this rollout

    @initialize(size=st.integers(1, 4), works=st.sampled_from([True] * 4 + [False]))
    def begin(self, size: int, works: bool) -> None:
        self.size = self.routed = size
        self.assigned, self.generations = [None] * size, [0] * size
        self.fleet = Fleet(size, DEADLINE, SOAK)
        self.do(self.fleet.start(self.now))
        assert [spawn.slot for spawn in self.spawned.values()] == [0], "the first slot starts alone"
        if works:  # in most worlds, to test what follows a successful start
            self.all_become_ready()

    # -- carrying out -----------------------------------------------------------------------

    def do(self, commands: Iterable[Command], dead: int | None = None) -> None:
        """Carry out commands. `dead` is the process that has just exited: only its slot may lose its
        process."""
        for command in commands:
            assert self.finished is None, "a command after Finished"
            match command:
                case Spawn(process, slot, generation, revision):
                    assert not self.stopped, "spawned after stop"
                    assert process not in self.spawned, "a process number was used twice"
                    assert revision == self.fleet.revision
                    self.generations[slot] += 1
                    assert generation == self.generations[slot]
                    self.spawned[process] = command
                    self.alive.add(process)
                    assert len(self.alive - self.retired) <= self.size + 1
                    self.canary_was_watched(command)
                case Retire(process):
                    assert process in self.alive - self.retired
                    self.retired.add(process)
                    if process in self.assigned:
                        assert self.stopped, "the process that serves a slot was retired"
                        self.assigned[self.assigned.index(process)] = None
                case Assign(slot, None) if slot in self.leaves:
                    assert self.routed <= slot, "sessions must move to another slot first"
                    self.assigned[slot] = None
                case Assign(slot, None):
                    assert dead is not None
                    assert self.spawned[dead].slot == slot
                    assert self.assigned[slot] in (dead, None)
                    self.assigned[slot] = None
                case Resize(slots):
                    assert 1 <= slots <= self.size
                    assert slots != self.routed
                    assert None not in self.assigned[self.routed : slots], (
                        "a slot got sessions before it can serve"
                    )
                    self.routed = slots
                case Assign(slot, process):
                    assert process in self.ready.keys() - self.retired
                    assert self.spawned[process].slot == slot
                    if self.assigned[slot] is not None:
                        assert self.now - self.ready[process] >= SOAK, "the replacement has not soaked"
                    self.assigned[slot] = process
                case RolloutEnded(revision, failure):
                    assert not failure or (dead is not None and self.spawned[dead].revision == revision)
                    self.rollout_ended(revision, failure)
                case Finished(status):
                    assert not self.alive
                    assert self.fleet.next_due is None
                    self.finished = status

    def canary_was_watched(self, spawn: Spawn) -> None:
        """Check that the second process of a rollout starts after the canary has been watched."""
        replaces = self.fleet.slots[spawn.slot].incoming == spawn.process and spawn.slot > 0
        if replaces and self.rolling and spawn.revision != self.good and not self.excused:
            canary = self.fleet.slots[0].current
            assert canary is not None
            assert self.spawned[canary].revision == spawn.revision
            assert self.now - self.ready[canary] >= CANARY

    def rollout_ended(self, revision: int, failure: str) -> None:
        assert self.rolling
        self.rolling = False
        if not failure:
            self.good, self.mixed = revision, self.mixed and revision == self.good
        elif revision == self.good:
            self.mixed |= any(self.spawned[p].revision != revision for p in self.currents())
        else:  # the rollback is a rollout too, if any process was replaced
            self.rolling = any(self.spawned[p].revision != self.good for p in self.currents())

    def currents(self) -> list[int]:
        return [slot.current for slot in self.fleet.slots if slot.current is not None]

    def starting(self) -> list[int]:
        return sorted(self.alive - self.ready.keys() - self.retired)

    # -- events -----------------------------------------------------------------------------

    def becomes_ready(self, process: int) -> None:
        self.ready[process] = self.now
        self.ever_ready |= not self.stopped
        self.do(self.fleet.ready(process, self.now))

    def dies(self, process: int, status: int, chance: float, *, blamed: bool = False) -> None:
        hopeless = status == EX_CONFIG and not (self.ever_ready or self.stopped or self.rolling)
        self.alive.discard(process)
        self.retired.discard(process)
        self.ready.pop(process, None)
        self.excused |= blamed
        self.do(self.fleet.exited(process, status, self.now, chance, blamed=blamed), dead=process)
        assert self.finished == EX_CONFIG or not hopeless
        if self.finished is not None and not self.stopped:
            assert not self.ever_ready, "gave up although the App has worked"
            assert self.finished == (EX_CONFIG if status == EX_CONFIG else EX_TEMPFAIL)
            assert status == EX_CONFIG or self.now + RestartPolicy().max_delay >= DEADLINE

    @precondition(lambda self: self.finished is None and bool(self.starting()))
    @rule(data=st.data())
    def one_becomes_ready(self, data: st.DataObject) -> None:
        self.becomes_ready(data.draw(st.sampled_from(self.starting())))

    @precondition(lambda self: self.finished is None and bool(self.starting()))
    @rule()
    def all_become_ready(self) -> None:
        for process in self.starting():
            self.becomes_ready(process)

    @precondition(lambda self: self.finished is None and self.alive)
    @rule(data=st.data(), status=STATUSES, chance=CHANCES)
    def one_dies(self, data: st.DataObject, status: int, chance: float) -> None:
        self.dies(data.draw(st.sampled_from(sorted(self.alive))), status, chance)

    @precondition(lambda self: self.finished is None and bool(self.ready.keys() & self.currents()))
    @rule(data=st.data())
    def one_is_killed_by_a_turn(self, data: st.DataObject) -> None:
        process = data.draw(st.sampled_from(sorted(self.ready.keys() & self.currents())))
        slot = self.fleet.slots[self.spawned[process].slot]
        short_lives = slot.history.short_lives
        self.dies(process, -11, 0.0, blamed=True)
        assert slot.history.short_lives == short_lives
        assert self.stopped or slot.start_at is None, "the slot is not to blame and must not wait"

    def replacements(self) -> list[int]:
        """Return the incoming process that is not ready yet, if there is one."""
        return sorted(set(self.starting()) - set(self.currents()))

    @precondition(lambda self: self.finished is None and bool(self.replacements()))
    @rule(status=STATUSES, ready_first=st.booleans())
    def a_replacement_dies(self, status: int, ready_first: bool) -> None:
        (process,) = self.replacements()
        if ready_first:
            self.becomes_ready(process)
        self.dies(process, status, 0.0)

    @precondition(lambda self: self.finished is None)
    @rule(seconds=st.sampled_from([0.125, SOAK / 2, SOAK, 31.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        due = self.fleet.next_due
        self.now += seconds
        commands = self.fleet.tick(self.now)
        assert not commands or (due is not None and due <= self.now)
        self.do(commands)
        assert self.fleet.next_due is None or self.fleet.next_due > self.now

    @precondition(lambda self: self.finished is None and self.fleet.next_due is not None)
    @rule()
    def the_timer_fires(self) -> None:
        self.now = max(self.now, self.fleet.next_due or 0.0)
        self.do(self.fleet.tick(self.now))

    @precondition(lambda self: self.finished is None)
    @rule()
    def everything_succeeds_for_a_while(self) -> None:
        steps = 0
        while steps < 100 and (self.starting() or self.fleet.next_due is not None):
            self.all_become_ready()
            self.now = max(self.now, self.fleet.next_due or 0.0)
            self.do(self.fleet.tick(self.now))
            steps += 1
        assert self.fleet.next_due is None
        assert not self.rolling

    @precondition(lambda self: self.finished is None)
    @rule()
    def a_rollout_is_requested(self) -> None:
        revision = next(self.revisions)
        self.rolling = not self.stopped
        self.excused = False
        self.do(self.fleet.roll(revision, self.now))
        assert self.stopped or revision in (self.fleet.revision, self.good)

    @precondition(lambda self: self.finished is None and self.alive)
    @rule(data=st.data())
    def one_is_recycled(self, data: st.DataObject) -> None:
        process = data.draw(st.sampled_from(sorted(self.spawned)))
        self.rolling |= any(s.current == process and s.incoming is None for s in self.fleet.slots)
        self.do(self.fleet.replace(process, self.now))
        assert self.fleet.replace(process, self.now) == [], "a second request has no effect"

    @precondition(lambda self: self.finished is None)
    @rule(size=st.integers(1, 4))
    def the_number_of_slots_changes(self, size: int) -> None:
        if not self.stopped:
            self.leaves, self.size = range(size, self.size), size
            for row in (self.assigned, self.generations):
                row += [None if row is self.assigned else 0] * (size - len(row))  # type: ignore[list-item]
        self.do(self.fleet.scale(size, self.now))
        self.leaves = range(0)

    @precondition(lambda self: self.finished is None)
    @rule(data=st.data())
    def a_slot_is_reset(self, data: st.DataObject) -> None:
        slot = data.draw(st.integers(0, self.size - 1))
        self.do(self.fleet.reset(slot, self.now))
        assert not self.fleet.slots[slot].history.breaker_open
        assert self.fleet.slots[slot].start_at is None

    @precondition(lambda self: self.finished is None)
    @rule(really=st.sampled_from([False] * 5 + [True]))
    def stop(self, really: bool) -> None:
        if really:
            again, self.stopped, self.rolling = self.stopped, True, False
            commands = self.fleet.stop("requested")
            assert not (again and commands)
            self.do(commands)

    @precondition(lambda self: self.finished is not None)
    @rule()
    def nothing_happens_after_finished(self) -> None:
        self.now += 1000.0
        assert self.fleet.next_due is None
        assert self.fleet.tick(self.now) == []

    # -- invariants -------------------------------------------------------------------------

    @invariant()
    def each_process_has_one_owner(self) -> None:
        owned = [p for slot in self.fleet.slots for p in (slot.current, slot.incoming) if p is not None]
        assert len(owned) == len(set(owned))
        assert self.fleet.leaving == self.retired
        assert set(owned) == self.alive - self.retired
        assert self.fleet.ready_since == self.ready

    @invariant()
    def at_most_one_is_incoming(self) -> None:
        assert sum(slot.incoming is not None for slot in self.fleet.slots) <= 1

    @invariant()
    def no_slot_is_forgotten(self) -> None:
        for slot in self.fleet.slots[self.size :]:
            assert slot.current is slot.incoming is slot.start_at is slot.swap_at is None, (
                "a removed slot is in use"
            )
        if self.finished is None and not self.stopped:
            for slot in self.fleet.slots[: self.size if self.ever_ready else 1]:
                due = slot.start_at is not None
                assert (slot.current is not None or slot.incoming is not None) is not due
                assert (slot.swap_at is not None) is (slot.incoming in self.ready)
                assert slot.current is not None or slot.swap_at is None, (
                    "a slot without a process waits for a soak"
                )

    @invariant()
    def a_ready_process_serves_its_slot(self) -> None:
        if not self.stopped:
            assert self.assigned == [
                slot.current if slot.current in self.ready else None for slot in self.fleet.slots
            ]
            assert self.fleet.serving() == sum(process is not None for process in self.assigned)
        assert {
            process for process in self.assigned if process is not None
        } <= self.ready.keys() - self.retired

    @invariant()
    def the_properties_are_consistent(self) -> None:
        assert self.fleet.rolling is self.rolling
        assert (self.fleet.size, self.fleet.routed) == (self.size, self.routed)
        assert self.fleet.stopping is self.stopped
        assert self.fleet.ever_ready is self.ever_ready

    # -- the end ----------------------------------------------------------------------------

    def teardown(self) -> None:
        if self.spawned and self.finished is None:
            if not self.stopped:
                self.comes_to_rest()
            self.stop(really=True)
            for process in sorted(self.alive):
                assert self.finished is None
                self.dies(process, 0, 0.0)
            assert self.finished == EX_OK

    def comes_to_rest(self) -> None:
        """Check that once nothing fails, each slot is served by the last good revision."""
        self.everything_succeeds_for_a_while()
        assert None not in self.assigned[: self.size]
        assert self.routed == self.size
        assert self.fleet.revision == self.good
        revisions = {self.spawned[process].revision for process in self.alive - self.retired}
        assert self.mixed or revisions == {self.good}


# -- examples ------------------------------------------------------------------------------------


def serving(size: int) -> Fleet:
    """Return a fleet at rest at time 1: process i + 1 of revision 1 serves slot i."""
    fleet = Fleet(size, DEADLINE, SOAK)
    fleet.start(0.0)
    fleet.ready(1, 1.0)
    for process in range(2, size + 1):
        fleet.ready(process, 1.0)
    return fleet


def half_way(fleet: Fleet) -> None:
    """Roll two slots out to revision 2 until time 20, when the new process of slot 1 starts."""
    fleet.roll(2, 9.0)
    assert fleet.rolling_out
    fleet.ready(3, 10.0)
    fleet.tick(12.0)
    assert fleet.tick(10.0 + CANARY) == [Spawn(4, 1, 2, 2)]


def test_the_first_slot_starts_alone_and_the_others_when_it_is_ready() -> None:
    fleet = Fleet(3, DEADLINE, SOAK)
    assert fleet.start(0.0) == [Spawn(1, 0, 1, 1)]
    assert fleet.tick(50.0) == []
    assert fleet.ready(1, 50.0) == [Assign(0, 1), Spawn(2, 1, 1, 1), Spawn(3, 2, 1, 1)]
    assert fleet.ready(3, 51.0) == [Assign(2, 3)]
    assert fleet.serving() == 2


def test_a_first_start_with_a_bad_configuration_is_not_retried() -> None:
    fleet = Fleet(2, DEADLINE, SOAK)
    fleet.start(0.0)
    assert fleet.exited(1, EX_CONFIG, 1.0, 0.0) == [Assign(0, None), Finished(EX_CONFIG)]


def test_a_failing_first_start_is_retried_until_the_deadline() -> None:
    fleet, now, process = Fleet(1, DEADLINE, SOAK), 0.0, 1
    fleet.start(now)
    while (commands := fleet.exited(process, 1, now, 0.0)) == [Assign(0, None)]:
        assert fleet.next_due is not None
        now, process = fleet.next_due, process + 1
        assert fleet.tick(now) == [Spawn(process, 0, process, 1)]
    assert commands == [Assign(0, None), Finished(EX_TEMPFAIL)]
    assert DEADLINE - 30 <= now < DEADLINE


def test_a_retry_at_the_deadline_is_too_late() -> None:
    fleet = Fleet(1, 10.0, SOAK)
    fleet.start(0.0)
    assert fleet.exited(1, 1, 9.75, 0.0) == [Assign(0, None), Finished(EX_TEMPFAIL)]
    fleet = Fleet(1, 10.0, SOAK)
    fleet.start(0.0)
    assert fleet.exited(1, 1, 9.74, 0.0) == [Assign(0, None)]


def test_a_first_start_that_fails_waits_for_an_edit_if_the_project_is_watched() -> None:
    fleet = Fleet(2, DEADLINE, SOAK, waits=True)
    assert fleet.start(0.0) == [Spawn(1, 0, 1, 1)]
    assert fleet.exited(1, EX_CONFIG, 1.0, 0.0) == [Assign(0, None)]
    assert fleet.next_due is None
    assert fleet.tick(100_000.0) == []
    assert fleet.roll(2, 100_000.0) == [Spawn(2, 0, 2, 2)], "an edit starts the process at once"
    failed = "the new process of slot 0 ended with status 78"
    assert fleet.exited(2, EX_CONFIG, 100_001.0, 0.0) == [Assign(0, None), RolloutEnded(2, failed, True)]
    assert fleet.next_due is None
    assert fleet.reset(0, 100_002.0) == [Spawn(3, 0, 3, 1)]
    assert fleet.ready(3, 100_003.0) == [Assign(0, 3), Spawn(4, 1, 1, 1)]
    fleet = Fleet(1, DEADLINE, SOAK, waits=True)
    fleet.start(0.0)
    fleet.exited(1, EX_CONFIG, 1.0, 0.0)
    assert fleet.stop("asked") == [Finished(0)], "a slot that waits does not hold up the end"


def test_after_the_first_success_the_fleet_never_gives_up() -> None:
    fleet = serving(2)
    now, lives = 2.0, {0: 1, 1: 2}
    while now < 100_000.0:
        for slot in sorted(lives):
            commands = fleet.exited(lives.pop(slot), EX_CONFIG, now, 0.0)
            assert commands[0] == Assign(slot, None)
        assert fleet.serving() == 0
        assert fleet.next_due is not None
        now = max(now, fleet.next_due)
        lives = {spawn.slot: spawn.process for spawn in fleet.tick(now) if isinstance(spawn, Spawn)}
        assert lives


def test_a_healthy_process_that_exits_is_restarted_at_once() -> None:
    fleet = serving(2)
    assert fleet.exited(1, -9, 61.0, 0.0) == [Assign(0, None), Spawn(3, 0, 2, 1)]
    assert fleet.ready(3, 62.0) == [Assign(0, 3)]


def test_a_process_with_a_short_life_is_restarted_after_a_delay() -> None:
    fleet = serving(2)
    assert fleet.exited(1, -9, 60.9, 0.0) == [Assign(0, None)]
    assert fleet.next_due == pytest.approx(61.15)
    assert fleet.tick(61.1) == []
    assert fleet.tick(61.15) == [Spawn(3, 0, 2, 1)]


def test_a_rollout_replaces_one_slot_at_a_time_after_a_soak() -> None:
    fleet = serving(2)
    assert fleet.roll(2, 10.0) == [Spawn(3, 0, 2, 2)]
    assert fleet.ready(3, 11.0) == []
    assert fleet.next_due == 13.0
    assert fleet.tick(12.9) == []
    assert fleet.tick(13.0) == [Assign(0, 3), Retire(1, "replaced")]
    assert fleet.exited(1, 0, 14.0, 0.0) == []
    assert fleet.next_due == 11.0 + CANARY, "the canary is watched for longer"
    assert fleet.tick(21.0) == [Spawn(4, 1, 2, 2)]
    assert fleet.ready(4, 22.0) == []
    assert fleet.tick(24.0) == [Assign(1, 4), Retire(2, "replaced"), RolloutEnded(2, "")]
    assert fleet.exited(2, 0, 25.0, 0.0) == []


def test_a_replacement_that_does_not_start_leaves_the_old_process_serving() -> None:
    fleet = serving(2)
    fleet.roll(2, 10.0)
    failure = "the new process of slot 0 ended with status 78"
    assert fleet.exited(3, EX_CONFIG, 11.0, 0.0) == [RolloutEnded(2, failure)]
    assert (fleet.revision, fleet.rolling, fleet.serving()) == (1, False, 2)


def test_a_replacement_that_exits_while_it_soaks_fails_the_rollout() -> None:
    fleet = serving(1)
    fleet.roll(2, 10.0)
    fleet.ready(2, 11.0)
    assert fleet.exited(2, 0, 12.0, 0.0) == [RolloutEnded(2, "the new process of slot 0 ended with status 0")]
    assert fleet.next_due is None
    assert fleet.serving() == 1


def test_a_failing_rollout_rolls_back_the_replaced_slots() -> None:
    fleet = serving(2)
    half_way(fleet)
    assert fleet.exited(4, 1, 21.0, 0.0) == [
        RolloutEnded(2, "the new process of slot 1 ended with status 1"),
        Spawn(5, 0, 3, 1),
    ]
    fleet.ready(5, 22.0)
    assert fleet.tick(24.0) == [Assign(0, 5), Retire(3, "replaced"), RolloutEnded(1, "", asked=False)]


def test_a_failing_rollout_returns_to_the_previous_revision() -> None:
    fleet = serving(2)
    half_way(fleet)
    fleet.ready(4, 20.0)
    assert fleet.tick(22.0)[-1] == RolloutEnded(2, "")
    fleet.roll(3, 30.0)
    fleet.exited(5, 1, 31.0, 0.0)
    assert (fleet.revision, fleet.rolling, fleet.serving()) == (2, False, 2)


def test_a_failing_rollback_is_reported_and_changes_nothing() -> None:
    fleet = serving(2)
    half_way(fleet)
    fleet.exited(4, 1, 21.0, 0.0)
    assert fleet.exited(5, 1, 22.0, 0.0) == [
        RolloutEnded(1, "the new process of slot 0 ended with status 1", asked=False)
    ]
    assert (fleet.revision, fleet.serving(), fleet.rolling) == (1, 2, False)


def test_a_rollout_during_another_restarts_with_the_newer_revision() -> None:
    fleet = serving(2)
    fleet.roll(2, 10.0)
    assert fleet.roll(3, 11.0) == []
    fleet.ready(3, 11.0)
    assert fleet.tick(13.0) == [Assign(0, 3), Retire(1, "replaced"), Spawn(4, 0, 3, 3)]


def test_the_failure_of_an_outdated_revision_does_not_end_the_newer_rollout() -> None:
    fleet = serving(1)
    fleet.roll(2, 10.0)
    fleet.roll(3, 11.0)
    assert fleet.exited(2, 1, 12.0, 0.0) == [Spawn(3, 0, 3, 3)]


def test_a_replacement_does_not_soak_if_the_old_process_exits() -> None:
    fleet = serving(1)
    fleet.roll(2, 10.0)
    fleet.ready(2, 11.0)
    assert fleet.exited(1, -9, 12.0, 0.0) == [Assign(0, None), Assign(0, 2)]


def test_a_replacement_takes_over_when_ready_if_the_old_process_has_exited() -> None:
    fleet = serving(1)
    fleet.roll(2, 10.0)
    assert fleet.exited(1, -9, 12.0, 0.0) == [Assign(0, None)]
    assert fleet.next_due is None
    assert fleet.ready(2, 13.0) == [Assign(0, 2)]
    assert fleet.tick(13.0 + CANARY) == [RolloutEnded(2, "")]


def test_a_slot_that_loses_both_processes_in_a_rollout_continues_with_the_good_revision() -> None:
    fleet = serving(1)
    fleet.roll(2, 10.0)
    fleet.exited(1, -9, 12.0, 0.0)
    failure = "the new process of slot 0 ended with status 1"
    assert fleet.exited(2, 1, 13.0, 0.0) == [RolloutEnded(2, failure)]
    assert fleet.next_due == 13.5, "the second short life in a row"
    assert fleet.tick(13.5) == [Spawn(3, 0, 3, 1)]


def test_a_slot_that_waits_to_start_tries_the_new_revision_at_once() -> None:
    fleet = serving(2)
    fleet.exited(1, 1, 2.0, 0.0)
    assert fleet.next_due == 2.25
    assert fleet.roll(2, 2.1) == [Spawn(3, 0, 2, 2)]
    assert fleet.ready(3, 3.0) == [Assign(0, 3)]
    assert fleet.tick(3.0 + CANARY) == [Spawn(4, 1, 2, 2)]


def test_a_revision_that_fails_in_an_empty_slot_is_rolled_back() -> None:
    fleet = serving(2)
    fleet.exited(1, 1, 2.0, 0.0)
    fleet.roll(2, 2.1)
    failure = "the new process of slot 0 ended with status 1"
    assert fleet.exited(3, 1, 3.0, 0.0) == [Assign(0, None), RolloutEnded(2, failure)]
    assert fleet.tick(3.5) == [Spawn(4, 0, 3, 1)]


def test_a_revision_that_fails_after_its_soak_is_rolled_back() -> None:
    fleet = serving(2)
    fleet.roll(2, 10.0)
    fleet.ready(3, 11.0)
    fleet.tick(13.0)
    failure = "the new process of slot 0 ended with status -11"
    assert fleet.exited(3, -11, 16.0, 0.0) == [Assign(0, None), RolloutEnded(2, failure)]
    assert (fleet.revision, fleet.serving(), fleet.rolling) == (1, 1, False)
    assert fleet.tick(16.25) == [Spawn(4, 0, 3, 1)]


def test_a_canary_that_exits_late_also_retires_the_next_replacement() -> None:
    fleet = serving(2)
    half_way(fleet)
    failure = "the new process of slot 0 ended with status -11"
    assert fleet.exited(3, -11, 20.5, 0.0) == [
        Assign(0, None),
        RolloutEnded(2, failure),
        Retire(4, "rolled back"),
    ]
    assert fleet.slots[1].current == 2


def test_an_empty_slot_rolls_back_at_once_when_the_canary_fails() -> None:
    fleet = serving(2)
    half_way(fleet)
    assert fleet.exited(2, -9, 20.25, 0.0) == [Assign(1, None)]
    failure = "the new process of slot 0 ended with status -11"
    assert fleet.exited(3, -11, 20.5, 0.0) == [
        Assign(0, None),
        RolloutEnded(2, failure),
        Retire(4, "rolled back"),
        Spawn(5, 1, 3, 1),
    ]


def test_a_turn_that_kills_the_canary_does_not_fail_the_revision() -> None:
    fleet = serving(2)
    fleet.roll(2, 10.0)
    fleet.ready(3, 11.0)
    fleet.tick(13.0)
    assert fleet.exited(3, -11, 16.0, 0.0, blamed=True) == [Assign(0, None), Spawn(4, 0, 3, 2)]
    assert fleet.ready(4, 17.0) == [Assign(0, 4)], "the next process of slot 0 is the canary"
    assert fleet.next_due == 17.0 + CANARY
    assert fleet.tick(17.0 + CANARY) == [Spawn(5, 1, 2, 2)]


def test_a_rollout_of_one_slot_waits_while_the_slot_is_down() -> None:
    fleet = serving(1)
    fleet.roll(2, 10.0)
    fleet.ready(2, 11.0)
    fleet.tick(13.0)
    assert fleet.exited(2, -11, 16.0, 0.0, blamed=True) == [Assign(0, None), Spawn(3, 0, 3, 2)]
    failure = "the new process of slot 0 ended with status 1"
    assert fleet.exited(3, 1, 17.0, 0.0) == [Assign(0, None), RolloutEnded(2, failure)]


def test_exits_that_a_turn_is_blamed_for_do_not_open_the_breaker() -> None:
    fleet, process = serving(1), 1
    for _ in range(20):
        assert fleet.exited(process, -11, 2.0, 0.0, blamed=True)[0] == Assign(0, None)
        process += 1
        fleet.ready(process, 2.0)
    assert not fleet.slots[0].history.breaker_open


def test_a_reload_before_the_first_success_is_a_second_attempt() -> None:
    fleet = Fleet(1, DEADLINE, SOAK)
    fleet.start(0.0)
    assert fleet.roll(2, 1.0) == [Spawn(2, 0, 2, 2)]
    assert fleet.exited(1, EX_CONFIG, 2.0, 0.0) == [Assign(0, None)]
    assert fleet.ready(2, 3.0) == [Assign(0, 2)]
    assert fleet.tick(3.0 + CANARY) == [RolloutEnded(2, "")]


def test_a_single_process_is_replaced_as_in_a_rollout_of_the_same_revision() -> None:
    fleet = serving(2)
    assert fleet.replace(2, 9.0) == [Spawn(3, 1, 2, 1)]
    assert fleet.rolling
    assert not fleet.rolling_out
    assert fleet.replace(1, 9.0) == [], "the second replacement waits for the first"
    assert fleet.replace(2, 9.0) == [], "it is being replaced already"
    fleet.ready(3, 10.0)
    assert fleet.tick(12.0) == [Assign(1, 3), Retire(2, "replaced"), Spawn(4, 0, 2, 1)]
    assert fleet.replace(2, 9.0) == [], "it has left its slot"
    fleet.ready(4, 13.0)
    assert fleet.tick(15.0) == [Assign(0, 4), Retire(1, "replaced"), RolloutEnded(1, "", asked=False)]


def test_a_process_that_exits_before_its_replacement_is_only_restarted() -> None:
    fleet = serving(2)
    fleet.replace(1, 9.0)
    fleet.replace(2, 9.0)
    assert fleet.exited(2, -9, 10.0, 0.0) == [Assign(1, None)]
    fleet.ready(3, 10.0)
    assert RolloutEnded(1, "", asked=False) in fleet.tick(12.0)


def test_added_slots_get_sessions_in_order_when_they_can_serve() -> None:
    fleet = serving(2)
    assert fleet.scale(4, 10.0) == [Spawn(3, 2, 1, 1), Spawn(4, 3, 1, 1)]
    assert fleet.ready(4, 11.0) == [Assign(3, 4)]
    assert fleet.routed == 2
    assert fleet.ready(3, 12.0) == [Assign(2, 3), Resize(4)]


def test_an_added_slot_whose_first_process_is_replaced_gets_sessions() -> None:
    fleet = serving(1)
    assert fleet.scale(2, 10.0) == [Spawn(2, 1, 1, 1)]
    fleet.replace(2, 11.0)
    fleet.exited(2, 1, 12.0, 0.0)
    assert fleet.ready(3, 13.0) == [Assign(1, 3), Resize(2), RolloutEnded(1, "", asked=False)]


def test_removed_slots_give_up_their_sessions_first() -> None:
    fleet = serving(3)
    reason = "its slot was removed"
    assert fleet.scale(1, 10.0) == [
        Resize(1),
        Assign(1, None),
        Retire(2, reason),
        Assign(2, None),
        Retire(3, reason),
    ]
    assert fleet.scale(2, 11.0) == [Spawn(4, 1, 2, 1)], "generations continue"
    assert fleet.exited(2, 0, 12.0, 0.0) == []
    assert fleet.ready(4, 13.0) == [Assign(1, 4), Resize(2)]


def test_a_slot_removed_during_its_rollout_does_not_block_it() -> None:
    fleet = serving(2)
    half_way(fleet)
    reason = "its slot was removed"
    assert fleet.scale(1, 20.5) == [
        Resize(1),
        Assign(1, None),
        Retire(2, reason),
        Retire(4, reason),
        RolloutEnded(2, ""),
    ]


def test_slots_added_before_the_first_success_wait_for_it() -> None:
    fleet = Fleet(1, DEADLINE, SOAK)
    fleet.start(0.0)
    assert fleet.scale(2, 1.0) == []
    assert fleet.ready(1, 2.0) == [Assign(0, 1), Spawn(2, 1, 1, 1)]
    assert fleet.ready(2, 3.0) == [Assign(1, 2), Resize(2)]


def test_a_resting_slot_starts_at_once_after_a_reset() -> None:
    fleet, now, process = serving(1), 1.0, 1
    while not fleet.slots[0].history.breaker_open:
        fleet.exited(process, 1, now, 0.0)
        process += 1
        fleet.tick(now := fleet.next_due or now)
    fleet.exited(process, 1, now, 0.0)
    assert fleet.reset(0, now) == [Spawn(process + 1, 0, process + 1, 1)]
    assert not fleet.slots[0].history.breaker_open
    assert fleet.reset(0, now) == []


def test_stop_retires_all_processes_and_finishes_with_the_last_one() -> None:
    fleet = serving(2)
    fleet.roll(2, 10.0)
    assert fleet.stop("over") == [Retire(1, "over"), Retire(3, "over"), Retire(2, "over")]
    assert fleet.roll(3, 11.0) == fleet.replace(1, 11.0) == fleet.scale(3, 11.0) == fleet.stop("again") == []
    assert fleet.exited(2, 0, 12.0, 0.0) == []
    assert fleet.ready(3, 12.0) == []
    assert fleet.exited(3, EX_CONFIG, 12.0, 0.0) == []
    assert fleet.exited(1, -9, 13.0, 0.0) == [Finished(EX_OK)]


def test_stop_before_the_first_success_starts_nothing() -> None:
    fleet = Fleet(2, DEADLINE, SOAK)
    fleet.start(0.0)
    assert fleet.stop("over") == [Retire(1, "over")]
    assert fleet.ready(1, 1.0) == []
    assert fleet.exited(1, 0, 2.0, 0.0) == [Finished(EX_OK)]


def test_stop_without_processes_finishes_at_once() -> None:
    fleet = Fleet(1, DEADLINE, SOAK)
    fleet.start(0.0)
    fleet.exited(1, 1, 1.0, 0.0)
    assert fleet.next_due is not None
    assert fleet.stop("over") == [Finished(EX_OK)]
    assert fleet.next_due is None


def test_a_stop_after_giving_up_does_not_finish_again() -> None:
    fleet = Fleet(1, DEADLINE, SOAK)
    fleet.start(0.0)
    fleet.exited(1, EX_CONFIG, 1.0, 0.0)
    assert fleet.stop("over") == []


# -- the state machine; last, because a failing example is faster and easier to read --------------

World.TestCase.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestWorld = World.TestCase


def test_a_replacement_that_is_lost_while_it_soaks_does_not_get_the_slot() -> None:
    """Its link is lost, and the soak time passes before the kernel reports its exit."""
    fleet = Fleet(1, DEADLINE, SOAK)
    fleet.start(0.0)
    fleet.ready(1, 1.0)
    fleet.roll(2, 2.0)
    fleet.ready(2, 3.0)
    fleet.unready(1)
    fleet.unready(2)
    assert fleet.next_due is None
    assert fleet.tick(3.0 + SOAK) == []
    assert RolloutEnded(2, "the new process of slot 0 ended with status -9") in fleet.exited(2, -9, 9.0, 0.0)
    assert fleet.slots[0].current == 1
