"""One turn, followed to its end over any number of connections: the decisions. Pure.

The shell sends `request`, and reports what came: `begun` and `feed`, `refused`, or `lost`. The two last
return the seconds to wait before the next `request`, or raise what ends the turn.

A turn whose response has begun is followed by its run id, from the event after the last one that came whole.
Before that, the same request is sent again if it has an Idempotency-Key; the App still runs once.

Where to read next: `blocking` and `aio` are the shells.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from agentscope_supervisor.client import calls
from agentscope_supervisor.client.calls import NO_CODE, UNAVAILABLE, Call
from agentscope_supervisor.client.errors import ApiError, ClientError, ConnectionLost, error_of
from agentscope_supervisor.client.results import Message, message_of

RETRIES: Final = 8
"""Default number of attempts in a row that may bring nothing: about 8 seconds, enough for a restart."""

FIRST_DELAY: Final = 0.1  # seconds before the second attempt; each further one waits twice as long
MAX_DELAY: Final = 5.0  # seconds

_END: Final = b"\n\n"  # of an event


class Attempts:
    """The attempts of one request. `chance`: returns random numbers from 0 to 1."""

    def __init__(self, retries: int, chance: Callable[[], float]) -> None:
        self._retries: Final = retries
        self._chance: Final = chance
        self._failed = 0  # in a row

    def succeeded(self) -> None:
        """The attempt brought something."""
        self._failed = 0

    def failed(self, error: ClientError, least: float | None = None) -> float:
        """Seconds to wait before the next attempt; `least`: that the instance asks for. Raises: `error`, if
        it was the last one."""
        self._failed += 1
        if self._failed > self._retries:
            raise error
        if least is not None:
            return least + self._chance()
        if self._failed == 1:
            return 0.0  # most cuts concern one connection only
        delay: float = min(MAX_DELAY, FIRST_DELAY * 2.0 ** (self._failed - 2))
        return delay * (1 + self._chance()) / 2

    def refused(self, call: Call, error: ApiError) -> float:
        """As `failed`, for an error response. Raises: `error`, if the request must not be sent again."""
        of_proxy = error.code.startswith(NO_CODE) and error.status in UNAVAILABLE
        is_temporary = error.retryable or (of_proxy and call.may_repeat)
        if not is_temporary or error.code == "SESSION_BUSY":  # the caller asked for this answer
            raise error
        return self.failed(error, error.retry_after)

    def lost(self, call: Call, reason: str, run_id: str | None = None) -> float:
        """As `failed`, for a connection that failed. Raises: ConnectionLost."""
        error = ConnectionLost(reason, run_id)
        if not call.may_repeat:
            raise error
        return self.failed(error)


class Turn:
    """One turn. `invocation`: its request; None: the run exists already. `session_id`: None: not known.
    `after`: the number of the last event that is known."""

    def __init__(
        self,
        invocation: Call | None,
        attempts: Attempts,
        session_id: str | None = None,
        run_id: str | None = None,
        after: int = -1,
    ) -> None:
        assert (invocation is None) is (run_id is not None), "a turn is begun, or followed"
        self._invocation: Final = invocation
        self._attempts: Final = attempts
        self._parser = Parser()
        self.run_id = run_id
        self.session_id = session_id
        self.last = after  # number of the last event that came whole
        self.is_over = False
        self.failure: ApiError | None = None  # of a turn that is over
        self.metadata: Mapping[str, Any] = {}  # of the done event

    @property
    def request(self) -> Call:
        """The request to send now."""
        if self.run_id is not None:
            return calls.events(self.run_id, self.last, self.session_id)
        assert self._invocation is not None, "a turn is begun, or followed"
        return self._invocation

    def begun(self, status: int, headers: Mapping[str, str]) -> None:
        """A response without an error has begun. `headers`: by name in lower case."""
        self._parser = Parser()
        self.run_id = headers.get("x-run-id", self.run_id)
        self.session_id = headers.get("x-session-id", self.session_id)
        if status == 204:  # the end came before
            self.is_over = True

    def feed(self, data: bytes) -> list[Message]:
        """The messages in these bytes of a response. Raises: ClientError: they are no events of this run."""
        found: list[Message] = []
        for event_id, text in self._parser.feed(data):
            number = _number(event_id)
            if number <= self.last:
                continue
            if number != self.last + 1:
                raise ClientError(f"event {self.last + 1} of run {self.run_id} is missing")
            self.last = number
            self._attempts.succeeded()
            message = self._take(event_id, calls.read_object(text))
            if message is not None:
                found.append(message)
        return found

    def refused(self, status: int, headers: Mapping[str, str], body: bytes) -> float:
        """The response is an error. Returns the seconds to wait. Raises: ApiError."""
        return self._attempts.refused(self.request, calls.read_error(status, headers, body))

    def lost(self, reason: str) -> float:
        """The connection failed, or ended before the turn. Returns the seconds to wait. Raises:
        ConnectionLost."""
        return self._attempts.lost(self.request, reason, self.run_id)

    def _take(self, event_id: str, data: dict[str, Any]) -> Message | None:
        if is_error(data):
            self.failure = error_of(data["error"], run_id=self.run_id)
            return None
        message = message_of(data, event_id)
        if message.metadata.get("done") is not True:
            return message
        self.metadata, self.is_over = message.metadata, True
        return None


def is_error(data: Mapping[str, Any]) -> bool:
    """Whether the data of an event is an error. A message has a role; it may have a member `error` as well:
    null, or AgentScope's record of a reply that failed."""
    return "role" not in data and isinstance(data.get("error"), dict)


class Parser:
    """Splits the bytes of a stream into events. An event that a cut leaves incomplete is never returned."""

    def __init__(self) -> None:
        self._rest: Final = bytearray()

    def feed(self, data: bytes) -> list[tuple[str, str]]:
        """The id and the data of each event that these bytes complete."""
        rest = self._rest
        seen = len(rest)
        rest += data
        end = rest.rfind(_END, max(0, seen - 1))
        if end < 0:
            return []
        blocks = bytes(rest[:end]).split(_END)
        del rest[: end + len(_END)]
        found = []
        for block in blocks:
            fields: dict[str, str] = {}
            for line in block.decode("utf-8", "replace").split("\n"):
                name, _, value = line.partition(":")
                if name:  # else it is a comment
                    fields[name] = value.removeprefix(" ")
            if "data" in fields:
                found.append((fields.get("id", ""), fields["data"]))
        return found


def _number(event_id: str) -> int:
    number = event_id.rpartition("-")[2]
    if not (number.isascii() and number.isdigit()):
        raise ClientError(f"an event has the id {event_id[:80]!r}, which is not one of an instance")
    return int(number)
