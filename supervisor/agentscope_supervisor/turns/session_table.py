"""What is known of the sessions, as operators and clients are shown it: where each is, and what it does.

One source for the HTTP routes and for the command `sessions`. Reads the open turns and what is known of those
that have none, and changes neither.
"""

import asyncio
import heapq
from collections.abc import Mapping
from typing import Any, Final

from agentscope_supervisor.domain.request import TurnRequest
from agentscope_supervisor.domain.turn import Purpose, TurnState
from agentscope_supervisor.runs.client_stream import Answer
from agentscope_supervisor.turns.ledger import Ledger

Row = dict[str, Any]


class SessionTable:
    """The sessions that have a turn, or had one lately. `turns`: the open ones, by number. Times: `now` is
    monotonic; in rows they are seconds until now."""

    def __init__(self, ledger: Ledger, turns: Mapping[int, tuple[TurnRequest, Answer]]) -> None:
        self._ledger: Final = ledger
        self._turns: Final = turns

    def row(self, session_id: str, now: float) -> Row | None:
        """One session; None if it has no turn and had none lately."""
        open_turns = self._ledger.sessions().get(session_id, ())
        turns = [turn for turn in open_turns if turn.purpose is Purpose.CLIENT]
        known = self._ledger.residents.get(session_id, now)
        if not turns and known is None:
            return None
        running = turns[0] if turns and turns[0].state is not TurnState.WAITING else None
        # One that ignored its cancellation is not open any more, and its session is held all the same.
        _, answer = self._turns.get(running.number, (None, None)) if running is not None else (None, None)
        return {
            "session_id": session_id,
            "slot": self._ledger.slot_of(session_id, self._ledger.slots),
            "worker": answer.worker if answer is not None else known.worker if known is not None else None,
            "run_id": running.run_id if running is not None else None,
            "events": answer.events if answer is not None else 0,
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
        known, busy = self._ledger.residents.ids(), self._ledger.sessions()
        ids = [*known, *(session_id for session_id in busy if session_id not in known)]
        # Of 100,000 this takes some 30 ms, which the loop has not.
        first = await asyncio.to_thread(_smallest, ids, after, limit + 1)
        rows = [self.row(session_id, now) for session_id in first[:limit]]
        return [row for row in rows if row is not None], first[limit - 1] if len(first) > limit else None


def _smallest(ids: list[str], after: str, count: int) -> list[str]:
    return heapq.nsmallest(count, (session_id for session_id in ids if session_id > after))
