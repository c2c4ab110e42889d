"""The life cycle of one worker process, as a transition table. Pure.

`pool` carries out the commands. A process moves only to the right:

    STARTING -> READY -> DRAINING -> STOPPING -> KILLING -> GONE

A transition may skip states, and none moves back. A restart is not a transition: `fleet` decides to start a
new process, which has its own life cycle. Only Exited, which the kernel reports, leads to GONE.

Each state has at most one deadline. Entering a state replaces the timer of the previous one. Expired names
the state in which its timer was armed, so that a late timer is recognised and ignored.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class ProcessState(IntEnum):
    """The states of a process, in the order of its life."""

    STARTING = 1  # spawned, not ready yet
    READY = 2  # accepts turns
    DRAINING = 3  # gets no new turns, finishes its open turns
    STOPPING = 4  # asked to exit
    KILLING = 5  # SIGKILL sent
    GONE = 6  # reaped


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker reported that it accepts turns."""


@dataclass(frozen=True, slots=True)
class Retired:
    """The fleet retired the process: it was replaced, its slot was removed, or the instance stops."""


@dataclass(frozen=True, slots=True)
class Drained:
    """Its last open turn ended."""


@dataclass(frozen=True, slots=True)
class KillRequested:
    """The process must be killed: it is unresponsive, broken, or out of time."""


@dataclass(frozen=True, slots=True)
class LinkLost:
    """Its link was closed, by the worker or after a protocol error."""


@dataclass(frozen=True, slots=True)
class Expired:
    """The deadline that was armed in this state has passed."""

    armed_in: ProcessState


@dataclass(frozen=True, slots=True)
class Exited:
    """The kernel reported its exit."""


Event = Ready | Retired | Drained | KillRequested | LinkLost | Expired | Exited


class Command(IntEnum):
    """An action that `pool` must take."""

    CANCEL_TURNS = 1  # end its open turns with an error
    TERMINATE = 2  # SIGTERM to the process
    KILL = 3  # SIGKILL to its process group
    CLOSE_LINK = 4  # close the link, which fails its open turns


Step = tuple[ProcessState, tuple[Command, ...]]

_S, _C = ProcessState, Command
_KILL: Final[Step] = (_S.KILLING, (_C.KILL,))
_STOP: Final[Step] = (_S.STOPPING, (_C.TERMINATE,))

TABLE: Final[dict[tuple[ProcessState, type[Event]], Step]] = {
    (_S.STARTING, Ready): (_S.READY, ()),
    # There is nothing to save, and a start can block for long.
    (_S.STARTING, Retired): _KILL,
    (_S.STARTING, KillRequested): _KILL,
    # The worker is exiting, and its exit status tells why it could not start. A kill would replace the
    # status.
    (_S.STARTING, LinkLost): (_S.STOPPING, ()),
    (_S.STARTING, Expired): _KILL,
    (_S.READY, Retired): (_S.DRAINING, ()),
    (_S.READY, KillRequested): _KILL,
    (_S.READY, LinkLost): _KILL,
    (_S.DRAINING, Drained): _STOP,
    (_S.DRAINING, Expired): (_S.STOPPING, (_C.CANCEL_TURNS, _C.TERMINATE)),
    (_S.DRAINING, KillRequested): _KILL,
    (_S.DRAINING, LinkLost): _KILL,
    (_S.STOPPING, KillRequested): _KILL,
    (_S.STOPPING, Expired): _KILL,
    # The kill is for the processes that the worker has started.
    **{
        (state, Exited): (_S.GONE, (_C.KILL, _C.CLOSE_LINK)) for state in ProcessState if state is not _S.GONE
    },
}

# Events that change nothing in a state. TABLE and IGNORED together must contain every pair; a test checks it.
IGNORED: Final[frozenset[tuple[ProcessState, type[Event]]]] = frozenset(
    {
        (_S.STARTING, Drained),
        (_S.READY, Ready),
        (_S.READY, Drained),
        (_S.READY, Expired),
        (_S.DRAINING, Ready),
        (_S.DRAINING, Retired),
        (_S.STOPPING, Ready),
        (_S.STOPPING, Retired),
        (_S.STOPPING, Drained),
        # A worker closes its link just before it exits.
        (_S.STOPPING, LinkLost),
        *((_S.KILLING, event) for event in (Ready, Retired, Drained, KillRequested, LinkLost, Expired)),
        *((_S.GONE, event) for event in (Ready, Retired, Drained, KillRequested, LinkLost, Expired, Exited)),
    }
)


def step(state: ProcessState, event: Event) -> Step:
    """Return the next state, and the commands to carry out in this order. Never raises."""
    if isinstance(event, Expired) and event.armed_in is not state:
        return state, ()
    return TABLE.get((state, type(event)), (state, ()))
