"""The query of a route that lists: `limit` and `after`. Pure."""

from collections.abc import Mapping
from typing import Final

from agentscope_supervisor.domain.errors import invalid
from agentscope_supervisor.runs.listing import Place, read_cursor

AT_ONCE: Final = 100  # default number of items on a page
MOST: Final = 1000
"""Maximum number of items on a page: a few milliseconds of the event loop."""


def limit(query: Mapping[str, str], default: int = AT_ONCE, most: int = MOST) -> int:
    """The number of items on the page. Raises: Refused."""
    given = query.get("limit", str(default))
    if not (given.isascii() and given.isdecimal() and len(given) <= len(str(most))):
        raise invalid(f"limit must be a whole number, 1 to {most}")
    if not 1 <= int(given) <= most:
        raise invalid(f"limit must be 1 to {most}, not {int(given)}")
    return int(given)


def after(query: Mapping[str, str]) -> Place | None:
    """The place in a list of runs where the page begins; None: its beginning. Raises: Refused."""
    given = query.get("after")
    if given is None:
        return None
    place = read_cursor(given)
    if place is None:
        raise invalid("after must be the `next` of the page before")
    return place
