"""How wrong tokens slow down those who send them. Pure.

Two delays, which grow with the number of wrong tokens up to `MAX_DELAY`:

- Before the answer to a wrong token, for the wrong tokens of all addresses together. A client that guesses
  can avoid it: it takes a late answer for a wrong token, and drops the connection.
- Before the check of a token, for the wrong tokens of this address. No guess passes it sooner. It also delays
  a right token, once: an address that has sent a right one is known, and its tokens are checked at once. So a
  proxy, which has one address for all clients, is not slowed down by one that guesses.

Where to read next: `auth` applies the delays.
"""

from typing import Final

from agentscope_supervisor.processes.token_bucket import TokenBucket

FREE_GUESSES: Final = 20.0  # wrong tokens that are answered at once: a client that was configured wrongly
GUESSES_PER_SECOND: Final = 2.0  # after those
MAX_DELAY: Final = 5.0  # seconds; a stopping instance waits as long for its responses
MAX_ADDRESSES: Final = 10_000  # of each kind; above that, the one that came first is forgotten


class GuessLimits:
    """The wrong tokens that the instance has received. An empty address is a client without one."""

    def __init__(self) -> None:
        self._all: Final = _bucket()
        self._guessing: Final[dict[str, TokenBucket]] = {}
        self._known: Final[dict[str, None]] = {"": None}

    def wrong(self, address: str, now: float) -> float:
        """A wrong token came. Returns the seconds until its answer."""
        if address not in self._known:
            bucket = self._guessing.get(address)
            if bucket is None:
                bucket = self._guessing[address] = _bucket()
                _shorten(self._guessing)
            _charge(bucket, now)
        return _charge(self._all, now)

    def right(self, address: str) -> None:
        """A right token came."""
        if address not in self._known:
            self._known[address] = None
            self._guessing.pop(address, None)
            _shorten(self._known)

    def check_after(self, address: str, now: float) -> float:
        """Seconds until a token of this address may be checked."""
        bucket = self._guessing.get(address)
        return _delay(bucket, now) if bucket is not None else 0.0


def _bucket() -> TokenBucket:
    return TokenBucket(GUESSES_PER_SECOND, FREE_GUESSES)


def _delay(bucket: TokenBucket, now: float) -> float:
    return min(max(0.0, -bucket.available(now) / GUESSES_PER_SECOND), MAX_DELAY)


def _charge(bucket: TokenBucket, now: float) -> float:
    delay = _delay(bucket, now)
    if delay < MAX_DELAY:  # else the debt would grow without end
        bucket.take(1)
    return delay


def _shorten(addresses: dict[str, TokenBucket] | dict[str, None]) -> None:
    if len(addresses) > MAX_ADDRESSES:
        del addresses[next(iter(addresses))]
