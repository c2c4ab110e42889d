"""One client's place in a run: from the run's events to the client's socket.

The client that asked for the turn and those that join or resume its run later read in the same way. The
worker's link feeds a stream through the run: no task and no queue for an event. A stream that keeps up gets
the very bytes that came.

Streams differ only in their response to a full socket. The stream of the client that asked
(`paces`) holds back the worker's credit, so that a client that reads slowly slows down its own turn; at most
the credit of one turn waits in its socket. Any other stream falls behind and reads on from what the run has
kept; when the run has dropped what it wants next, its connection is cut, and a client that asks again gets
GONE. It never slows down the run or another reader.

Where to read next: `web.respond` sends a stream as the response to a request.
"""

from collections.abc import Callable
from typing import Final

from agentscope_supervisor.domain.run import Reader, Run


class Writer:
    """The client's side of a stream that has begun. No method may raise, whatever became of the client."""

    __slots__ = ()

    def write(self, data: bytes) -> None:
        """Send."""
        raise NotImplementedError

    def write_last(self, data: bytes) -> None:
        """Send the last bytes of the stream; maybe none."""
        raise NotImplementedError

    def flush(self) -> None:
        """Send the head of the response, if that waits for the first event."""
        raise NotImplementedError

    def is_full(self) -> bool:
        """Whether the client's socket takes less than is sent."""
        raise NotImplementedError

    def cut(self) -> None:
        """Drop the connection, and what the client has not read."""
        raise NotImplementedError


class ClientStream(Reader):
    """Reads `run` from event `number` on. `paces`: holds back the worker's credit; then `number` is the next
    event to come. `on_change`: called when the stream needs its owner; it must not call back at once."""

    __slots__ = (
        "_early",
        "_is_over",
        "_writer",
        "last_write",
        "number",
        "on_change",
        "paces",
        "run",
    )

    def __init__(self, run: Run, number: int, now: float, *, paces: bool = False) -> None:
        self.run: Final = run
        self.number = number  # of the event that it wants next
        self.paces: Final = paces
        self.last_write = now
        self.on_change: Callable[[], None] | None = None
        self._early: list[bytes] = []  # came before the writer, and the run may drop it
        self._writer: Writer | None = None
        self._is_over = False
        run.readers.append(self)

    # -- what the run does ------------------------------------------------------------------

    def fed(self, number: int, count: int, payload: bytes, now: float) -> bool:
        writer = self._writer
        if writer is None:
            if not self.paces:
                self._change()
                return True
            self._early.append(payload)
            self.number = number + count
            self._change()
            return False
        if number != self.number or (not self.paces and writer.is_full()):
            self._change()
            return True
        self.number = number + count
        self.last_write = now
        if self.run.ended_at is not None:
            self._is_over = True
            writer.write_last(payload)
            self._change()
        else:
            writer.write(payload)
            if self.paces and writer.is_full():
                self._change()
                return False
        return True

    def ended(self) -> None:
        if self.run.ended_at is not None:
            self.last_write = self.run.ended_at  # the time to read the end begins
        self._change()

    # -- what its owner does ----------------------------------------------------------------

    @property
    def is_streaming(self) -> bool:
        """Whether the response has begun."""
        return self._writer is not None

    @property
    def is_over(self) -> bool:
        """Whether the last byte was written."""
        return self._is_over

    def whole(self) -> bytes | None:
        """All bytes of a run that has ended before the stream began, from `number` on. None: they are more
        than one piece."""
        if self._early:
            return b"".join(self._early)
        piece = self.run.read(self.number)
        return piece[0] if piece is not None and piece[1] == self.run.next else None

    def begin(self, writer: Writer, now: float) -> None:
        """The response begins: write the available events now, and new events as they come."""
        self._writer = writer
        early, self._early = self._early, []
        if early:
            self.last_write = now
            writer.write(b"".join(early))
        if not self.paces or self.run.ended_at is not None:
            self.pump(now)

    def pump(self, now: float) -> bool:
        """Write one piece of what the run has kept, if the stream is behind. Returns whether to call again:
        a socket that takes everything must not hold up the others."""
        writer, run = self._writer, self.run
        if writer is None or self._is_over or writer.is_full():
            return False
        piece = run.read(self.number)
        if piece is None:
            self._is_over = True
            writer.cut()
            return False
        data, self.number = piece
        if run.ended_at is not None and self.number == run.next:
            self._is_over = True
            writer.write_last(data)
        elif data:
            writer.write(data)
        if data:
            self.last_write = now
        return self.number != run.next

    def comment(self, text: str, now: float) -> None:
        """Send a comment, unless the client is behind."""
        writer = self._writer
        if writer is not None and self.number == self.run.next and not writer.is_full():
            writer.write(self.run.wire.comment(text))
            self.last_write = now

    def ack(self) -> None:
        """The client's socket has taken everything."""
        if self.paces:
            self.run.ack()

    def leave(self) -> None:
        """The client has left, or has all: the run goes on, and its worker is not held back by it."""
        self.on_change = self._writer = None
        self._early.clear()
        self.run.leave(self)
        self.ack()

    def _change(self) -> None:
        if self.on_change is not None:
            self.on_change()
