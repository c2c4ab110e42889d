"""The sessions as operators and clients see them: where each is, and what it does.

One source for the HTTP routes and for the command `sessions`. Reads the open turns and the known sessions,
and changes neither.
"""

import asyncio
import heapq
from typing import Any, Final

from agentscope_supervisor.domain.turn import Purpose, TurnState
from agentscope_supervisor.turns.ledger import Ledger

Row = dict[str, Any]


class SessionTable:
    """The sessions that have a turn, or had one lately. `now` is monotonic; times in rows are seconds until
    now."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger: Final = ledger

    def row(self, session_id: str, now: float) -> Row | None:
        """One session; None if it has no turn and had none lately."""
        open_turns = self._ledger.sessions().get(session_id, ())
        turns = [turn for turn in open_turns if turn.purpose is Purpose.CLIENT]
        known = self._ledger.affinity.get(session_id, now)
        if not turns and known is None:
            return None
        running = turns[0] if turns and turns[0].state is not TurnState.WAITING else None
        # A turn that ignored its cancellation has no open run, and holds its session all the same.
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
        """Those with open turns."""
        rows = [self.row(session_id, now) for session_id in self._ledger.sessions()]
        return [row for row in rows if row is not None and row["seconds"] is not None]

    async def page(self, after: str, limit: int, now: float) -> tuple[list[Row], str | None]:
        """At most `limit` rows in the order of their ids, those after `after`; and after which the next page
        begins, None at the end. It may be shorter, as some may be forgotten by now. A session that is there
        all the while is on one page, once."""
        known, busy = self._ledger.affinity.ids(), self._ledger.sessions()
        ids = [*known, *(session_id for session_id in busy if session_id not in known)]
        # Of 100,000 this takes some 30 ms, which the loop has not.
        first = await asyncio.to_thread(_smallest, ids, after, limit + 1)
        rows = [self.row(session_id, now) for session_id in first[:limit]]
        return [row for row in rows if row is not None], first[limit - 1] if len(first) > limit else None


def _smallest(ids: list[str], after: str, count: int) -> list[str]:
    return heapq.nsmallest(count, (session_id for session_id in ids if session_id > after))
