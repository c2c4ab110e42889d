"""Tickets: short-lived permissions to read one run, for clients that cannot send Authorization. Pure.

A browser's EventSource sends no header of the page. A ticket is a part of the URL, and URLs reach logs and
histories, so that a ticket opens one run only, for reading, for `TICKET_LASTS` seconds. The instance keeps no
list: a ticket contains its end, and a code that only this process can make.

Where to read next: `runs` issues tickets, `auth` accepts them.
"""

import hashlib
import hmac
import math
import re
from typing import Final

TICKET_LASTS: Final = 60  # seconds in which a client must open the stream; an open stream goes on

_TICKET: Final = re.compile(r"([0-9]{1,12})-([0-9a-f]{64})")


class Tickets:
    """Issues and checks the tickets of one instance. `key`: secret, new for each process."""

    def __init__(self, key: bytes) -> None:
        self._key: Final = key

    def issue(self, run_id: str, now: float) -> str:
        """A new ticket. `now`: seconds of a monotonic clock."""
        until = math.ceil(now) + TICKET_LASTS
        return f"{until}-{self._code(run_id, until)}"

    def is_valid(self, ticket: str, run_id: str, now: float) -> bool:
        """Whether this ticket is for this run, and has not expired."""
        found = _TICKET.fullmatch(ticket)
        if found is None:
            return False
        until = int(found[1])
        return hmac.compare_digest(found[2], self._code(run_id, until)) and now < until

    def _code(self, run_id: str, until: int) -> str:
        return hmac.new(self._key, f"{run_id} {until}".encode(), hashlib.sha256).hexdigest()
