"""A dialect as the front door sees it: its route, how its requests are read, and its wire format. Pure."""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

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


class Dialect:
    """`path`: of its route, which takes POST. `read`: finds the session and the options in a body, or, if the
    body is large, in its `outline`. `setting`: the key in `protocols` that turns it on or off; empty: it is
    always on. `refuse`: a failure and the body of the request, if it was read, to the error response; None:
    the native one. `session_header`: the header that may name the session, in lower case."""

    __slots__ = ("outline", "path", "read", "refuse", "session_header", "setting", "wire")

    def __init__(
        self,
        path: str,
        wire: WireFormat,
        read: ReadRequest,
        outline: ReadOutline,
        *,
        setting: str = "",
        refuse: Callable[[Failure, bytes], Refusal] | None = None,
        session_header: str = "x-session-id",
    ) -> None:
        self.path: Final = path
        self.wire: Final = wire
        self.read: Final = read
        self.outline: Final = outline
        self.setting: Final = setting
        self.refuse: Final = refuse
        self.session_header: Final = session_header
