"""The connections that have a place, and which of them makes room when there are too many. Pure.

The client of a connection is a stranger until one of its requests is let in: until a route that requires
credentials, if the instance has any, accepts it. Strangers have places and memory only while nobody else
needs them:

- When no place is free, the stranger that is connected longest makes room for a new connection, or, without
  strangers, the connection that is idle longest.
- The strangers of one address have at most three quarters of the places. This does not limit a proxy in front
  of the instance: its connections count until their first request is let in.
- Strangers hold at most `MAX_HELD` bytes of incomplete requests. Above that, those are dropped that are
  incomplete longest.

A client that has connected, or received its response, less than `GRACE` ago keeps its place.

Where to read next: `listener` asks for room; `fast_connection` and `aiohttp_connection` report.
"""

from itertools import chain
from typing import Final, Protocol

MAX_HELD: Final = 16 * 1024 * 1024  # bytes; 512 heads of the default maximum size
GRACE: Final = 1.0  # seconds in which a client sends its first or its next request, if it has one
SEARCH_EVERY: Final = 0.1
"""Seconds between two searches for an idle connection: each looks at all connections, for up to a
millisecond."""


class Owner(Protocol):
    """The protocol of a connection."""

    def evict(self) -> None:
        """Drop the connection."""

    def idle_since(self) -> float | None:
        """Since when it waits for a request; None: a request is in progress."""


class Entry:
    """One connection. Without `table`, nothing limits it. `owner` must be set before it reports anything."""

    __slots__ = ("_table", "address", "held", "is_let_in", "owner", "since")

    def __init__(self, table: "ConnectionTable | None" = None, address: str = "", now: float = 0.0) -> None:
        self.address: Final = address  # of the client; empty: it has none
        self.since: Final = now
        self.is_let_in = False
        self.held = 0  # bytes of an incomplete request of a stranger
        self.owner: Owner | None = None
        self._table = table

    def let_in(self) -> None:
        """A request of this client is let in."""
        if not self.is_let_in:
            self.hold(0)
            self.is_let_in = True
            if self._table is not None:
                self._table.let_in(self)

    def hold(self, size: int) -> None:
        """The incomplete request of this client has `size` bytes. May evict connections, this one too."""
        table = self._table
        if size != self.held and table is not None and not self.is_let_in:
            table.hold(self, size)

    def leave(self) -> bool:
        """The connection is lost or evicted. Returns whether it had a place until now."""
        table, self._table = self._table, None
        if table is None:
            return False
        table.remove(self)
        return True


class ConnectionTable:
    """All connections that have a place. `places`: how many there are."""

    __slots__ = ("_by_address", "_held", "_holding", "_let_in", "_most", "_searched_at", "_strangers")

    def __init__(self, places: int) -> None:
        self._most: Final = max(1, places * 3 // 4)  # strangers of one address
        self._strangers: Final[dict[Entry, None]] = {}  # in the order in which they came
        self._holding: Final[dict[Entry, None]] = {}  # those with an incomplete request, likewise
        self._let_in: Final[set[Entry]] = set()
        self._by_address: Final[dict[str, int]] = {}  # strangers
        self._held = 0  # bytes
        self._searched_at = float("-inf")

    def __len__(self) -> int:
        return len(self._strangers) + len(self._let_in)

    @property
    def held(self) -> int:
        """Bytes of the incomplete requests of strangers."""
        return self._held

    def enter(self, address: str, now: float) -> Entry:
        """A new connection gets a place."""
        entry = Entry(self, address, now)
        self._strangers[entry] = None
        if address:
            self._by_address[address] = self._by_address.get(address, 0) + 1
        return entry

    def awaits_requests(self, now: float) -> bool:
        """Whether a client may still send a request, because it has connected, or received its response, less
        than `GRACE` ago."""
        for entry in chain(self._strangers, self._let_in):
            if entry.owner is None:  # its protocol is not made yet
                return True
            since = entry.owner.idle_since()
            if since is not None and now - since < GRACE:
                return True
        return False

    def is_full_of(self, address: str) -> bool:
        """Whether strangers of this address have all the places that they may have."""
        return self._by_address.get(address, 0) >= self._most

    def make_room(self, now: float, address: str | None = None) -> bool:
        """Evict the connection that makes room for a new one. `address`: only a stranger of this address may
        be evicted. Returns whether there was one."""
        for entry in self._strangers:
            if now - entry.since < GRACE:
                break
            if address is None or entry.address == address:
                self._evict(entry)
                return True
        if address is None and now - self._searched_at >= SEARCH_EVERY:
            self._searched_at = now
            idle = self._idle_longest(now - GRACE)
            if idle is not None:
                self._searched_at = float("-inf")
                self._evict(idle)
                return True
        return False

    def _idle_longest(self, until: float) -> Entry | None:
        found = None
        for entry in self._let_in:
            since = entry.owner.idle_since() if entry.owner is not None else None
            if since is not None and since <= until:
                found, until = entry, since
        return found

    def _evict(self, entry: Entry) -> None:
        owner = entry.owner
        entry.leave()
        if owner is not None:
            owner.evict()

    # -- what entries report ----------------------------------------------------------------------

    def let_in(self, entry: Entry) -> None:
        """The client of this connection is no stranger any more."""
        self._forget_stranger(entry)
        self._let_in.add(entry)

    def hold(self, entry: Entry, size: int) -> None:
        """The incomplete request of a stranger has `size` bytes."""
        self._held += size - entry.held
        entry.held = size
        if size:
            self._holding[entry] = None
        else:
            self._holding.pop(entry, None)
        while self._held > MAX_HELD:
            self._evict(next(iter(self._holding)))

    def remove(self, entry: Entry) -> None:
        """The connection is lost or evicted."""
        if entry.is_let_in:
            self._let_in.discard(entry)
            return
        self._held -= entry.held
        entry.held = 0
        self._holding.pop(entry, None)
        self._forget_stranger(entry)

    def _forget_stranger(self, entry: Entry) -> None:
        self._strangers.pop(entry, None)
        address = entry.address
        if address:
            left = self._by_address[address] - 1
            if left:
                self._by_address[address] = left
            else:
                del self._by_address[address]
