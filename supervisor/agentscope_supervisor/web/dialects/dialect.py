"""A dialect as the front door sees it: its route, how its requests are read, and its wire format. Pure."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from agentscope_supervisor.domain.errors import Failure, Refusal
from agentscope_supervisor.domain.json_outline import Outline
from agentscope_supervisor.domain.request import TurnRequest
from agentscope_supervisor.domain.wire_format import WireFormat


class ReadRequest(Protocol):
    """Reads the body of a request for a turn. Raises: Refused."""

    def __call__(
        self,
        body: bytes,
        wire: WireFormat,
        *,
        header_session: str | None,
        accepts_json: bool,
        token: str,
        principal: str,
        headers: Mapping[str, str],
        idempotency_key: str | None = None,
        outline: Outline | None = None,
    ) -> TurnRequest:
        """The arguments are those of `web.parse_invoke.read`."""


class ReadOutline(Protocol):
    """Begins the outline of a large body, for `ReadRequest`."""

    def __call__(self, body: bytes, principal: str, *, digests: bool) -> Outline:
        """The arguments are those of `web.parse_invoke.outline`."""


class Refuse(Protocol):
    """The error response of a dialect."""

    def __call__(self, failure: Failure, body: bytes, result: bytes = b"") -> Refusal:
        """The arguments are those of `Dialect.refuse`."""


class Dialect:
    """`path`: of its route, which takes POST. `read`: finds the session and the options in a body, or, if the
    body is large, in its `outline`. `setting`: the key in `protocols` that turns it on or off; empty: it is
    always on. `refuse`: a failure, the body of the request, if it was read, and the result of the run, if it
    has one, to the error response; None: the native one. `answer`: the result of a run and the body of the
    request to the body of the response; None: the result itself. `session_header`: the header that may name
    the session, in lower case. `follows`: the fields of a request to the id of the run that it continues, in
    the same session; None: it names no run."""

    __slots__ = (
        "answer",
        "follows",
        "outline",
        "path",
        "read",
        "refuse",
        "session_header",
        "setting",
        "wire",
    )

    def __init__(
        self,
        path: str,
        wire: WireFormat,
        read: ReadRequest,
        outline: ReadOutline,
        *,
        setting: str = "",
        refuse: Refuse | None = None,
        answer: Callable[[bytes, bytes], bytes] | None = None,
        session_header: str = "x-session-id",
        follows: Callable[[dict[str, Any]], str | None] | None = None,
    ) -> None:
        self.path: Final = path
        self.wire: Final = wire
        self.read: Final = read
        self.outline: Final = outline
        self.setting: Final = setting
        self.refuse: Final = refuse
        self.answer: Final = answer
        self.session_header: Final = session_header
        self.follows: Final = follows


class Shape:
    """The shape of the response to one request of a dialect. `body`: of the request."""

    __slots__ = ("_body", "_dialect")

    def __init__(self, dialect: Dialect, body: bytes) -> None:
        self._dialect: Final = dialect
        self._body: Final = body

    def refuse(self, failure: Failure, result: bytes) -> Refusal:
        """The error response to a run that failed with this result."""
        assert self._dialect.refuse is not None, "the native dialect needs no shape"
        return self._dialect.refuse(failure, self._body, result)

    def answer(self, result: bytes) -> bytes:
        """The body of the response that has this result."""
        answer = self._dialect.answer
        return result if answer is None else answer(result, self._body)
