"""The table of sessions that operators and clients see: which worker has each session, and its turns.

The HTTP routes and the command `sessions` both read this table. It reads the open turns (`ledger`) and the
known sessions (`session_affinity`), and changes neither.
"""

import asyncio
import heapq
from typing import Any, Final

from agentscope_supervisor.domain.turn import Purpose, TurnState
from agentscope_supervisor.turns.ledger import Ledger

Row = dict[str, Any]


class SessionTable:
    """The sessions that have a turn, or had one in the last `sessions.idle_after` seconds. `now` is in
    monotonic seconds. Times in rows are durations in seconds."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger: Final = ledger

    def row(self, session_id: str, now: float) -> Row | None:
        """One session; None if it has no turn and had none recently."""
        open_turns = self._ledger.sessions().get(session_id, ())
        turns = [turn for turn in open_turns if turn.purpose is Purpose.CLIENT]
        known = self._ledger.affinity.get(session_id, now)
        if not turns and known is None:
            return None
        running = turns[0] if turns and turns[0].state is not TurnState.WAITING else None
        # A turn that ignored its cancellation has no open run, but still occupies its session.
        run = running.run if running is not None and running.is_open else None
        return {
            "session_id": session_id,
            "slot": self._ledger.slot_of(session_id, self._ledger.slots),
            "worker": run.worker if run is not None else known.worker if known is not None else None,
            "run_id": running.run_id if running is not None else None,
            "events": run.events if run is not None else 0,
            "waiting": len(turns) - (running is not None),
            "seconds": round(now - turns[0].accepted_at, 1) if turns else None,
            "idle": round(now - known.used_at, 1) if known is not None and not turns else None,
        }

    def busy(self, now: float) -> list[Row]:
        """The sessions with open turns."""
        rows = [self.row(session_id, now) for session_id in self._ledger.sessions()]
        return [row for row in rows if row is not None and row["seconds"] is not None]

    async def page(self, after: str, limit: int, now: float) -> tuple[list[Row], str | None]:
        """At most `limit` rows with ids above `after`, in the order of ids; and the id to pass as `after` for
        the next page, None on the last page.

        A page may be shorter than `limit`, because sessions may expire while it is built. A session that
        exists during the whole iteration is on exactly one page.
        """
        known, busy = self._ledger.affinity.ids(), self._ledger.sessions()
        ids = [*known, *(session_id for session_id in busy if session_id not in known)]
        # With 100,000 sessions this takes about 30 ms: too long for the event loop.
        first = await asyncio.to_thread(_smallest, ids, after, limit + 1)
        rows = [self.row(session_id, now) for session_id in first[:limit]]
        return [row for row in rows if row is not None], first[limit - 1] if len(first) > limit else None


def _smallest(ids: list[str], after: str, count: int) -> list[str]:
    return heapq.nsmallest(count, (session_id for session_id in ids if session_id > after))
