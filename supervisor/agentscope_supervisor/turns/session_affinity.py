"""The known sessions: which process ran the last turn of each, when, and which processes to notify. Pure.

A session is in the memory of the process that ran its last turn. A process whose App has `on_session_idle` is
notified before the session leaves it: when the session has had no turn for `idle_after` seconds, or when its
next turn would run in another process. Each notification that is due is returned once; the caller must send
it.

    used -> in a process -> notified, or the process has ended -> known, in no process -> unused: forgotten

Sessions are kept in one queue, ordered by last use; no session has a timer, and only the head of the queue is
checked. A process that is leaving has a queue of its own with the sessions that are still in it, and a
deadline.

Where to read next: `ledger` makes each notification a turn of its session; `session_table` shows the known
sessions.
"""

from collections import OrderedDict, deque
from collections.abc import Container, KeysView
from dataclasses import dataclass, field
from typing import Final

MAX_KNOWN: Final = 100_000
"""Maximum number of known sessions: about 50 MB with long ids. Above it, the least recently used session is
forgotten without a notification."""

FAREWELL_WITHIN: Final = 60.0
"""Seconds that a process which is leaving has for the notifications of its sessions. The rest is skipped: a
replaced process must not hold its memory without a bound."""


@dataclass(slots=True)
class KnownSession:
    """The known facts of a session. `used_at`: when its last turn began or ended, in monotonic seconds."""

    used_at: float
    worker: str  # "<slot>.<generation>" that ran its last turn
    process: int | None  # that has the session in memory; None: that process was notified


@dataclass(slots=True)
class _Farewell:
    sessions: deque[str]
    deadline: float


@dataclass(slots=True)
class SessionAffinity:
    """Owner of the known sessions. The caller reports each event with one method call. `idle_after`: seconds
    without a turn after which the process of a session is notified, and the session is forgotten."""

    idle_after: float
    _known: OrderedDict[str, KnownSession] = field(default_factory=OrderedDict)  # longest unused first
    _subscribed: set[int] = field(default_factory=set)  # processes that want notifications
    _leaving: dict[int, _Farewell] = field(default_factory=dict)

    # -- queries ----------------------------------------------------------------------------

    def get(self, session_id: str, now: float) -> KnownSession | None:
        """The session; None: it is unknown, or had no turn for `idle_after` seconds."""
        known = self._known.get(session_id)
        return known if known is not None and now - known.used_at < self.idle_after else None

    def ids(self) -> KeysView[str]:
        """The ids of known sessions, including those that `get` no longer returns."""
        return self._known.keys()

    def home(self, session_id: str) -> int | None:
        """The process to notify before the session runs in another one; None: none."""
        if not self._subscribed:
            return None
        known = self._known.get(session_id)
        return known.process if known is not None and known.process in self._subscribed else None

    @property
    def waiting(self) -> bool:
        """Whether a notification may become due by the passage of time alone."""
        return bool(self._subscribed and self._known) or bool(self._leaving)

    def stays(self, process: int) -> bool:
        """Whether a process that is leaving still has sessions to be notified of."""
        return process in self._leaving

    # -- events -----------------------------------------------------------------------------

    def joined(self, process: int) -> None:
        """A process wants notifications."""
        self._subscribed.add(process)

    def gone(self, process: int) -> None:
        """A process takes no more notifications."""
        self._subscribed.discard(process)
        self._leaving.pop(process, None)

    def used(self, session_id: str, process: int, worker: str, now: float) -> None:
        """A turn of this session was dispatched to a process."""
        known = self._known.get(session_id)
        if known is None:
            self._known[session_id] = KnownSession(now, worker, process)
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        else:
            known.used_at, known.worker, known.process = now, worker, process
            self._known.move_to_end(session_id)
        if process in self._leaving:  # the turn was dispatched before the process began to leave
            self._leaving[process].sessions.append(session_id)

    def rested(self, session_id: str, now: float) -> None:
        """A turn of this session ended. Its process may have been notified meanwhile."""
        known = self._known.get(session_id)
        if known is not None:
            known.used_at = now
            self._known.move_to_end(session_id)

    def notified(self, session_id: str) -> None:
        """The process of this session is being notified."""
        known = self._known.get(session_id)
        if known is not None:
            known.process = None

    def forget(self, session_id: str) -> None:
        """A session was deleted."""
        self._known.pop(session_id, None)

    def leave(self, process: int, now: float) -> None:
        """A process gets no new turns. `due` returns the sessions to notify it of."""
        if process in self._subscribed:
            there = [session for session, known in self._known.items() if known.process == process]
            self._leaving[process] = _Farewell(deque(there), now + FAREWELL_WITHIN)

    def due(self, busy: Container[str], room: int, now: float) -> list[tuple[str, int]]:
        """The notifications to send now: sessions, each with its process; at most `room` of them. `busy`: the
        sessions with a turn.

        The caller must call this again when one of the notifications has ended, and periodically.
        """
        found: list[tuple[str, int]] = []
        for process, farewell in self._leaving.items():
            self._collect(process, farewell, busy, room, found)
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
            if known.process in self._subscribed:
                assert known.process is not None
                found.append((session_id, known.process))
        return found

    def departed(self, now: float) -> list[tuple[int, int]]:
        """The leaving processes that are done with their notifications, each with the number of its sessions
        for which there was no time. Each process is returned once."""
        over = [
            (process, len(farewell.sessions))
            for process, farewell in self._leaving.items()
            if not farewell.sessions or now >= farewell.deadline
        ]
        for process, _ in over:
            self.gone(process)
        return over

    # -- internal ---------------------------------------------------------------------------

    def _collect(
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
            if session_id in busy:  # its turn runs here, or the notification before its next turn is due
                farewell.sessions.append(session_id)
            else:
                known.process = None
                found.append((session_id, process))
