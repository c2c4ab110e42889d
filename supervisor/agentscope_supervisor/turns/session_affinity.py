"""The sessions that an instance knows: where each had its last turn, when, and who is to be told. Pure.

A session lives in the memory of the process that had its last turn. Some processes want to be told before it
leaves (their App has `on_session_idle`): when it has had no turn for a while, and when its next turn would
run in another process. What is told is said here once for each stay: who asks for it must have it done.

    used -> lives in a process -> told, or the process is gone -> known, lives nowhere -> unused: forgotten

There is one queue in order of use, and no timer for a session: the one at its head is looked at. A process
that is leaving has a queue of its own, of those that still live in it; its time is bounded.

Where to read next: `ledger` makes the telling a turn of the session; `web.sessions` shows what is known.
"""

from collections import OrderedDict, deque
from collections.abc import Container, KeysView
from dataclasses import dataclass, field
from typing import Final

MAX_KNOWN: Final = 100_000
"""Sessions that are known, with long ids some 50 MB. Above it the one that was not used for longest is
forgotten, and nobody is told."""

FAREWELL_WITHIN: Final = 60.0
"""Seconds in which the sessions of a process that is leaving are told. What is not done by then is not done:
a replaced process must not hold its memory for ever."""


@dataclass(slots=True)
class Resident:
    """A session as it was last seen. `used_at`: monotonic seconds, of the begin or end of its last turn."""

    used_at: float
    worker: str  # "<slot>.<generation>" that had its last turn
    process: int | None  # in whose memory it is; None: that one was told


@dataclass(slots=True)
class _Farewell:
    sessions: deque[str]
    deadline: float


@dataclass(slots=True)
class SessionAffinity:
    """Owner of what is known. Call one method for each thing that happened. `idle_after`: seconds without
    a turn after which a session is told, and forgotten."""

    idle_after: float
    _known: OrderedDict[str, Resident] = field(default_factory=OrderedDict)  # longest unused first
    _telling: set[int] = field(default_factory=set)  # processes that want to be told
    _leaving: dict[int, _Farewell] = field(default_factory=dict)

    # -- what is asked ----------------------------------------------------------------------

    def get(self, session_id: str, now: float) -> Resident | None:
        """What is known of a session; None: nothing, or it was not used for too long."""
        known = self._known.get(session_id)
        return known if known is not None and now - known.used_at < self.idle_after else None

    def ids(self) -> KeysView[str]:
        """All that may be known; `get` says which are."""
        return self._known.keys()

    def home(self, session_id: str) -> int | None:
        """The process that must be told before the session goes elsewhere; None: none."""
        if not self._telling:
            return None
        known = self._known.get(session_id)
        return known.process if known is not None and known.process in self._telling else None

    @property
    def waiting(self) -> bool:
        """Whether somebody may have to be told later, without anything else happening."""
        return bool(self._telling and self._known) or bool(self._leaving)

    def stays(self, process: int) -> bool:
        """Whether a process that is leaving still has sessions to be told of."""
        return process in self._leaving

    # -- what happened ----------------------------------------------------------------------

    def joined(self, process: int) -> None:
        """A process wants to be told."""
        self._telling.add(process)

    def gone(self, process: int) -> None:
        """A process can be told nothing any more."""
        self._telling.discard(process)
        self._leaving.pop(process, None)

    def used(self, session_id: str, process: int, worker: str, now: float) -> None:
        """A turn of this session was given to a process."""
        known = self._known.get(session_id)
        if known is None:
            self._known[session_id] = Resident(now, worker, process)
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        else:
            known.used_at, known.worker, known.process = now, worker, process
            self._known.move_to_end(session_id)
        if process in self._leaving:  # it was handed over before the process began to leave
            self._leaving[process].sessions.append(session_id)

    def rested(self, session_id: str, now: float) -> None:
        """A turn of this session ended. Where it lives may have been told by now."""
        known = self._known.get(session_id)
        if known is not None:
            known.used_at = now
            self._known.move_to_end(session_id)

    def notified(self, session_id: str) -> None:
        """The process in which it lives is being told."""
        known = self._known.get(session_id)
        if known is not None:
            known.process = None

    def forget(self, session_id: str) -> None:
        """A session was deleted."""
        self._known.pop(session_id, None)

    def leave(self, process: int, now: float) -> None:
        """A process gets no new turn; what lives in it is to be told, as `due` says."""
        if process in self._telling:
            there = [session for session, known in self._known.items() if known.process == process]
            self._leaving[process] = _Farewell(deque(there), now + FAREWELL_WITHIN)

    def due(self, busy: Container[str], room: int, now: float) -> list[tuple[str, int]]:
        """Sessions that are to be told now, each with its process; at most `room`. `busy`: those with a turn.

        To be called again when one of them has been told, and now and then.
        """
        found: list[tuple[str, int]] = []
        for process, farewell in self._leaving.items():
            self._say_farewell(process, farewell, busy, room, found)
        while self._known and len(found) < room:
            session_id = next(iter(self._known))
            known = self._known[session_id]
            if now - known.used_at < self.idle_after:
                break
            if session_id in busy:
                known.used_at = now
                self._known.move_to_end(session_id)
                continue
            del self._known[session_id]
            if known.process in self._telling:
                assert known.process is not None
                found.append((session_id, known.process))
        return found

    def departed(self, now: float) -> list[tuple[int, int]]:
        """Processes that are leaving and need not be told any more, each with the number of its sessions for
        which there was no time. Each is returned once."""
        over = [
            (process, len(farewell.sessions))
            for process, farewell in self._leaving.items()
            if not farewell.sessions or now >= farewell.deadline
        ]
        for process, _ in over:
            self.gone(process)
        return over

    # -- inside -----------------------------------------------------------------------------

    def _say_farewell(
        self,
        process: int,
        farewell: _Farewell,
        busy: Container[str],
        room: int,
        found: list[tuple[str, int]],
    ) -> None:
        for _ in range(len(farewell.sessions)):
            if len(found) >= room:
                return
            session_id = farewell.sessions.popleft()
            known = self._known.get(session_id)
            if known is None or known.process != process:
                continue
            if session_id in busy:  # its turn runs here, or it is about to be told before its next one
                farewell.sessions.append(session_id)
            else:
                known.process = None
                found.append((session_id, process))
