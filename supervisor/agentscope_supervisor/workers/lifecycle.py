"""The life of one worker process, as a table. Pure.

`pool` carries out what it returns.

A process only ever moves to the right:

    STARTING -> READY -> DRAINING -> STOPPING -> KILLING -> GONE

Any state may jump further right, none moves back. A restart is no transition: it is a new process with a
new life, decided by `fleet`. Only Exited, the kernel's word, leads to GONE.

Each state has at most one deadline; entering a state replaces the timer of the one before, and Expired
names the state that armed it, so that a late timer is recognised and ignored.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class ProcessState(IntEnum):
    STARTING = 1  # spawned; has not said that it is ready
    READY = 2  # takes turns
    DRAINING = 3  # gets no new turn, ends those it has
    STOPPING = 4  # asked to exit
    KILLING = 5  # SIGKILL sent
    GONE = 6  # reaped


@dataclass(frozen=True, slots=True)
class Ready:
    """It said that it takes turns."""


@dataclass(frozen=True, slots=True)
class Retired:
    """The fleet does not want it any more: replaced, or everything stops."""


@dataclass(frozen=True, slots=True)
class Drained:
    """Its last turn ended."""


@dataclass(frozen=True, slots=True)
class KillRequested:
    """It lives and cannot be trusted, or there is no time left for it."""


@dataclass(frozen=True, slots=True)
class LinkLost:
    """Its link is closed, or it broke the protocol."""


@dataclass(frozen=True, slots=True)
class Expired:
    """The deadline that was armed in this state has passed."""

    armed_in: ProcessState


@dataclass(frozen=True, slots=True)
class Exited:
    """The kernel reported its end."""


Event = Ready | Retired | Drained | KillRequested | LinkLost | Expired | Exited


class Command(IntEnum):
    CANCEL_TURNS = 1  # its running turns end now
    TERMINATE = 2  # SIGTERM to the process
    KILL = 3  # SIGKILL to its process group
    CLOSE_LINK = 4  # fails what is still open on the link


Step = tuple[ProcessState, tuple[Command, ...]]

_S, _C = ProcessState, Command
_KILL: Final[Step] = (_S.KILLING, (_C.KILL,))
_STOP: Final[Step] = (_S.STOPPING, (_C.TERMINATE,))

TABLE: Final[dict[tuple[ProcessState, type[Event]], Step]] = {
    (_S.STARTING, Ready): (_S.READY, ()),
    # Nothing to save, and a start can block for long: there is no reason to be patient.
    (_S.STARTING, Retired): _KILL,
    (_S.STARTING, KillRequested): _KILL,
    # It is exiting, and its exit status says why it could not start: a kill would take its place.
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
    # What it has started does not outlive it.
    **{
        (state, Exited): (_S.GONE, (_C.KILL, _C.CLOSE_LINK)) for state in ProcessState if state is not _S.GONE
    },
}

# What a state may meet and nothing changes. Listed, so that TABLE and IGNORED together hold every pair
# and one that was forgotten fails a test.
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
    """The next state, and the commands to carry out in order. Total: never raises."""
    if isinstance(event, Expired) and event.armed_in is not state:
        return state, ()
    return TABLE.get((state, type(event)), (state, ()))
